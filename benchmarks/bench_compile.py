"""Time of a decoded token without CoRe, with it and after a hybrid prefill; each plain and under torch.compile.

    python -m benchmarks.bench_compile --model Qwen3-VL-4B --layers 4 --lengths 512 2048

A static cache, as torch.compile wants it; the prefill before the tokens is neither compiled nor timed. All models share
one set of random weights. Before anything is timed, each compiled model is compared with itself uncompiled, and its
graph breaks are printed. Appends rows of kind compile to compile.csv.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._dynamo.utils import counters
from transformers import StaticCache

from benchmarks import backbone
from benchmarks.harness import Case, leave_out, reason
from benchmarks.roofline import decode_flops
from benchmarks.session import Run, add_arguments, check_arguments, origin, wanted
from benchmarks.shapes import SHAPES

# Of the logits' norm: compiled kernels round otherwise.
TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 5e-2}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(SHAPES), default="Qwen3-VL-8B")
    parser.add_argument("--layers", type=int, help="only so many of the model's layers; default: all")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 16384], help="tokens before the decoded ones")
    parser.add_argument("--tokens", type=int, default=16, help="decoded tokens a call")
    parser.add_argument("--keep", type=float, default=0.05, help="share of dense heads of the hybrid prefill")
    parser.add_argument("--sink", type=int, default=128)
    parser.add_argument("--window", type=int, default=256, help="shorter than every length, or nothing streams")
    parser.add_argument("--compiler", default="inductor", help="backend of torch.compile")
    add_arguments(parser)
    args = check_arguments(parser, parser.parse_args(argv))
    args.shape = SHAPES[args.model]
    args.name = f"{args.model} {args.dtype}"
    if args.layers is not None:
        if not 0 < args.layers <= args.shape.layers:
            parser.error(f"--layers {args.layers} was asked for - {args.model} has {args.shape.layers} - pass fewer.")
        args.shape = dataclasses.replace(args.shape, layers=args.layers)
        args.name = f"{args.model} {args.layers} layers {args.dtype}"
    if args.window >= min(args.lengths):
        parser.error(
            f"--window {args.window} covers {min(args.lengths)} tokens - nothing streams - pass a smaller one."
        )
    return args


@dataclasses.dataclass(eq=False)
class Decoder:
    """Decodes the tokens of ids [1, n + tokens] that come after the first n, one at a time, into a static cache.

    Attributes:
        model: prefills; `step` is it, or it compiled.
    """

    model: Any
    step: Callable[..., Any]
    ids: torch.Tensor
    tokens: int
    cache: Any = None

    @property
    def n(self) -> int:
        return self.ids.shape[1] - self.tokens

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """The first n tokens in the cache, as at the beginning of every call."""
        if self.cache is None:
            self.cache = StaticCache(config=self.model.config.get_text_config(), max_cache_len=self.ids.shape[1])
        self.cache.reset()
        backbone.prefill(self.model, self.ids[:, : self.n], self.cache)
        yield

    def __call__(self) -> torch.Tensor:
        """Logits [1, V] of the last token."""
        for position in range(self.n, self.ids.shape[1]):
            logits = backbone.prefill(self.step, self.ids[:, position : position + 1], self.cache).logits
        return logits[:, -1]


def models(args: argparse.Namespace) -> dict[str, Any]:
    """Three models over the same weights: native, CoRe installed, hybrid prefill on."""
    wrapped = backbone.build(args.shape, args.device, args.dtype)

    def twin() -> Any:
        return copy.deepcopy(wrapped, {id(parameter): parameter for parameter in wrapped.parameters()})

    native, hybrid = twin(), twin()
    native.uninstall_core()
    shape = args.shape
    heads = backbone.spread_heads(shape.layers, shape.heads, max(1, round(args.keep * shape.layers * shape.heads)))
    hybrid.enable_hybrid(heads=heads, sink_size=args.sink, window_size=args.window, dense_below=0)
    return {"dense": native, "wrapped": wrapped, "hybrid": hybrid}


def make_cases(args: argparse.Namespace, found: dict[str, Any], n: int) -> dict[str, Case]:
    ids = backbone.token_ids(args.shape, n + args.tokens, args.device)
    flops = decode_flops(args.shape, n)
    cases = {}
    for provider, model in found.items():
        sizes = (args.keep, args.sink, args.window) if provider == "hybrid" else (1.0, None, None)
        for name, step in ((provider, model), (f"{provider}_compiled", compiled(args, model))):
            decoder = Decoder(model, step, ids, args.tokens)
            cases[name] = Case(name, *sizes, flops, decoder, decoder.ready, args.tokens)
    return cases


def compiled(args: argparse.Namespace, model: Any) -> Any:
    return torch.compile(model, backend=args.compiler, dynamic=False)


def check(args: argparse.Namespace, cases: dict[str, Case]) -> bool:
    """Compiles; compares each compiled model with itself uncompiled, and the wrapped one with the native; prints."""
    all_right, plain = True, {}
    for name, case in cases.items():
        counters.clear()
        with case.around():
            logits = case.call().double()
        provider = name.removesuffix("_compiled")
        if name == provider:
            plain[name] = logits
            continue
        graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
        error = float((logits - plain[provider]).norm() / plain[provider].norm())
        right = graphs > 0 and error <= TOLERANCE[args.dtype]
        all_right &= right
        print(
            f"  {name}: {graphs} graphs, {breaks} graph breaks, error {error:.1e}{'' if right else ', wrong'}",
            flush=True,
        )
    if not torch.equal(plain["wrapped"], plain["dense"]):
        print("  wrapped: wrong, not bit-equal to the native model", flush=True)
        all_right = False
    return all_right


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    run = Run("compile", args.name, args, origin(args.device, args.commit))
    run.header()
    why = backbone.missing_memory(args.shape, max(args.lengths), args.device, args.dtype)
    if why is not None:
        leave_out(args.name, why)
        return 0
    with torch.no_grad():
        found = models(args)
        for n in args.lengths:
            torch._dynamo.reset()
            cases = make_cases(args, found, n)
            try:
                if not check(args, cases):
                    return 1
                run.length(n, [case for name, case in cases.items() if wanted(args, name)])
            except torch.OutOfMemoryError as error:
                leave_out(f"{args.name} at n={n}", reason(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
