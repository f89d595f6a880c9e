"""What the autotuner keeps: round trip, merging, files that cannot be read. The user's own file is never touched."""

import dataclasses
import json
import logging

import pytest
import torch
from huggingface_hub import cached_assets_path, constants

from corehead_hf.kernels import cost, tiles, tuning
from corehead_hf.kernels.cost import Rates
from corehead_hf.kernels.tiles import Tile

CPU = torch.device("cpu")
RATES = Rates(4.0, 3.0, 2.0, 64, 32, 10.0, 5.0, "made up")
TILE = Tile(32, 16, 4, 2)


@pytest.fixture(autouse=True)
def path(monkeypatch, tmp_path):
    file = tmp_path / "deep" / "measured.json"
    monkeypatch.setattr(tuning, "file", lambda: file)
    tuning.forget()
    yield file
    tuning.forget()


def candidates():
    return tiles.candidates(CPU, torch.float32, 64, descriptors=False)


def test_the_file_lies_where_the_hub_keeps_assets(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path))
    file = tuning.file()
    assert not any(tmp_path.iterdir())  # asking makes no folder
    made = cached_assets_path("corehead_hf", "kernels", "autotune", assets_dir=tmp_path)
    assert file == made / "measured.json"


def test_nothing_is_known_and_nothing_is_written_at_first(path, caplog):
    assert tuning.entry(CPU) == {}
    assert tuning.stored(CPU, "rates", "float32", Rates) is None
    assert not path.parent.exists() and not caplog.records


def test_round_trip(path):
    measured = {"tiles": {"float32 64": dataclasses.asdict(TILE)}, "rates": {"float32": dataclasses.asdict(RATES)}}
    assert tuning.save(CPU, measured) == path
    assert tuning.entry("cpu") == measured
    assert tuning.stored(CPU, "tiles", "float32 64", Tile) == TILE
    assert tuning.stored(CPU, "rates", "float32", Rates) == RATES
    assert tuning.stored(CPU, "rates", "float16", Rates) is None
    assert [file.name for file in path.parent.iterdir()] == ["measured.json"]  # no half-written one is left


def test_it_is_used_at_once_and_forgotten_with_the_file(path):
    table = candidates()
    assert cost.rates_of(CPU, torch.float32) is not RATES
    measured = {"tiles": {tiles.tile_key(torch.float32, 64): dataclasses.asdict(TILE)}}
    tuning.save(CPU, measured | {"rates": {"float32": dataclasses.asdict(RATES)}})
    assert candidates() == (TILE, *table)
    assert tiles.candidates(CPU, torch.float32, 128, descriptors=False)[0] != TILE  # another head_dim
    assert cost.rates_of(CPU, torch.float32) == RATES
    path.unlink()
    assert cost.rates_of(CPU, torch.float32) == RATES  # read once a process
    tuning.forget()
    assert candidates() == table
    assert cost.rates_of(CPU, torch.float32) != RATES


def test_save_adds_to_what_is_known(path, monkeypatch):
    tuning.save(CPU, {"rates": {"float32": dataclasses.asdict(RATES)}})
    tuning.save(CPU, {"tiles": {"float32 64": dataclasses.asdict(TILE)}})
    faster = dataclasses.replace(RATES, dense=9.0)
    tuning.save(CPU, {"rates": {"float16": dataclasses.asdict(faster)}})
    assert tuning.stored(CPU, "rates", "float32", Rates) == RATES
    tuning.save(CPU, {"rates": {"float32": dataclasses.asdict(faster)}})
    assert tuning.stored(CPU, "rates", "float32", Rates) == tuning.stored(CPU, "rates", "float16", Rates) == faster
    assert tuning.stored(CPU, "tiles", "float32 64", Tile) == TILE
    with monkeypatch.context() as other:
        other.setattr(tuning, "machine", lambda device: "another machine")
        tuning.save(CPU, {"rates": {"float32": dataclasses.asdict(RATES)}})
    assert tuning.stored(CPU, "rates", "float32", Rates) == faster
    assert sorted(json.loads(path.read_text())) == ["another machine", "cpu"]


def test_save_keeps_what_another_process_has_saved_since(path):
    assert tuning.entry(CPU) == {}
    path.parent.mkdir()
    path.write_text(json.dumps({"another machine": {"rates": {}}}))
    tuning.save(CPU, {"rates": {"float32": dataclasses.asdict(RATES)}})
    assert sorted(json.loads(path.read_text())) == ["another machine", "cpu"]


@pytest.mark.parametrize("text", ["{", "[1]", '"text"', "\udcff"])
def test_a_broken_file_gives_a_warning_and_the_tables(path, caplog, text):
    path.parent.mkdir()
    path.write_bytes(text.encode(errors="surrogateescape"))
    with caplog.at_level(logging.WARNING):
        assert cost.rates_of(CPU, torch.float32) is cost._CPU[torch.float32]
        assert candidates() == tiles.table("interpreted", torch.float32, 64)
    assert len(caplog.records) == 1 and str(path) in caplog.text and "tune again" in caplog.text
    tuning.save(CPU, {"rates": {"float32": dataclasses.asdict(RATES)}})
    assert cost.rates_of(CPU, torch.float32) == RATES


@pytest.mark.parametrize("entry", [{"speed": 3}, {}, [1], "fast"])
def test_an_entry_of_another_version_gives_a_warning_and_the_tables(path, caplog, entry):
    path.parent.mkdir()
    path.write_text(json.dumps({"cpu": {"rates": {"float32": entry}, "tiles": {"float32 64": entry}}}))
    with caplog.at_level(logging.WARNING):
        assert cost.rates_of(CPU, torch.float32) is cost._CPU[torch.float32]
        assert candidates() == tiles.table("interpreted", torch.float32, 64)
    assert len(caplog.records) == 2 and str(path) in caplog.text


def test_a_file_of_another_shape_gives_a_warning_and_the_tables(path, caplog):
    path.parent.mkdir()
    path.write_text(json.dumps({"cpu": [1, 2]}))
    with caplog.at_level(logging.WARNING):
        assert cost.rates_of(CPU, torch.float32) is cost._CPU[torch.float32]
    assert str(path) in caplog.text


def test_a_gpu_is_filed_under_its_name_and_tritons_version(monkeypatch):
    import triton

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    assert tuning.machine("cuda") == tuning.machine(torch.device("cuda", 1)) == f"Some GPU, triton {triton.__version__}"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert tuning.machine("cuda") == "Some GPU"
