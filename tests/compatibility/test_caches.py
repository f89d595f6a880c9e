"""Every kind of cache, live caches of earlier turns, and prefill in chunks."""

import contextlib

import pytest
import torch
from generating import DENSE, NEW, SIZES, asked, check_generating, new_tokens, same, streamed, streamed_in_chunks
from tiny_models import VERSION, build, explicit_masks, inputs_for, text_inputs, zero_o_proj
from transformers import DynamicCache
from transformers.cache_utils import Cache

from corehead_hf import AutoCoReModel

IN_CHUNKS = {"prefill_chunk_size": 7}


def quantized(backend, **options):
    return {"cache_implementation": "quantized", "cache_config": {"backend": backend, "q_group_size": 16, **options}}


@pytest.mark.compatibility("Caches", "DynamicCache")
def test_a_dynamic_cache(family):
    inputs = inputs_for(build(family), 2, [0, 5])
    check_generating(family, inputs, {"cache_implementation": "dynamic"}, {})


@pytest.mark.compatibility("Caches", "StaticCache")
def test_a_static_cache(family):
    """The oracles' cache is dynamic: empty slots change no token."""
    inputs = inputs_for(build(family), 2, [0, 5])
    check_generating(family, inputs, {"cache_implementation": "static"}, {})


@pytest.mark.compatibility("Caches", "no cache")
def test_without_a_cache(family):
    """Every step is a prefill of everything so far, and streams: so does the oracle's."""
    inputs = inputs_for(build(family))
    native = build(family)
    plain = new_tokens(native, inputs, use_cache=False)
    with explicit_masks(build(family), streamed) as oracle:
        hybrid = new_tokens(oracle, inputs, use_cache=False)
    assert not same(hybrid, plain)
    model = AutoCoReModel.from_model(native)
    assert same(new_tokens(model, inputs, use_cache=False), plain)
    model.enable_hybrid(heads=DENSE, **SIZES)
    assert same(new_tokens(model, inputs, use_cache=False), hybrid)


@pytest.mark.compatibility("Caches", "QuantizedCache (quanto)")
def test_a_quantized_cache_of_quanto(family):
    pytest.importorskip("optimum.quanto", exc_type=ImportError)
    check_quantized(family, quantized("quanto", nbits=2))


@pytest.mark.compatibility("Caches", "QuantizedCache (hqq)")
def test_a_quantized_cache_of_hqq(family):
    pytest.importorskip("hqq", exc_type=ImportError)
    check_quantized(family, quantized("hqq", nbits=2, axis_key=1, axis_value=1))


def check_quantized(family, options):
    inputs = inputs_for(build(family), 2, [0, 5])
    check_generating(family, inputs, options)
    exact = new_tokens(build(family), inputs)
    assert not same(new_tokens(build(family), inputs, **options), exact), "nothing was quantised"


class StandInStream:
    """A CUDA stream where there is none: offloading waits for it and runs under it, and moves nothing on a CPU."""

    waited = 0

    def wait_stream(self, other):
        StandInStream.waited += 1

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return False


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("offloaded", marks=pytest.mark.compatibility("Caches", "offloaded DynamicCache")),
        pytest.param("offloaded_static", marks=pytest.mark.compatibility("Caches", "offloaded StaticCache")),
    ],
)
def test_an_offloaded_cache(family, kind, monkeypatch):
    """Upstream's own offloading, with stand-ins for the streams that it takes from CUDA."""
    monkeypatch.setattr(torch, "Stream", StandInStream)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: StandInStream())
    StandInStream.waited, offloaded = 0, []
    native_offload = Cache.offload
    monkeypatch.setattr(Cache, "offload", lambda self, *args: (offloaded.append(args), native_offload(self, *args)))
    check_generating(family, inputs_for(build(family), 2, [0, 5]), {"cache_implementation": kind}, {})
    assert StandInStream.waited and offloaded, "nothing was offloaded"


@pytest.mark.compatibility("Caches", "several turns on one cache")
@pytest.mark.parametrize("chunked", [False, True], ids=["later turns dense", "chunked"])
def test_a_second_turn(family, chunked):
    """T > 1 queries on a filled cache: dense unless chunked=True asks for hybrid prefill, S > T, there too."""
    inputs = inputs_for(build(family), 2, [0, 5])
    expected = two_turns(build(family), inputs)
    with explicit_masks(build(family), streamed_in_chunks if chunked else streamed) as oracle:
        hybrid = two_turns(oracle, inputs)
    with explicit_masks(build(family), streamed if chunked else streamed_in_chunks) as oracle:
        assert not same(two_turns(oracle, inputs), hybrid), "chunked would not show in these tokens"
    ablated = two_turns(zero_o_proj(build(family), DENSE), inputs)
    assert not same(hybrid, expected) and not same(ablated, expected)
    model = AutoCoReModel.from_model(build(family))
    assert same(two_turns(model, inputs), expected)
    with model.ablate_heads(DENSE):
        assert same(two_turns(model, inputs), ablated)
    model.enable_hybrid(heads=DENSE, chunked=chunked, **SIZES)
    assert same(two_turns(model, inputs), hybrid)


def two_turns(model, inputs, around=contextlib.nullcontext):
    """The new tokens of both turns; `around` the second one."""
    cache = DynamicCache(config=model.config.get_text_config())
    first = new_tokens(model, inputs, past_key_values=cache)
    words = torch.randint(3, 99, (len(first), 9), generator=torch.Generator().manual_seed(3))
    ids = torch.cat([inputs["input_ids"], first, words], dim=1)
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, ids.shape[1] - inputs["input_ids"].shape[1]), value=1)
    second = {"input_ids": ids, "attention_mask": mask}
    with around():
        return torch.cat([first, new_tokens(model, second, past_key_values=cache)], dim=1)


@pytest.mark.compatibility("Caches", "recording a later turn")
def test_recording_the_second_turn(family):
    """What the second question looks at, across the cache: as one prefill of the whole conversation records it."""
    model = AutoCoReModel.from_model(build(family))
    inputs = inputs_for(model, 2, [0, 5])
    tokens = two_turns(model, inputs)
    length = inputs["input_ids"].shape[1] + NEW + 9
    question, evidence = torch.zeros(2, length, dtype=torch.bool), torch.zeros(2, length, dtype=torch.bool)
    question[:, -4:] = True
    evidence[:, : inputs["input_ids"].shape[1]] = asked(inputs)[1]
    recordings = []

    @contextlib.contextmanager
    def recording():
        with model.record_attention(question, evidence, keep_rows=True) as found:
            yield
        recordings.append(found)

    assert same(two_turns(model, inputs, recording), tokens)
    words = torch.randint(3, 99, (2, 9), generator=torch.Generator().manual_seed(3))
    ids = torch.cat([inputs["input_ids"], tokens[:, :NEW], words], dim=1)
    whole = {**inputs, "input_ids": ids, "attention_mask": (torch.arange(length) >= torch.tensor([[0], [5]])).long()}
    if "mm_token_type_ids" in whole:
        whole["mm_token_type_ids"] = torch.nn.functional.pad(whole["mm_token_type_ids"], (0, NEW + 9))
    with model.record_attention(question, evidence, keep_rows=True) as expected:
        model.prefill(**whole)
    torch.testing.assert_close(recordings[0].rows, expected.rows, atol=2e-5, rtol=0)
    torch.testing.assert_close(recordings[0].ram, expected.ram, atol=1e-5, rtol=0)
    assert recordings[0].num_columns.tolist() == expected.num_columns.tolist() == [length, length - 5]
    question[:, 6] = True
    with pytest.raises(ValueError, match="question_mask marks tokens among the first .* in the cache before"):
        two_turns(model, inputs, lambda: model.record_attention(question, evidence))


@pytest.mark.compatibility("Caches", "chunked prefill in generate()")
@pytest.mark.parametrize("what", ["text", "picture"])
def test_generate_prefills_in_chunks(family, what, cell):
    """prefill_chunk_size of generate(); the oracle takes the same chunks, hybrid prefill in one piece is the same."""
    native = build(family)
    left_pad = [0, 5] if VERSION > (5, 0) else None  # 4.57 counts a chunk's positions over the padding
    inputs = text_inputs(20, 2, left_pad) if what == "text" else inputs_for(native, 2, left_pad)
    options = IN_CHUNKS if what == "text" else {"prefill_chunk_size": inputs["input_ids"].shape[1] - 5}
    if VERSION == (5, 0):
        with cell.upstream(ValueError, match="Cannot use prefill chunking without a cache"):
            new_tokens(native, inputs, **options)
        return
    plain = new_tokens(native, inputs, **options)
    with explicit_masks(build(family), streamed_in_chunks) as oracle:
        hybrid = new_tokens(oracle, inputs, **options)
    model = AutoCoReModel.from_model(native)
    assert same(new_tokens(model, inputs, **options), plain)
    model.enable_hybrid(heads=DENSE, chunked=True, **SIZES)
    assert same(new_tokens(model, inputs, **options), hybrid) and not same(hybrid, plain)
    if VERSION > (5, 0):  # before, the last token of a prompt is decoded
        assert same(new_tokens(model, inputs), hybrid)
    model.disable_hybrid()
    with model.record_attention(*asked(inputs)) as prefill:
        model.prefill(**inputs)
    with model.record_attention(*asked(inputs)) as recording:
        assert same(new_tokens(model, inputs, **options), plain)
    torch.testing.assert_close(recording.ram, prefill.ram, atol=1e-5, rtol=0)
