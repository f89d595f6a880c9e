"""The life around a wrapped model: pipelines, copies, files, vocabulary, threads, other models; and experts."""

import copy
import io
import threading
from pathlib import Path

import pytest
import torch
import transformers
from native_twin import HYBRID, check_modes, hybrid_masks, without_heads
from PIL import Image
from test_model import head_map_of
from tiny_models import (
    VERSION,
    H,
    build,
    explicit_masks,
    generate,
    inputs_for,
    logits,
    masks_for,
    randomize,
)
from transformers import AutoModelForImageTextToText

from corehead_hf import AutoCoReModel, HeadMap, load_processor
from corehead_hf.data import glyphs

SECTION = "Around the model"
MOE = "Mixture of experts"
SHIPPED = Path(__file__).resolve().parents[2] / "hub_artifacts"


def pair(variant):
    """A native model and a wrapped one of the same weights."""
    native = build(variant)
    return native, AutoCoReModel.from_model(copy.deepcopy(native))


@pytest.fixture
def glyphs_folder(family):
    names = {"qwen3_vl": "qwen3-vl", "llava_onevision": "llava-onevision", "internvl_qwen3": "internvl"}
    return SHIPPED / f"glyphs-{names[family]}"


def told(model, processor, examples):
    """What the image-text-to-text pipeline answers; the pipeline pads, prepares and decodes by itself."""
    pipe = transformers.pipeline("image-text-to-text", model=model, processor=processor)
    found = []
    for example in examples:
        content = [{"type": "image", "image": Image.fromarray(page)} for page in example.media]
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": example.question}]}]
        answer = pipe(text=messages, max_new_tokens=2, return_full_text=False, generate_kwargs={"do_sample": False})
        found.append(answer[0]["generated_text"])
    return found


@pytest.mark.compatibility(SECTION, 'pipeline("image-text-to-text", model=model)')
def test_a_pipeline(glyphs_folder):
    """On a shipped model: dense it answers, without its look-up heads, or with others kept dense, as the oracles do."""
    native = AutoModelForImageTextToText.from_pretrained(glyphs_folder, dtype=torch.float32).eval()
    processor, examples = load_processor(glyphs_folder), list(glyphs.generate(2, seed=3))
    model = AutoCoReModel.from_model(copy.deepcopy(native))
    head_map = HeadMap.from_pretrained(f"{glyphs_folder}-head-map")
    ranking = [tuple(pair) for pair in head_map.ranking().tolist()]
    top, bottom = ranking[:4], ranking[-4:]
    plain = told(native, processor, examples)
    assert told(model, processor, examples) == plain == [example.answer for example in examples]
    with without_heads(native, top), model.ablate_heads(top):
        ablated = told(native, processor, examples)
        assert told(model, processor, examples) == ablated
    for dense in (top, bottom):
        model.enable_hybrid(heads=dense, sink_size=4, window_size=16, dense_below=0)
        with explicit_masks(native, hybrid_masks(dense, 4, 16, native.config.get_text_config().num_attention_heads)):
            hybrid = told(native, processor, examples)
        assert told(model, processor, examples) == hybrid
    assert plain not in (ablated, hybrid)


@pytest.mark.compatibility(SECTION, "copy.deepcopy")
def test_deepcopy(family):
    """The copy is a wrapped model of its own, made while modes are on or off."""
    native, model = pair(family)
    inputs = inputs_for(native, 2, [0, 5])
    twin = copy.deepcopy(model)
    check_modes(twin, native, inputs)
    model.enable_hybrid(**HYBRID)
    kept = copy.deepcopy(model)
    model.disable_hybrid()
    assert kept.hybrid is not None and model.hybrid is None and twin.hybrid is None
    kept.disable_hybrid()
    check_modes(kept, native, inputs)


@pytest.mark.compatibility(SECTION, "torch.save and torch.load")
def test_torch_save_while_hybrid_prefill_is_on(family):
    """The whole model in one file: settings in force are in it."""
    native, model = pair(family)
    inputs = inputs_for(native, 2, [0, 5])
    model.enable_hybrid(**HYBRID)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(logits(loaded, **inputs), logits(model, **inputs))
    assert not torch.equal(logits(loaded, **inputs), logits(native, **inputs))
    loaded.disable_hybrid()
    check_modes(loaded, native, inputs)


@pytest.mark.compatibility(SECTION, "safetensors in shards")
def test_shards(family, tmp_path):
    """Written by a wrapped model, read by the native loader, and the other way round."""
    native, model = pair(family)
    inputs = inputs_for(native, 2, [0, 5])
    native.save_pretrained(tmp_path / "native", max_shard_size="50KB")
    model.save_pretrained(tmp_path / "core", max_shard_size="50KB")
    files = sorted(path.name for path in (tmp_path / "native").iterdir())
    assert sum(name.endswith(".safetensors") for name in files) > 3
    assert files == sorted(path.name for path in (tmp_path / "core").iterdir())
    for name in files:
        assert (tmp_path / "core" / name).read_bytes() == (tmp_path / "native" / name).read_bytes(), name
    reloaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "core", attn_implementation="sdpa").eval()
    assert type(reloaded) is type(native)
    assert torch.equal(logits(reloaded, **inputs), logits(native, **inputs))
    again = AutoCoReModel.from_pretrained(tmp_path / "native", attn_implementation="sdpa").eval()
    check_modes(again, native, inputs)


@pytest.mark.compatibility(SECTION, "two models in one process")
def test_two_wrapped_models(family):
    """Same class, different weights and settings, called in turns."""
    first, second = build(family), randomize(build(family), seed=5)
    inputs = inputs_for(first, 2, [0, 5])
    real = inputs["attention_mask"].bool()
    models = [AutoCoReModel.from_model(copy.deepcopy(each)) for each in (first, second)]
    assert type(models[0]) is type(models[1])
    models[0].enable_hybrid(**HYBRID)
    with without_heads(second, [(0, 0)]):
        ablated = logits(second, **inputs)
    with explicit_masks(first, hybrid_masks()):
        hybrid = logits(first, **inputs)
    with models[1].ablate_heads([(0, 0)]):
        for _ in range(2):
            torch.testing.assert_close(logits(models[0], **inputs)[real], hybrid[real], atol=2e-4, rtol=0)
            torch.testing.assert_close(logits(models[1], **inputs)[real], ablated[real], atol=1e-4, rtol=0)
    models[0].uninstall_core()
    assert torch.equal(logits(models[0], **inputs), logits(first, **inputs))
    check_modes(models[1], second, inputs)


@pytest.mark.compatibility(SECTION, "threads")
def test_threads_with_hybrid_prefill(family, cell):
    """Several threads generate with one model, each with a prompt of its own length."""
    if family == "llava_onevision" and VERSION <= (5, 0):
        cell.unsupported("LLaVA-OneVision binds forwards on its modules in every call: not thread-safe")
        return
    native, model = pair(family)
    inputs = [inputs_for(native, seed=seed, text=10 + 3 * seed) for seed in range(4)]
    with explicit_masks(native, hybrid_masks()):
        expected = [generate(native, each) for each in inputs]
    assert any(not torch.equal(generate(native, each), found) for each, found in zip(inputs, expected, strict=True))
    model.enable_hybrid(**HYBRID)
    wrong = []

    def run(index):
        for _ in range(3):
            try:
                assert torch.equal(generate(model, inputs[index]), expected[index])
            except BaseException as error:
                wrong.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]


@pytest.mark.compatibility(SECTION, "resize_token_embeddings")
def test_resize_token_embeddings(family, tmp_path):
    """New tokens are used, saved and loaded again."""
    native, model = pair(family)
    for each in (native, model):
        torch.manual_seed(0)
        each.resize_token_embeddings(128, mean_resizing=False)
        assert each.config.get_text_config().vocab_size == 128
    inputs = inputs_for(native, 2, [0, 5])
    inputs["input_ids"][:, -2:] = torch.tensor([121, 127])
    assert logits(model, **inputs).shape[-1] == 128
    check_modes(model, native, inputs)
    model.save_pretrained(tmp_path)
    reloaded = AutoCoReModel.from_pretrained(tmp_path, attn_implementation="sdpa").eval()
    assert torch.equal(logits(reloaded, **inputs), logits(native, **inputs))


@pytest.mark.compatibility(SECTION, "model.to(dtype), requires_grad_()")
def test_moved_and_cast(family):
    """nn.Module's own methods reach everything, and return the wrapped model."""
    native, model = pair(family)
    inputs = inputs_for(native)
    for each in (native, model):
        assert each.to(torch.float64).requires_grad_(False) is each
    cast = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    assert torch.equal(logits(model, **cast), logits(native, **cast))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    check_modes(model.float(), native.float(), inputs)


@pytest.mark.parametrize("variant", ["qwen3_vl_moe", "internvl_qwen3_moe"])
@pytest.mark.compatibility(MOE, "MoE: record, rank, ablate, hybrid prefill, generate")
def test_the_whole_road_on_experts(variant, tmp_path):
    """Recorded RAM -> head map -> file -> top heads ablated, and kept dense, against the oracles, down to tokens."""
    native, model = pair(variant)
    assert any("experts" in name for name, _ in native.named_modules())
    inputs = inputs_for(native, 2, [0, 5])
    check_modes(model, native, inputs)
    question, evidence, _ = masks_for(inputs)
    with model.record_attention(question, evidence) as recording:
        model.prefill(**inputs)
    ram = recording.ram
    head_map_of(model, scores=ram.mean(dim=0), spread=ram.std(dim=0), num_examples=2, count=2).save_pretrained(tmp_path)
    model.load_head_map(tmp_path)
    top = [tuple(each) for each in model.head_map.ranking()[:4].tolist()]
    assert sorted(top) == sorted(divmod(int(index), H) for index in ram.mean(dim=0).flatten().topk(4).indices)
    plain = generate(native, inputs)
    assert torch.equal(generate(model, inputs), plain)
    with without_heads(native, top), model.ablate_heads(model.head_map.top(4)):
        ablated = generate(native, inputs)
        assert torch.equal(generate(model, inputs), ablated)
    model.enable_hybrid(keep=4, sink_size=1, window_size=3, dense_below=0)
    with explicit_masks(native, hybrid_masks(top)):
        hybrid = generate(native, inputs)
    assert torch.equal(generate(model, inputs), hybrid)
    assert not torch.equal(ablated, plain) and not torch.equal(hybrid, plain)


@pytest.mark.parametrize("variant", ["qwen3_vl_moe", "internvl_qwen3_moe"])
@pytest.mark.compatibility(MOE, "MoE: training")
def test_training_experts(variant):
    """Gradients, those of experts and routers among them, are the native ones."""
    native, model = pair(variant)
    inputs = inputs_for(native, 2, [0, 5])
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    for each in (native, model):
        each.train()(**inputs, labels=labels).loss.backward()
    found = dict(model.named_parameters())
    for name, parameter in native.named_parameters():
        assert (parameter.grad is None) == (found[name].grad is None), name
        if parameter.grad is not None:
            assert torch.equal(found[name].grad, parameter.grad), name
    assert any("experts" in name and parameter.grad is not None for name, parameter in found.items())
