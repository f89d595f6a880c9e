"""torch.compile: CoRe adds no graph break to decode, and hybrid prefill falls out of a compiled model unharmed.

The compiler's back end is "eager" here: what Dynamo traces and where it breaks is the same for every back end.
"""

import proofs
import pytest
import torch
from tiny_models import VERSION, build, inputs_for, logits, text_inputs
from torch._dynamo.utils import counters
from transformers import CompileConfig, DynamicCache

from corehead_hf import AutoCoReModel

PROMPT, NEW = 12, 3


def breaks(run):
    """(what a call returns, the graph breaks that it met, the graphs that it compiled)."""
    torch._dynamo.reset()
    counters.clear()
    found = run()
    return found, sum(counters["graph_break"].values()), counters["stats"]["unique_graphs"]


def decoded(model, forward):
    """Logits [1, NEW, V] of tokens that `forward` decodes after a prefill of the model itself."""
    inputs, cache = text_inputs(PROMPT + NEW), DynamicCache(config=model.config.get_text_config())
    found = []
    with torch.no_grad():
        for begin, end in [(0, PROMPT), *((at, at + 1) for at in range(PROMPT, PROMPT + NEW))]:
            # Qwen3-VL of 4.57 takes the positions of a decoded token from it
            more = {} if VERSION >= (5, 0) else {"cache_position": torch.arange(begin, end)}
            run = forward if begin else model
            ids, mask = inputs["input_ids"][:, begin:end], inputs["attention_mask"][:, :end]
            out = run(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **more)
            found.append(out.logits)
    return torch.cat(found[1:], dim=1)


def decode_compiled(model):
    return decoded(model, torch.compile(model, backend="eager", dynamic=True))


def generate_compiled(model):
    """As transformers itself compiles on a GPU: the decode of generate() with a static cache."""
    how = CompileConfig(backend="eager", mode=None)
    how._compile_all_devices = True
    return proofs.answered(model, inputs_for(model), cache_implementation="static", compile_config=how)[1]


def generate_plainly(model):
    return proofs.answered(model, inputs_for(model), cache_implementation="static", disable_compile=True)[1]


@pytest.fixture(autouse=True)
def compiled_graphs_go():
    yield
    torch._dynamo.reset()


def check_decode(family, plainly, compiled, with_ablation):
    """The same logits with and without the compiler, and the native model's graphs, in every state of a wrapped one."""
    native = build(family)
    expected = plainly(native)
    found, native_breaks, native_graphs = breaks(lambda: compiled(native))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert native_graphs > 0, "nothing was compiled"
    model = AutoCoReModel.from_model(native)
    _, *counted = breaks(lambda: compiled(model))
    assert counted == [native_breaks, native_graphs]
    model.enable_hybrid(**proofs.HYBRID)
    hybrid, *counted = breaks(lambda: compiled(model))
    assert counted == [native_breaks, native_graphs]
    torch.testing.assert_close(hybrid, plainly(model), atol=1e-4, rtol=0)
    assert float((hybrid - expected).abs().max()) > 0.1
    if not with_ablation:
        return native_breaks
    model.disable_hybrid()
    with model.ablate_heads(proofs.HEADS):
        ablated, *counted = breaks(lambda: compiled(model))
        assert counted == [native_breaks, native_graphs]
        torch.testing.assert_close(ablated, plainly(model), atol=1e-4, rtol=0)
    return native_breaks


@pytest.mark.compatibility("Compiling", "decode, dynamic cache: no graph break added")
def test_decode_with_a_dynamic_cache(family):
    assert check_decode(family, lambda model: decoded(model, model), decode_compiled, with_ablation=False) == 0


@pytest.mark.compatibility("Compiling", "generate() with a static cache: no graph break added")
def test_generate_with_a_static_cache(family):
    check_decode(family, generate_plainly, generate_compiled, with_ablation=True)


@pytest.mark.compatibility("Compiling", "hybrid prefill in a compiled model")
def test_hybrid_prefill_falls_out_of_the_graph(family):
    model = AutoCoReModel.from_model(build(family))
    inputs = text_inputs(16, 2, [0, 5])
    real = inputs["attention_mask"].bool()
    plain = logits(model, **inputs)
    model.enable_hybrid(**proofs.HYBRID)
    found, _, graphs = breaks(lambda: logits(torch.compile(model, backend="eager"), **inputs))
    assert graphs > 0
    torch.testing.assert_close(found[real], logits(model, **inputs)[real], atol=1e-4, rtol=0)
    assert float((found - plain)[real].abs().max()) > 0.1
