"""The timed models are the real classes with sound weights, and hybrid prefill in them is what explicit masks give."""

import dataclasses

import pytest
import torch

from benchmarks import backbone, oracle
from benchmarks.decoding import Decoder
from benchmarks.shapes import SHAPES

CPU = torch.device("cpu")
SMALL = {
    name: dataclasses.replace(
        shape, layers=2, hidden=64, intermediate=96, heads=4, kv_heads=2, head_dim=16, vocabulary=300, rope_theta=1e4
    )
    for name, shape in SHAPES.items()
    if name in ("Qwen3-VL-8B", "LLaVA-OneVision-7B", "InternVL3.5-8B")
}


@pytest.mark.parametrize("name", list(SMALL))
def test_each_family_against_explicit_masks(name):
    shape = SMALL[name]
    model = backbone.build(shape, CPU, "float32")
    ids = backbone.token_ids(shape, 90, CPU)
    heads = backbone.spread_heads(2, 4, 3)
    assert backbone.prefill(model, ids).past_key_values.get_seq_length() == 90
    everything = torch.ones_like(heads)
    assert oracle.refuse(oracle.outputs(model, ids), model, ids, everything, 4, 16) is None
    model.enable_hybrid(heads=heads, sink_size=4, window_size=16, dense_below=0)
    found = oracle.outputs(model, ids)
    model.disable_hybrid()
    assert oracle.refuse(found, model, ids, everything, 4, 16).startswith("wrong")
    assert oracle.refuse(found, model, ids, heads, 4, 16) is None
    assert oracle.refuse(found, model, ids, heads, 4, 17).startswith("wrong")


def test_shapes_reach_the_configuration():
    for name, shape in SHAPES.items():
        text = backbone.configuration(shape).get_text_config()
        found = (text.num_hidden_layers, text.hidden_size, text.num_attention_heads, text.num_key_value_heads)
        assert found == (shape.layers, shape.hidden, shape.heads, shape.kv_heads), name
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        assert (head_dim, text.intermediate_size) == (shape.head_dim, shape.intermediate), name


def test_decoding_begins_at_the_same_cache_every_time():
    shape = SMALL["Qwen3-VL-8B"]
    model = backbone.build(shape, CPU, "float32")
    ids = backbone.token_ids(shape, 43, CPU)
    decoder = Decoder(model, ids, 3, torch.no_grad)
    outputs = []
    for _ in range(3):
        with decoder.on():
            assert decoder.cache.get_seq_length() == 40
            outputs.append(decoder())
        assert decoder.cache.get_seq_length() == 43
    assert outputs[0].equal(outputs[1]) and outputs[1].equal(outputs[2])
    torch.testing.assert_close(outputs[0], backbone.prefill(model, ids).logits, rtol=1e-4, atol=1e-5)


def test_prompts_hold_no_image_tokens():
    shape = SMALL["Qwen3-VL-8B"]
    ids = backbone.token_ids(shape, 5000, CPU)
    config = backbone.configuration(shape)
    assert ids.max() < min(config.image_token_id, config.video_token_id, config.vision_start_token_id)
    assert ids.unique().numel() > 0.9 * shape.vocabulary


def test_dense_heads_are_spread_unevenly_and_repeatably():
    heads = backbone.spread_heads(36, 32, 58)
    assert heads.sum() == 58 and heads.equal(backbone.spread_heads(36, 32, 58))
    per_layer = heads.sum(dim=1)
    assert per_layer.max() >= 4 and (per_layer == 0).sum() >= 6
    assert per_layer[12:28].sum() > 2 * (per_layer[:12].sum() + per_layer[28:].sum())


def test_what_cannot_fit_is_known_before(monkeypatch):
    properties = type("Properties", (), {"total_memory": 140 * 2**30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    cuda = torch.device("cuda")
    assert backbone.missing_memory(SHAPES["Qwen3-VL-32B"], 131072, cuda, "bfloat16") is None
    assert "need" in backbone.missing_memory(SHAPES["Qwen3-VL-32B"], 1 << 19, cuda, "bfloat16")
