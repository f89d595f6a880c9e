"""head_map_info on the Hub: hash known or not, contradictions and hostile headers refused, warm caches used."""

import json
import shutil
import struct
import subprocess
import sys

import hub_processes
import pytest
from hub_server import LoopbackHub

TENSORS, CONFIG = "head_map.safetensors", "head_map_config.json"
PROGRAM = """
import json, sys, dataclasses
from corehead_hf import HeadMap
from corehead_hf.head_map.info import head_map_info
for step in json.loads(sys.argv[1]):
    try:
        pull = step.pop("pull", False)
        if pull:
            HeadMap.from_pretrained(step["repo_or_folder"])
        print(json.dumps(dataclasses.asdict(head_map_info(**step))))
    except Exception as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


@pytest.fixture(scope="module")
def hubs():
    with LoopbackHub() as lfs, LoopbackHub(lfs_suffixes=(".nothing",)) as regular:
        yield {"lfs": lfs, "regular": regular}


@pytest.fixture
def info(tmp_path, maps):
    """info(hub, **arguments): what it tells of tester/map, a copy of v1 that `change` may have altered."""

    def ask(hub, change=None, settings=None, **arguments):
        folder = tmp_path / "repo"
        shutil.copytree(maps["v1"], folder, dirs_exist_ok=True)
        if change is not None:
            change(folder)
        hub.store.add("tester/map", folder)
        step = json.dumps([{"repo_or_folder": "tester/map", **arguments}])
        environment = hub_processes.environment(hub.url, tmp_path / "home", **(settings or {}))
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, step], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    return ask


def header(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


@pytest.mark.parametrize("kind, is_verified", [("lfs", True), ("regular", None)])
def test_the_hash_is_known_where_the_hub_has_it(hubs, info, maps, kind, is_verified):
    told = info(hubs[kind])
    assert told["is_verified"] is is_verified and told["num_bytes"] == (maps["v1"] / TENSORS).stat().st_size
    assert told["source"] == f"tester/map@{hubs[kind].store.repo('tester/map').branches['main']}"
    assert told["tensors"] == {"count": ["I64", [3]], "ram": ["F32", [3, 4]], "ram_std": ["F32", [3, 4]]}
    assert told["provenance"]["dataset"] == "owner/boxes-v1"


def test_a_map_in_the_cache_is_read_there(hubs, info):
    hub = hubs["lfs"]
    assert info(hub, local_files_only=True)["error"] == "HeadMapConnectionError"
    before = len(hub.store.log)
    told = info(hub, pull=True)
    bodies = [one for one in hub.store.log[before:] if one.method == "GET" and one.path.endswith(TENSORS)]
    assert told["is_verified"] is True and len(bodies) == 1 and not bodies[0].range
    before = len(hub.store.log)
    offline = info(hub, settings={"HF_HUB_OFFLINE": "1"})
    assert offline == told and len(hub.store.log) == before


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda folder, maps: shutil.copy(maps["v2"] / TENSORS, folder / TENSORS), "the Hub has "),
        (lambda folder, maps: shutil.copy(maps["large"] / TENSORS, folder / TENSORS), "it is F32 [128, 128]"),
        (lambda folder, maps: (folder / TENSORS).write_bytes(b"\1"), "not one of safetensors"),
        (lambda folder, maps: (folder / TENSORS).write_bytes(header("[]") * 9), "not one of safetensors"),
        (lambda folder, maps: (folder / TENSORS).write_bytes(header('{"ram": 1}') * 9), "not one of safetensors"),
        (lambda folder, maps: (folder / TENSORS).write_bytes(b"\xff" * 64), "not one of safetensors"),
        (lambda folder, maps: (folder / TENSORS).write_bytes(header("[" * 50000)), "not one of safetensors"),
        (lambda folder, maps: (folder / TENSORS).write_bytes(header("{}") * 9), "its tensors are none"),
        (lambda folder, maps: (folder / TENSORS).write_bytes(bytes((1 << 26) + 1)), "it was not fetched"),
        (lambda folder, maps: (folder / CONFIG).write_bytes(bytes((1 << 20) + 1)), "it was not fetched"),
        (lambda folder, maps: (folder / CONFIG).write_text("{}"), "format_version"),
    ],
)
def test_what_contradicts_itself_or_is_hostile_is_refused(hubs, info, maps, change, reason):
    told = info(hubs["lfs"], lambda folder: change(folder, maps))
    assert told.get("error") == "HeadMapFormatError", told
    assert reason in told["message"]
