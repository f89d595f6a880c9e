"""Train one tiny vision-language model on Glyphs, from scratch, on two CPU cores, and write it as a Hub checkpoint.

    OMP_NUM_THREADS=1 python examples/train_glyphs.py --family qwen3_vl --out hub_artifacts/glyphs-qwen3-vl

Stage 1 aligns the vision tower with the token embeddings (a visual token should resemble its letter and its colour);
the decoder is not run. Stage 2 trains the decoder on single- and multi-turn questions and on "caption" samples
(image, then letter colour letter colour ...), which break the plateau of "some colour that is present"; the number of
cells grows with the running accuracy. Loss stands on answer tokens only.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from glyphs_checkpoint import COLOR_IDS, END_OF_TURN, EXAMPLE_CELLS, LETTER_IDS, RECIPES, Recipe, write_checkpoint
from transformers import AttentionInterface, AutoConfig, AutoModelForImageTextToText

from corehead_hf.data import glyphs

HEAD_DROPOUT = {"rate": 0.0}


def plain_attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Causal attention without padding. Short sequences skip SDPA's backward, which is slower on a CPU.

    Heads of layers >= 1 are dropped at random: otherwise a head that looks at no picture may become a single point of
    failure, and "ablating the bottom heads by RAM is harmless" would fail for a reason that RAM cannot see.
    """
    num_tokens, group = query.shape[2], query.shape[1] // key.shape[1]
    if num_tokens > 192:
        output = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    else:
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        future = torch.full((num_tokens, num_tokens), -torch.inf).triu(1)
        output = torch.matmul(torch.softmax(query @ key.transpose(-1, -2) * scaling + future, -1), value)
    if HEAD_DROPOUT["rate"] and module.layer_idx > 0:
        keep = torch.rand(query.shape[0], query.shape[1], 1, 1) >= HEAD_DROPOUT["rate"]
        output = output * keep
    return output.transpose(1, 2).contiguous(), None


class Batches:
    """Random token ids and pixels of one family, drawn into tensors (the processor would take most of a step)."""

    def __init__(self, recipe: Recipe, tokenizer, seed: int):
        self.recipe, self.tokenizer = recipe, tokenizer
        self.rng = np.random.default_rng(seed)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def picture(self, layout, batch: int, min_letters: int):
        num_cells = math.prod(layout)
        most = min(len(glyphs.LETTERS), num_cells)
        num_letters = int(self.rng.integers(min(min_letters, most), most + 1))
        cells = glyphs.sample_cells(self.rng, batch, num_cells, num_letters)
        pixels = glyphs.assemble_pages(glyphs.draw_cells(self.rng, cells), *layout)
        return cells, torch.from_numpy(pixels).float().permute(0, 1, 4, 2, 3) / 127.5 - 1  # [B, pages, 3, H, W]

    def sample(self, layout, batch: int, turns: int, caption: bool):
        """Returns (token ids [B, T], positions whose logits are trained [P], their targets [B, P], pixels).

        The first `turns` positions predict the answers, the rest of a question-and-answer sample the end of each turn.
        """
        cells, pixels = self.picture(layout, batch, min_letters=max(3, turns))
        order = np.argsort(self.rng.random(cells.letters.shape) + 2 * (cells.letters == glyphs.FILLER), axis=1)
        asked = order[:, :turns]  # cell indices of distinct letters
        letters = LETTER_IDS[np.take_along_axis(cells.letters, asked, 1)]
        answers = COLOR_IDS[np.take_along_axis(cells.colors, asked, 1)]
        row, letter_at, answer_at = self.encode(self.recipe.media_text(*layout)), [], []
        if caption:
            row += self.encode(self.recipe.end_of_user)
            for _ in range(turns):
                letter_at.append(len(row))
                answer_at.append(len(row) + 1)
                row += [0, 0]
        for turn in range(0 if caption else turns):
            question = self.encode(glyphs.QUESTIONS[int(self.rng.integers(len(glyphs.QUESTIONS)))].format("A"))
            row += self.encode(self.recipe.start_of_user) if turn else []
            # "Letter A?" starts with the word itself; the letter is always the token " A"
            letter_at.append(len(row) + question.index(int(LETTER_IDS[0])))
            row += question + self.encode(self.recipe.end_of_user)
            answer_at.append(len(row))
            row += [0] + self.encode(self.recipe.end_of_assistant)
        ids = torch.tensor(row).repeat(batch, 1)
        ids[:, letter_at], ids[:, answer_at] = torch.from_numpy(letters), torch.from_numpy(answers)
        ends = [] if caption else answer_at
        targets = np.concatenate([answers, np.full((batch, len(ends)), END_OF_TURN)], axis=1)
        return ids, torch.tensor([*(i - 1 for i in answer_at), *ends]), torch.from_numpy(targets), pixels


def align_vision(model, recipe: Recipe, batches: Batches, steps: int = 120, learning_rate: float = 2e-3) -> float:
    """Stage 1; returns the share of visual tokens whose letter is told right in the last step."""
    embedding = model.get_input_embeddings().weight
    optimizer = torch.optim.AdamW([*recipe.vision_parameters(model), embedding], lr=learning_rate, weight_decay=0.0)
    target_norm = embedding.detach().norm(dim=1).mean() * 2**0.5
    letter_ids = torch.from_numpy(np.append(LETTER_IDS, 0))  # the last class stands for a filler
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1, (step + 1) / 20) * (1 - step / steps)
        layout = EXAMPLE_CELLS
        cells, pixels = batches.picture(layout, max(1, 500 // math.prod(layout)), min_letters=26)
        features = recipe.features(model, pixels)
        unit = F.normalize(features, dim=-1) * 16
        letter_logits = unit @ F.normalize(embedding[letter_ids], dim=-1).T
        color_logits = unit @ F.normalize(embedding[torch.from_numpy(COLOR_IDS)], dim=-1).T
        labels = torch.from_numpy(np.where(cells.letters == glyphs.FILLER, 26, cells.letters)).flatten()
        loss = F.cross_entropy(letter_logits, labels)
        loss = loss + F.cross_entropy(color_logits, torch.from_numpy(cells.colors).flatten())
        loss = loss + 0.1 * (features.norm(dim=-1) / target_norm).log().pow(2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return (letter_logits.argmax(-1) == labels).float().mean().item()


def _optimizer(model, recipe: Recipe, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW over everything but the vision encoder, which is frozen; only matrices decay."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not recipe.is_vision_encoder(name))
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    decayed = [p for n, p in trained if p.ndim >= 2 and "embed" not in n]
    others = [p for n, p in trained if p.ndim < 2 or "embed" in n]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))


def train_decoder(model, recipe: Recipe, batches: Batches, args) -> list[dict]:
    """Stage 2; returns the training curve."""
    rng, curve, started = batches.rng, [], time.time()
    optimizer = _optimizer(model, recipe, args.lr)
    right, max_cells = {True: [0.0], False: [0.0]}, 6.0
    for step in range(args.steps):
        warm = min(1, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * warm * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        # Layers that nothing has trained yet need their heads: drop only once the task is found.
        HEAD_DROPOUT["rate"] = args.head_dropout if max_cells > 60 else 0.0
        caption = rng.random() < (0.7 if max_cells < 40 else 0.23)
        layout = recipe.layout(rng, int(max_cells))
        num_cells = math.prod(layout)
        most = min(num_cells, 12 if caption else 8)
        turns = most if caption else int(rng.choice([1, most, most]))
        batch = int(np.clip(args.tokens // (num_cells + (3 if caption else 16) * turns + 10), 4, 64))
        ids, positions, targets, pixels = batches.sample(layout, batch, turns, caption)
        inputs = recipe.pack(model, ids, pixels)
        logits = model(**inputs, use_cache=False, logits_to_keep=positions).logits
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        right[caption].append((logits.argmax(-1) == targets)[:, :turns].float().mean().item())
        longer = right[len(right[True]) > len(right[False])]
        if np.mean(longer[-12:]) > 0.7:
            max_cells = min(400.0, max_cells * 1.03 + 0.3)
        if (step + 1) % 25 == 0:
            accuracy = {
                name: round(float(np.mean(right[c][-15:])), 3) for name, c in (("caption", True), ("qa", False))
            }
            minutes = round((time.time() - started) / 60, 2)
            curve.append({"step": step + 1, "minutes": minutes, "max_cells": int(max_cells), **accuracy})
            print(json.dumps(curve[-1]), flush=True)
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", required=True, choices=sorted(RECIPES))
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--tokens", type=int, default=1200, help="about how many tokens a step sees")
    parser.add_argument("--head-dropout", type=float, default=0.15, help="share of heads of layers >= 1 dropped a step")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    recipe = RECIPES[args.family]
    tokenizer = write_checkpoint(recipe, args.out)  # everything but the weights
    AttentionInterface.register("plain", plain_attention)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(args.out), dtype=torch.float32)
    recipe.initialize(model)
    batches = Batches(recipe, tokenizer, args.seed)
    print("alignment: letters told right", round(align_vision(model, recipe, batches), 3), flush=True)
    model.set_attn_implementation({"text_config": "plain"})
    curve = train_decoder(model, recipe, batches, args)
    write_checkpoint(recipe, args.out, model=model, training={**vars(args), "out": args.out.name, "curve": curve})


if __name__ == "__main__":
    main()
