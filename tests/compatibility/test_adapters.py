"""Adapters of PEFT in a wrapped model: put in before or after wrapping, trained, merged, saved, loaded."""

import copy

import pytest
import torch
from native_twin import HEADS, HYBRID, check_modes, hybrid_masks, without_heads
from test_training import gradients, labelled, train
from tiny_models import VERSION, add_lora, build, explicit_masks, inputs_for, logits, text_inputs
from transformers import AutoModelForImageTextToText

from corehead_hf import AutoCoReModel, CoReModelMixin
from corehead_hf.attention import CoReAttention

# PEFT itself asks transformers for a deprecated property.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
peft = pytest.importorskip("peft", exc_type=ImportError)
SECTION = "Training and adapters"
ORDERS = pytest.mark.parametrize("when", ["wrap first", "adapter first"])
PROJECTIONS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj)"


def adapted(model, config, seed=0):
    """The model inside a PEFT wrapper of that configuration; the same adapter for the same seed."""
    torch.manual_seed(seed)
    return peft.get_peft_model(model, config).eval()


def pair(family, when, add=add_lora):
    """A natively adapted model, and a wrapped one with the same weights and adapter."""
    base = build(family)
    model = add(AutoCoReModel.from_model(base)) if when == "wrap first" else AutoCoReModel.from_model(add(base))
    return add(build(family)), model


@pytest.mark.compatibility(SECTION, "LoRA: record, ablate, hybrid")
@ORDERS
def test_every_mode_works_with_lora(family, when):
    plain, model = pair(family, when)
    inputs = inputs_for(plain.get_base_model(), 2, [0, 5])
    check_modes(model, plain, inputs)
    model.disable_adapter_layers(), plain.disable_adapter_layers()
    check_modes(model, plain, inputs)


@pytest.mark.compatibility(SECTION, "LoRA: training")
@ORDERS
def test_training_an_adapter(family, when):
    """Only the adapter learns, as natively; with hybrid prefill on it learns too."""
    plain, model = pair(family, when)
    batch = labelled(plain.get_base_model())
    assert all("lora_" in name for name in gradients(model, batch)[1])
    before = copy.deepcopy(model.state_dict())
    losses = train(model.train(), batch)
    assert losses == train(plain.train(), batch) and losses[-1] < losses[0] - 0.2
    expected = plain.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name
        assert torch.equal(value, before[name]) == ("lora_" not in name), name
    check_modes(model.eval(), plain.eval(), {k: v for k, v in batch.items() if k != "labels"})
    model.enable_hybrid(**HYBRID)
    hybrid = train(model.train(), batch)
    assert hybrid[0] != pytest.approx(losses[-1], abs=1e-3) and hybrid[-1] < hybrid[0] - 0.1


@pytest.mark.compatibility(SECTION, "LoRA, merged (merge_and_unload)")
@ORDERS
def test_a_merged_adapter_leaves_a_wrapped_model(family, when):
    plain, model = pair(family, when)
    inputs = inputs_for(plain.get_base_model(), 2, [0, 5])
    native_class, apart = type(plain.get_base_model()), logits(plain, **inputs)
    native, merged = plain.merge_and_unload(), model.merge_and_unload()
    assert isinstance(merged, CoReModelMixin) and isinstance(merged, native_class)
    assert not any("lora" in name for name, _ in merged.named_modules())
    torch.testing.assert_close(logits(native, **inputs), apart, atol=1e-3, rtol=0)
    check_modes(merged, native, inputs)
    merged.uninstall_core()
    assert type(merged) is native_class and not any(isinstance(m, CoReAttention) for m in merged.modules())
    assert torch.equal(logits(merged, **inputs), logits(native, **inputs))


@pytest.mark.compatibility(SECTION, "LoRA: unload")
@ORDERS
def test_an_unloaded_adapter_leaves_a_wrapped_model(family, when):
    _, model = pair(family, when)
    native = build(family)
    check_modes(model.unload(), native, inputs_for(native, 2, [0, 5]))


@pytest.mark.compatibility(SECTION, "LoRA: modules_to_save")
@ORDERS
@pytest.mark.parametrize("saved", ["lm_head", "self_attn"])
def test_modules_to_save(family, when, saved):
    """Whole modules trained beside the adapter: PEFT puts a wrapper with a copy in their place."""
    targets = PROJECTIONS if saved == "lm_head" else r".*language_model.*\.up_proj"
    config = peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False, modules_to_save=[saved])
    plain, model = pair(family, when, lambda native: adapted(native, config))
    for module in plain.modules():
        if "layer_idx" in module.__dict__:  # a copied module has a configuration of its own, which no oracle reaches
            module.config = plain.config.get_text_config()
    batch = labelled(plain.get_base_model())
    found, expected = gradients(model, batch), gradients(plain, batch)
    assert found[0] == expected[0] and any("modules_to_save" in name for name in found[1])
    assert all(torch.equal(found[1][name], gradient) for name, gradient in expected[1].items())
    assert train(model, batch) == train(plain, batch)
    check_modes(model, plain, {k: v for k, v in batch.items() if k != "labels"})


@pytest.mark.compatibility(SECTION, "adapters saved and loaded natively, and back")
@ORDERS
def test_adapters_travel(family, when, tmp_path):
    plain, model = pair(family, when)
    inputs = inputs_for(plain.get_base_model(), 2, [0, 5])
    model.enable_hybrid(**HYBRID)  # leaves no trace in the files
    plain.save_pretrained(tmp_path / "plain")
    model.save_pretrained(tmp_path / "core")
    files = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "core").iterdir())
    for name in files:
        assert (tmp_path / "core" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name
    native = peft.PeftModel.from_pretrained(build(family), tmp_path / "core").eval()
    assert torch.equal(logits(native, **inputs), logits(plain, **inputs))
    if when == "wrap first":
        again = peft.PeftModel.from_pretrained(AutoCoReModel.from_model(build(family)), tmp_path / "plain").eval()
    else:
        again = AutoCoReModel.from_model(peft.PeftModel.from_pretrained(build(family), tmp_path / "plain").eval())
    check_modes(again, plain, inputs)


@pytest.mark.compatibility(SECTION, "model.load_adapter, from_pretrained of an adapter")
def test_adapters_through_transformers(family, tmp_path):
    """The adapter methods of the native class, and its loader, which finds the base model from an adapter's folder."""
    native = build(family)
    native.save_pretrained(tmp_path / "base")
    base = AutoModelForImageTextToText.from_pretrained(tmp_path / "base", attn_implementation="sdpa").eval()
    plain = add_lora(base)
    plain.save_pretrained(tmp_path / "adapter")
    inputs = inputs_for(native, 2, [0, 5])
    model = AutoCoReModel.from_model(native)
    model.load_adapter(str(tmp_path / "adapter"))
    check_modes(model.eval(), plain, inputs)
    loaded = AutoCoReModel.from_pretrained(tmp_path / "adapter", attn_implementation="sdpa").eval()
    check_modes(loaded, plain, inputs)
    model.disable_adapters()
    check_modes(model, build(family), inputs)


@pytest.mark.compatibility(SECTION, "DoRA and IA3")
@ORDERS
@pytest.mark.parametrize("kind", ["dora", "ia3"])
def test_other_adapters_of_the_projections(family, when, kind):
    if kind == "dora":
        config = peft.LoraConfig(r=4, target_modules=PROJECTIONS, init_lora_weights=False, use_dora=True)
    else:
        modules = r".*language_model.*\.(k_proj|v_proj|down_proj)"
        config = peft.IA3Config(target_modules=modules, feedforward_modules=r".*down_proj")
    plain, model = pair(family, when, lambda native: adapted(native, config))
    if kind == "ia3":  # starts with ones, which change nothing
        for each in (plain, model):
            generator = torch.Generator().manual_seed(0)
            for name, parameter in each.named_parameters():
                if "ia3" in name:
                    parameter.data.uniform_(0.5, 1.5, generator=generator)
    check_modes(model, plain, inputs_for(plain.get_base_model(), 2, [0, 5]))


def learned_tokens(family, when, kind, seed=0):
    """A pair with three learned tokens in front of the prompt, as embeddings ("prompt") or as keys and values."""
    config_class = {"prompt": peft.PromptTuningConfig, "prefix": peft.PrefixTuningConfig}[kind]
    config = config_class(num_virtual_tokens=3, task_type="CAUSAL_LM")
    plain, model = pair(family, when, lambda native: adapted(native, config))
    for each in (plain, model):
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in each.named_parameters():
            if "prompt_encoder" in name:
                parameter.data.normal_(generator=generator)
    return plain, model


@pytest.mark.compatibility(SECTION, "prompt and prefix tuning")
@ORDERS
@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_learned_tokens(family, when, kind, cell):
    """A prefix stands in the cache before the prompt: hybrid prefill then takes chunked=True."""
    plain, model = learned_tokens(family, when, kind)
    inputs = text_inputs(20, 2)
    if kind == "prefix" and family == "qwen3_vl" and VERSION <= (5, 0):
        with cell.upstream(RuntimeError, match="size of tensor"):
            logits(plain, **inputs)
        return
    expected = logits(plain, **inputs)
    assert torch.equal(logits(model, **inputs), expected)
    with model.ablate_heads(HEADS), without_heads(plain):
        ablated = logits(plain, **inputs)
        torch.testing.assert_close(logits(model, **inputs), ablated, atol=1e-4, rtol=0)
    model.enable_hybrid(**HYBRID, chunked=kind == "prefix")
    with explicit_masks(plain.get_base_model(), hybrid_masks()):
        hybrid = logits(plain, **inputs)
    torch.testing.assert_close(logits(model, **inputs), hybrid, atol=2e-4, rtol=0)
    for found in (ablated, hybrid):
        assert float((found - expected).abs().max()) > 0.1
