"""corehead show: a head map's provenance, top heads, and how they spread over the layers."""

from __future__ import annotations

import argparse

from corehead_hf.commands.output import Output
from corehead_hf.commands.values import positive

HELP = "print a head map's provenance, top heads, and in which layers they stand"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("head_map", help="folder or Hub id of the head map")
    parser.add_argument("--top", type=positive, default=10, help="how many heads (default: 10)")


def run(arguments: argparse.Namespace) -> Output:
    """Read and describe."""
    from corehead_hf.commands.histogram import SHARE, layer_data, layer_histogram
    from corehead_hf.commands.summary import provenance, score_name, summary_data, top_heads
    from corehead_hf.commands.tables import columns, has_blocks
    from corehead_hf.head_map import HeadMap
    from corehead_hf.head_map.picks import head_count

    head_map, width = HeadMap.from_pretrained(arguments.head_map), columns()
    total = head_map.scores.numel()
    # A map of fewer than ten heads has no top 5 %.
    share = SHARE if round(SHARE * total) else 1
    counted = head_count(share, head_map.num_layers, head_map.num_heads)
    text = [*provenance(head_map, width), "", *top_heads(head_map, arguments.top), ""]
    text.append(f"layers of the top {counted} of {total} heads")
    text += layer_histogram(head_map, width=width, blocks=has_blocks(), share=share, name=score_name(head_map))
    return Output(
        "\n".join(text),
        {**summary_data(head_map, arguments.top), "top_count": counted, "layers": layer_data(head_map, share)},
    )
