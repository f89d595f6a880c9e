"""The text backbones that are timed: their published shapes, and the head counts the paper gives for them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A text backbone inside one of the supported families.

    Attributes:
        family, text: model types of the whole model and of its text tower.
        head_counts: dense heads in the paper's tables; empty where it has none.
    """

    name: str
    family: str
    text: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    rope_theta: float
    head_counts: tuple[int, ...] = ()

    @property
    def qk_norm(self) -> bool:
        return self.text != "qwen2"

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer's seven matrices."""
        qkv = self.hidden * (self.heads + 2 * self.kv_heads) * self.head_dim
        return qkv + self.heads * self.head_dim * self.hidden + 3 * self.hidden * self.intermediate

    @property
    def parameters(self) -> int:
        """All weights but norms: the layers, the embedding and the output matrix."""
        return self.layers * self.layer_parameters + 2 * self.vocabulary * self.hidden

    def cache_elements(self, n: int) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * n


QWEN3_VL = ("qwen3_vl", "qwen3_vl_text")
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("Qwen3-VL-4B", *QWEN3_VL, 36, 2560, 9728, 32, 8, 128, 151936, 5e6),
        Shape("Qwen3-VL-8B", *QWEN3_VL, 36, 4096, 12288, 32, 8, 128, 151936, 5e6, (20, 50, 100, 150, 250)),
        Shape("Qwen3-VL-32B", *QWEN3_VL, 64, 5120, 25600, 64, 8, 128, 151936, 5e6, (50, 100, 150, 200, 250, 300)),
        Shape(
            "LLaVA-OneVision-7B", "llava_onevision", "qwen2", 28, 3584, 18944, 28, 4, 128, 152064, 1e6,
            (20, 30, 50, 100, 150),
        ),
        Shape("InternVL3.5-8B", "internvl", "qwen3", 36, 4096, 12288, 32, 8, 128, 151936, 1e6),
        Shape("tiny", *QWEN3_VL, 3, 128, 256, 8, 2, 32, 512, 1e4),
    )
}  # fmt: skip
