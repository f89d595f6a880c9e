"""LLaVA-OneVision against its oracle: golden cases, random cases in every form of input, and wrong mappings."""

import numpy as np
import pytest
from oracle import disagreements, random_evidence, repaint
from oracle_llava_onevision import NO_TORCHVISION, VIDEOS, Flat, Full, Small, Unusual, example, image, ranks, video
from transformers.utils import is_torchvision_available

from corehead_hf import Evidence
from corehead_hf.families import FAMILIES, llava_anyres
from corehead_hf.families.geometry import GLOBAL, NO_PLACE, Geometry
from corehead_hf.families.llava_onevision import LlavaOnevision

FAMILY = FAMILIES["llava_onevision"]


def spelled(runs):
    """[(first, last, step, count), ...]: count runs of ranks, the first from first to last."""
    return [
        rank + step * k for first, last, step, count in runs for k in range(count) for rank in range(first, last + 1)
    ]


PAGES = [(640, 427), (500, 375), (300, 700)]
# What processor and model of transformers 4.57.6 and 5.23.0 showed: media as (width, height), the painted medium and
# box, all visual tokens, tokens of any coverage, runs of tokens of coverage >= 0.5.
GOLDEN = {
    "2 x 2 tiles exactly": (
        [(768, 768)],
        0,
        (140, 112, 420, 336),
        3699,
        400,
        [(113, 122, 27, 8), (1179, 1198, 55, 16)],
    ),
    "a photo, rows unpadded": (
        [(640, 427)],
        0,
        (374, 65, 510, 267),
        2709,
        318,
        [(124, 129, 27, 13), (1091, 1101, 55, 17)],
    ),
    "wide": (
        [(1000, 300)],
        0,
        (600, 60, 900, 240),
        2779,
        569,
        [(152, 158, 0, 1), (178, 186, 27, 16), (1188, 1211, 82, 15)],
    ),
    "tall, columns unpadded": (
        [(300, 1000)],
        0,
        (60, 600, 240, 900),
        2835,
        569,
        [(438, 453, 0, 1), (464, 480, 27, 7), (654, 669, 0, 1), (2008, 2022, 26, 24)],
    ),
    "over nine tiles, shrunk": (
        [(2000, 1500)],
        0,
        (700, 500, 1300, 1000),
        7309,
        815,
        [(253, 260, 27, 9), (2924, 2951, 94, 24)],
    ),
    "third of three": (PAGES, 2, (30, 350, 250, 650), 2190, 117, [(1847, 1855, 27, 11)]),
    "third of three, flat": (
        PAGES,
        2,
        (30, 350, 250, 650),
        6462,
        705,
        [(4818, 4837, 27, 11), (5816, 5833, 24, 23), (6369, 6384, 0, 1)],
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_cases(oracle_of, name):
    sizes, painted, box, visual, any_count, half = GOLDEN[name]
    processor, family = oracle_of(Full).processor, Flat() if "flat" in name else FAMILY
    case = example([image(*size) for size in sizes], Evidence(painted, box))
    prepared = family.prepare(processor, case)
    assert int(prepared.visual_mask.sum()) == visual and len(ranks(prepared)) == any_count
    assert ranks(family.prepare(processor, case, min_coverage=0.5)) == spelled(half)


def test_golden_blind_strip(oracle_of):
    """The last 6 pixels of a tile are in no patch: only the base view sees a box there, and less than half of it."""
    processor = oracle_of(Full).processor
    case = example([image(768, 768)], Evidence(0, (378, 100, 384, 300)))
    prepared = FAMILY.prepare(processor, case)
    assert int(prepared.visual_mask.sum()) == 3699 and ranks(prepared) == spelled([(94, 94, 27, 8)])
    assert ranks(FAMILY.prepare(processor, case, views="global")) == ranks(prepared)
    for policy in ({"views": "hires"}, {"min_coverage": 0.5}):
        with pytest.raises(ValueError, match="no visual token shows its evidence"):
            FAMILY.prepare(processor, case, **policy)


@VIDEOS
def test_golden_video(oracle_of):
    parts = Evidence(0, (64, 64, 160, 160), frames=(1,)), Evidence(0, (0, 0, 320, 240), frames=(3,))
    case, processor = example([video(4, 320, 240)], *parts), oracle_of(Full).processor
    prepared = FAMILY.prepare(processor, case)
    assert int(prepared.visual_mask.sum()) == 785 and len(ranks(prepared)) == 238
    half = FAMILY.prepare(processor, case, min_coverage=0.5)
    assert ranks(half) == spelled([(255, 258, 14, 5), (588, 783, 0, 1)])


FORMS = ("one", "several", "flat", "video", "videos", "mixed", "batch")


def random_media(rng, form, crop, longest):
    """Sides from a quarter of a crop, below which bicubic blur reaches over patches, to `longest`; narrow ones too."""

    def size():
        sides = longest * rng.uniform(0.1, 1), longest * rng.uniform(0.1, 1) * rng.choice([1, 1, 1 / 4, 1 / 8])
        return [max(crop // 4, int(side)) for side in rng.permutation(sides)]

    images = {"one": 1, "video": 0, "videos": 0}.get(form, int(rng.integers(2 - (form == "mixed"), 4)))
    videos = {"video": 1, "videos": 2}.get(form, int(rng.integers(1, 3)) if form == "mixed" else 0)
    frames = int(rng.integers(1, 5))
    media = [image(*size()) for _ in range(images)]
    media += [video(frames, *(max(crop // 4, side // 2) for side in size())) for _ in range(videos)]
    return [media[i] for i in rng.permutation(len(media))]


def random_example(rng, form, crop, longest, row):
    media = random_media(rng, form, crop, longest)
    shown = rng.permutation(len(media))[: rng.integers(1, 3)]
    return example(media, *(random_evidence(rng, media, int(medium)) for medium in shown), id=f"row {row}")


def check(oracle, family, examples):
    """disagreements(), also where prepare refuses a box in a blind strip: then nothing may change."""
    try:
        return disagreements(oracle, family, examples)
    except ValueError as error:
        if "no visual token shows its evidence" not in str(error):
            raise
        if len(examples) > 1:
            return [found for each in examples for found in check(oracle, family, [each])]
    prompt = [family.render(oracle.processor, examples[0])]
    with oracle.nearest():
        pair = [family.encode(oracle.processor, prompt, [repaint(examples[0], paint)]) for paint in (False, True)]
    return ["refused, but it changes"] if oracle.changed(*pair).any() else []


def test_random_cases(case_seed, oracle_of):
    """Every form in turn, one of 20 with the crops of the Hub checkpoint; a batch mixes one image with several."""
    rng = np.random.default_rng(case_seed)
    kind, longest = (Full, 1000) if case_seed % 20 == 0 else (Small if rng.random() < 0.8 else Unusual, 700)
    form = FORMS[case_seed % len(FORMS)]
    forms = [form]
    if form == "batch":
        forms = ["one", "several", str(rng.choice(["one", "several", "video", "mixed"]))]
        forms = [forms[i] for i in rng.permutation(3)]
    if {"video", "videos", "mixed"} & set(forms) and not is_torchvision_available():
        pytest.skip(NO_TORCHVISION)
    examples = [random_example(rng, each, kind.crop, longest, row) for row, each in enumerate(forms)]
    assert check(oracle_of(kind), Flat() if form == "flat" else FAMILY, examples) == []


def reordered(order):
    """A wrong family: `order` takes a medium's geometry and gives the tokens another order."""

    class Wrong(LlavaOnevision):
        def geometries(self, processor, inputs, examples):
            right = super().geometries(processor, inputs, examples)
            return [[taken(tokens, order(tokens)) for tokens in row] for row in right]

    return Wrong()


def taken(tokens, order):
    assert sorted(order) == list(range(len(tokens)))
    return Geometry(tokens.cells[order], tokens.weights[order], tokens.frames[order], tokens.views[order])


def by_columns(tokens):
    """Column-major within the base view and within the grid of tiles, newlines in place."""
    base = np.arange(49).reshape(7, 7).T.ravel()
    newlines = np.flatnonzero(tokens.views == NO_PLACE)
    tiles = np.arange(49, len(tokens)).reshape(len(newlines), -1)
    tiles[:, :-1] = tiles[:, :-1].T.ravel().reshape(len(newlines), -1)
    return np.concatenate([base, tiles.ravel()])


WRONG_ORDERS = {
    "off by one": lambda tokens: np.roll(np.arange(len(tokens)), 1),
    "column-major": by_columns,
    "base view last": lambda tokens: np.argsort(tokens.views == GLOBAL, kind="stable"),
    "newlines ignored": lambda tokens: np.argsort(tokens.views == NO_PLACE, kind="stable"),
}


@pytest.mark.parametrize("size", [(300, 200), (600, 500)], ids=["tiles", "shrunk tiles"])
@pytest.mark.parametrize("wrong", WRONG_ORDERS)
def test_wrong_orders_are_caught(oracle_of, wrong, size):
    width, height = size
    case = example([image(*size)], Evidence(0, (width // 3, height // 3, width // 2, height // 2)))
    assert disagreements(oracle_of(Small), FAMILY, [case]) == []
    assert disagreements(oracle_of(Small), reordered(WRONG_ORDERS[wrong]), [case])


def one_pitch(crops, native, pixels, *, tiles=1, padding=0, outside=0):
    """Patches at 104 / 7 instead of 14 pixels: no blind strips."""
    borders = (np.arange(tiles * crops.side + 1) * crops.size / crops.side - padding) * pixels[0] / pixels[1] - outside
    return llava_anyres.Axis(np.stack([borders[:-1], borders[1:]], axis=1)[:, None], np.ones((len(borders) - 1, 1)))


def nearest_taps(axis, count):
    kept = (np.arange(count) * len(axis)) // count
    return llava_anyres.Axis(axis.cells[kept], axis.weights[kept])


@pytest.mark.parametrize("media", [[image(300, 200)], [image(300, 200), image(90, 200)]], ids=["one", "several"])
def test_one_pitch_for_all_patches_is_caught(oracle_of, monkeypatch, media):
    case = example(media, Evidence(0, (180, 100, 250, 150)))
    monkeypatch.setattr(llava_anyres, "axis", one_pitch)
    assert disagreements(oracle_of(Small), FAMILY, [case])


def test_shrinking_without_mixing_is_caught(oracle_of, monkeypatch):
    case = example([image(600, 500)], Evidence(0, (200, 150, 300, 250)))
    monkeypatch.setattr(llava_anyres.Axis, "shrunk", nearest_taps)
    assert disagreements(oracle_of(Small), FAMILY, [case])


@VIDEOS
def test_wrong_videos_are_caught(oracle_of):
    oracle, case = oracle_of(Small), example([video(3, 90, 60)], Evidence(0, (20, 10, 60, 40), (1,)))
    assert disagreements(oracle, FAMILY, [case]) == []
    for order in (
        WRONG_ORDERS["off by one"],  # the newline first
        lambda tokens: np.r_[0:16, 48, 16:48],  # a newline after the first frame
        lambda tokens: np.r_[np.arange(48).reshape(3, 16).T.ravel(), 48],  # frames interleaved
    ):
        assert disagreements(oracle, reordered(order), [case])
