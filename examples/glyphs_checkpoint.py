"""What a tiny Glyphs checkpoint is: tokenizer, processor files, configuration and input layout of each family.

All files are written as the families' Hub checkpoints write them (transformers 4.57 layout), so that every supported
transformers version reads them with its own classes. Used by train_glyphs.py; nothing here is part of the package.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from corehead_hf.data.glyphs import CELL, COLORS, LETTERS, QUESTIONS

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
SPECIAL += ["<|video_pad|>", "<image>", "<video>", "<img>", "</img>", "<IMG_CONTEXT>"]
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
VOCABULARY = 384
SIDE = 4  # cells along a page of the two families whose image size is fixed
EXAMPLE_CELLS = (4, SIDE, SIDE)


def train_tokenizer() -> Tokenizer:
    """A byte-level BPE of the Qwen2 form, trained on the prompts: every letter and every colour is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    texts = [question.format(letter) for question in QUESTIONS for letter in LETTERS] * 2
    texts += [*COLORS, *(f"letter {letter}" for letter in LETTERS)] * 50 + [
        "system\nuser\nassistant\n",
        "user assistant page image video second",
    ] * 20
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


TOKENIZER = train_tokenizer()
ID = {token: TOKENIZER.token_to_id(token) for token in SPECIAL}
END_OF_TURN = ID["<|im_end|>"]
LETTER_IDS = np.array([TOKENIZER.encode(" " + letter).ids for letter in LETTERS])[:, 0]
COLOR_IDS = np.array([TOKENIZER.encode(color).ids for color in COLORS])[:, 0]
assert all(len(TOKENIZER.encode(text).ids) == 1 for text in [*COLORS, *(" " + letter for letter in LETTERS)])

TEMPLATE = """{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + 'AFTER_ROLE' -}}
{%- if message['content'] is string -%}{{- message['content'] -}}{%- else -%}
{%- for content in message['content'] -%}
{%- if content['type'] == 'image' -%}{{- 'IMAGE' -}}{%- elif content['type'] == 'video' -%}{{- 'VIDEO' -}}
{%- elif content['type'] == 'text' -%}{{- content['text'] -}}{%- endif -%}
{%- endfor -%}{%- endif -%}{{- '<|im_end|>AFTER_TURN' -}}
{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


@dataclass(frozen=True)
class Recipe:
    """One family: its files and how Glyphs become its model inputs."""

    model_type: str
    architecture: str
    config: dict
    image_processor: dict
    video_processor: dict
    processor: dict
    image_token: str  # one image in the chat template, before the processor expands it
    video_token: str
    expanded: Callable[[int, int], str]  # (rows, columns) -> one image after the processor expanded it
    after_image: str
    after_role: str
    after_turn: str
    fixed_pages: bool
    min_pages: int
    pack: Callable
    features: Callable

    @property
    def start_of_user(self) -> str:
        return "<|im_start|>user" + self.after_role

    @property
    def end_of_user(self) -> str:
        return "<|im_end|>" + self.after_turn + "<|im_start|>assistant\n"

    @property
    def end_of_assistant(self) -> str:
        return "<|im_end|>" + self.after_turn

    def media_text(self, pages: int, rows: int, columns: int) -> str:
        return self.start_of_user + (self.expanded(rows, columns) + self.after_image) * pages

    def layout(self, rng: np.random.Generator, max_cells: int) -> tuple[int, int, int]:
        """(pages, rows, columns) of a training step."""
        if self.fixed_pages:
            return int(rng.integers(self.min_pages, max(self.min_pages, max_cells // SIDE**2) + 1)), SIDE, SIDE
        while True:
            pages = 1 if rng.random() < 0.4 else int(rng.integers(2, 26))
            rows, columns = (SIDE, SIDE) if pages > 1 else (int(n) for n in rng.integers(2, 21, 2))
            if (4 if max_cells < 20 else 12) <= pages * rows * columns <= max_cells:
                return pages, rows, columns

    def is_vision_encoder(self, name: str) -> bool:
        return (".visual." in name and "merger" not in name) or ".vision_tower." in name

    def vision_parameters(self, model) -> list:
        parts = ("visual", "vision_tower", "multi_modal_projector")
        return [p for part in parts if hasattr(model.model, part) for p in getattr(model.model, part).parameters()]

    def initialize(self, model) -> None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "deepstack" in name and "linear_fc2" in name:
                    parameter.zero_()  # neutral at first, trained in stage 2
                if "language_model" in name and ("q_norm" in name or "k_norm" in name):
                    parameter.fill_(1.5)  # lets attention become sharp early


def _text(**extra) -> dict:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "initializer_range": 0.05,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "bos_token_id": None,
        "eos_token_id": ID["<|im_end|>"],
        "pad_token_id": ID["<|endoftext|>"],
        "tie_word_embeddings": True,
        **extra,
    }


def _vision(**extra) -> dict:
    return {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.05, **extra}


def qwen_pixels(images: torch.Tensor) -> torch.Tensor:
    """float [B, pages, 3, H, W] -> Qwen2VLImageProcessor's patch order: 2 x 2 merge blocks, (channel, time, y, x)."""
    batch, pages, _, height, width = images.shape
    x = images.reshape(batch * pages, 3, height // 16, 2, 8, width // 16, 2, 8).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return x.unsqueeze(6).expand(*x.shape[:6], 2, 8, 8).reshape(-1, 3 * 2 * 8 * 8)


def _qwen_grid(images: torch.Tensor) -> torch.Tensor:
    batch, pages, _, height, width = images.shape
    return torch.tensor([[1, height // 8, width // 8]]).repeat(batch * pages, 1)


def _qwen_pack(model, ids, images) -> dict:
    grid = _qwen_grid(images)
    kinds = (ids[:1] == ID["<|image_pad|>"]).int()
    positions, _ = model.model.get_rope_index(ids[:1], kinds, image_grid_thw=grid[: images.shape[1]])
    positions = positions.expand(3, len(ids), -1)
    return {"input_ids": ids, "position_ids": positions, "pixel_values": qwen_pixels(images), "image_grid_thw": grid}


def _llava_vision(images) -> dict:
    sizes = torch.tensor([[SIDE * CELL] * 2]).repeat(images.shape[0] * images.shape[1], 1)
    counts = torch.tensor([images.shape[1]] * images.shape[0])
    return {"pixel_values": images.flatten(0, 1)[:, None], "image_sizes": sizes, "batch_num_images": counts}


def _llava_features(model, images) -> torch.Tensor:
    features = model.model.get_image_features(**_llava_vision(images)).pooler_output
    return torch.stack(list(features))[:, :-1].flatten(0, 1)  # without the newline of every image


NORMALIZE = {
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
}
PAGE = {"height": SIDE * CELL, "width": SIDE * CELL}

RECIPES = {
    "qwen3_vl": Recipe(
        model_type="qwen3_vl",
        architecture="Qwen3VLForConditionalGeneration",
        config={
            "text_config": _text(
                model_type="qwen3_vl_text",
                rope_theta=500000.0,
                rope_scaling={"rope_type": "default", "mrope_section": [6, 5, 5], "mrope_interleaved": True},
            ),
            "vision_config": _vision(
                model_type="qwen3_vl",
                depth=2,
                num_heads=2,
                in_channels=3,
                patch_size=8,
                spatial_merge_size=2,
                temporal_patch_size=2,
                out_hidden_size=128,
                num_position_embeddings=256,
                deepstack_visual_indexes=[0],
            ),
            "image_token_id": ID["<|image_pad|>"],
            "video_token_id": ID["<|video_pad|>"],
            "vision_start_token_id": ID["<|vision_start|>"],
            "vision_end_token_id": ID["<|vision_end|>"],
        },
        image_processor={
            "image_processor_type": "Qwen2VLImageProcessor",
            "size": {"shortest_edge": 256, "longest_edge": 4194304},
            "patch_size": 8,
            "temporal_patch_size": 2,
            "merge_size": 2,
        },
        video_processor={
            "video_processor_type": "Qwen3VLVideoProcessor",
            "size": {"shortest_edge": 256, "longest_edge": 4194304},
            "patch_size": 8,
            "temporal_patch_size": 2,
            "merge_size": 2,
        },
        processor={"processor_class": "Qwen3VLProcessor"},
        image_token="<|vision_start|><|image_pad|><|vision_end|>",
        video_token="<|vision_start|><|video_pad|><|vision_end|>",
        expanded=lambda rows, columns: f"<|vision_start|>{'<|image_pad|>' * (rows * columns)}<|vision_end|>",
        after_image="",
        after_role="\n",
        after_turn="\n",
        fixed_pages=False,
        min_pages=1,
        pack=_qwen_pack,
        features=lambda model, images: model.model.visual(qwen_pixels(images), _qwen_grid(images)).pooler_output,
    ),
    "llava_onevision": Recipe(
        model_type="llava_onevision",
        architecture="LlavaOnevisionForConditionalGeneration",
        config={
            "text_config": _text(model_type="qwen2", rope_theta=1000000.0),
            "vision_config": _vision(
                model_type="siglip_vision_model",
                num_hidden_layers=2,
                num_attention_heads=2,
                patch_size=CELL,
                image_size=SIDE * CELL,
                vision_use_head=False,
            ),
            "image_token_index": ID["<image>"],
            "video_token_index": ID["<video>"],
            "image_grid_pinpoints": [[SIDE * CELL, SIDE * CELL]],
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_9",
            "projector_hidden_act": "gelu",
        },
        image_processor={
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "size": PAGE,
            "image_grid_pinpoints": [[SIDE * CELL, SIDE * CELL]],
            "do_pad": True,
        },
        video_processor={"video_processor_type": "LlavaOnevisionVideoProcessor", "size": PAGE},
        processor={
            "processor_class": "LlavaOnevisionProcessor",
            "num_image_tokens": SIDE**2,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_9",
        },
        image_token="<image>\n",
        video_token="<video>\n",
        expanded=lambda rows, columns: "<image>" * (rows * columns + 1),
        after_image="\n",
        after_role=" ",
        after_turn="",
        fixed_pages=True,
        min_pages=2,  # a single image takes the any-resolution path
        pack=lambda model, ids, images: {"input_ids": ids, **_llava_vision(images)},
        features=_llava_features,
    ),
    "internvl": Recipe(
        model_type="internvl",
        architecture="InternVLForConditionalGeneration",
        config={
            "text_config": _text(model_type="qwen3", rope_theta=1000000.0),
            "vision_config": _vision(
                model_type="internvl_vision",
                num_hidden_layers=2,
                num_attention_heads=2,
                patch_size=[8, 8],
                image_size=[SIDE * CELL, SIDE * CELL],
            ),
            "image_token_id": ID["<IMG_CONTEXT>"],
            "image_seq_length": SIDE**2,
            "downsample_ratio": 0.5,
            "projector_hidden_act": "gelu",
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "default",
        },
        image_processor={
            "image_processor_type": "GotOcr2ImageProcessor",
            "size": PAGE,
            "crop_to_patches": False,
            "min_patches": 1,
            "max_patches": 1,
        },
        video_processor={"video_processor_type": "InternVLVideoProcessor", "size": PAGE},
        processor={"processor_class": "InternVLProcessor", "image_seq_length": SIDE**2},
        image_token="<IMG_CONTEXT>\n",
        video_token="<video>\n",
        expanded=lambda rows, columns: f"<img>{'<IMG_CONTEXT>' * (rows * columns)}</img>",
        after_image="\n",
        after_role="\n",
        after_turn="\n",
        fixed_pages=True,
        min_pages=1,
        pack=lambda model, ids, images: {"input_ids": ids, "pixel_values": images.flatten(0, 1)},
        features=lambda model, images: model.model.get_image_features(
            pixel_values=images.flatten(0, 1)
        ).pooler_output.flatten(0, 1),
    ),
}


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _tokenizer_config(recipe: Recipe) -> dict:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    named = {"start_image_token": "<img>", "end_image_token": "</img>"}
    named |= {"context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "processor_class": recipe.processor["processor_class"],
        "added_tokens_decoder": {str(ID[token]): {"content": token, **flags} for token in SPECIAL},
        "additional_special_tokens": SPECIAL[1:],
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": 4096,
        "padding_side": "left",
        "split_special_tokens": False,
        **({"extra_special_tokens": named, **named} if recipe.model_type == "internvl" else {}),
    }


def write_checkpoint(recipe: Recipe, folder: Path, model=None, training: dict | None = None):
    """Write every file of the checkpoint but its card; weights (bfloat16) and training.json once there is a model."""
    folder.mkdir(parents=True, exist_ok=True)
    base = {"architectures": [recipe.architecture], "model_type": recipe.model_type, "dtype": "bfloat16"}
    _write_json(folder / "config.json", {**base, "tie_word_embeddings": True, **recipe.config})
    stop = {"eos_token_id": ID["<|im_end|>"], "pad_token_id": ID["<|endoftext|>"], "do_sample": False}
    _write_json(folder / "generation_config.json", stop)
    shared = {"processor_class": recipe.processor["processor_class"], **NORMALIZE}
    _write_json(folder / "preprocessor_config.json", {**shared, **recipe.image_processor})
    _write_json(folder / "video_preprocessor_config.json", {**shared, **recipe.video_processor})
    _write_json(folder / "processor_config.json", recipe.processor)
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(recipe))
    TOKENIZER.save(str(folder / "tokenizer.json"))
    bpe = json.loads(TOKENIZER.to_str())["model"]
    _write_json(folder / "vocab.json", bpe["vocab"])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in bpe["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    template = TEMPLATE.replace("\n{", "{").strip().replace("AFTER_ROLE", recipe.after_role.replace("\n", "\\n"))
    template = template.replace("AFTER_TURN", recipe.after_turn.replace("\n", "\\n"))
    template = template.replace("IMAGE", recipe.image_token.replace("\n", "\\n"))
    template = template.replace("VIDEO", recipe.video_token.replace("\n", "\\n"))
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    if model is not None:
        state = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
        if recipe.model_type == "llava_onevision":
            # SigLIP's `vision_model` level: Hub checkpoints and transformers 4.57 have it, 5.23 maps it away.
            level = "vision_tower.vision_model."
            state = {k if level in k else k.replace("vision_tower.", level): v for k, v in state.items()}
        save_file(state, str(folder / "model.safetensors"), metadata={"format": "pt"})
        (folder / "model.safetensors").chmod(0o644)
    if training is not None:
        _write_json(folder / "training.json", training)
    return AutoTokenizer.from_pretrained(folder)
