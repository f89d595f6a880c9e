"""measure() against transformers' own output_attentions, example by example."""

import pytest
import torch
import transformers
from tiny_models import randomize
from transformers import AutoConfig, AutoModelForImageTextToText

import corehead_hf
from corehead_hf import AutoCoReModel, load_processor, measure
from corehead_hf.data import glyphs
from corehead_hf.families import FAMILIES

LAYERS, HEADS = 2, 4


@pytest.fixture(scope="module", params=["qwen3_vl", "llava_onevision", "internvl"])
def setting(request, checkpoint):
    """A random two-layer model of a Glyphs checkpoint (eager), its processor, examples of uneven length."""
    folder = checkpoint(request.param)
    config = AutoConfig.from_pretrained(folder)
    config.get_text_config().num_hidden_layers = LAYERS
    if hasattr(config.get_text_config(), "layer_types"):
        config.get_text_config().layer_types = ["full_attention"] * LAYERS
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").float().eval()
    examples = [*glyphs.generate(2, seed=1, pages=2, margin=8, num_letters=20)]
    examples += [*glyphs.generate(3, seed=2, pages=3, margin=8, num_letters=20)]
    return request.param, randomize(model), load_processor(folder), examples


@pytest.fixture(scope="module")
def truth(setting):
    """RAM of each example by itself, from output_attentions in float64."""
    family, model, processor, examples = setting
    rams = []
    for example in examples:
        prepared = FAMILIES[family].prepare(processor, example)
        with torch.no_grad():
            found = model(**prepared.inputs, output_attentions=True).attentions
        attention = torch.stack(found, dim=1)[0].double()  # [L, Hq, T, T]
        rows = attention[:, :, prepared.question_mask[0]].mean(dim=2)
        rams.append(rows[..., prepared.evidence_mask[0]].sum(dim=-1))
    return torch.stack(rams)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_measure_is_the_mean_of_single_examples(setting, truth, batch_size):
    family, model, processor, examples = setting
    AutoCoReModel.from_model(model)
    try:
        head_map = measure(model, processor, iter(examples), dataset="glyphs", batch_size=batch_size)
    finally:
        model.uninstall_core()
    torch.testing.assert_close(head_map.scores.double(), truth.mean(dim=0), atol=1e-5, rtol=0)
    torch.testing.assert_close(head_map.spread.double(), truth.std(dim=0, correction=0), atol=1e-4, rtol=0)
    assert head_map.num_examples == 5 and head_map.count.tolist() == [5] * LAYERS
    best = truth.mean(dim=0).flatten().argmax()
    assert head_map.ranking()[0].tolist() == [int(best) // HEADS, int(best) % HEADS]
    assert float(truth.mean(dim=0).std()) > 0.005, "all heads alike: a wrong index would not show"


def test_provenance(setting):
    family, model, processor, examples = setting
    AutoCoReModel.from_model(model)
    try:
        head_map = measure(model, processor, examples[:1], dataset="hand-made", base_model_revision="a" * 40)
        model.load_head_map(head_map)
    finally:
        model.uninstall_core()
    assert (head_map.model_type, head_map.dataset, head_map.base_model_revision) == (
        family,
        "hand-made",
        "a" * 40,
    )
    assert (head_map.num_layers, head_map.num_heads, head_map.num_kv_heads, head_map.head_dim) == (
        LAYERS,
        HEADS,
        2,
        32,
    )
    assert head_map.question_rule == FAMILIES[family].question_rule
    assert head_map.view_rule == "all views; a visual token counts if any of it shows evidence"
    assert head_map.versions["transformers"] == transformers.__version__
    assert head_map.versions["torch"] == torch.__version__
    assert head_map.versions["corehead_hf"] == corehead_hf.__version__


def test_a_model_without_a_name_is_not_named_after_the_current_folder(setting, monkeypatch):
    _, model, processor, examples = setting
    AutoCoReModel.from_model(model)
    monkeypatch.setattr(model.config, "_name_or_path", "")
    try:
        with pytest.raises(ValueError, match="base_model_name_or_path='' was given - it is blank"):
            measure(model, processor, examples[:1], dataset="glyphs")
    finally:
        model.uninstall_core()


def test_refusals(setting):
    _, model, processor, examples = setting
    AutoCoReModel.from_model(model)
    try:
        with pytest.raises(ValueError, match="batch_size=0 was asked; it must be at least 1"):
            measure(model, processor, examples, dataset="glyphs", batch_size=0)
        with pytest.raises(ValueError, match="'nothing' gave no examples"):
            measure(model, processor, [], dataset="nothing")
        assert model.core_state.modes == []
    finally:
        model.uninstall_core()
