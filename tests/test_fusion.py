"""enable_hybrid(fuse=True): the same to rounding, in this model only, and undone without a trace."""

import copy
import functools
import inspect
import io
import logging
import subprocess
import sys
import threading
import warnings

import pytest
import torch
from test_patching import snapshot
from tiny_models import (
    VERSION,
    D,
    H,
    L,
    attentions,
    build,
    generate,
    inputs_for,
    logits,
    masks_for,
    static_cache,
    text_inputs,
)
from torch import nn
from transformers import DynamicCache

from corehead_hf import AutoCoReModel
from corehead_hf.attention import CoReAttention
from corehead_hf.fusion import checks, install_fusion, is_fused, last_token, uninstall_fusion
from corehead_hf.fusion.modules import ROPE, FusedAttention, FusedMLP, FusedNorm
from corehead_hf.kernels import fused_ops
from corehead_hf.modes.hybrid import PREFILL_QUERIES

HEADS = [(0, 1), (1, 0), (1, 3)]  # the last layer streams with all its heads
ALL = torch.ones(L, H, dtype=torch.bool)
SIZES = {"sink_size": 1, "window_size": 3, "dense_below": 0}


@pytest.fixture(autouse=True)
def without_triton(request, monkeypatch):
    """Most tests need no Triton, whose interpreter is slow and takes one thread at a time."""
    if "triton" not in request.fixturenames:
        monkeypatch.setattr(fused_ops, "_triton", lambda: None)


@pytest.fixture
def triton():
    """The test runs the Triton kernels, interpreted."""
    if not fused_ops.triton_runs("cpu"):
        pytest.skip("needs Triton and its interpreter")


def hybrid(model, heads=HEADS, **options):
    """The model with hybrid prefill on."""
    model = model if hasattr(model, "core_state") else AutoCoReModel.from_model(model)
    model.enable_hybrid(heads=heads, **{**SIZES, **options})
    return model


def layers(model):
    return model.model.language_model.layers


def prefill(model, inputs, cache=None, **options):
    with torch.no_grad():
        cache = DynamicCache() if cache is None else cache
        return model(**inputs, past_key_values=cache, use_cache=True, **{"logits_to_keep": 1, **options})


def cached(output):
    """Keys and values of every layer."""
    return [(layer.keys, layer.values) for layer in output.past_key_values.layers]


class RowsOf:
    """Tokens that each projection and MLP of a layer sees, call by call."""

    def __init__(self, layer):
        self.seen = {}
        self.handles = [
            module.register_forward_hook(self._note(name))
            for name, module in [*layer.self_attn.named_children(), ("mlp", layer.mlp)]
        ]

    def _note(self, name):
        def hook(module, args, output):
            self.seen.setdefault(name, []).append(args[0].shape[1])

        return hook

    def __enter__(self):
        return self.seen

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()


def assert_as_good(found, native, exact):
    """At most twice as far from float64 as the native model: no rounding but another order of sums."""
    errors = [float((x.double() - exact).abs().max()) for x in (found, native)]
    assert errors[0] <= 2 * errors[1], f"{errors[0]:.3g} from float64; the native model {errors[1]:.3g}"


@pytest.mark.parametrize("heads", [ALL, HEADS], ids=["dense", "hybrid"])
def test_a_fused_model_is_the_native_one_to_rounding(variant, heads, triton):
    inputs = inputs_for(build(variant), 2, [0, 5], text=10)
    exact = hybrid(build(variant).double(), heads)
    exact.config.get_text_config()._experts_implementation = "eager"  # the grouped product takes no float64
    inputs64 = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    model, real = hybrid(build(variant), heads), inputs["attention_mask"].bool()
    expected, native = logits(exact, **inputs64), logits(model, **inputs)
    found = logits(hybrid(model, heads, fuse=True), **inputs)
    assert found.shape == native.shape
    assert_as_good(found[real], native[real], expected[real])


def test_generate_gives_the_same_tokens(variant):
    model = hybrid(build(variant))
    inputs = inputs_for(model, 2, [0, 5])
    expected = [generate(model, inputs, tokens=8, num_beams=beams) for beams in (1, 2)]
    hybrid(model, fuse=True)
    for beams in (1, 2):
        assert torch.equal(generate(model, inputs, tokens=8, num_beams=beams), expected[beams - 1])


def test_generate_with_triton(triton):
    model = hybrid(build("qwen3_vl"))
    inputs = inputs_for(model, 2, [0, 5])
    expected = generate(model, inputs)
    hybrid(model, fuse=True)
    assert torch.equal(generate(model, inputs), expected)


def test_the_fused_kernels_really_run(variant, monkeypatch, triton):
    from corehead_hf.kernels import fused_triton

    counts = dict.fromkeys(("rms_norm", "norm_rope", "silu_mul"), 0)

    def counted(name, real):
        def run(*args):
            counts[name] += 1
            return real(*args)

        return run

    for name in counts:
        monkeypatch.setattr(fused_triton, name, counted(name, getattr(fused_triton, name)))
    model = hybrid(build(variant), fuse=True)
    counts.update(dict.fromkeys(counts, 0))
    logits(model, **inputs_for(model))
    dense_mlps = 0 if "moe" in variant else L
    assert counts == {"rms_norm": 2 * L + 1, "norm_rope": L, "silu_mul": dense_mlps}
    hybrid(model)
    logits(model, **inputs_for(model))
    assert counts["norm_rope"] == L, "without fuse, native kernels run again"


def test_what_is_swapped(variant):
    model = AutoCoReModel.from_model(build(variant))
    before = {name: type(module) for name, module in model.named_modules()}
    hybrid(model, fuse=True)
    assert is_fused(model)
    changed = {name for name, module in model.named_modules() if type(module) is not before[name]}
    expected = {"model.language_model.norm", f"model.language_model.layers.{L - 1}"}
    for i in range(L):
        parts = ["self_attn", "input_layernorm", "post_attention_layernorm"]
        parts += ["self_attn.q_norm", "self_attn.k_norm"] if "qwen3" in variant else []
        parts += [] if "moe" in variant else ["mlp"]
        expected |= {f"model.language_model.layers.{i}.{part}" for part in parts}
    assert changed == expected
    for name, module in model.named_modules():
        assert isinstance(module, getattr(before[name], "native_class", before[name]))
    assert all(isinstance(m, CoReAttention) and isinstance(m, FusedAttention) for m in attentions(model))


@pytest.mark.parametrize("how", ["disable", "replace", "uninstall"])
def test_taking_it_out_leaves_no_trace(variant, how):
    model = AutoCoReModel.from_model(build(variant))
    inputs = inputs_for(model)
    if how == "uninstall":
        model.uninstall_core()
    expected = logits(model, **inputs)
    before = snapshot(model)
    hybrid(model, fuse=True)
    prefill(model, inputs)
    if how == "replace":
        hybrid(model, fuse=True)
        hybrid(model, heads=ALL)
    else:
        model.disable_hybrid() if how == "disable" else model.uninstall_core()
    assert snapshot(model) == before and not is_fused(model)
    assert torch.equal(logits(model, **inputs), expected)


def test_another_model_of_the_same_class_is_untouched(variant):
    other = build(variant)
    inputs = inputs_for(other)
    expected, before = logits(other, **inputs), snapshot(other)
    fused = hybrid(build(variant), fuse=True)
    prefill(fused, inputs)
    assert snapshot(other) == before
    assert torch.equal(logits(other, **inputs), expected)


def test_refusals():
    model = build("qwen3_vl")
    with pytest.raises(RuntimeError, match="needs CoRe.*AutoCoReModel"):
        install_fusion(model)
    hybrid(model, fuse=True)
    with pytest.raises(RuntimeError, match="fused already.*disable_hybrid"):
        install_fusion(model)
    model.disable_hybrid()
    with pytest.raises(RuntimeError, match="not fused"):
        uninstall_fusion(model)


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("heads", [ALL, HEADS], ids=["dense", "hybrid"])
def test_the_last_layer_is_trimmed(variant, attn, padded, heads):
    model = hybrid(build(variant, attn), heads)
    inputs = inputs_for(model, 2, [0, 5] if padded else None)
    T = inputs["input_ids"].shape[1]
    expected = prefill(model, inputs)
    hybrid(model, heads, fuse=True)
    with RowsOf(layers(model)[-1]) as rows, RowsOf(layers(model)[-2]) as others:
        found = prefill(model, inputs)
    assert rows["q_proj"] == rows["o_proj"] == rows["mlp"] == [1]
    assert rows["k_proj"] == rows["v_proj"] == [T - 1, 1]
    assert others["o_proj"] == others["mlp"] == [T]
    torch.testing.assert_close(found.logits, expected.logits, atol=5e-5, rtol=0)  # logits to 6: 80 roundings of 2^-21
    real = inputs["attention_mask"].bool()
    for new, old in zip(cached(found), cached(expected), strict=True):
        for a, b in zip(new, old, strict=True):
            assert a.shape == b.shape
            rows_of = real[:, None, :, None].expand_as(a)
            torch.testing.assert_close(a[rows_of], b[rows_of], atol=5e-5, rtol=0)


def test_a_trimmed_streaming_head_does_not_see_everything(variant, monkeypatch):
    """The last token alone looks like a decode step, in which every head is dense."""
    model = hybrid(build(variant))
    inputs = inputs_for(model)
    expected = prefill(model, inputs).logits
    hybrid(model, fuse=True)
    torch.testing.assert_close(prefill(model, inputs).logits, expected, atol=5e-5, rtol=0)
    real = last_token._last_token

    def forgetful(*args):
        kwargs = real(*args)
        del kwargs[PREFILL_QUERIES]
        return kwargs

    monkeypatch.setattr(last_token, "_last_token", forgetful)
    wrong = prefill(model, inputs).logits
    assert float((wrong - expected).abs().max()) > 0.05, "this test cannot tell a dense last layer from a streaming one"


@pytest.mark.parametrize("heads", [ALL, HEADS], ids=["dense", "hybrid"])
def test_static_cache(heads):
    model = hybrid(build("qwen3_vl"), heads)
    inputs, other = text_inputs(12, 2, [0, 4]), text_inputs(12, 2)
    caches = [static_cache(model, 20, 2) for _ in range(4)]
    expected = [prefill(model, each, cache) for each, cache in zip((inputs, other), caches, strict=False)]
    tokens = generate(model, inputs, cache_implementation="static", disable_compile=True)
    hybrid(model, heads, fuse=True)
    with RowsOf(layers(model)[-1]) as rows:
        found = [prefill(model, each, cache) for each, cache in zip((inputs, other), caches[2:], strict=True)]
    assert rows["o_proj"][0] == 1
    for new, old in zip(found, expected, strict=True):
        torch.testing.assert_close(new.logits, old.logits, atol=5e-5, rtol=0)
    assert torch.equal(generate(model, inputs, cache_implementation="static", disable_compile=True), tokens)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_second_turn(chunked):
    model = hybrid(build("internvl_qwen3"), chunked=chunked)
    first, second = text_inputs(9), {"input_ids": text_inputs(6, seed=5)["input_ids"]}

    def turns():
        cache = DynamicCache()
        prefill(model, first, cache)
        return prefill(model, second, cache)

    expected = turns()
    hybrid(model, chunked=chunked, fuse=True)
    with RowsOf(layers(model)[-1]) as rows:
        found = turns()
    assert rows["o_proj"] == [1, 1] and rows["k_proj"] == [8, 1, 5, 1]
    torch.testing.assert_close(found.logits, expected.logits, atol=5e-5, rtol=0)


class OtherCache(DynamicCache):
    """What a quantised or offloaded cache is to us: not known to take its keys in two pieces."""


@pytest.mark.parametrize(
    "options",
    [
        {"logits_to_keep": 0},
        {"logits_to_keep": 2},
        {"logits_to_keep": torch.tensor([-1])},
        {"output_hidden_states": True},
        {"output_attentions": True},
        {"use_cache": False, "past_key_values": None},
        {"cache": OtherCache()},
    ],
    ids=lambda options: next(iter(options)) + f"={next(iter(options.values()))!r:.5}",
)
@pytest.mark.parametrize("variant", ["qwen3_vl", "llava_onevision"])
def test_not_trimmed_where_more_is_asked_for(options, variant):
    model = hybrid(build(variant, "eager"), fuse=True)
    if "output_attentions" in options:  # dense heads alone have them
        model.enable_hybrid(heads=torch.ones(L, H, dtype=torch.bool), sink_size=1, window_size=4, fuse=True)
    inputs = inputs_for(model)
    T = inputs["input_ids"].shape[1]
    call = {"use_cache": True, "past_key_values": options.get("cache", DynamicCache()), "logits_to_keep": 1}
    call |= {k: v for k, v in options.items() if k != "cache"}
    with RowsOf(layers(model)[-1]) as rows, torch.no_grad():
        output = model(**inputs, **call)
    assert rows["o_proj"] == [T]
    if "output_hidden_states" in options:
        assert [states.shape[1] for states in output.hidden_states] == [T] * (L + 1)
    if "output_attentions" in options:
        assert [weights.shape[-2:] for weights in output.attentions] == [(T, T)] * L


def test_not_trimmed_in_other_cases(model):
    hybrid(model, fuse=True)
    inputs = inputs_for(model)
    T = inputs["input_ids"].shape[1]
    question, evidence, _ = masks_for(inputs)
    with RowsOf(layers(model)[-1]) as rows:
        model(**inputs, use_cache=True, logits_to_keep=1)  # gradients
        with model.record_attention(question, evidence):
            prefill(model, inputs)
        with model.ablate_heads(HEADS):
            prefill(model, inputs)
        model.config.get_text_config().output_hidden_states = True
        prefill(model, inputs)
        model.config.get_text_config().output_hidden_states = False
        with torch.no_grad():  # the backbone by itself gives every hidden state
            model.model(**inputs, use_cache=True)
        assert rows["o_proj"] == [T] * 5
        prefill(model, inputs)
    assert rows["o_proj"] == [T] * 5 + [1]


def test_not_trimmed_where_pictures_are_added_after_the_last_layer(caplog):
    model = AutoCoReModel.from_model(build("qwen3_vl"))
    model.config.vision_config.deepstack_visual_indexes = list(range(L))
    with caplog.at_level(logging.WARNING, "corehead_hf"):
        hybrid(model, fuse=True)
    assert "pictures are added" in caplog.text
    assert type(layers(model)[-1]) is type(layers(model)[0]) and not model._forward_pre_hooks


def test_recording_while_fused(variant):
    model = hybrid(build(variant), ALL)
    inputs = inputs_for(model, 2, [0, 5])
    question, evidence, _ = masks_for(inputs)
    recorded = []
    for fuse in (False, True):
        hybrid(model, ALL, fuse=fuse)
        with model.record_attention(question, evidence) as recording:
            prefill(model, inputs)
        recorded.append(recording.ram)
    torch.testing.assert_close(recorded[1], recorded[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("when", ["wrap first", "adapter first"])
def test_lora_also_in_the_mlp(variant, when):
    peft = pytest.importorskip("peft", exc_type=ImportError)
    base = build(variant)
    inputs = inputs_for(base)
    if when == "wrap first":
        AutoCoReModel.from_model(base)
    names = r".*language_model.*\.(q_proj|v_proj)" if "moe" in variant else r".*language_model.*_proj"
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        config = peft.LoraConfig(r=4, target_modules=names, init_lora_weights=False)
        model = peft.get_peft_model(base, config).eval()
    if when == "adapter first":
        AutoCoReModel.from_model(model)
    model.enable_hybrid(heads=HEADS, **SIZES)
    expected, tokens = prefill(model, inputs).logits, generate(model, inputs)
    classes = [type(module) for module in model.modules()]
    model.enable_hybrid(heads=HEADS, fuse=True, **SIZES)
    torch.testing.assert_close(prefill(model, inputs).logits, expected, atol=1e-4, rtol=0)
    with RowsOf(layers(base)[-1]) as rows:
        assert torch.equal(generate(model, inputs), tokens)
    assert set(rows["o_proj"]) == {1}, "generate trims inside PEFT as well"
    model.disable_hybrid()
    assert [type(module) for module in model.modules()] == classes


def test_training_runs_native_operations(variant):
    plain, model = AutoCoReModel.from_model(build(variant)), hybrid(build(variant), ALL, fuse=True)
    inputs = inputs_for(plain)
    for each in (plain, model):
        each(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
    expected = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        if expected[name].grad is not None:
            assert torch.equal(parameter.grad, expected[name].grad), name


def test_save_pretrained_writes_the_native_checkpoint(variant, tmp_path):
    build(variant).save_pretrained(tmp_path / "native")
    hybrid(build(variant), fuse=True).save_pretrained(tmp_path / "fused")
    files = sorted(path.name for path in (tmp_path / "native").iterdir())
    assert sorted(path.name for path in (tmp_path / "fused").iterdir()) == files
    for name in files:
        assert (tmp_path / "fused" / name).read_bytes() == (tmp_path / "native" / name).read_bytes(), name


def test_copies_are_fused_models_of_their_own(variant):
    model = hybrid(build(variant), fuse=True)
    inputs = inputs_for(model)
    file = io.BytesIO()
    torch.save(model, file)  # before the first call, which hangs hooks of transformers >= 5.2 on that do not pickle
    file.seek(0)
    expected = prefill(model, inputs).logits
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert [type(m) for m in twin.modules()] == [type(m) for m in model.modules()]
        with RowsOf(layers(twin)[-1]) as rows:
            assert torch.equal(prefill(twin, inputs).logits, expected)
        assert rows["o_proj"] == [1]
        twin.uninstall_core()
        assert not is_fused(twin) and is_fused(model)
    assert torch.equal(prefill(model, inputs).logits, expected)


def test_loading_a_fused_model_in_a_fresh_process(tmp_path, triton):
    model = hybrid(build("internvl_qwen3"), fuse=True)
    torch.save(model, tmp_path / "model.pt")
    torch.save((text_inputs(9), prefill(model, text_inputs(9)).logits), tmp_path / "expected.pt")
    program = (
        "import sys, torch\n"
        "model = torch.load(sys.argv[1] + '/model.pt', weights_only=False)\n"
        "inputs, expected = torch.load(sys.argv[1] + '/expected.pt')\n"
        "found = model.generate(**inputs, max_new_tokens=1, do_sample=False, output_logits=True,\n"
        "    return_dict_in_generate=True).logits[0]\n"
        "assert torch.equal(found, expected[:, 0]), (found - expected[:, 0]).abs().max()\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


def test_threads_do_not_meet():
    model = hybrid(build("internvl_qwen3"), fuse=True)
    inputs = [inputs_for(model, seed=seed, text=10 + 3 * seed) for seed in range(4)]
    keeps = [1, 0, 1, 0]  # every other call must not be trimmed
    expected = [prefill(model, i, logits_to_keep=k).logits for i, k in zip(inputs, keeps, strict=True)]
    wrong = []

    def run(index):
        for _ in range(3):
            try:
                found = prefill(model, inputs[index], logits_to_keep=keeps[index]).logits
                torch.testing.assert_close(found, expected[index], atol=5e-5, rtol=0)
            except BaseException as error:
                wrong.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]


def test_hooks_of_fused_modules_still_run(triton):
    model = hybrid(build("qwen3_vl"), fuse=True)
    inputs = inputs_for(model)
    expected = logits(model, **inputs)
    layer, seen = layers(model)[0], []
    for module in (layer.self_attn.q_norm, layer.mlp.act_fn, layer.input_layernorm, layer.mlp.gate_proj):
        module.register_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    torch.testing.assert_close(logits(model, **inputs), expected, atol=5e-5, rtol=0)
    assert len(seen) == 4, seen


@pytest.mark.parametrize("order", ["fuse first", "offload first"])
def test_cpu_offload(order):
    accelerate = pytest.importorskip("accelerate", exc_type=ImportError)
    model = hybrid(build("internvl_qwen3"))
    inputs = inputs_for(model)
    expected, before = prefill(model, inputs).logits, [type(module) for module in model.modules()]
    if order == "fuse first":
        hybrid(model, fuse=True)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    if order == "offload first":
        hybrid(model, fuse=True)
    with RowsOf(layers(model)[-1]) as rows:
        torch.testing.assert_close(prefill(model, inputs).logits, expected, atol=5e-5, rtol=0)
    assert rows["o_proj"] == [1]
    model.disable_hybrid()
    assert [type(module) for module in model.modules()] == before


class ZeroCentred(nn.Module):
    """Looks like an RMSNorm from outside; its weight counts from 0."""

    def __init__(self, like):
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(like.weight - 1), like.variance_epsilon

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon) * (1 + self.weight)


def test_what_computes_something_else_stays_native(caplog):
    model = AutoCoReModel.from_model(build("qwen3_vl"))
    first, second, third = layers(model)
    first.input_layernorm = ZeroCentred(first.input_layernorm)
    first.mlp.act_fn = nn.GELU()
    second.post_attention_layernorm.forward = lambda x: 0.5 * x
    second.self_attn.q_norm = nn.Identity()
    inputs = inputs_for(model)
    hybrid(model)
    expected = prefill(model, inputs).logits
    with caplog.at_level(logging.WARNING, "corehead_hf"):
        hybrid(model, fuse=True)
    for text in ("ZeroCentred computes something else", "GELU computes something else", "Identity is not an RMSNorm"):
        assert text in caplog.text
    assert "replaced on the instance" in caplog.text
    assert not isinstance(first.input_layernorm, FusedNorm) and not isinstance(first.mlp, FusedMLP)
    assert not isinstance(second.post_attention_layernorm, FusedNorm)
    assert isinstance(third.mlp, FusedMLP) and isinstance(first.post_attention_layernorm, FusedNorm)
    torch.testing.assert_close(prefill(model, inputs).logits, expected, atol=5e-5, rtol=0)


def test_other_rotary_positions_stay_native(monkeypatch, caplog):
    model = AutoCoReModel.from_model(build("internvl_qwen3"))
    module = sys.modules[type(attentions(model)[0]).native_class.__module__]
    real = getattr(module, ROPE)
    monkeypatch.setattr(module, ROPE, lambda q, k, cos, sin: real(q, k, cos, -sin))
    inputs = inputs_for(model)
    hybrid(model)
    expected = prefill(model, inputs)
    with caplog.at_level(logging.WARNING, "corehead_hf"):
        hybrid(model, fuse=True)
    assert f"{ROPE} of Qwen3Attention computes something else" in caplog.text
    assert not any(isinstance(m, FusedAttention) for m in attentions(model))
    found = prefill(model, inputs)
    torch.testing.assert_close(found.logits, expected.logits, atol=5e-5, rtol=0)
    torch.testing.assert_close(cached(found)[-1], cached(expected)[-1], atol=5e-5, rtol=0)


def test_a_new_step_in_a_native_forward_is_noticed(monkeypatch, caplog):
    model = AutoCoReModel.from_model(build("internvl_qwen3"))
    monkeypatch.setattr(checks, "_ATTENTION", checks._ATTENTION - {"scaling"})
    with caplog.at_level(logging.WARNING, "corehead_hf"):
        hybrid(model, fuse=True)
    assert "steps that are not known here: ['scaling']" in caplog.text
    assert not any(isinstance(m, FusedAttention) for m in attentions(model))
    assert not isinstance(layers(model)[-1], last_token.LastLayer)


def test_installing_says_what_it_did_and_moves_no_random_number(caplog):
    model = AutoCoReModel.from_model(build("qwen3_vl"))
    state = torch.get_rng_state()
    with caplog.at_level(logging.INFO, "corehead_hf"):
        hybrid(model, fuse=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert f"fused: {L} FusedAttention, {L} FusedMLP, {4 * L + 1} FusedNorm, 1 LastLayer" in caplog.text


@pytest.mark.parametrize("part", ["mlp", "self_attn"])
def test_a_function_around_a_native_forward_is_not_dropped(part, monkeypatch, caplog):
    """As libraries patch a class: functools.wraps makes it look like what it wraps."""
    model = hybrid(AutoCoReModel.from_model(build("qwen3_vl")))
    module = getattr(layers(model)[0], part)
    cls = getattr(type(module), "native_class", type(module))
    native = cls.forward

    @functools.wraps(native)
    def doubled(self, *args, **kwargs):
        found = native(self, *args, **kwargs)
        return (2 * found[0], *found[1:]) if isinstance(found, tuple) else 2 * found

    plain = prefill(model, text_inputs(20)).logits
    monkeypatch.setattr(cls, "forward", doubled)
    expected = prefill(model, text_inputs(20)).logits
    assert float((expected - plain).abs().max()) > 0.1
    hybrid(model, fuse=True)
    assert f"left native in {L} modules" in caplog.text
    torch.testing.assert_close(prefill(model, text_inputs(20)).logits, expected, atol=5e-5, rtol=0)


def test_without_triton(caplog, variant):
    model = hybrid(build(variant))
    inputs = inputs_for(model)
    expected = prefill(model, inputs)
    with caplog.at_level(logging.INFO, "corehead_hf"):
        hybrid(model, fuse=True)
    assert "without Triton on cpu only norms and the last layer gain" in caplog.text
    with RowsOf(layers(model)[-1]) as rows:
        found = prefill(model, inputs)
    assert rows["o_proj"] == [1]
    torch.testing.assert_close(found.logits, expected.logits, atol=5e-5, rtol=0)


def test_prompt_lookup(model):
    ids = torch.tensor([[5, 6, 7, 8, 9, 5, 6, 7, 8, 9, 5, 6, 7]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    hybrid(model)
    expected = generate(model, inputs, tokens=10, prompt_lookup_num_tokens=3)
    hybrid(model, fuse=True)
    assert torch.equal(generate(model, inputs, tokens=10, prompt_lookup_num_tokens=3), expected)


# What the fused forwards rely on, of the native library.


def test_native_forwards_name_what_is_rebound(native):
    for module in attentions(native):
        names = set(inspect.unwrap(type(module).forward).__code__.co_names)
        assert ROPE in names, "rotary positions are no longer a global of the attention forward"
        assert {"q_norm", "k_norm"} <= names or not hasattr(module, "q_norm"), "head norms are no longer attributes"
        assert names <= checks._ATTENTION, f"new steps in the attention forward: {names - checks._ATTENTION}"
    layer_names = {n for layer in layers(native) for n in inspect.unwrap(type(layer).forward).__code__.co_names}
    assert layer_names <= checks._LAYER, f"new steps in the decoder layer: {layer_names - checks._LAYER}"


def test_the_last_layer_gets_what_is_cut(native):
    seen = {}
    layer = layers(native)[-1]
    layer.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs, args=args), with_kwargs=True)
    inputs = inputs_for(native, 2, [0, 5])
    T = inputs["input_ids"].shape[1]
    prefill(native, inputs, core_last_token_only=True)
    assert len(seen.pop("args")) == 1, "a decoder layer gets more than its hidden states by position"
    assert seen.pop("core_last_token_only") is True, "own keywords no longer travel from the model to its layers"
    assert [table.shape[1:] for table in seen["position_embeddings"]] == [(T, D)] * 2
    assert ("cache_position" in seen) == (VERSION <= (5, 0)), "how a static cache is told its position has changed"
    tensors = {name for name, value in seen.items() if isinstance(value, torch.Tensor)}
    assert tensors <= last_token._TENSORS, f"new tensors reach the decoder layers: {tensors - last_token._TENSORS}"


def test_a_cache_takes_keys_in_two_pieces(native):
    whole, pieces = DynamicCache(), DynamicCache()
    key, value = torch.randn(2, 1, 2, 5, D)
    whole.update(key, value, 0)
    pieces.update(key[:, :, :-1], value[:, :, :-1], 0)
    pieces.update(key[:, :, -1:], value[:, :, -1:], 0)
    assert torch.equal(pieces.layers[0].keys, whole.layers[0].keys)
