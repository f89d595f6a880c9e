"""Importers: values by hand from small files in the real formats, the order of the heads, and what is refused."""

import hashlib
import json
import logging
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml
from peak_memory import peak_memory
from tiny_models import build, config_for, logits, text_inputs

from corehead_hf import AutoCoReModel, HeadMap, HeadMapFormatError
from corehead_hf.head_map.importers import duo_attention, qrhead, retrieval_head, sparsemm

FILES = Path(__file__).parent / "importers"
DUO, RETRIEVAL, SPARSE, QR = (
    FILES / n for n in ("duo_attention", "retrieval_head.json", "sparsemm.json", "qrhead.yaml")
)
GATES, RUN = "full_attention_heads.tsv", "config.json"
IMPORTERS = {
    "duo_attention": (HeadMap.from_duo_attention, DUO),
    "retrieval_head": (HeadMap.from_retrieval_head, RETRIEVAL),
    "sparsemm": (HeadMap.from_sparsemm, SPARSE),
    "qrhead": (HeadMap.from_qrhead, QR),
}
HEADS = [f"{layer}-{head}" for layer in range(3) for head in range(4)]


def config(name="owner/tiny-vl", **over):
    """3 layers x 4 heads, 2 KV heads of 16."""
    made = config_for("qwen3_vl", **over)
    made._name_or_path = name
    return made


def ranked(head_map, number):
    return [tuple(pair) for pair in head_map.ranking()[:number].tolist()]


# ---- values


def test_duo_attention_gates_are_clipped_and_repeated_for_the_heads_of_a_kv_head():
    head_map = HeadMap.from_duo_attention(DUO, model=config())
    a, b, c = 0.55859375, 0.25, 2.02178955078125e-4
    expected = torch.tensor([[0, 0, 1, 1], [a, a, b, b], [1, 1, c, c]])
    assert torch.equal(head_map.scores, expected)
    # Ties by (layer, head).
    assert ranked(head_map, 8) == [(0, 2), (0, 3), (2, 0), (2, 1), (1, 0), (1, 1), (1, 2), (1, 3)]
    assert head_map.num_examples == 1 and head_map.count.tolist() == [1, 1, 1] and not head_map.spread.any()
    assert head_map.dataset == "the file 'datasets/booksum.jsonl.zst' of DuoAttention"
    for part in (
        "KV head",
        "clipped to [0, 1]",
        "2 query heads",
        "sink_size 128",
        "recent_size 256",
        "'models/tiny-vl'",
    ):
        assert part in head_map.score_rule
    assert "KV head" in head_map.view_rule


def test_duo_attention_of_a_model_with_as_many_kv_heads_as_heads_repeats_nothing(tmp_path):
    gates = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8], [0.9, 1.0, 0.0, 0.25]]
    np.savetxt(tmp_path / GATES, gates, delimiter="\t")  # as save_full_attention_heads does
    shutil.copy(DUO / RUN, tmp_path)
    head_map = HeadMap.from_duo_attention(tmp_path, model=config(num_key_value_heads=4))
    assert torch.equal(head_map.scores, torch.tensor(gates)) and "1 query heads" in head_map.score_rule


def test_one_layer_and_one_kv_head_are_a_table_too(tmp_path):
    shutil.copy(DUO / RUN, tmp_path)
    (tmp_path / GATES).write_text("0.5\n")
    small = config(num_hidden_layers=1, num_key_value_heads=1)
    assert HeadMap.from_duo_attention(tmp_path, model=small).scores.tolist() == [[0.5] * 4]


def test_retrieval_head_gives_mean_spread_and_count_of_the_samples():
    head_map = HeadMap.from_retrieval_head(RETRIEVAL, model=config())
    expected = torch.zeros(3, 4)
    expected[0, 1], expected[1, 3], expected[2, 0], expected[2, 2] = 0.5, 1.0, 0.1, 0.5
    torch.testing.assert_close(head_map.scores, expected, rtol=0, atol=1e-7)
    spread = torch.zeros(3, 4)
    spread[0, 1], spread[2, 0], spread[2, 2] = 0.03125**0.5, 0.05, 0.5  # over 4 samples, not 3
    torch.testing.assert_close(head_map.spread, spread, rtol=0, atol=1e-7)
    assert ranked(head_map, 5) == [(1, 3), (0, 1), (2, 2), (2, 0), (0, 0)]
    assert head_map.num_examples == 4 and head_map.count.tolist() == [4, 4, 4]
    # 1.0000000000000002 in the file is 1 with a rounding error, not another scale.
    assert "divided" not in head_map.score_rule and "retrieval score" in head_map.score_rule


def test_sparsemm_scores_beyond_one_are_divided_by_the_largest_sample():
    head_map = HeadMap.from_sparsemm(SPARSE, model=config())
    expected, spread = torch.zeros(3, 4), torch.zeros(3, 4)
    expected[1, 2], expected[2, 1], expected[0, 3] = 0.5, 0.2, 0.2  # / 2.5
    spread[1, 2], spread[0, 3] = 0.125**0.5, 0.12**0.5  # of 1, 0, .5, .5 and of 0, 0, 0, .8
    torch.testing.assert_close(head_map.scores, expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(head_map.spread, spread, rtol=0, atol=1e-7)
    assert ranked(head_map, 3) == [(1, 2), (0, 3), (2, 1)]
    assert "divided by 2.5, the largest" in head_map.score_rule and "visual score" in head_map.score_rule


def test_qrhead_scores_keep_the_order_of_the_list_and_nothing_else():
    head_map = HeadMap.from_qrhead(QR, model=config())
    assert ranked(head_map, 5) == [(2, 3), (0, 1), (2, 0), (1, 1), (0, 0)]
    expected = torch.zeros(3, 4)
    expected[2, 3], expected[0, 1], expected[2, 0], expected[1, 1], expected[0, 0] = 1.0, 0.8, 0.6, 0.4, 0.2
    assert torch.equal(head_map.scores, expected)
    assert "only the order is known" in head_map.score_rule and "'owner/tiny-vl'" in head_map.score_rule
    assert head_map.num_examples == 1 and not head_map.spread.any()


def test_layers_may_have_other_numbers_of_samples_and_keys_any_order(tmp_path):
    samples = {key: [0.5, 0.25, 0.75] if key.startswith("1") else [0.5] for key in reversed(HEADS)}
    (tmp_path / "a.json").write_text(json.dumps(samples, indent=2))
    head_map = HeadMap.from_retrieval_head(tmp_path / "a.json", model=config())
    assert head_map.count.tolist() == [1, 3, 1] and head_map.num_examples == 3
    assert torch.equal(head_map.scores, torch.full((3, 4), 0.5))


@pytest.mark.parametrize("name", ["retrieval_head", "sparsemm"])
def test_the_ranking_is_the_one_of_the_projects_own_readers(name, tmp_path):
    """Both sort the heads by np.mean of their list: Retrieval_Head's README, SparseMM's viz/vizhead.py."""
    generator = np.random.default_rng(0)
    head_list = {key: (generator.random(20) * 1.7).tolist() for key in HEADS}
    (tmp_path / "a.json").write_text(json.dumps(head_list))
    means = [([int(part) for part in key.split("-")], np.mean(values)) for key, values in head_list.items()]
    expected = [tuple(head) for head, _ in sorted(means, key=lambda entry: entry[1], reverse=True)]
    assert ranked(IMPORTERS[name][0](tmp_path / "a.json", model=config()), 12) == expected


@pytest.mark.parametrize("name", IMPORTERS)
def test_the_map_names_model_versions_file_and_its_hash(name, tmp_path):
    from_file, path = IMPORTERS[name]
    head_map = from_file(path, model=config())
    shape = ("num_layers", "num_heads", "num_kv_heads", "head_dim", "model_type")
    assert [getattr(head_map, field) for field in shape] == [3, 4, 2, 16, "qwen3_vl"]
    assert head_map.base_model_name_or_path == "owner/tiny-vl" and head_map.base_model_revision is None
    assert head_map.versions["transformers"] == transformers.__version__
    source = path / GATES if path.is_dir() else path
    assert hashlib.sha256(source.read_bytes()).hexdigest() in head_map.score_rule
    assert repr(source.name) in head_map.score_rule
    head_map.save_pretrained(tmp_path)
    front = yaml.safe_load((tmp_path / "README.md").read_text("utf-8").split("---\n")[1])
    assert front["base_model"] == "owner/tiny-vl" and "datasets" not in front  # no file names a data set of the Hub
    again = HeadMap.from_pretrained(tmp_path)
    assert torch.equal(again.scores, head_map.scores) and again.score_rule == head_map.score_rule


# ---- the model


@pytest.mark.parametrize("name", IMPORTERS)
def test_the_imported_map_chooses_the_dense_heads_of_a_model(name, model):
    from_file, path = IMPORTERS[name]
    model.config._name_or_path = "owner/tiny-vl"
    head_map = model.load_head_map(from_file(path, model=model))
    inputs = text_inputs(24)
    dense = logits(model, **inputs)
    # The two best heads of each file, read off it by eye.
    best = {
        "duo_attention": [(0, 2), (0, 3)],
        "retrieval_head": [(1, 3), (0, 1)],
        "sparsemm": [(1, 2), (0, 3)],
        "qrhead": [(2, 3), (0, 1)],
    }[name]
    sizes = {"sink_size": 2, "window_size": 4, "dense_below": 0}
    model.enable_hybrid(heads=best, **sizes)
    by_hand = logits(model, **inputs)
    model.enable_hybrid(keep=2, **sizes)
    assert torch.equal(logits(model, **inputs), by_hand) and not torch.equal(by_hand, dense)
    assert model.hybrid.heads.nonzero().tolist() == sorted(map(list, best)) and head_map is model.head_map


def test_model_may_be_native_wrapped_a_config_or_a_folder(tmp_path):
    native = build("qwen3_vl")
    native.config._name_or_path = "owner/tiny-vl"
    folder = tmp_path / "tiny-vl"
    config("").save_pretrained(folder)  # config.json and no weights
    given = [native, native.config, AutoCoReModel.from_model(build("qwen3_vl")), folder, str(folder)]
    given[2].config._name_or_path = "owner/tiny-vl"
    for model in given:
        fields = qrhead(QR, model)
        assert fields["scores"][2, 3] == 1 and fields["head_dim"] == 16
        # Of a folder only its name is kept.
        assert fields["base_model_name_or_path"] == ("tiny-vl" if model in (folder, str(folder)) else "owner/tiny-vl")


def test_code_that_a_config_brings_along_is_not_run(tmp_path):
    """The architecture is unknown here and known to a file beside it: transformers runs it only where it is trusted."""
    (tmp_path / "config.json").write_text('{"model_type": "odd", "auto_map": {"AutoConfig": "odd.OddConfig"}}')
    (tmp_path / "odd.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nclass OddConfig: pass\n")
    with pytest.raises(ValueError, match="trust_remote_code"):
        qrhead(QR, tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_text_model_has_head_lists_too():
    text = transformers.LlamaConfig(
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, hidden_size=32, name_or_path="meta/tiny-vl"
    )
    fields = duo_attention(DUO, text)
    assert (fields["model_type"], fields["head_dim"]) == ("llama", 8) and fields["scores"].shape == (3, 4)


@pytest.mark.parametrize("name", ["duo_attention", "qrhead"])
def test_a_list_made_for_another_model_is_imported_with_a_warning(name, caplog):
    from_file, path = IMPORTERS[name]
    from_file(path, model=config("Other/Tiny-VL"))
    assert not caplog.records  # owners move, and a local copy has another folder
    with caplog.at_level(logging.WARNING):
        head_map = from_file(path, model=config("owner/tiny-vl-instruct"))
    assert "tiny-vl'" in caplog.text and "'owner/tiny-vl-instruct'" in caplog.text
    assert head_map.base_model_name_or_path == "owner/tiny-vl-instruct" and "made for '" in head_map.score_rule


@pytest.mark.parametrize(
    ("model", "error", "reason"),
    [
        (None, TypeError, "model=None was given - it is a NoneType - pass a model"),
        (5, TypeError, "model=5"),
        (config(""), ValueError, "set config._name_or_path"),
        (
            transformers.PretrainedConfig(name_or_path="x"),
            ValueError,
            "'num_heads': None.* tells a model's name and its",
        ),
    ],
)
def test_what_is_no_named_model_is_refused(model, error, reason):
    with pytest.raises(error, match=reason):
        retrieval_head(RETRIEVAL, model)


# ---- files that do not fit or are broken: each case changes one thing


def altered(name, change, tmp_path):
    """The importer of a project and a copy of its file, changed."""
    from_file, path = IMPORTERS[name]
    copy = shutil.copytree(path, tmp_path / "run") if path.is_dir() else Path(shutil.copy(path, tmp_path))
    change(copy)
    return from_file, copy


def edit(old, new, name=None):
    def change(path):
        path = path / name if name else path
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def put(data, name=None):
    return lambda path: (path / name if name else path).write_bytes(data)


def samples(**changes):
    """A file with other lists for some heads; None leaves the head out."""
    made = {key: [0, 0.5] for key in HEADS} | {
        key.strip("h").replace("_", "-"): value for key, value in changes.items()
    }
    return put(json.dumps({key: value for key, value in made.items() if value is not None}).encode())


def gates(text):
    return put(text.encode(), GATES)


ROW = "0.5\t0.5\n"
BROKEN = {
    # DuoAttention
    "fewer layers": ("duo_attention", gates(ROW * 2), "2 rows x 2 columns, and the model has 3 layers x 2 KV heads"),
    "a column per query head": ("duo_attention", gates("1\t1\t1\t1\n" * 3), "3 rows x 4 columns"),
    "NaN gate": ("duo_attention", gates(ROW * 2 + "nan\t0\n"), "gates lie in"),
    "infinite gate": ("duo_attention", gates(ROW * 2 + "0\t1e999\n"), "to inf, and gates lie in"),
    "no gate": ("duo_attention", gates(ROW * 2 + "-3\t0\n"), "from -3.0 to 0.5, and gates lie"),
    "a word": ("duo_attention", gates(ROW * 2 + "x\t0\n"), "not a table of numbers"),
    "ragged": ("duo_attention", gates(ROW * 2 + "1\n"), "not a table of numbers"),
    "spaces, not tabs": ("duo_attention", gates("0.5 0.5\n" * 3), "not a table of numbers"),
    "a comment": ("duo_attention", gates("# gates\n" + ROW * 3), "not a table of numbers"),
    "empty gates": ("duo_attention", gates("\n"), "not a table of numbers with tabs: it is empty"),
    "not text": ("duo_attention", put(b"\x80\x04\xff", GATES), "not a table of numbers"),
    "a table of a gigabyte": ("duo_attention", lambda path: os.truncate(path / GATES, 1 << 30), "larger than the"),
    "no sink_size": ("duo_attention", edit('"sink_size"', '"sink"', RUN), "its sink_size is None"),
    "a fraction of tokens": ("duo_attention", edit(": 256", ": 25.6", RUN), "its recent_size is 25.6"),
    "negative tokens": ("duo_attention", edit(": 256", ": -256", RUN), "its recent_size is -256"),
    "true tokens": ("duo_attention", edit(": 256", ": true", RUN), "its recent_size is True"),
    "settings of a list": ("duo_attention", put(b"[]", RUN), "JSON list, not an object"),
    "settings twice": ("duo_attention", edit('"seed"', '"sink_size"', RUN), "duplicate key 'sink_size'"),
    # Retrieval_Head
    "issue 12, no heads": ("retrieval_head", put(b"{}\n"), r"it is empty: no sample was counted \(issue #12"),
    "issue 12, no bytes": ("retrieval_head", put(b""), "it is empty"),
    "issue 12, no samples": ("retrieval_head", samples(h1_2=[]), "head 1-2 has no samples .issue #12"),
    "a head lacks": (
        "retrieval_head",
        samples(h1_2=None, h2_0=None),
        "lacks 2 of the model's 12 heads, the first is 1-2",
    ),
    "another layer": ("retrieval_head", samples(h3_0=[0, 0]), "has head 3-0, and the model has 3 layers x 4 heads"),
    "another head": ("retrieval_head", samples(h0_4=[0, 0]), "has head 0-4"),
    "no head": ("retrieval_head", edit('"0-1"', '"0-1-1"'), "'0-1-1' is not 'layer-head'"),
    "leading zero": ("retrieval_head", edit('"0-1"', '"0-01"'), "'0-01' is not 'layer-head'"),
    "negative head": ("retrieval_head", edit('"0-1"', '"0--1"'), "'0--1' is not 'layer-head'"),
    "an escape": ("retrieval_head", edit('"0-1"', '"0-\\u0031"'), "not of the form"),
    "other digits": ("retrieval_head", edit('"0-1"', '"0-\u0661"'), "is not 'layer-head'"),
    "a head twice": ("retrieval_head", edit('"0-1"', '"0-0"'), "duplicate key '0-0'"),
    "uneven": ("retrieval_head", samples(h1_2=[0]), "heads of layer 1 have from 1 to 2 samples"),
    "NaN sample": ("retrieval_head", samples(h1_2=[0, float("nan")]), "not of the form"),
    "infinite sample": ("retrieval_head", edit("0.75", "1e999"), "go from 0.25 to inf"),
    "negative sample": ("retrieval_head", edit("0.75", "-0.75"), "go from -0.75 to 0.5, and they lie in .0, 50"),
    "more than was decoded": ("retrieval_head", edit("0.75", "51"), "to 51.0, and they lie in .0, 50"),
    "true sample": ("retrieval_head", edit("0.75", "true"), "not of the form"),
    "null sample": ("retrieval_head", edit("0.75", "null"), "not of the form"),
    "text sample": ("retrieval_head", edit("0.75", '"0.75"'), "not of the form"),
    "a nested list": ("retrieval_head", edit("0.75", "[0.75]"), "not of the form"),
    "a number for a list": ("retrieval_head", put(b'{"0-0": 0.5}'), "from byte 1 on it is not of the form"),
    "a list of pairs": ("retrieval_head", put(b'[["0-0", 0.5]]'), "from byte 0 on"),
    "cut": ("retrieval_head", lambda path: os.truncate(path, path.stat().st_size - 1), "not of the form"),
    "two objects": ("retrieval_head", put(RETRIEVAL.read_bytes() * 2), "not of the form"),
    "a comma too many": ("retrieval_head", edit("]}", "],}"), "not of the form"),
    "5000 digits": ("retrieval_head", edit("0.75", "7" * 5000), "samples of '0-1' are no JSON numbers: "),
    "400 digits": ("retrieval_head", edit("0.75", "7" * 400), "samples of '0-1' are no JSON numbers: int too large"),
    "two commas": ("retrieval_head", edit("0.75", ",0.75"), "samples of '0-1' are no JSON numbers"),
    "a leading zero in a sample": ("retrieval_head", edit("0.75", "00.75"), "samples of '0-1' are no JSON numbers"),
    "a list of a megabyte": ("retrieval_head", edit("0.75", "0," * (1 << 19) + "0"), "lists of at most 1048576 bytes"),
    "samples of a gigabyte": ("retrieval_head", lambda path: os.truncate(path, 1 << 30), "larger than the"),
    "a pickle": ("retrieval_head", put(b"\x80\x04\x95."), "from byte 0 on"),
    # SparseMM
    "more than was written": ("sparsemm", edit("2.5", "1025"), "to 1025.0, and they lie in .0, 1024"),
    "SparseMM, empty": ("sparsemm", put(b"{ }"), "it is empty"),
    # QRHead
    "full heads": ("qrhead", edit("2-3,0-1,2-0,1-1,0-0", "full_heads"), "every head in no order"),
    "listed twice": ("qrhead", edit("1-1", "0-1"), "lists 0-1 twice"),
    "listed layer": ("qrhead", edit("1-1", "3-1"), "has head 3-1"),
    "underscores": ("qrhead", edit("1-1", "1_1"), "'1_1' is not 'layer-head'"),
    "a comma at the end": ("qrhead", edit("0-0", "0-0,"), "'' is not 'layer-head'"),
    "no list": ("qrhead", edit("attn_head_set", "heads"), "'' is not 'layer-head'"),
    "a YAML list": ("qrhead", edit('"2-3,0-1,2-0,1-1,0-0"', "[2-3, 0-1]"), "not a flat YAML mapping"),
    "a YAML key twice": ("qrhead", edit("model_base_class", "attn_head_set"), "each key once"),
    "an object tag": ("qrhead", edit('"2-3', '!!python/object/apply:os.system "2-3'), None),
    "an object of a tag": ("qrhead", put(b"!!python/object/apply:os.system [touch executed]"), "not a flat YAML"),
    "not YAML": ("qrhead", put(b"a: [1\nb: }"), "it is not YAML"),
    "not UTF-8": ("qrhead", put(b"\xff\xfe"), "it is not YAML"),
    "empty YAML": ("qrhead", put(b"# nothing"), "not a flat YAML mapping"),
    "two YAML documents": ("qrhead", put(b"a: b\n---\na: b"), "it is not YAML"),
    "deep YAML": ("qrhead", put(b"[" * 8000), "it is not YAML"),
    "a large YAML": ("qrhead", put(b"#" * 8193), "larger than the 8192"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_does_not_fit_is_refused_for_its_reason(case, tmp_path):
    name, change, reason = BROKEN[case]
    from_file, path = altered(name, change, tmp_path)
    if reason is None:  # a tag on a scalar is not looked at: the text is the list
        assert ranked(from_file(path, model=config()), 1) == [(2, 3)]
        return
    with pytest.raises(HeadMapFormatError, match=reason) as refusal:
        from_file(path, model=config())
    assert len(str(refusal.value)) < 1000 and str(tmp_path) in str(refusal.value)


@pytest.mark.parametrize("name", IMPORTERS)
def test_a_file_of_another_model_is_refused(name):
    from_file, path = IMPORTERS[name]
    fewer_heads = {"num_key_value_heads": 1} if name == "duo_attention" else {"num_attention_heads": 2}
    for over in ({"num_hidden_layers": 2}, fewer_heads):
        with pytest.raises(HeadMapFormatError, match="the model has"):
            from_file(path, model=config(**over))


def test_a_file_that_is_not_there_or_no_file_is_said_so(tmp_path):
    for from_file, _ in IMPORTERS.values():
        with pytest.raises(FileNotFoundError, match="there is no such file - check the path"):
            from_file(tmp_path / "missing", model=config())
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(HeadMapFormatError, match="not a regular file"):
            sparsemm(path, config())


def test_a_link_is_followed(tmp_path):
    (tmp_path / "stable-name.yaml").symlink_to(QR)
    assert HeadMap.from_qrhead(tmp_path / "stable-name.yaml", model=config()).scores[2, 3] == 1


def test_odd_texts_of_the_settings_cannot_spoil_the_map(tmp_path):
    odd = {"sink_size": 0, "recent_size": 1, "dataset_name": {"a": 1}, "model_name": "\ud800`" + "x" * 5000}
    shutil.copy(DUO / GATES, tmp_path)
    (tmp_path / RUN).write_text(json.dumps(odd))
    head_map = HeadMap.from_duo_attention(tmp_path, model=config())
    assert head_map.dataset == "not stated by the DuoAttention pattern" and len(head_map.score_rule) < 1000
    (tmp_path / RUN).write_text(json.dumps(odd | {"dataset_name": "\ud800" + "y" * 5000}))
    assert HeadMap.from_duo_attention(tmp_path, model=config()).dataset == f"the file '?{'y' * 199}' of DuoAttention"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_largest_file_of_samples_is_read_in_little_memory(tmp_path):
    """12 288 heads of 1000 samples, 25 MB: parsed at once they would take 150 MB."""
    line = json.dumps([0] * 999 + [0.5], separators=(",", ":"))
    path = tmp_path / "large.json"
    path.write_text("{" + ",".join(f'"{layer}-{head}":{line}' for layer in range(96) for head in range(128)) + "}")
    assert 24e6 < path.stat().st_size < 3 << 23
    setup = "from pathlib import Path; from corehead_hf.head_map.importers.files import read_samples"
    step = (
        f"path = Path({str(path)!r}); found = read_samples(path.read_bytes(), path, (96, 128), 50)\n"
        "assert found.count.tolist() == [1000] * 96 and abs(found.mean - 0.0005).max() < 1e-12"
    )
    megabytes, _ = peak_memory(setup, {"read": step})["read"]
    assert megabytes < 100
