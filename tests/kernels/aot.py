"""Compiles what hybrid_prefill launches, for a chip that need not be there, and reports what the compiler made of it.

    python tests/kernels/aot.py < jobs.json > reports.jsonl

A job is {"target": "sm_90", "dtype": "bfloat16", "head_dim": 128, "padded": true, "sink": 128, "tile": {...}}; with
"calls", a list of differences, nothing is compiled: the report then says on what each of them is specialised.
Arguments and options are those of hybrid_prefill._launch itself, caught where it would start the kernel. Needs a
process without TRITON_INTERPRET.
"""

import contextlib
import functools
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from corehead_hf.kernels import hybrid_prefill
from corehead_hf.kernels.tiles import Tile

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
KERNELS = [hybrid_prefill.hybrid_prefill_kernel, hybrid_prefill.hybrid_prefill_warp_specialized_kernel]
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_89": GPUTarget("cuda", 89, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
INSTRUCTIONS = {"HGMMA": "HGMMA", "HMMA": "HMMA", "tcgen05": r"UTC\w*MMA", "TMA": "UTMALDG", "cp.async": "LDGSTS"}
INSTRUCTIONS |= {"spill": "STL|LDL", "USETMAXREG": "USETMAXREG"}


@contextlib.contextmanager
def launches_go_to(handler):
    """Inside, handler(kernel, *args, grid, warmup, **options) is called wherever a kernel would be started."""
    for kernel in KERNELS:
        kernel.run = functools.partial(handler, kernel)
    try:
        yield
    finally:
        for kernel in KERNELS:
            del kernel.run


def launched(job, *, T=256, S=None, B=1, dense=1, window=2048, sink=128, streaming_only=False):
    """What the kernel of one call is specialised on, and what it compiles: its Launch.

    Query as a projection gives it, a view of [B, T, Hq, D]; key and value as a static cache does, longer than S.
    """
    head_dim, dtype, S = job["head_dim"], getattr(torch, job["dtype"]), S or T
    query = torch.empty(B, T, 8, head_dim, dtype=dtype).transpose(1, 2)
    key, value = (torch.empty(B, 2, S + 32, head_dim, dtype=dtype)[:, :, :S] for _ in range(2))
    padding = torch.zeros(B + 1, dtype=torch.int32)[1:] if job["padded"] else None
    made = []
    with launches_go_to(lambda kernel, *args, **options: made.append(Launch(job["target"], kernel, args, options))):
        hybrid_prefill.hybrid_attention(
            query, key, value, torch.arange(8) < dense, sink_size=sink, window_size=window, scaling=0.1,
            first_token=padding, tile=Tile(**job["tile"]), streaming_only=streaming_only,
        )  # fmt: skip
    (launch,) = made
    return launch


class Launch:
    """One start of a kernel: `keys`, on which Triton specialises it, and what is compiled for them."""

    def __init__(self, target, kernel, args, options):
        self.target, self.kernel = TARGETS[target], kernel
        backend = make_backend(self.target)
        options = {name: value for name, value in options.items() if name not in ("grid", "warmup")}
        options["PTX"] = self.target.backend == "cuda"  # the arguments lie on the CPU, the kernel is for a GPU
        bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        arguments, self.keys, _ = bind(*args, **options)
        packed = kernel._pack_args(backend, options, arguments, self.keys, options)
        self.options, self.signature, self.constants, self.attributes = packed

    def compile(self):
        source = ASTSource(self.kernel, self.signature, self.constants, self.attributes)
        return triton.compile(source, target=self.target, options=self.options.__dict__)


def compile_job(job):
    """The report on one job: {"job", "seconds", "shared", "warps", "registers", "stack", instruction counts, ...}."""
    start = time.time()
    launch = launched(job, sink=job["sink"])
    kernel = launch.compile()
    report = {"shared": kernel.metadata.shared, "warps": kernel.metadata.num_warps, "signature": launch.signature}
    report |= {"loops": kernel.asm["ttir"].count("scf.for"), "else": kernel.asm["ttir"].count("} else {")}
    report |= _nvidia(kernel.asm["cubin"]) if "cubin" in kernel.asm else _amd(kernel.asm["amdgcn"])
    return {"job": job, "seconds": round(time.time() - start, 1)} | report


def keys_job(job):
    return {"job": job, "keys": [repr((x := launched(job, **call)).keys + [x.constants]) for call in job["calls"]]}


def _nvidia(cubin):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, assembly = (
            subprocess.run([TOOLS / tool[0], *tool[1:], file.name], check=True, capture_output=True, text=True).stdout
            for tool in (["cuobjdump", "-res-usage"], ["nvdisasm"])
        )
    registers, stack, local = map(int, re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage).groups())
    counts = {name: len(re.findall(rf"\b(?:{pattern})\b", assembly)) for name, pattern in INSTRUCTIONS.items()}
    return {"registers": registers, "stack": stack + local} | counts


def _amd(assembly):
    # scalar registers spill into lanes of a vector register: that costs no memory, and is not counted
    names = {"registers": "vgpr_count", "spill": "vgpr_spill_count", "stack": "private_segment_fixed_size"}
    counts = {name: int(re.search(rf"\.{field}:\s+(\d+)", assembly)[1]) for name, field in names.items()}
    return counts | {"MFMA": len(re.findall(r"\bv_mfma", assembly))}


def main():
    for job in json.load(sys.stdin):
        try:
            report = keys_job(job) if "calls" in job else compile_job(job)
        except Exception as error:
            report = {"job": job, "error": f"{type(error).__name__}: {error} {error.__cause__ or ''}"[-2000:]}
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
