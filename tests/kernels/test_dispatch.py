"""The entry: what it refuses, and which backend it runs."""

import pytest
import torch

from corehead_hf import kernels, reference
from corehead_hf.kernels import BACKENDS, hybrid_attention, resolve_backend


def arguments(**changed):
    generator = torch.Generator().manual_seed(0)
    values = {
        "query": torch.randn(2, 4, 6, 16, generator=generator),
        "key": torch.randn(2, 2, 6, 16, generator=generator),
        "value": torch.randn(2, 2, 6, 16, generator=generator),
        "heads": torch.tensor([True, False, False, False]),
        "sink_size": 1,
        "window_size": 2,
        "scaling": 0.35,
    }
    return values | changed


TRITON = ["triton", "triton_one_launch", "triton_two_launches"]
INTERPRETED = not torch.cuda.is_available()


def test_names_of_the_backends():
    assert sorted(BACKENDS) == ["banded", "reference", *TRITON]
    assert resolve_backend("auto", "cpu") == "banded"
    assert resolve_backend("auto", torch.device("cuda")) == "triton"
    assert resolve_backend("auto", "mps") == "banded"
    for name in BACKENDS:
        assert resolve_backend(name, "cuda") == name
    assert resolve_backend("reference", "cpu") == "reference"


def test_auto_without_triton_is_banded_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: None)
    kernels._best.cache_clear()
    try:
        assert resolve_backend("auto", "cuda") == resolve_backend("auto", "cuda") == "banded"
    finally:
        kernels._best.cache_clear()
    assert [
        r.getMessage() for r in caplog.records if "triton 3.4 or later is not there: hybrid" in r.getMessage()
    ] != []
    assert len(caplog.records) == 1
    with pytest.raises(ValueError, match="needs CUDA or ROCm and triton 3.4"):
        resolve_backend("triton", "cuda")


def test_an_old_triton_counts_as_none(monkeypatch):
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton, "__version__", "3.3.1")
    with pytest.raises(ValueError, match="triton 3.4 or later"):
        resolve_backend("triton", "cuda")
    monkeypatch.setattr(triton, "__version__", "3.10.0+git1234")
    assert resolve_backend("triton", "cuda") == "triton"


def test_triton_on_a_cpu_needs_its_interpreter(monkeypatch):
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton.knobs.runtime, "interpret", True)
    assert resolve_backend("triton", "cpu") == "triton"
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    with pytest.raises(ValueError, match="'triton' was asked for on cpu.*TRITON_INTERPRET=1"):
        resolve_backend("triton", "cpu")


def test_an_unknown_backend_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"'cutlass'.*auto, banded, reference, triton, triton_one_launch"):
        resolve_backend("cutlass", "cpu")
    with pytest.raises(ValueError, match="'cutlass'"):
        hybrid_attention(**arguments(), backend="cutlass")


def test_the_reference_is_refused_where_there_is_no_float64():
    with pytest.raises(ValueError, match="float64"):
        resolve_backend("reference", "mps")


@pytest.mark.parametrize("name", sorted(BACKENDS))
@pytest.mark.parametrize("first_token", [None, torch.tensor([0, 3]), torch.tensor([6, 1], dtype=torch.int32)])
def test_every_backend_gives_the_reference_result(name, first_token):
    if name in TRITON and not INTERPRETED:
        pytest.skip("triton's interpreter is off where there is CUDA; tests/kernels/test_hybrid_prefill.py runs there")
    given = arguments(first_token=first_token)
    if name == "triton_two_launches" and first_token is not None:
        with pytest.raises(ValueError, match="with padding or with cached keys"):
            hybrid_attention(**given, backend=name)
        return
    result = hybrid_attention(**given, backend=name)
    assert result.shape == (2, 6, 4, 16)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), reference.hybrid_attention(**given), rtol=1e-5, atol=1e-6)


def test_auto_runs_the_backend_that_resolve_names(monkeypatch):
    ran = []
    monkeypatch.setattr(kernels, "BACKENDS", {"banded": lambda *args, **kwargs: ran.append(kwargs)})
    hybrid_attention(**arguments(first_token=torch.tensor([1, 0])))
    assert len(ran) == 1
    assert ran[0]["first_token"].tolist() == [1, 0]
    assert (ran[0]["sink_size"], ran[0]["window_size"], ran[0]["scaling"]) == (1, 2, 0.35)


@pytest.mark.parametrize("heads", [[True, False, False, False], [True] * 4, [False] * 4])
@pytest.mark.parametrize("plan", ["dense", "one_launch", "two_launches"])
@pytest.mark.parametrize("first_token", [None, torch.tensor([0, 2])])
def test_triton_follows_the_plan_and_never_changes_the_result(monkeypatch, heads, plan, first_token):
    """Also a plan of "dense": only a caller that may change the result can follow it."""
    ran = []
    for name in ("_one_launch", "_two_launches"):
        monkeypatch.setattr(kernels, name, lambda *a, _name=name, **k: ran.append(_name) or reference_of(*a, **k))

    def reference_of(query, key, value, heads, **kwargs):
        return reference.hybrid_attention(query, key, value, heads, **kwargs).float()

    asked = []
    monkeypatch.setattr(kernels.cost, "plan", lambda *a, **k: asked.append(k["separable"]) or plan)
    given = arguments(heads=torch.tensor(heads), first_token=first_token)
    result = kernels._triton(**given)
    given = arguments(heads=torch.tensor(heads), first_token=first_token)
    torch.testing.assert_close(result.double(), reference.hybrid_attention(**given), rtol=1e-5, atol=1e-6)
    if all(heads) and first_token is None:
        assert ran == asked == []  # torch's own causal kernel
    else:
        assert ran == ["_two_launches" if plan == "two_launches" else "_one_launch"]
        assert asked == [first_token is None]


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"query": torch.ones(4, 6, 16)}, "four dimensions"),
        ({"query": torch.ones(1, 4, 6, 16)}, "batch and head_dim are shared"),
        ({"query": torch.ones(2, 4, 6, 8)}, "batch and head_dim are shared"),
        ({"value": torch.ones(2, 2, 5, 16)}, "key and value have one shape"),
        ({"query": torch.ones(2, 4, 0, 16)}, "attention over nothing"),
        ({"query": torch.ones(2, 3, 6, 16)}, "3 query heads cannot be shared out over 2 kv heads"),
        ({"query": torch.ones(2, 4, 7, 16)}, "the 7 queries are the last of the 6 key positions"),
        ({"heads": torch.tensor([True, False])}, r"\(2,\) were given - query has 4 heads"),
        ({"heads": torch.ones(3, 4, dtype=torch.bool)}, r"\(3, 4\) were given.*one layer's bool \[4\]"),
        ({"sink_size": -1}, "sink_size=-1.*at least 0"),
        ({"window_size": 0}, "window_size=0.*at least 1"),
        ({"scaling": float("nan")}, "scaling=nan"),
        ({"scaling": 0.0}, "scaling=0.0.*positive"),
        ({"scaling": -0.5}, "scaling=-0.5.*positive"),
        ({"first_token": torch.tensor([1])}, r"\(1,\) was given - the batch has 2"),
        ({"first_token": torch.tensor([0, 7])}, r"\[0, 7\] was given - a sequence of 6 keys"),
        ({"first_token": torch.tensor([-1, 0])}, r"\[-1, 0\] was given"),
        ({"key": torch.ones(2, 2, 6, 16, device="meta")}, "cpu, meta and cpu were given - one device"),
    ],
)
def test_values_that_do_not_fit_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        hybrid_attention(**arguments(**changed))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"value": torch.ones(2, 2, 6, 16, dtype=torch.float16)}, "one floating dtype"),
        ({name: torch.ones(2, 2, 6, 16, dtype=torch.int32) for name in ("query", "key", "value")}, "floating"),
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
