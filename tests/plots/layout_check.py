"""Whether a figure can be read: no text cut off, none over another. Measured after a draw with Agg."""

from itertools import combinations

import numpy as np

SLACK = 1.0  # pixels: glyphs' boxes are rounded outwards


def draw(figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def shown_texts(figure):
    """Every visible text, tick labels only where their tick is within the axis."""
    from matplotlib.axis import Axis
    from matplotlib.text import Text

    hidden = set()
    for axis in figure.findobj(Axis):
        off = not axis.get_visible() or not axis.axes.axison
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            within = low <= tick.get_loc() <= high
            hidden |= set() if within and not off else {tick.label1, tick.label2}
        hidden |= {axis.label, axis.offsetText} if off else set()
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in hidden]


def problems(figure):
    """Sentences about texts that are cut off or lie over one another."""
    from matplotlib.legend import Legend
    from matplotlib.text import Text

    renderer = draw(figure)
    width, height = figure.bbox.size
    boxes = [(repr(text.get_text()), text.get_window_extent(renderer)) for text in shown_texts(figure)]
    found = []
    for name, box in boxes:
        if box.x0 < -SLACK or box.y0 < -SLACK or box.x1 > width + SLACK or box.y1 > height + SLACK:
            found.append(f"{name} is cut off: {np.round(box.extents)} of {width:.0f} x {height:.0f}")
    for (first, a), (second, b) in combinations(boxes, 2):
        if overlap(a, b):
            found.append(f"{first} lies over {second}")
    for legend in figure.findobj(Legend):
        own = {repr(text.get_text()) for text in legend.findobj(Text)}
        frame = legend.get_window_extent(renderer)
        found += [f"the legend lies over {name}" for name, box in boxes if name not in own and overlap(frame, box)]
    return found


def overlap(a, b):
    across = min(a.x1, b.x1) - max(a.x0, b.x0)
    up = min(a.y1, b.y1) - max(a.y0, b.y0)
    return across > SLACK and up > SLACK
