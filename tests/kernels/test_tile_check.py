"""The judge of tiles must see what is wrong. Kernels run interpreted, on the CPU."""

import pytest
import torch

from corehead_hf.kernels import hybrid_prefill, tile_check
from corehead_hf.kernels.tiles import Tile
from corehead_hf.kernels.trial import Layer

TILE = Tile(64, 32, 4, 1)
LAYER = Layer(torch.device("cpu"), torch.float32, 16, 4, 2, 4, 20, 64)


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch):
    """The interpreter takes seconds for 512."""
    for name, value in (("_TOKENS", 160), ("_CACHED", 32), ("_WINDOW", 50)):
        monkeypatch.setattr(tile_check, name, value)
    tile_check._case.cache_clear()
    yield
    tile_check._case.cache_clear()


@pytest.fixture
def spoilt(monkeypatch):
    """spoilt(change): from now on change(output, given) is what the kernel does after computing its output."""
    right = hybrid_prefill.hybrid_attention

    def install(change):
        def wrong(*args, **kwargs):
            output = right(*args, **kwargs)
            change(output, kwargs)
            return output

        monkeypatch.setattr(hybrid_prefill, "hybrid_attention", wrong)

    return install


def test_the_variants_are_all_the_kernels_that_a_tile_compiles_to():
    assert sorted(tile_check.VARIANTS) == [(False, False), (False, True), (True, False), (True, True)]


@pytest.mark.parametrize("variant", tile_check.VARIANTS)
def test_each_variant_runs_another_kernel(monkeypatch, variant):
    seen = []
    run = hybrid_prefill.hybrid_prefill_kernel.run

    def note(*args, **kwargs):
        seen.append((kwargs["PADDED"], kwargs["SINK_CUT"]))
        return run(*args, **kwargs)

    monkeypatch.setattr(hybrid_prefill.hybrid_prefill_kernel, "run", note)
    assert tile_check.check(TILE, LAYER, *variant) is None
    assert seen == [variant]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_right_tile_passes_everything(dtype):
    layer = Layer(LAYER.device, dtype, 16, 4, 2, 4, 20, 64)
    assert tile_check.check_all(TILE, layer) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda output, given: output.mul_(1.001),
        lambda output, given: output[:, 100].zero_(),  # one row
        lambda output, given: output[:, 64:128, 2].fill_(float("nan")),  # a tile that nobody wrote
        lambda output, given: output.copy_(output.flip(2)),  # another head is dense
        lambda output, given: output.copy_(output.roll(1, dims=1)),
    ],
)
def test_a_wrong_tile_is_found_out(spoilt, change):
    spoilt(change)
    assert tile_check.check(TILE, LAYER).startswith("wrong: its error is ")


def test_a_window_or_sink_off_by_one_is_found_out(monkeypatch):
    right = hybrid_prefill.hybrid_attention
    for name in ("window_size", "sink_size"):
        wrong = lambda *args, name=name, **kwargs: right(*args, **{**kwargs, name: kwargs[name] + 1})  # noqa: E731
        monkeypatch.setattr(hybrid_prefill, "hybrid_attention", wrong)
        for variant in [(False, False), (True, True)]:
            assert "wrong" in tile_check.check(TILE, LAYER, *variant), (name, variant)


def test_wrong_in_one_variant_only(spoilt):
    spoilt(lambda output, given: output.mul_(1.01 if given["first_token"] is not None else 1.0))
    assert tile_check.check(TILE, LAYER) is None
    message = tile_check.check_all(TILE, LAYER)
    assert message.startswith("wrong") and "padded=True, sink_size=32" in message


def test_not_finite_at_the_full_length_only(spoilt):
    spoilt(lambda output, given: output.fill_(float("inf")) if output.shape[1] == 64 else None)
    assert tile_check.check_all(TILE, LAYER) == "wrong: not finite at 64 tokens"


def test_the_error_allowed_is_twice_that_of_torch(spoilt):
    case = tile_check._case(LAYER, 32, False)
    worst = case.truth.square().mean(dim=(1, 3)).sqrt().max()  # of the head with the largest values
    for share, passes in ((0.9, True), (1.1, False)):
        spoilt(lambda output, given, share=share: output.copy_(case.truth * (1 + share * case.allowed / worst)))
        assert (tile_check.check(TILE, LAYER) is None) is passes
    assert 1e-9 < case.allowed < 1e-5


def test_what_a_tile_raises_is_its_reason(spoilt):
    def fail(output, given):
        raise RuntimeError("out of resources\nand more")

    spoilt(fail)
    assert tile_check.check(TILE, LAYER) == "RuntimeError: out of resources"
    assert tile_check.check_all(TILE, LAYER) == "RuntimeError: out of resources"


def test_a_process_of_its_own_finds_a_tile_right():
    specialized = Tile(128, 64, 4, 1, descriptors=True, warp_specialize=True)
    layer = Layer(LAYER.device, LAYER.dtype, 16, 2, 2, 4, 20, 64)
    assert tile_check.check_apart(specialized, layer, 200) is None


def test_a_process_of_its_own_says_what_is_wrong():
    assert "power of 2" in tile_check.check_apart(Tile(48, 32, 4, 1), LAYER, 200)


def test_a_process_that_does_not_end_is_ended():
    assert tile_check.check_apart(TILE, LAYER, 0.01) == "not done after 0.01 s, it may hang"


def test_a_process_that_cannot_be_told_to_end_is_ended_too(monkeypatch):
    monkeypatch.setattr(tile_check, "_CHILD", "import time; time.sleep(100)")
    monkeypatch.setattr(tile_check, "_GRACE", 0.5)
    assert tile_check.check_apart(TILE, LAYER, 0.5) == "not done after 0.5 s, it may hang"


def test_a_process_that_crashes_is_no_verdict(monkeypatch):
    monkeypatch.setattr(tile_check, "_CHILD", "import os; os.abort()")
    assert "status -6" in tile_check.check_apart(TILE, LAYER, 20)


@pytest.mark.gpu
@pytest.mark.parametrize("apart", [False, True])
def test_a_tile_of_the_table_is_right_on_a_gpu(apart):
    from corehead_hf.kernels import tiles

    layer = Layer(torch.device("cuda"), torch.bfloat16, 128, 32, 8, 128, 1024, 4096)
    tile = tiles.candidates(layer.device, layer.dtype, 128, descriptors=True)[0]
    assert (tile_check.check_apart(tile, layer, 120) if apart else tile_check.check_all(tile, layer)) is None
