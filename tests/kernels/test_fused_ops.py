"""Fused operations against float64, never more than twice as far from it as the real library's own operations.

Interpreted on the CPU; on a machine with CUDA the same tests run compiled. As a program, this file compiles the
kernels for the targets it is given and prints what they need.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm, apply_rotary_pos_emb

from corehead_hf.kernels import fused_ops

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALVES = [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]
DTYPES = [torch.float32, *HALVES]
EPS = 1e-6


@pytest.fixture(autouse=True)
def poison():
    """Uninitialised memory holds NaN: what a kernel leaves out shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def launches(monkeypatch):
    """How often each Triton form ran."""
    from corehead_hf.kernels import fused_triton

    counts = {}

    def counted(name):
        real = getattr(fused_triton, name)

        def run(*args):
            counts[name] = counts.get(name, 0) + 1
            return real(*args)

        return run

    for name in ("rms_norm", "norm_rope", "silu_mul"):
        monkeypatch.setattr(fused_triton, name, counted(name))
    return counts


def randn(*shape, dtype=torch.float32, seed=0, scale=1.0, shift=0.0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale + shift
    return values.to(DEVICE, dtype)


def norm64(x, weight):
    x = x.double()
    return weight.double() * x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt()


def rope64(x, cos, sin):
    x, cos, sin = x.double(), cos.double()[:, None], sin.double()[:, None]
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


def native_norm(x, weight):
    norm = Qwen3RMSNorm(len(weight), EPS)
    norm.weight = torch.nn.Parameter(weight, requires_grad=False)
    return norm(x)


def assert_as_good(found, native, exact):
    assert found.dtype == native.dtype and found.shape == native.shape
    errors = [float((x.double() - exact).abs().max()) for x in (found, native)]
    assert errors[0] <= 2 * errors[1], f"{errors[0]:.3g} from float64; the native operations {errors[1]:.3g}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(64, 16), (3, 7, 96), (2, 5, 4, 64), (257, 33), (3, 1000), (2, 8192)], ids=str)
def test_rms_norm(dtype, shape, launches):
    x = randn(*shape, dtype=dtype, scale=3)
    weight = randn(shape[-1], dtype=dtype, seed=1, scale=0.2, shift=1)
    found = fused_ops.rms_norm(x, weight, EPS)
    assert launches == {"rms_norm": 1}
    assert_as_good(found, native_norm(x, weight), norm64(x, weight))


def test_rms_norm_of_views():
    weight = randn(64, seed=1, shift=1)
    x = randn(3, 6, 128)
    for view in (
        x[:, :-1, :64],
        x[:, -1:, 64:],
        x[..., ::2],
        x[:, :3, :64].transpose(0, 1),
        x[:1, :1, :64],
        x[:0, :, :64],
    ):
        torch.testing.assert_close(fused_ops.rms_norm(view, weight, EPS), native_norm(view, weight), atol=1e-6, rtol=0)


def test_rms_norm_of_extreme_rows():
    x = torch.stack([torch.zeros(64), torch.full((64,), 1e-20), torch.full((64,), 1e15)]).to(DEVICE)
    weight = torch.ones(64, device=DEVICE)
    torch.testing.assert_close(fused_ops.rms_norm(x, weight, EPS), native_norm(x, weight))


def rope_inputs(dtype, B=2, T=9, Hq=6, Hkv=2, D=16, batch=None):
    query = randn(B, T, Hq, D, dtype=dtype, seed=2).transpose(1, 2)
    key = randn(B, T, Hkv, D, dtype=dtype, seed=3).transpose(1, 2)
    angles = randn(batch or B, T, D, seed=4, scale=3)
    return query, key, angles.cos().to(dtype), angles.sin().to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normed", [True, False], ids=["norm", "no norm"])
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"B": 1, "T": 1},
        {"batch": 1},
        {"T": 37, "Hq": 7, "Hkv": 1, "D": 64},
        {"B": 1, "T": 5, "Hq": 4, "Hkv": 4, "D": 80},
        {"B": 1, "T": 3, "Hq": 3, "Hkv": 1, "D": 256},
    ],
    ids=str,
)
def test_norm_rope(dtype, normed, sizes, launches):
    query, key, cos, sin = rope_inputs(dtype, **sizes)
    D = query.shape[-1]
    weights = [randn(D, dtype=dtype, seed=s, scale=0.2, shift=2) for s in (5, 6)] if normed else [None, None]
    found = fused_ops.norm_rope(query, key, cos, sin, *weights, EPS, EPS)
    assert launches == {"norm_rope": 1}
    states = (query, key)
    exact = [norm64(x, w) if normed else x for x, w in zip(states, weights, strict=True)]
    native = [native_norm(x, w) if normed else x for x, w in zip(states, weights, strict=True)]
    native = apply_rotary_pos_emb(*native, cos, sin)
    for index in range(2):
        assert found[index].stride() == states[index].stride(), "the memory order of the projection is kept"
        assert_as_good(found[index], native[index], rope64(exact[index], cos, sin))


def test_norm_rope_of_other_layouts(launches):
    query, key, cos, sin = rope_inputs(torch.float32)
    expected = apply_rotary_pos_emb(query, key, cos, sin)
    wide = randn(2, 9, 6, 32)
    wide[..., :16] = query.transpose(1, 2)
    taken = (query.contiguous(), wide[..., :16].transpose(1, 2))
    for form in taken:
        found = fused_ops.norm_rope(form, key.contiguous(), cos, sin)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert launches == {"norm_rope": len(taken)}
    wide[..., ::2] = query.transpose(1, 2)
    found = fused_ops.norm_rope(wide[..., ::2].transpose(1, 2), key, cos, sin)
    assert launches == {"norm_rope": len(taken)}, "a strided last dimension runs natively"
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_norm_rope_of_keys_alone(launches):
    query, key, cos, sin = rope_inputs(torch.float32)
    nothing, found = fused_ops.norm_rope(query[:, :0], key, cos, sin)
    assert nothing.shape == (2, 0, 9, 16) and launches == {"norm_rope": 1}
    torch.testing.assert_close(found, apply_rotary_pos_emb(query, key, cos, sin)[1], atol=1e-6, rtol=0)


def test_norm_rope_with_different_eps_and_one_norm():
    query, key, cos, sin = rope_inputs(torch.float32)
    weight = randn(16, seed=5, shift=2)
    found = fused_ops.norm_rope(1e-3 * query, key, cos, sin, weight, None, 1e-2)
    x = 1e-3 * query.double()
    expected = weight.double() * x / (x.pow(2).mean(-1, keepdim=True) + 1e-2).sqrt()
    torch.testing.assert_close(found[0].double(), rope64(expected, cos, sin), atol=1e-8, rtol=1e-5)
    torch.testing.assert_close(found[1].double(), rope64(key, cos, sin), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (3, 7), (2, 5, 96), (3, 4096), (5000,)], ids=str)
def test_silu_mul(dtype, shape, launches):
    gate, up = (randn(*shape, dtype=dtype, seed=seed, scale=4) for seed in (7, 8))
    exact = gate.double() * torch.sigmoid(gate.double()) * up.double()
    found = fused_ops.silu_mul(gate, up)
    assert launches == {"silu_mul": 1}
    native = torch.nn.functional.silu(gate) * up
    if len(shape) == 1 and shape[0] == 1:  # one number may be exact by luck
        torch.testing.assert_close(found, native)
    else:
        assert_as_good(found, native, exact)


def test_silu_mul_of_views_and_large_numbers():
    both = randn(3, 5, 64)
    both[0, 0] = torch.linspace(-200, 200, 64)
    gate, up = both[..., :32], both[..., 32:]
    for g, u in ((gate, up), (both[..., ::2], both[..., 1::2]), (gate.transpose(0, 1), up.transpose(0, 1))):
        expected = torch.nn.functional.silu(g) * u
        torch.testing.assert_close(fused_ops.silu_mul(g, u), expected, atol=1e-6, rtol=1e-6)


def test_gradients_run_the_native_operations(launches):
    query, key, cos, sin = rope_inputs(torch.float32)
    x, weight = randn(3, 16, seed=9), randn(16, seed=5, shift=1).requires_grad_()
    for run in (
        lambda: fused_ops.rms_norm(x, weight, EPS),
        lambda: fused_ops.norm_rope(query, key, cos, sin, weight, weight)[1],
        lambda: fused_ops.silu_mul(x * weight, x),
    ):
        (gradient,) = torch.autograd.grad(run().square().sum(), weight)
        assert bool(gradient.abs().sum() > 0)
        with torch.no_grad():
            run()
    assert launches == {"rms_norm": 1, "norm_rope": 1, "silu_mul": 1}


def test_where_triton_does_not_run(monkeypatch):
    monkeypatch.setattr(fused_ops, "_triton", lambda: None)
    assert not fused_ops.triton_runs("cuda")
    query, key, cos, sin = rope_inputs(torch.float16)
    weight = randn(16, dtype=torch.float16, seed=5, shift=2)
    native = apply_rotary_pos_emb(native_norm(query, weight), native_norm(key, weight), cos, sin)
    found = fused_ops.norm_rope(query, key, cos, sin, weight, weight, EPS, EPS)
    assert all(torch.equal(a, b) for a, b in zip(found, native, strict=True)), "operation by operation"
    assert torch.equal(fused_ops.silu_mul(query, query), torch.nn.functional.silu(query) * query)
    x, weight = randn(7, 96, dtype=torch.float16), randn(96, dtype=torch.float16, seed=1, shift=1)
    assert_as_good(fused_ops.rms_norm(x, weight, EPS), native_norm(x, weight), norm64(x, weight))


def test_dtypes_the_kernels_do_not_take(launches):
    query, key, cos, sin = (x.double() for x in rope_inputs(torch.float32))
    found = fused_ops.norm_rope(query, key, cos, sin)
    assert all(torch.equal(a, b) for a, b in zip(found, apply_rotary_pos_emb(query, key, cos, sin), strict=True))
    mixed = fused_ops.norm_rope(query, key, cos.float(), sin.float())
    assert mixed[0].dtype == torch.float64 and launches == {}


def test_the_package_imports_without_triton():
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "from corehead_hf.kernels import fused_ops\n"
        "import corehead_hf.fusion, corehead_hf.model, torch\n"
        "assert not fused_ops.triton_runs('cuda')\n"
        "fused_ops.rms_norm(torch.ones(2, 4), torch.ones(4), 1e-6)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.gpu
def test_no_length_compiles_anew():
    from corehead_hf.kernels import fused_triton

    def compiled():
        kernels = (fused_triton.rms_norm_kernel, fused_triton.norm_rope_kernel, fused_triton.silu_mul_kernel)
        return [len(kernel.device_caches[torch.cuda.current_device()][0]) for kernel in kernels]

    def run(T):
        query, key, cos, sin = rope_inputs(torch.bfloat16, B=1, T=T, D=64)
        fused_ops.norm_rope(query, key, cos, sin)
        x = randn(1, T, 256, dtype=torch.bfloat16)
        fused_ops.rms_norm(x, x[0, 0], EPS)
        fused_ops.silu_mul(x, x)

    run(7)
    before = compiled()
    for T in (1, 2, 16, 33, 1024):
        run(T)
    assert compiled() == before


@pytest.mark.gpu
def test_more_elements_than_32_bits_count():
    rows, H = 2**20 + 3, 2048
    x = torch.ones(rows, H, dtype=torch.bfloat16, device="cuda")
    x[-1] = 3
    weight = torch.full((H,), 2.0, dtype=torch.bfloat16, device="cuda")
    assert bool((fused_ops.rms_norm(x, weight, EPS)[-2:] == 2).all())
    product = fused_ops.silu_mul(x, x)
    assert torch.equal(product[-1], torch.nn.functional.silu(x[-1]) * x[-1])
    query = x[: 2**20].view(1, 2**20, 16, 128).transpose(1, 2)
    cos = torch.full((1, 2**20, 128), 0.5, dtype=torch.bfloat16, device="cuda")
    found, _ = fused_ops.norm_rope(query, query[:, :1], cos, torch.zeros_like(cos))
    assert bool((found[:, :, -2:] == 0.5).all())


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
def test_compiled_without_spills_and_with_wide_loads(target, tmp_path):
    """Ahead of time, without a GPU. A mask that the compiler cannot divide once cost every wide load of silu_mul."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    result = subprocess.run([sys.executable, __file__, target], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    reports = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(reports) == 5
    for report in reports:
        assert report["spilled"] == 0, report
        assert report["wide"] > 0 and report["narrow"] == 0, report


def _compile_all(target):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from corehead_hf.kernels import fused_triton as f

    heads = {"HALF": 64, "COLUMNS": 64, "ROWS": 32}
    cases = [
        (f.rms_norm_kernel, {"H": 4096, "COLUMNS": 4096, "ROWS": 1}, 8),
        (f.rms_norm_kernel, {"H": 5120, "COLUMNS": 8192, "ROWS": 1}, 16),
        (f.norm_rope_kernel, {"Q_HEADS": 32, "K_HEADS": 8, "NORM_Q": True, "NORM_K": True, **heads}, 8),
        (f.norm_rope_kernel, {"Q_HEADS": 28, "K_HEADS": 4, "NORM_Q": False, "NORM_K": False, **heads}, 8),
        (f.silu_mul_kernel, {"STEP": 16, "BLOCK": 2048}, 4),
    ]
    cuda = target.startswith("sm_")
    machine = GPUTarget("cuda", int(target[3:]), 32) if cuda else GPUTarget("hip", target, 64)
    plain = {"num_rows", "T", "num_steps"}
    pointers = {"x", "weight", "out", "q", "k", "q_weight", "k_weight", "q_out", "k_out", "cos", "sin", "gate", "up"}
    for kernel, constants, warps in cases:
        signature, attributes = {}, {}
        for index, name in enumerate(kernel.arg_names):
            kind = "constexpr" if name in constants else "fp32" if name.endswith("eps") else "i32"
            signature[name] = "*bf16" if name in pointers else kind
            if name in pointers or (kind == "i32" and name not in plain):  # Triton sees that these divide by 16
                attributes[(index,)] = [["tt.divisibility", 16]]
        known = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
        source = ASTSource(fn=kernel, signature=signature, constexprs=known, attrs=attributes)
        compiled = triton.compile(source, target=machine, options={"num_warps": warps, "enable_fp_fusion": True})
        report = _read_cubin(compiled.asm["cubin"]) if cuda else _read_gcn(compiled.asm["amdgcn"])
        print(json.dumps({"kernel": kernel.__name__, **report}))


def _read_cubin(cubin):
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, sass = (
            subprocess.run([tool, flag, file.name], capture_output=True, text=True, check=True).stdout
            for flag in ("-res-usage", "-sass")
        )
    stack, local = re.search(r"STACK:(\d+) .*LOCAL:(\d+)", usage).groups()
    moves = re.findall(r"\b(?:LDG|STG)\.E[.A-Z0-9]*", sass)
    wide = [move for move in moves if ".128" in move]
    return {"spilled": int(stack) + int(local), "wide": len(wide), "narrow": len(moves) - len(wide)}


def _read_gcn(assembly):
    moves = re.findall(r"(?:buffer|global)_(?:load|store)_\w+", assembly)
    wide = [move for move in moves if "dwordx" in move]
    spills = re.search(r"\.vgpr_spill_count:\s+(\d+)", assembly)
    return {"spilled": int(spills[1]), "wide": len(wide), "narrow": len(moves) - len(wide)}


if __name__ == "__main__":
    _compile_all(sys.argv[1])
