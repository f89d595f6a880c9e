"""HeadMap.find: the maps of a base model, by their tags; of the rest nothing."""

import hub_processes
import pytest

BASE = "owner/tiny-vl"


@pytest.fixture(scope="module")
def found(hub, maps, tmp_path_factory):
    model = tmp_path_factory.mktemp("model")
    (model / "README.md").write_text(f"---\nbase_model: {BASE}\ntags:\n- quantized\n---\nA model.\n", encoding="utf-8")
    other = tmp_path_factory.mktemp("other")
    for path in maps["v1"].iterdir():
        text = (
            path.read_bytes().replace(b"owner/tiny-vl", b"owner/huge-vl") if path.suffix == ".md" else path.read_bytes()
        )
        (other / path.name).write_bytes(text)
    hub.store.add("tester/quantized", model)
    hub.store.add("tester/of-another", other)
    hub.store.add("tester/one", maps["v1"])
    hub.store.add("tester/one", maps["v2"])
    hub.store.add("guest/two", maps["v3"])
    hub.store.add("tester/hidden", maps["v1"], private=True)
    find = {"do": "find", "base_model": BASE}
    steps = {
        "anonymous": find,
        "owner": {**find, "token": "hf_owner"},
        "one": {**find, "limit": 1},
        "another": {**find, "base_model": "owner/huge-vl"},
        "none": {**find, "base_model": "owner/no-vl"},
        "pinned": {"do": "pull", "repo": "tester/one", "revision": hub.store.repo("tester/one").branches["main"]},
    }
    return hub_processes.run(hub.url, steps)


@pytest.mark.parametrize(
    "step, expected",
    [
        ("anonymous", {"tester/one", "guest/two"}),
        ("owner", {"tester/one", "guest/two", "tester/hidden"}),
        ("another", {"tester/of-another"}),
        ("none", set()),
    ],
)
def test_the_maps_of_a_base_model(found, step, expected):
    listed = [one["repo_id"] for one in found[step]["found"]]
    assert set(listed) == expected and len(listed) == len(expected)


def test_limit(found):
    assert len(found["one"]["found"]) == 1


def test_what_is_known_of_each(hub, found, same):
    by_name = {one["repo_id"]: one for one in found["anonymous"]["found"]}
    repo = hub.store.repo("tester/one")
    one = by_name["tester/one"]
    assert one["commit"] == repo.branches["main"] and one["downloads"] == 0
    assert {"head-map", f"base_model:{BASE}", f"base_model:adapter:{BASE}"} <= set(one["tags"])
    assert one["last_modified"].startswith(repo.commits[one["commit"]].date[:10])
    same(found["pinned"], "v2")
