"""Shards: what is kept comes back, a write cut short at any byte is as if it had not begun, nothing else mixes in."""

import hashlib
import json
import re
import shutil
import struct

import pytest
import torch

from corehead_hf.measuring import read_measured
from corehead_hf.measuring.outcome import Outcome
from corehead_hf.measuring.shards import Shards
from corehead_hf.measuring.slots import Slot

PRINT = {"model": "tiny", "batch_size": 4, "base_model_revision": None}


def outcome(index, **changes):
    generator = torch.Generator().manual_seed(index)
    given = {"id": f"é-{index}", "width": 4, "ram": torch.rand(2, 3, generator=generator), "chance": 0.25 + index / 64}
    return Outcome(index, **{**given, **changes})


def failed(index, **changes):
    return Outcome(index, f"é-{index}", 4, reason="out of memory: 3 GiB", **changes)


def same(a, b):
    fields = ("index", "id", "width", "chance", "reason", "row_error", "changes")
    tensors = [(a.ram, b.ram), (a.rows, b.rows)]
    equal = all((x is None) == (y is None) and (x is None or torch.equal(x, y)) for x, y in tensors)
    return equal and all(getattr(a, name) == getattr(b, name) for name in fields)


def slot(index, identity, content=None):
    return Slot(index, identity, None, content)


def keep(folder, *outcomes):
    shards = Shards(folder, PRINT)
    shards.append(outcomes)
    shards.close()
    return max(folder.glob("shard-*.bin"))


def kept(folder, number):
    shards = Shards(folder, PRINT)
    return [shards.get(slot(index, f"é-{index}"), 4) for index in range(number)]


def test_what_is_kept_comes_back(tmp_path):
    rows = torch.rand(2, 3, 17)
    given = [outcome(0), outcome(1, rows=rows), failed(2)]
    given += [
        Outcome(3, None, 4, reason="line 7: no box", row_error="bad_row"),
        outcome(4, changes=(("clipped", "x"),)),
    ]
    keep(tmp_path / "new" / "folder", *given)
    for back in (list(read_measured(tmp_path / "new" / "folder")), [*kept(tmp_path / "new" / "folder", 3)]):
        assert all(same(a, b) for a, b in zip(given, back, strict=False)) and len(back) >= 3
    assert Shards(tmp_path / "new" / "folder", PRINT).get(slot(3, None), 4).row_error == "bad_row"
    assert Shards(tmp_path / "new" / "folder", PRINT).get(slot(5, "é-5"), 4) is None


def test_the_layout_on_disk(tmp_path):
    """A record read by hand, from the words in records.py alone."""
    data = keep(tmp_path, outcome(5)).read_bytes()
    title = b"corehead shard, format 1\n"
    assert data.startswith(title)
    at = len(title) + 32
    header_bytes, body_bytes = struct.unpack_from("<IQ", data, at + 4)
    assert data[at : at + 4] == b"CORE" and body_bytes == 4 * (1 + 2 * 3)
    start = at + 4 + 12 + 16
    assert len(data) == start + header_bytes + body_bytes
    assert json.loads(data[start : start + header_bytes])["id"] == "é-5"
    assert struct.unpack_from("<7f", data, start + header_bytes)[0] == 0.25 + 5 / 64
    digest = hashlib.blake2b(data[at + 4 : at + 16] + data[start:], digest_size=16).digest()
    assert data[at + 16 : at + 32] == digest
    assert json.loads((tmp_path / "fingerprint.json").read_text()) == PRINT


def test_a_write_cut_short_at_any_byte_leaves_what_was_there(tmp_path):
    whole = keep(tmp_path / "a", outcome(0), outcome(1)).read_bytes()
    first = len(keep(tmp_path / "b", outcome(0)).read_bytes())
    shard = next((tmp_path / "a").glob("shard-*.bin"))
    for length in range(len(whole)):
        shard.write_bytes(whole[:length])
        zero, one = kept(tmp_path / "a", 2)
        assert one is None and (zero is None) == (length < first), length
    for length in range(first, len(whole)):  # some file systems make room before they write
        shard.write_bytes(whole[:length] + bytes(len(whole) - length))
        zero, one = kept(tmp_path / "a", 2)
        cut = whole[:length] + bytes(len(whole) - length)
        assert same(zero, outcome(0)) and ((one is None) or cut == whole), length
    shard.write_bytes(whole[: first + 9])
    new = keep(tmp_path / "a", outcome(1))
    assert new != shard and shard.read_bytes() == whole[: first + 9], "a shard of an earlier process was touched"
    assert same(kept(tmp_path / "a", 2)[1], outcome(1))


def test_one_flipped_bit_is_found(tmp_path):
    shard = keep(tmp_path, outcome(0), outcome(1), outcome(2))
    whole = shard.read_bytes()
    record = (len(whole) - len(b"corehead shard, format 1\n") - 32) // 3
    for byte in range(len(whole) - record, len(whole), 3):  # in the last record it looks like a cut write
        shard.write_bytes(whole[:byte] + bytes([whole[byte] ^ 4]) + whole[byte + 1 :])
        assert kept(tmp_path, 3)[2] is None
    for byte in range(len(whole) - 2 * record, len(whole) - record, 3):
        shard.write_bytes(whole[:byte] + bytes([whole[byte] ^ 4]) + whole[byte + 1 :])
        with pytest.raises(ValueError, match=r"shard-00000.bin: the record at byte \d+ is damaged and a sound one"):
            Shards(tmp_path, PRINT)


@pytest.mark.parametrize(
    "changes, difference",
    [
        ({"batch_size": 8}, "batch_size: 4 there / 8 now"),
        ({"model": "other"}, "model: 'tiny' there / 'other' now"),
        ({"base_model_revision": "a" * 40}, f"base_model_revision: None there / '{'a' * 40}' now"),
        ({"threads": 2}, "threads: None there / 2 now"),
    ],
)
def test_another_configuration_does_not_mix(tmp_path, changes, difference):
    keep(tmp_path, outcome(0))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=f"another configuration: {re.escape(difference)}. Results of both"):
        Shards(tmp_path, {**PRINT, **changes})
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_shards_of_another_run_do_not_mix(tmp_path):
    keep(tmp_path / "a", outcome(0))
    other = Shards(tmp_path / "b", {**PRINT, "model": "other"})
    other.append([outcome(1)])
    shutil.copy(tmp_path / "b" / "shard-00000.bin", tmp_path / "a" / "shard-00001.bin")
    with pytest.raises(ValueError, match=r"shard-00001.bin is no shard of the run in fingerprint.json"):
        Shards(tmp_path / "a", PRINT)
    (tmp_path / "b" / "fingerprint.json").unlink()
    with pytest.raises(ValueError, match="has shards but no fingerprint.json"):
        Shards(tmp_path / "b", PRINT)
    with pytest.raises(FileNotFoundError):
        next(read_measured(tmp_path / "nothing"))


def test_an_id_has_one_place_and_a_place_one_id(tmp_path):
    keep(tmp_path / "a", outcome(0))
    with pytest.raises(ValueError, match="the data has example 'x' at 0, the run that is resumed had 'é-0' there"):
        Shards(tmp_path / "a", PRINT).get(slot(0, "x"), 4)
    keep(tmp_path / "b", outcome(0), outcome(0, id="x"))
    with pytest.raises(ValueError, match="examples 'é-0' and 'x' both stand at 0"):
        Shards(tmp_path / "b", PRINT)
    keep(tmp_path / "c", outcome(0), outcome(7, id="é-0"))
    with pytest.raises(ValueError, match="example 'é-0' stands at 0 and at 7"):
        Shards(tmp_path / "c", PRINT)


def test_an_example_that_says_something_else_now_is_refused(tmp_path):
    keep(tmp_path, outcome(0, mark=slot(0, "é-0", "a").mark), outcome(1))
    shards = Shards(tmp_path, PRINT)
    assert same(shards.get(slot(0, "é-0", "a"), 4), outcome(0)) and shards.get(slot(0, "é-0"), 4) is not None
    assert shards.get(slot(1, "é-1", "b"), 4) is not None, "nothing was known of what the data said"
    with pytest.raises(ValueError, match="what the data say of example 'é-0' at 0 was changed"):
        shards.get(slot(0, "é-0", "b"), 4)


def test_the_same_record_twice_is_one_and_another_result_is_refused(tmp_path):
    keep(tmp_path, outcome(0))
    keep(tmp_path, outcome(0), outcome(1))
    assert len(list(read_measured(tmp_path))) == 2
    keep(tmp_path, outcome(1, ram=torch.zeros(2, 3)))
    with pytest.raises(ValueError, match="example 'é-1' was measured twice with different results"):
        Shards(tmp_path, PRINT)


def test_another_width_is_another_measurement(tmp_path):
    """The last batch of a run is narrow; where the data has grown its examples are measured again."""
    wide = outcome(0, ram=torch.zeros(2, 3))
    keep(tmp_path, outcome(0, width=1), wide)
    shards = Shards(tmp_path, PRINT)
    assert same(shards.get(slot(0, "é-0"), 1), outcome(0, width=1)) and same(shards.get(slot(0, "é-0"), 4), wide)
    assert shards.get(slot(0, "é-0"), 2) is None
    assert [same(o, wide) for o in read_measured(tmp_path)] == [True]
