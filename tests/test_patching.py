"""install_core and uninstall_core: nothing changes but what is named, and everything comes back."""

import copy
import io
import json
import threading

import pytest
import torch
from tiny_models import (
    VERSION,
    H,
    L,
    add_lora,
    attentions,
    build,
    config_for,
    generate,
    inputs_for,
    logits,
    masks_for,
    randomize,
    text_inputs,
    zero_o_proj,
)
from transformers import AutoModelForImageTextToText
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from corehead_hf import AutoCoReModel
from corehead_hf.attention import NAME, CoReAttention
from corehead_hf.patching import decoder_attentions, install_core, uninstall_core

HEADS = [(0, 1), (1, 0), (1, 3), (2, 2)]


def snapshot(model):
    """All that installing could leave behind: classes, attributes, hooks, bound forwards, keys, config."""
    modules = {}
    for name, module in model.named_modules():
        hooks = {k: list(v.items()) for k, v in module.__dict__.items() if "hooks" in k and hasattr(v, "items")}
        bound = {k: v.__func__ for k, v in module.__dict__.items() if hasattr(v, "__func__")}
        modules[name] = (id(module), type(module), sorted(module.__dict__), hooks, bound)
    return modules, list(model.state_dict()), model.config.to_json_string()


def test_with_no_mode_the_wrapped_model_is_the_native_one(native):
    inputs = inputs_for(native, 2, [0, 5])
    before, tokens = logits(native, **inputs), generate(native, inputs)
    keys, config, count = (
        list(native.state_dict()),
        native.config.to_json_string(),
        len(list(native.modules())),
    )
    native_class = type(native)
    model = AutoCoReModel.from_model(native)
    assert model is native and isinstance(model, native_class)
    assert torch.equal(logits(model, **inputs), before)
    assert torch.equal(generate(model, inputs), tokens)
    assert list(model.state_dict()) == keys
    assert model.config.to_json_string() == config
    assert len(list(model.modules())) == count


def test_only_the_decoder_attentions_become_core_aware(native):
    before = {name: type(module) for name, module in native.named_modules()}
    text = attentions(native)
    model = AutoCoReModel.from_model(native)
    assert attentions(model) == text, "installing replaced module objects"
    assert decoder_attentions(model) == text
    changed = {name for name, module in model.named_modules() if type(module) is not before[name]}
    assert changed == {""} | {f"model.language_model.layers.{i}.self_attn" for i in range(L)}
    for module in text:
        assert isinstance(module, CoReAttention)
        assert type(module).__name__ == "CoRe" + type(module).native_class.__name__
    vision = model.config.vision_config._attn_implementation
    assert vision == "sdpa" and model.config.get_text_config()._attn_implementation == "sdpa"


@pytest.mark.compatibility("Around the model", "install and uninstall")
def test_uninstall_gives_back_exactly_what_came(native):
    inputs = inputs_for(native)
    before_logits = logits(native, **inputs)  # also lets the native model set its lazy attributes
    before = snapshot(native)
    model = AutoCoReModel.from_model(native)
    assert snapshot(model) != before
    with model.ablate_heads(HEADS):
        logits(model, **inputs)
    model.enable_hybrid(heads=HEADS, sink_size=1, window_size=3, dense_below=0)
    logits(model, **inputs)
    model.uninstall_core()
    assert snapshot(native) == before
    assert not hasattr(native, "core_state") and not hasattr(native, "ablate_heads")
    assert torch.equal(logits(native, **inputs), before_logits)


def test_uninstall_restores_after_output_attentions_and_keeps_foreign_hooks(native):
    """transformers <= 5.0 binds forwards on the modules when it records; these must not keep CoRe alive."""
    model = build("llava_onevision", "eager")
    inputs = inputs_for(model)
    text_model = model.model.language_model
    text_model.register_forward_pre_hook(lambda module, args: None)
    with torch.no_grad():
        model(**inputs, output_attentions=True)
    before = snapshot(model)
    AutoCoReModel.from_model(model)
    with torch.no_grad():
        recorded = model(**inputs, output_attentions=True).attentions
    assert len(recorded) == L
    model.uninstall_core()
    assert snapshot(model) == before
    assert len(text_model._forward_pre_hooks) == 1


def test_install_uninstall_can_be_repeated(native):
    inputs = inputs_for(native)
    expected, oracle = logits(native, **inputs), logits(zero_o_proj(native, HEADS), **inputs)
    for _ in range(2):
        model = AutoCoReModel.from_model(native)
        with model.ablate_heads(HEADS):
            torch.testing.assert_close(logits(model, **inputs), oracle, atol=1e-4, rtol=0)
        model.uninstall_core()
        assert torch.equal(logits(native, **inputs), expected)


def test_refusals():
    model = AutoCoReModel.from_model(build("qwen3_vl"))
    with pytest.raises(RuntimeError, match="already installed.*uninstall_core"):
        AutoCoReModel.from_model(model)
    model.uninstall_core()
    with pytest.raises(RuntimeError, match="not installed"):
        uninstall_core(model)
    with pytest.raises(ValueError, match="Linear without a configuration"):
        AutoCoReModel.from_model(torch.nn.Linear(2, 2))


def test_a_second_wrapper_around_an_installed_model_is_refused():
    model = AutoCoReModel.from_model(build("qwen3_vl"))
    with pytest.raises(RuntimeError, match="already installed"):
        AutoCoReModel.from_model(add_lora(model))


def test_a_decoder_without_all_its_attentions_is_refused_and_left_alone():
    model = build("qwen3_vl")
    attentions(model)[1].is_causal = False  # what an upstream rename would look like
    before = snapshot(model)
    with pytest.raises(RuntimeError, match=rf"should have {L} decoder attentions.*found layers \[0, 2\]"):
        install_core(model, object)
    assert snapshot(model) == before


def test_two_models_do_not_meet():
    """Not with the same config object either: the name in the shared config stays the user's backend."""
    config = config_for("internvl_qwen3")
    first, second = (
        randomize(AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval(), seed)
        for seed in (0, 1)
    )
    second.config = first.config
    for module in attentions(second):
        module.config = first.config.get_text_config()
    inputs = inputs_for(first)
    plain = logits(second, **inputs)
    AutoCoReModel.from_model(first)
    with first.ablate_heads(torch.ones(L, H, dtype=torch.bool)):
        assert torch.equal(logits(second, **inputs), plain)
        AutoCoReModel.from_model(second)
        assert torch.equal(logits(second, **inputs), plain)
        second.uninstall_core()
        assert isinstance(attentions(first)[0], CoReAttention)


@pytest.mark.compatibility("Around the model", "copy.deepcopy")
def test_deepcopy_is_a_wrapped_model_of_its_own(wrapped):
    inputs = inputs_for(wrapped)
    expected = logits(wrapped, **inputs)
    with wrapped.ablate_heads(HEADS):
        ablated = logits(wrapped, **inputs)
        twin = copy.deepcopy(wrapped)
    assert type(twin) is type(wrapped)
    assert torch.equal(logits(twin, **inputs), ablated), "a copy made inside a mode keeps the mode"
    assert torch.equal(logits(wrapped, **inputs), expected)
    twin.core_state.modes = []
    with twin.ablate_heads(torch.ones(L, H, dtype=torch.bool)):
        assert torch.equal(logits(wrapped, **inputs), expected), "the copy shares its state with the original"
    twin.uninstall_core()
    assert torch.equal(logits(twin, **inputs), expected)


@pytest.mark.compatibility("Around the model", "torch.save and torch.load")
def test_torch_save_and_load(wrapped, monkeypatch):
    inputs = inputs_for(wrapped)
    file = io.BytesIO()
    torch.save(wrapped, file)
    with wrapped.ablate_heads(HEADS):
        ablated = logits(wrapped, **inputs)
    # A fresh process has not installed CoRe yet, so nothing registered the attention function.
    monkeypatch.delitem(ALL_ATTENTION_FUNCTIONS._global_mapping, NAME)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert type(loaded) is type(wrapped)
    assert torch.equal(logits(loaded, **inputs), logits(wrapped, **inputs))
    with loaded.ablate_heads(HEADS):
        assert torch.equal(logits(loaded, **inputs), ablated)


@pytest.mark.compatibility("Around the model", "save_pretrained, read natively")
def test_save_pretrained_writes_the_native_checkpoint(variant, tmp_path):
    native = build(variant)
    inputs = inputs_for(native)
    native.save_pretrained(tmp_path / "native")
    wrapped = AutoCoReModel.from_model(copy.deepcopy(native))
    wrapped.enable_hybrid(heads=HEADS, sink_size=1, window_size=3, dense_below=0)
    wrapped.save_pretrained(tmp_path / "core")
    files = sorted(path.name for path in (tmp_path / "native").iterdir())
    assert sorted(path.name for path in (tmp_path / "core").iterdir()) == files
    for name in files:
        same = (tmp_path / "core" / name).read_bytes() == (tmp_path / "native" / name).read_bytes()
        assert same, f"{name} differs from the native checkpoint's"
    config = json.loads((tmp_path / "core" / "config.json").read_text())
    assert config["architectures"] == [type(native).__name__]
    reloaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "core", attn_implementation="sdpa").eval()
    assert type(reloaded) is type(native)
    assert torch.equal(logits(reloaded, **inputs), logits(native, **inputs))


@pytest.mark.compatibility("Around the model", "output_attentions=True")
@pytest.mark.parametrize("when", ["before", "after"])
def test_output_attentions_are_still_returned(variant, when):
    native = build(variant, "eager")
    inputs = inputs_for(native)
    with torch.no_grad():
        if when == "after":
            AutoCoReModel.from_model(native)
        expected = build(variant, "eager")(**inputs, output_attentions=True).attentions
        native(**inputs, output_attentions=True)
        if when == "before":
            AutoCoReModel.from_model(native)
        found = native(**inputs, output_attentions=True).attentions
        assert len(found) == L
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        oracle = logits(zero_o_proj(build(variant, "eager"), HEADS), **inputs)
        with native.ablate_heads(HEADS):
            torch.testing.assert_close(logits(native, **inputs), oracle, atol=1e-4, rtol=0)
            ablated = native(**inputs, output_attentions=True).attentions
    assert bool((ablated[0][:, 1] == 0).all()) and bool((ablated[0][:, 0] > 0).any())


@pytest.mark.compatibility("Training and adapters", "LoRA: gradients, ablation, files")
@pytest.mark.parametrize("when", ["wrap first", "adapter first"])
def test_lora(variant, when, tmp_path):
    plain = add_lora(build(variant))
    inputs = inputs_for(plain.get_base_model())
    base = build(variant)
    model = (
        add_lora(AutoCoReModel.from_model(base)) if when == "wrap first" else AutoCoReModel.from_model(add_lora(base))
    )
    assert torch.equal(logits(model, **inputs), logits(plain, **inputs))
    oracle = copy.deepcopy(plain)
    for layer, head in HEADS:  # before o_proj, so that the adapter's branch loses the head as well
        drop = _drop_head(head, attentions(oracle)[layer].head_dim)
        attentions(oracle)[layer].o_proj.register_forward_pre_hook(drop)
    with model.ablate_heads(HEADS):
        torch.testing.assert_close(logits(model, **inputs), logits(oracle, **inputs), atol=1e-4, rtol=0)
        for trained in (model, oracle):
            trained.zero_grad()
            trained(**inputs, labels=inputs["input_ids"]).loss.backward()
    gradients = {n: p.grad for n, p in oracle.named_parameters() if p.grad is not None}
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert set(found) == set(gradients) and any("lora_" in name for name in found)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    plain.save_pretrained(tmp_path / "plain")
    model.save_pretrained(tmp_path / "core")
    weights = "adapter_model.safetensors"
    assert (tmp_path / "core" / weights).read_bytes() == (tmp_path / "plain" / weights).read_bytes()
    expected = logits(plain, **inputs)
    model.uninstall_core()
    assert not any(isinstance(m, CoReAttention) for m in model.modules())
    assert torch.equal(logits(model, **inputs), expected)


def _drop_head(head, head_dim):
    def hook(module, args):
        hidden = args[0].clone()
        hidden[..., head * head_dim : (head + 1) * head_dim] = 0
        return (hidden,)

    return hook


@pytest.mark.compatibility("Training and adapters", "gradient checkpointing")
def test_gradient_checkpointing(variant):
    inputs = inputs_for(build(variant))
    wrapped, oracle = AutoCoReModel.from_model(build(variant)), zero_o_proj(build(variant), HEADS)
    for model in (wrapped, oracle):
        model.train()
        renamed = getattr(model, "activation_checkpointing_enable", None)  # transformers >= 5.23
        (renamed or model.gradient_checkpointing_enable)({"use_reentrant": False})
    with wrapped.ablate_heads(HEADS):
        wrapped(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
    oracle(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
    expected = dict(oracle.named_parameters())
    compared = 0
    for name, parameter in wrapped.named_parameters():
        # The oracle's o_proj has other weights: its own gradient differs by design.
        if "language_model" in name and parameter.grad is not None and "o_proj" not in name:
            scale = max(float(expected[name].grad.abs().max()), 1e-3)
            assert float((parameter.grad - expected[name].grad).abs().max()) < 1e-3 * scale, name
            compared += 1
    assert compared > 10 * L


@pytest.mark.compatibility("Around the model", "threads")
def test_threads_do_not_meet(variant, cell):
    if variant == "llava_onevision" and VERSION <= (5, 0):
        cell.unsupported("LLaVA-OneVision binds forwards on its modules in every call: not thread-safe")
        return
    model = AutoCoReModel.from_model(build(variant))
    inputs = [inputs_for(model, seed=seed, text=10 + 3 * seed) for seed in range(4)]
    with model.ablate_heads(HEADS):
        expected = [logits(model, **each) for each in inputs]
        wrong = []

        def run(index):
            for _ in range(5):
                try:
                    torch.testing.assert_close(logits(model, **inputs[index]), expected[index], atol=1e-4, rtol=0)
                except BaseException as error:
                    wrong.append(error)

        threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[0]


@pytest.mark.compatibility("Devices", "CPU offload (accelerate)")
@pytest.mark.parametrize("order", ["install first", "offload first"])
def test_cpu_offload(variant, order, cell):
    accelerate = pytest.importorskip("accelerate", exc_type=ImportError)
    model = build(variant)
    inputs = inputs_for(model)
    if variant.startswith("qwen3_vl") and VERSION <= (5, 0):
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        with cell.upstream(NotImplementedError, match="meta tensor"):
            logits(model, **inputs)
        return
    question, evidence, _ = masks_for(inputs)
    expected, oracle = logits(model, **inputs), logits(zero_o_proj(model, HEADS), **inputs)
    if order == "install first":
        AutoCoReModel.from_model(model)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    if order == "offload first":
        AutoCoReModel.from_model(model)
    with model.record_attention(question, evidence) as recording:
        assert torch.equal(logits(model, **inputs), expected)
    assert recording.ram.shape == (1, L, H)
    with model.ablate_heads(HEADS):
        torch.testing.assert_close(logits(model, **inputs), oracle, atol=1e-4, rtol=0)
    model.enable_hybrid(heads=HEADS, sink_size=1, window_size=3, dense_below=0)
    assert float((logits(model, **inputs) - expected).abs().max()) > 0.1
    model.uninstall_core()
    assert torch.equal(logits(model, **inputs), expected)


@pytest.mark.parametrize("order", ["install first", "hook first"])
def test_an_accelerate_hook_on_the_attention_itself(order):
    """It binds forward on the instance, past any class: what stands there must follow the class."""
    hooks = pytest.importorskip("accelerate.hooks", exc_type=ImportError)
    model = build("qwen3_vl")
    inputs = inputs_for(model)
    expected, oracle = logits(model, **inputs), logits(zero_o_proj(model, HEADS), **inputs)
    if order == "install first":
        AutoCoReModel.from_model(model)
    for module in attentions(model):
        hooks.add_hook_to_module(module, hooks.ModelHook())
    before = snapshot(model)
    if order == "hook first":
        AutoCoReModel.from_model(model)
    with model.ablate_heads(HEADS):
        torch.testing.assert_close(logits(model, **inputs), oracle, atol=1e-4, rtol=0)
    model.uninstall_core()
    if order == "hook first":
        assert snapshot(model) == before
    assert torch.equal(logits(model, **inputs), expected)


def test_hooks_of_the_text_model_survive(model):
    """A user's own hook on the text model stays, also one added afterwards."""
    seen = []
    model.model.language_model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(1), with_kwargs=True)
    model.uninstall_core()
    logits(model, **text_inputs(5))
    assert seen == [1]


def test_the_class_of_a_wrapped_model_makes_native_ones(model, tmp_path):
    model.save_pretrained(tmp_path)
    for made in (type(model)(model.config), model.from_pretrained(tmp_path)):
        assert type(made) is type(model).native_class
        assert AutoCoReModel.from_model(made).hybrid is None
