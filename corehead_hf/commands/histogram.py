"""Where in the layers the top heads of a head map stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corehead_hf.commands.tables import bar, table

if TYPE_CHECKING:
    from corehead_hf.head_map import HeadMap

SHARE = 0.05  # of the heads that count as top
_LEAST, _MOST = 4, 24  # characters of a bar


def layer_data(head_map: HeadMap, share: float | int = SHARE) -> list[dict[str, Any]]:
    """Per layer: how many of the map's top heads it has, and its mean RAM."""
    counts, means = head_map.top(share).sum(dim=1).tolist(), head_map.scores.double().mean(dim=1).tolist()
    return [
        {"layer": layer, "top_heads": count, "mean_ram": mean}
        for layer, (count, mean) in enumerate(zip(counts, means, strict=True))
    ]


def layer_histogram(
    head_map: HeadMap, *, width: int, blocks: bool, share: float | int = SHARE, name: str = "RAM"
) -> list[str]:
    """The same as lines of at most `width` characters, with a bar for each number where there is room.

    Args:
        width: of the terminal.
        blocks: whether it can show block characters; else bars are "#".
        share: the top heads, as in HeadMap.top.
        name: of the score.
    """
    layers = layer_data(head_map, share)
    most = max(layer["top_heads"] for layer in layers)
    highest = max(layer["mean_ram"] for layer in layers) or 1.0
    plain = table(["layer", "top", f"mean {name}"], [[la["layer"], la["top_heads"], la["mean_ram"]] for la in layers])
    room = min((width - len(plain[0]) - 4) // 2, _MOST)
    if room < _LEAST:
        return plain
    drawn = [(bar(la["top_heads"] / most, room, blocks), bar(la["mean_ram"] / highest, room, blocks)) for la in layers]
    cut = len(plain[0]) - len(f"mean {name}") - 2
    lines = [f"{plain[0][:cut]}  {'':<{room}}{plain[0][cut:]}"]
    for line, (first, second) in zip(plain[1:], drawn, strict=True):
        lines.append(f"{line[:cut]}  {first:<{room}}{line[cut:]}  {second}".rstrip())
    return lines
