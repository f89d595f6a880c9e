"""The conditions that upstream's tests run under: native classes, and classes whose every instance comes wrapped."""

from __future__ import annotations

import contextlib
import functools

import torch

from corehead_hf import AutoCoReModel

# Longer than any prompt of upstream's tests: a sink of this size leaves nothing out, so streaming heads compute dense
# attention, to rounding, in our kernels.
WHOLE_PROMPT = 1 << 20


def _nothing(model):
    """CoRe is installed and every mode is off."""


def _all_dense(model):
    config = model.config.get_text_config()
    heads = torch.ones(config.num_hidden_layers, config.num_attention_heads, dtype=torch.bool)
    model.enable_hybrid(heads=heads, sink_size=1, window_size=1, dense_below=0)


def _streaming(model):
    model.enable_hybrid(heads=[], sink_size=WHOLE_PROMPT, window_size=1, dense_below=0)


# Condition -> what is done with every new model; None: nothing, it stays native.
CONDITIONS = {"native": None, "wrapped": _nothing, "dense": _all_dense, "streaming": _streaming}


def wrap_every(native_class, prepare):
    """From now on, for the rest of the process, every model of a native class comes wrapped and prepared.

    Constructed ones are wrapped when their constructor returns; loaded ones when from_pretrained returns, as
    AutoCoReModel.from_pretrained does.
    """
    construct, load = native_class.__init__, native_class.from_pretrained.__func__
    loading = []

    def wrap(model):
        AutoCoReModel.from_model(model)
        with torch.device("cpu"):  # some tests build models while "meta" is the default device
            prepare(model)

    @functools.wraps(construct)
    def __init__(self, *args, **kwargs):
        construct(self, *args, **kwargs)
        if not loading:
            wrap(self)

    @functools.wraps(load)
    def from_pretrained(cls, *args, **kwargs):
        with _listed(loading):
            found = load(cls, *args, **kwargs)
        wrap(found[0] if isinstance(found, tuple) else found)
        return found

    native_class.__init__ = __init__
    native_class.from_pretrained = classmethod(from_pretrained)


@contextlib.contextmanager
def _listed(loading):
    loading.append(True)
    try:
        yield
    finally:
        loading.pop()
