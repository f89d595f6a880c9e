"""Head maps from strangers: whatever the two files hold, HeadMapFormatError or a sound map, in little memory.

test_head_map.py and test_head_map_merge.py alter one value of a good map at a time and check each message. Here are
attacks on the two formats themselves, by name, then what hypothesis makes of them.
"""

import hashlib
import json
import re
import sys
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import HealthCheck, given, settings
from peak_memory import peak_memory
from test_head_map import CONFIG, TENSORS, fields, make_map, pack, safetensors_file, set_config, set_tensors
from test_head_map_merge import map_of

from corehead_hf import HeadMap, HeadMapFormatError
from corehead_hf.head_map.info import head_map_info

CURVE = [[16, 0.5], [30, 1.0]]
PARTS = [{"dataset": "a", "num_examples": 10, "num_skipped": 0}, {"dataset": "b", "num_examples": 20, "num_skipped": 1}]
fuzz = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


FOLDER = tempfile.TemporaryDirectory()  # of the files under attack


def files_of(head_map):
    """Config and bytes of the tensors."""
    with tempfile.TemporaryDirectory() as folder:
        head_map.save_pretrained(folder)
        return json.loads((Path(folder) / CONFIG).read_text("utf-8")), (Path(folder) / TENSORS).read_bytes()


PLAIN_CONFIG, PLAIN_TENSORS = files_of(make_map())
CONFIG_WITH_ALL, TENSORS_WITH_SUMS = files_of(map_of(0, 30, convergence=CURVE, parts=PARTS))


def load(config, tensors, rehash=True):
    """What is made of the two files: a HeadMap that keeps its promises, or its HeadMapFormatError.

    Args:
        config: bytes as they are, or an object that becomes JSON, then with the right sha256 if rehash.
    """
    directory = Path(FOLDER.name)
    if not isinstance(config, bytes):
        stated = {"sha256": hashlib.sha256(tensors).hexdigest()} if rehash else {}
        config = json.dumps(config | stated).encode()
    for name, data in ((CONFIG, config), (TENSORS, tensors)):
        (directory / name).unlink(missing_ok=True)  # ext4 flushes a file that is rewritten in place: 3 ms
        (directory / name).write_bytes(data)
    try:
        head_map = HeadMap.from_pretrained(directory)
    except HeadMapFormatError as error:
        assert type(error) is HeadMapFormatError and 0 < len(str(error)) < 1000
        return error
    finally:
        assert {path.name for path in directory.iterdir()} == {CONFIG, TENSORS}
    shape = (head_map.num_layers, head_map.num_heads)
    assert head_map.scores.dtype == head_map.spread.dtype == torch.float32 and head_map.count.dtype == torch.int64
    assert head_map.scores.shape == head_map.spread.shape == shape and head_map.count.shape == shape[:1]
    for values in (head_map.scores, head_map.spread):
        assert ((values >= 0) & (values <= 1)).all()
    assert ((head_map.count >= 1) & (head_map.count <= head_map.num_examples)).all()
    assert len(head_map.ranking()) == shape[0] * shape[1] and repr(head_map)
    return head_map


def is_refused(outcome):
    return isinstance(outcome, HeadMapFormatError)


# ---- safetensors: the size in front, the header's JSON, its entries, metadata, names, other files

DATA = safetensors_file()[-120:]  # ram, ram_std, count
KINDS = {"ram": ("F32", [3, 4], [0, 48]), "ram_std": ("F32", [3, 4], [48, 96]), "count": ("I64", [3], [96, 120])}
KEYS = ("dtype", "shape", "data_offsets")


def entries(**changes):
    """The header of the plain file with keys of some entries replaced, or dropped by None."""
    made = {name: dict(zip(KEYS, values, strict=True)) | changes.get(name, {}) for name, values in KINDS.items()}
    return {name: {key: value for key, value in entry.items() if value is not None} for name, entry in made.items()}


def text(header):
    return json.dumps(header).encode()


def of(data=DATA, **changes):
    return pack(text(entries(**changes)), data)


def renamed(name):
    return pack(text({name if key == "ram" else key: entry for key, entry in entries().items()}), DATA)


def empty_tensors(number):
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return pack(text({str(i): entry for i in range(number)}), b"")


def twice(first):
    """The plain header, with an entry for ram in front of the right one."""
    return pack(b'{"ram": ' + text(first) + b", " + text(entries())[1:], DATA)


ROTTEN, OTHERS, SIZE, LARGE = "not a safetensors file", "its tensors are", "a header of", "a header of|larger than"
NARROW = {"ram_std": {"data_offsets": [0, 48]}, "count": {"data_offsets": [48, 72]}}
BEHIND = {name: {"data_offsets": [low + 8, high + 8]} for name, (_, _, (low, high)) in KINDS.items()}
SAFETENSORS = {
    "seven bytes": (b"\x02\0\0\0\0\0\0", SIZE),
    "eight bytes": (b"\x02\0\0\0\0\0\0\0", SIZE),
    "header of nothing": (pack(b"", DATA), ROTTEN),
    "header of 2**64 - 1 bytes": (b"\xff" * 8 + DATA, SIZE),
    "header one byte too long for the file": ((121).to_bytes(8, "little") + DATA, SIZE),
    "header that ends inside its JSON": ((40).to_bytes(8, "little") + safetensors_file()[8:], ROTTEN),
    "header null": (pack(b"null", b""), ROTTEN),
    "header list": (pack(b"[]", b""), ROTTEN),
    "header without tensors": (pack(b"{}", b""), OTHERS),
    "header with bad UTF-8": (pack(text(entries()).replace(b"ram_std", b"ram\xffstd"), DATA), ROTTEN),
    "header in UTF-16": (pack(json.dumps(entries()).encode("utf-16"), DATA), ROTTEN),
    "header with NULs behind": (pack(text(entries()) + b"\0" * 8, DATA), ROTTEN),
    "header with text behind": (pack(text(entries()) + b"{}", DATA), ROTTEN),
    "header nested 9000 deep": (pack(b'{"a":' * 9000 + b"1" + b"}" * 9000, DATA), ROTTEN),
    "dtype unknown": (of(ram={"dtype": "F31"}), ROTTEN),
    "dtype in small letters": (of(ram={"dtype": "f32"}), ROTTEN),
    "dtype of half a byte": (of(ram={"dtype": "F4"}), ROTTEN),
    "dtype a number": (of(ram={"dtype": 4}), ROTTEN),
    "dtype missing": (of(ram={"dtype": None}), ROTTEN),
    "dtype of another sign": (of(count={"dtype": "U64"}), "count as I64 .* it is U64"),
    "dtype of another width": (of(count={"dtype": "BOOL", "shape": [24]}), r"count as I64 .* it is BOOL"),
    "shape missing": (of(ram={"shape": None}), ROTTEN),
    "shape of text": (of(ram={"shape": "34"}), ROTTEN),
    "shape negative": (of(ram={"shape": [-3, -4]}), ROTTEN),
    "shape larger than the data": (of(ram={"shape": [3, 5]}), ROTTEN),
    "shape of 2**62 squared": (of(ram={"shape": [2**62, 2**62]}), ROTTEN),
    "shape that wraps to the right size": (of(ram={"shape": [2**62 + 3, 4]}), ROTTEN),
    "shape 0 x 2**40": (of(DATA[48:], ram={"shape": [0, 2**40], "data_offsets": [0, 0]}, **NARROW), "ram as F32"),
    "shape of 10 000 ones": (of(ram={"shape": [3, 4] + [1] * 10_000}), "ram as F32"),
    "shape flat": (of(ram={"shape": [12]}), r"it is F32 \[12\]"),
    "offsets missing": (of(ram={"data_offsets": None}), ROTTEN),
    "offsets negative": (of(ram={"data_offsets": [-48, 0]}), ROTTEN),
    "offsets of fractions": (of(ram={"data_offsets": [0.5, 48.5]}), ROTTEN),
    "offsets of three": (of(ram={"data_offsets": [0, 24, 48]}), ROTTEN),
    "offsets reversed": (of(ram={"data_offsets": [48, 0]}), ROTTEN),
    "offsets beyond the file": (of(count={"data_offsets": [96, 2**40]}), ROTTEN),
    "offsets beyond 64 bits": (of(count={"data_offsets": [96, 2**70]}), ROTTEN),
    "hole in front": (
        of(bytes(8) + DATA, **{n: {"data_offsets": [a + 8, b + 8]} for n, (_, _, (a, b)) in KINDS.items()}),
        ROTTEN,
    ),  # fmt: skip
    "hole between": (of(ram_std={"shape": [2, 4], "data_offsets": [64, 96]}), ROTTEN),
    "overlap of four bytes": (of(ram_std={"shape": [13], "data_offsets": [44, 96]}), ROTTEN),
    "one buffer for two": (of(ram_std={"data_offsets": [0, 48]}), ROTTEN),
    "bytes no tensor has": (of(DATA + b"\0"), ROTTEN),
    "metadata of numbers": (pack(text({"__metadata__": {"a": 1}} | entries()), DATA), ROTTEN),
    "metadata a list": (pack(text({"__metadata__": ["a"]} | entries()), DATA), ROTTEN),
    "metadata of 50 MB": (pack(text({"__metadata__": {"a": "x" * 50_000_000}} | entries()), DATA), LARGE),
    "name a path": (renamed("../../etc/x"), OTHERS),
    "name an absolute path": (renamed("/etc/passwd"), OTHERS),
    "name a drive": (renamed("C:\\x"), OTHERS),
    "name empty": (renamed(""), OTHERS),
    "name with a NUL": (renamed("ram\0"), OTHERS),
    "name with a letter that looks alike": (renamed("r\u0430m"), OTHERS),
    "name of 60 000 letters": (renamed("x" * 60_000), OTHERS),
    "names of 900 empty tensors": (empty_tensors(900), OTHERS),
    "names of 400 000 empty tensors": (empty_tensors(400_000), LARGE),
    "key twice, the first of other offsets": (twice({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}), None),
    "key twice, alike": (twice(entries()["ram"]), None),
    "key twice in an entry": (pack(text(entries()).replace(b'"dtype"', b'"dtype": "F64", "dtype"', 1), DATA), ROTTEN),
    "file twice": (safetensors_file() * 2, ROTTEN),
    "file with a zip behind": (safetensors_file() + b"PK\x05\x06" + bytes(18), ROTTEN),
    "file a zip": (b"PK\x03\x04\x14\0\0\0" + bytes(100), SIZE),
    "file of NumPy objects": (b"\x93NUMPY\x01\0v\0{'descr': '|O', 'shape': (1,)}" + bytes(60), SIZE),
    # The formats allow these, and they change nothing.
    "space in front of the header": (pack(b"  " + text(entries()), DATA), None),
    "metadata of 2000 keys": (pack(text({"__metadata__": {str(i): "" for i in range(2000)}} | entries()), DATA), None),
    "entries in another order": (pack(text(dict(reversed(entries().items()))), DATA), None),
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_attacks_on_the_tensors(case):
    tensors, reason = SAFETENSORS[case]
    outcome = load(PLAIN_CONFIG, tensors)
    if reason is None:
        assert is_refused(outcome) or torch.equal(outcome.scores, torch.tensor(fields()["scores"]))
    else:
        assert is_refused(outcome) and re.search(reason, str(outcome)), outcome


# ---- JSON

VALID = json.dumps(PLAIN_CONFIG)
STRICT = "not strict JSON"


def put(old, new):
    assert old in VALID, old
    return VALID.replace(old, new, 1).encode()


JSON = {
    "UTF-16": (VALID.encode("utf-16"), STRICT),
    "UTF-32 without a mark": (VALID.encode("utf-32-le"), STRICT),
    "an overlong slash": (put("tiny-vl", "tiny-vl").replace(b"owner/tiny", b"owner\xc0\xaftiny"), STRICT),
    "half of a surrogate pair in UTF-8": (put("x", "x").replace(b"owner/tiny", b"\xed\xa0\x80"), STRICT),
    "NULs behind": (VALID.encode() + bytes(8), STRICT),
    "another object behind": (VALID.encode() * 2, STRICT),
    "a comma at the end": (VALID.encode()[:-1] + b",}", STRICT),
    "a comment": (b"/* */" + VALID.encode(), STRICT),
    "single quotes": (VALID.replace('"', "'").encode(), STRICT),
    "a line break in a text": (put("tiny-vl", "tiny\nvl"), STRICT),
    "null": (b"null", "JSON NoneType, not an object"),
    "true": (b"true", "JSON bool, not an object"),
    "a number": (b"1", "JSON int, not an object"),
    "a text": (b'"format_version"', "JSON str, not an object"),
    "a million brackets": (b"[" * 1_000_000, "nested too deeply"),
    "a million brackets in a key": (b'{"a":' + b"[" * 500_000 + b"]" * 500_000 + b"}", "nested too deeply"),
    "a leading zero": (put('"head_dim": 8', '"head_dim": 08'), STRICT),
    "hexadecimal": (put('"head_dim": 8', '"head_dim": 0x8'), STRICT),
    "a plus": (put('"head_dim": 8', '"head_dim": +8'), STRICT),
    "minus zero": (put('"head_dim": 8', '"head_dim": -0'), "head_dim=0 was given"),
    "an exponent": (put('"head_dim": 8', '"head_dim": 8e0'), "head_dim=8.0 was given - it is not an int"),
    "a million digits": (put('"head_dim": 8', '"head_dim": ' + "8" * 1_000_000), "integer of 1000000 characters"),
    "a million digits and a point": (put('"head_dim": 8', '"head_dim": 8.' + "8" * 1_000_000), "it is not an int"),
    "minus infinity": (put('"head_dim": 8', '"head_dim": -1e999'), "head_dim=-inf"),
    "a key twice by an escape": (put('"head_dim"', '"head_di\\u006d": 9, "head_dim"'), "duplicate key 'head_dim'"),
    "a key of another case": (put('"head_dim"', '"Head_dim"'), "missing keys .*'head_dim'; unknown keys: 'Head_dim'"),
    "a key that looks alike": (put('"head_dim"', '"he\\u0430d_dim"'), "missing keys .*'head_dim'"),
    "an empty key": (put("{", '{"": 0, '), "unknown keys: ''"),
    "a hundred thousand keys": (
        b"{" + b",".join(b'"%d":0' % i for i in range(90_000)) + b"}",
        "None is not a positive",
    ),
    "a file name": (put("{", '{"tensors": "../../etc/passwd", '), "unknown keys: 'tensors'"),
    "code to run": (put("{", '{"auto_map": {"AutoModel": "x--y.Z"}, '), "unknown keys: 'auto_map'"),
    "sha256 in capitals": (put(PLAIN_CONFIG["sha256"], PLAIN_CONFIG["sha256"].upper()), "it has sha256"),
    "sha256 with a line break": (put(PLAIN_CONFIG["sha256"], PLAIN_CONFIG["sha256"] + "\\n"), "it has sha256"),
    "format_version 1.0": (put('"format_version": 1', '"format_version": 1.0'), "1.0 is not a positive integer"),
    "format_version of 18 digits": (
        put('"format_version": 1', '"format_version": ' + "9" * 18),
        "format_version 99999",
    ),
}


@pytest.mark.parametrize("case", JSON)
def test_attacks_on_the_config(case):
    config, reason = JSON[case]
    outcome = load(config, PLAIN_TENSORS)
    assert is_refused(outcome) and re.search(reason, str(outcome)), outcome


@pytest.mark.parametrize("case", [case for case, (_, reason) in SAFETENSORS.items() if reason] + list(JSON))
def test_attacks_on_what_info_reads(case, tmp_path):
    """`corehead info` reads a folder with other calls; of a map on the Hub it sees only config and header."""
    if case in JSON:
        (tmp_path / CONFIG).write_bytes(JSON[case][0])
        (tmp_path / TENSORS).write_bytes(PLAIN_TENSORS)
    else:
        (tmp_path / CONFIG).write_text(VALID)
        set_tensors(tmp_path, SAFETENSORS[case][0])
    with pytest.raises(HeadMapFormatError) as refusal:
        head_map_info(tmp_path)
    assert type(refusal.value) is HeadMapFormatError and len(str(refusal.value)) < 1000


def test_the_files_that_are_attacked_are_good():
    assert torch.equal(load(VALID.encode(), PLAIN_TENSORS).scores, torch.tensor(fields()["scores"]))
    assert torch.equal(load(PLAIN_CONFIG, of()).scores, torch.tensor(fields()["scores"]))
    head_map = load(CONFIG_WITH_ALL, TENSORS_WITH_SUMS)
    assert head_map.sums is not None and head_map.parts and head_map.convergence
    assert load(PLAIN_CONFIG | {"score_rule": "x"}, PLAIN_TENSORS).score_rule == "x"


def test_a_map_that_names_paths_opens_its_own_two_files_and_no_other(tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("{}")
    secret = str(tmp_path / "secret")
    make_map(base_model_name_or_path=secret, dataset=secret, question_rule=secret).save_pretrained(tmp_path / "map")
    opened = []
    monkeypatch.setattr(
        Path, "open", lambda self, *args, path_open=Path.open: opened.append(self) or path_open(self, *args)
    )
    assert HeadMap.from_pretrained(tmp_path / "map").dataset == secret
    assert sorted(path.name for path in opened) == sorted([CONFIG, TENSORS])


# ---- every cut, every flipped bit


def test_every_cut_of_the_tensors_is_refused():
    for config, tensors in ((PLAIN_CONFIG, PLAIN_TENSORS), (CONFIG_WITH_ALL, TENSORS_WITH_SUMS)):
        for size in range(len(tensors)):
            assert is_refused(load(config, tensors[:size]))


def test_every_cut_of_the_config_is_refused():
    whole = json.dumps(CONFIG_WITH_ALL).encode()
    for size in range(len(whole)):
        assert is_refused(load(whole[:size], TENSORS_WITH_SUMS))


def test_every_flipped_bit_is_noticed_by_the_hash():
    for place in range(len(TENSORS_WITH_SUMS)):
        flipped = bytearray(TENSORS_WITH_SUMS)
        flipped[place] ^= 1 << place % 8
        assert "it has sha256" in str(load(CONFIG_WITH_ALL, bytes(flipped), rehash=False))


# ---- what hypothesis makes of them

ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from([0, 1, 2, 3, 1.0, 2**31, 2**53, 2**63, -1, "", "a" * 1001, "\ud800", "main", "../x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
EDITS = st.lists(
    st.tuples(st.integers(0, 10**6), st.sampled_from(["flip", "put", "cut", "copy"]), st.binary(max_size=9)),
    min_size=1,
    max_size=4,
)


def edited(data, edits):
    for place, kind, extra in edits:
        place %= len(data) + 1
        if kind == "flip" and place < len(data):
            data = data[:place] + bytes([data[place] ^ (extra[0] if extra else 1)]) + data[place + 1 :]
        elif kind == "put":
            data = data[:place] + extra + data[place:]
        elif kind == "cut":
            data = data[:place] + data[place + len(extra) :]
        else:
            data = data[:place] + data[: len(extra) * 8] + data[place:]
    return data


@fuzz
@given(st.binary(max_size=400))
def test_random_bytes_are_no_tensors(data):
    assert is_refused(load(PLAIN_CONFIG, data))


@fuzz
@given(st.binary(max_size=400))
def test_random_bytes_are_no_header(data):
    assert is_refused(load(PLAIN_CONFIG, pack(data, DATA)))


@fuzz
@given(st.binary(max_size=400) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_random_bytes_are_no_config(data):
    assert is_refused(load(data, PLAIN_TENSORS))


@fuzz
@given(EDITS)
def test_edited_tensors_are_refused_or_sound(edits):
    load(CONFIG_WITH_ALL, edited(TENSORS_WITH_SUMS, edits))


@fuzz
@given(EDITS)
def test_edited_headers_are_refused_or_sound(edits):
    size = 8 + int.from_bytes(TENSORS_WITH_SUMS[:8], "little")
    load(CONFIG_WITH_ALL, pack(edited(TENSORS_WITH_SUMS[8:size], edits), TENSORS_WITH_SUMS[size:]))


@fuzz
@given(EDITS)
def test_an_edited_config_is_refused_or_sound(edits):
    load(edited(json.dumps(CONFIG_WITH_ALL).encode(), edits), TENSORS_WITH_SUMS)


@settings(fuzz, max_examples=300)
@given(st.sampled_from(sorted({*CONFIG_WITH_ALL, "score_rule", "unknown"})), ANY, st.booleans())
def test_right_keys_with_wrong_values_are_refused_or_sound(key, value, with_sums):
    config, tensors = (CONFIG_WITH_ALL, TENSORS_WITH_SUMS) if with_sums else (PLAIN_CONFIG, PLAIN_TENSORS)
    outcome = load(json.dumps(config | {key: value}).encode(), tensors)
    if not is_refused(outcome) and key not in ("corehead_version", "format_version", "sha256"):
        assert json.dumps(getattr(outcome, key)) == json.dumps(value)


@fuzz
@given(st.sampled_from(["versions", "convergence", "parts"]), st.integers(0, 3), ANY, ANY)
def test_wrong_values_inside_lists_are_refused_or_sound(key, place, name, value):
    inside = json.loads(json.dumps(CONFIG_WITH_ALL[key]))
    entry = inside if key == "versions" else inside[place % 2]
    if isinstance(entry, dict):
        entry[name if isinstance(name, str) else sorted(entry)[0]] = value
    else:
        entry[place // 2] = value
    load(json.dumps(CONFIG_WITH_ALL | {key: inside}).encode(), TENSORS_WITH_SUMS)


LIE = st.sampled_from(
    [None, -1, 0, 1, 2, 3, 4, 12, 48, 49, 96, 120, 2**31, 2**32, 2**62, 2**63, 2**64, 0.5, "3", [], True]
)


@fuzz
@given(
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(["F32", "F64", "I64", "I32", "U8", "BOOL", "F8_E4M3", "F4", "C64", "", None, 4]),
    st.lists(LIE, max_size=3),
    st.lists(LIE, max_size=3),
    st.sampled_from(KEYS),
)
def test_a_header_that_lies_is_refused_or_sound(name, dtype, shape, offsets, key):
    lie = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    load(PLAIN_CONFIG, of(**{name: {key: lie[key]}}))
    load(PLAIN_CONFIG, of(**{name: lie}))


@fuzz
@given(st.dictionaries(st.text(max_size=12) | st.sampled_from([*KINDS, "../x", "ram\0"]), ANY, max_size=5))
def test_a_header_of_anything_is_refused(header):
    assert is_refused(load(PLAIN_CONFIG, pack(json.dumps(header).encode(), DATA)))


@fuzz
@given(st.sampled_from(["ram", "ram_std"]), st.integers(0, 11), st.floats(width=32) | st.floats(-1, 2, width=32))
def test_any_number_in_the_scores_is_refused_or_in_range(name, place, value):
    arrays = {"ram": np.array(fields()["scores"], "<f4"), "ram_std": np.full((3, 4), 0.25, "<f4")}
    arrays[name].reshape(-1)[place] = value
    assert is_refused(load(PLAIN_CONFIG, safetensors_file(**arrays))) != (0 <= value <= 1)


@fuzz
@given(st.integers(0, 2), st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 9))
def test_any_number_in_the_counts_is_refused_or_in_range(place, number):
    count = np.full(3, 7, "<i8")
    count[place] = number
    assert is_refused(load(PLAIN_CONFIG, safetensors_file(count=count))) != (1 <= number <= 7)


@fuzz
@given(st.integers(0, 25), st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3))
def test_sums_of_other_scores_are_refused(place, number):
    """12 limbs each of two sums over 2 x 3 heads, two of the chance level; rounded off is only what float32 drops."""
    arrays = {name: np.array(values) for name, values in safetensors.numpy.load(TENSORS_WITH_SUMS).items()}
    name, index = (
        ("chance_sum", place - 24) if place >= 24 else (("ram_sum", "ram_square_sum")[place // 12], place % 12)
    )
    flat = arrays[name].reshape(-1)
    before = int(flat[index])
    flat[index] = number
    outcome = load(CONFIG_WITH_ALL, safetensors.numpy.save(arrays))
    if name != "chance_sum":
        changed = abs(number - before) * 2.0 ** (-40 if index < 6 else -80)
        assert is_refused(outcome) or changed < 1e-5
    elif not is_refused(outcome):
        assert 0 < outcome.chance <= 1


# ---- memory: the largest files that are read at all


def largest(directory, layers, heads, **last):
    """A map of so many heads with sums, and NaN or a wrong sum in the last place."""
    full = (2, layers, heads)
    sums = {"ram_sum": np.zeros(full, "<i8"), "ram_square_sum": np.zeros(full, "<i8"), "chance_sum": np.ones(2, "<i8")}
    arrays = {"ram": np.zeros((layers, heads), "<f4"), "ram_std": np.zeros((layers, heads), "<f4"), **sums}
    for name, value in last.items():
        arrays[name][..., -1] = value
    set_tensors(directory, safetensors_file(**arrays, count=np.full(layers, 7, "<i8")))
    set_config(directory, num_layers=layers, num_heads=heads, num_kv_heads=1)


WORST = {
    "2**17 heads, wrong sum": lambda directory: largest(directory, 1024, 128, ram_sum=1 << 41),
    "2**17 heads, NaN": lambda directory: largest(directory, 1024, 128, ram=np.nan),
    "2**20 heads, wrong sum": lambda directory: largest(directory, 1024, 1024, ram_sum=1 << 41),
    "64 MiB of one tensor": lambda directory: set_tensors(
        directory, safetensors_file(ram=np.zeros(2**26 - 999, "|u1"))
    ),
    "64 MiB of NULs": lambda directory: set_tensors(directory, bytes(2**26)),
    "1 MiB of lists": lambda directory: (directory / CONFIG).write_bytes(b'{"a":[' + b"[]," * 349_000 + b"0]}"),
    "1 MiB of objects": lambda directory: (directory / CONFIG).write_bytes(b'{"a":[' + b"{}," * 349_000 + b"0]}"),
    "1 MiB of keys": lambda directory: (directory / CONFIG).write_text(json.dumps({str(i): 0 for i in range(86_000)})),
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_worst_files_stay_within_100_mb(tmp_path):
    steps = {}
    for case, change in {"good": lambda directory: None, **WORST}.items():
        directory = tmp_path / case.replace("*", "")
        make_map().save_pretrained(directory)
        change(directory)
        steps[case] = f"read({str(directory)!r})"
    steps = {case: f"assert {step}" for case, step in steps.items() if case != "good"} | {
        "good": f"assert not {steps['good']}"
    }
    setup = """
from corehead_hf import HeadMap, HeadMapFormatError
def read(directory):
    try:
        HeadMap.from_pretrained(directory)
    except HeadMapFormatError as error:
        return error
"""
    peaks = peak_memory(setup, steps)
    for case, (megabytes, seconds) in peaks.items():
        print(f"{case}: {megabytes:.1f} MB at the peak so far, {seconds:.3f} s")  # shown where it fails
    assert max(megabytes for megabytes, _ in peaks.values()) < 100
