"""When does hybrid prefill pay? Time one backbone's prefill, dense and hybrid, at two lengths.

    python examples/05_hybrid_prefill.py --lengths 1024 8192

The backbone has Qwen3-VL's code and random weights: speed does not depend on what a model has learned. Which heads stay
dense does; a real program loads a measured head map and passes keep=0.05 instead of heads=.
"""

import argparse
import logging
import time

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from corehead_hf import AutoCoReModel

SETTINGS = {"heads": [(1, 3), (2, 0)], "sink_size": 128, "window_size": 1024}


def backbone():
    """Three layers of eight query heads, two kv heads and head_dim 128, as CoRe-aware model."""
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    text = {"vocab_size": 512, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 3}
    text |= {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 32768}
    text |= {"rope_parameters": rope, "rope_scaling": rope, "rope_theta": 5e6}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 512}
    vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    ids = {"image_token_id": 511, "video_token_id": 510, "vision_start_token_id": 509, "vision_end_token_id": 508}
    torch.manual_seed(0)
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **ids)
    return AutoCoReModel.from_model(Qwen3VLForConditionalGeneration(config).eval())


def milliseconds(model, ids, repeats=2):
    def once():
        start = time.perf_counter()
        model.prefill(input_ids=ids)
        return 1e3 * (time.perf_counter() - start)

    once()
    return min(once() for _ in range(repeats))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 8192])
    lengths = parser.parse_args().lengths
    logging.basicConfig(level=logging.WARNING, format="%(message)s")  # the model says where it stays dense
    model = backbone()
    for length in lengths:
        ids = torch.randint(0, 500, (1, length), generator=torch.Generator().manual_seed(length))
        dense = milliseconds(model, ids)
        model.enable_hybrid(**SETTINGS)
        hybrid = milliseconds(model, ids)
        streaming = model.hybrid.dense_layers(length, 0).count(False)
        print(
            f"{length} tokens: dense {dense:.0f} ms, hybrid {hybrid:.0f} ms on {model.hybrid_backend!r}, "
            f"{streaming} of {len(model.hybrid.heads)} layers stream"
        )
        model.disable_hybrid()


if __name__ == "__main__":
    main()
