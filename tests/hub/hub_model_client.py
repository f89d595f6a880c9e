"""A user's process that loads the tiny model from the Hub and lets it answer; steps and answers as in hub_client.py."""

from __future__ import annotations

import hub_client
import torch

from corehead_hf import AutoCoReModel, HeadMap, load_processor
from corehead_hf.data import glyphs
from corehead_hf.families import family_of


def load(repo: str, head_map: str | None = None, head_map_revision: str | None = None, **options) -> dict:
    """What the model generates on three examples: dense, with its top heads ablated, and with the others streaming.

    Returns:
        tokens of each way; the map's numbers and source; the class of the model.
    """
    pinned = {"head_map_revision": head_map_revision} if head_map_revision else {}
    model = AutoCoReModel.from_pretrained(repo, head_map=head_map, dtype=torch.float32, **pinned, **options).eval()
    processor = load_processor(repo, **options)
    inputs = family_of(model).prepare(processor, list(glyphs.generate(3, seed=5, pages=3))).inputs

    def tokens() -> list:
        return model.generate(**inputs, max_new_tokens=3, do_sample=False).tolist()

    found = {"dense": tokens(), "class": type(model).__mro__[1].__name__}
    if model.head_map is not None:
        found |= hub_client.contents(model.head_map)
        with model.ablate_heads(model.head_map.top(3)):
            found["ablated"] = tokens()
        model.enable_hybrid(keep=3, sink_size=4, window_size=16)
        found["hybrid"] = tokens()
    return found


def load_head_map(repo: str, source: str, **options) -> dict:
    """model.load_head_map of a map on the Hub, into a model of a folder."""
    model = AutoCoReModel.from_pretrained(repo)
    model.load_head_map(source, **options)
    assert isinstance(model.head_map, HeadMap)
    return hub_client.contents(model.head_map)


if __name__ == "__main__":
    hub_client.main({"load": load, "load_head_map": load_head_map})
