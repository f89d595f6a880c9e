"""The entry: what it refuses, and which backend it runs."""

import pytest
import torch

from corehead_hf import kernels, reference
from corehead_hf.kernels import BACKENDS, hybrid_attention, resolve_backend


def arguments(**changed):
    generator = torch.Generator().manual_seed(0)
    values = {
        "query": torch.randn(2, 4, 6, 8, generator=generator),
        "key": torch.randn(2, 2, 6, 8, generator=generator),
        "value": torch.randn(2, 2, 6, 8, generator=generator),
        "heads": torch.tensor([True, False, False, False]),
        "sink_size": 1,
        "window_size": 2,
        "scaling": 0.35,
    }
    return values | changed


def test_names_of_the_backends():
    assert sorted(BACKENDS) == ["banded", "reference"]
    assert resolve_backend("auto", "cpu") == "banded"
    assert resolve_backend("auto", torch.device("cuda")) == "banded"
    assert resolve_backend("reference", "cpu") == "reference"


def test_an_unknown_backend_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"'triton'.*auto, banded, reference"):
        resolve_backend("triton", "cpu")
    with pytest.raises(ValueError, match="'triton'"):
        hybrid_attention(**arguments(), backend="triton")


def test_the_reference_is_refused_where_there_is_no_float64():
    with pytest.raises(ValueError, match="float64"):
        resolve_backend("reference", "mps")


@pytest.mark.parametrize("name", sorted(BACKENDS))
@pytest.mark.parametrize("first_token", [None, torch.tensor([0, 3]), torch.tensor([6, 1], dtype=torch.int32)])
def test_every_backend_gives_the_reference_result(name, first_token):
    given = arguments(first_token=first_token)
    result = hybrid_attention(**given, backend=name)
    assert result.shape == (2, 6, 4, 8)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), reference.hybrid_attention(**given), rtol=1e-5, atol=1e-6)


def test_auto_runs_the_backend_that_resolve_names(monkeypatch):
    ran = []
    monkeypatch.setattr(kernels, "BACKENDS", {"banded": lambda *args, **kwargs: ran.append(kwargs)})
    hybrid_attention(**arguments(first_token=torch.tensor([1, 0])))
    assert len(ran) == 1
    assert ran[0]["first_token"].tolist() == [1, 0]
    assert (ran[0]["sink_size"], ran[0]["window_size"], ran[0]["scaling"]) == (1, 2, 0.35)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"query": torch.ones(4, 6, 8)}, "four dimensions"),
        ({"query": torch.ones(1, 4, 6, 8)}, "batch and head_dim are shared"),
        ({"query": torch.ones(2, 4, 6, 16)}, "batch and head_dim are shared"),
        ({"value": torch.ones(2, 2, 5, 8)}, "key and value have one shape"),
        ({"query": torch.ones(2, 4, 0, 8)}, "attention over nothing"),
        ({"query": torch.ones(2, 3, 6, 8)}, "3 query heads cannot be shared out over 2 kv heads"),
        ({"query": torch.ones(2, 4, 7, 8)}, "the 7 queries are the last of the 6 key positions"),
        ({"heads": torch.tensor([True, False])}, r"\(2,\) were given - query has 4 heads"),
        ({"heads": torch.ones(3, 4, dtype=torch.bool)}, r"\(3, 4\) were given.*one layer's bool \[4\]"),
        ({"sink_size": -1}, "sink_size=-1.*at least 0"),
        ({"window_size": 0}, "window_size=0.*at least 1"),
        ({"scaling": float("nan")}, "scaling=nan"),
        ({"first_token": torch.tensor([1])}, r"\(1,\) was given - the batch has 2"),
        ({"first_token": torch.tensor([0, 7])}, r"\[0, 7\] was given - a sequence of 6 keys"),
        ({"first_token": torch.tensor([-1, 0])}, r"\[-1, 0\] was given"),
        ({"key": torch.ones(2, 2, 6, 8, device="meta")}, "cpu, meta and cpu were given - one device"),
    ],
)
def test_values_that_do_not_fit_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        hybrid_attention(**arguments(**changed))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"value": torch.ones(2, 2, 6, 8, dtype=torch.float16)}, "one floating dtype"),
        ({name: torch.ones(2, 2, 6, 8, dtype=torch.int32) for name in ("query", "key", "value")}, "floating"),
        ({"heads": torch.ones(4)}, r"heads of torch.float32.*bool \[4\]"),
        ({"heads": torch.tensor([0, 1, 2, 3])}, r"heads of torch.int64"),
        ({"sink_size": 1.0}, "sink_size=1.0.*int"),
        ({"window_size": True}, "window_size=True.*int"),
        ({"first_token": torch.tensor([0.0, 1.0])}, r"torch.float32.*integer tensor \[2\]"),
        ({"first_token": torch.tensor([True, False])}, "torch.bool"),
    ],
)
def test_wrong_types_are_refused(changed, message):
    with pytest.raises(TypeError, match=message):
        hybrid_attention(**arguments(**changed))
