"""InternVL's tiles, thumbnails and frames against hand counts, golden cases and the real processor and model."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracle import disagreements, random_evidence
from oracle_internvl import GOLDEN, InternVLOracle, SmallInternVLOracle, spelled
from tiny_models import randomize
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.utils import is_torchvision_available

from corehead_hf import AutoCoReModel, Evidence, Example, Video, load_processor
from corehead_hf.families import FAMILIES
from corehead_hf.families.geometry import GLOBAL, HIRES, ONLY, Geometry
from corehead_hf.families.internvl import InternVL, _encode_one_by_one, best_canvas

FAMILY = FAMILIES["internvl"]
VIDEOS = pytest.mark.skipif(
    not is_torchvision_available(), reason="torchvision, which video processors need, is not installed"
)


@pytest.fixture
def large(oracle_of):
    """Tiles of 448 px and 256 tokens, as the checkpoints ship them."""
    return oracle_of(InternVLOracle)


@pytest.fixture
def small(oracle_of):
    """Tiles of 64 px and 16 tokens."""
    return oracle_of(SmallInternVLOracle)


def image(width, height):
    return np.zeros((height, width, 3), dtype=np.uint8)


def video(count, width, height):
    return Video(np.zeros((count, height, width, 3), dtype=np.uint8), fps=25)


def example(media, *parts, **more):
    return Example("hand-made", tuple(media), "Which color is next to letter A?", "red", parts, **more)


def ranks(prepared, row=0):
    """Which visual tokens, counted over the whole prompt, are evidence."""
    return prepared.evidence_mask[row][prepared.visual_mask[row]].nonzero().flatten().tolist()


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_images(large, name):
    sizes, painted, box, visual, any_count, half = GOLDEN[name]
    case = example([image(*size) for size in sizes], Evidence(painted, box))
    prepared = FAMILY.prepare(large.processor, case)
    assert int(prepared.visual_mask.sum()) == visual and len(ranks(prepared)) == any_count
    assert ranks(FAMILY.prepare(large.processor, case, min_coverage=0.5)) == spelled(half)


@VIDEOS
def test_golden_video(large):
    """Frame 1 shows the evidence in a box, frame 3 as a whole."""
    parts = Evidence(0, (64, 64, 160, 160), frames=(1,)), Evidence(0, (0, 0, 320, 240), frames=(3,))
    expected = spelled("323-327,339-343,355-359,371-375,387-391,403-407,419-423,768-1023")
    for min_coverage in (0.0, 0.5):
        prepared = FAMILY.prepare(large.processor, example([video(4, 320, 240)], *parts), min_coverage=min_coverage)
        assert int(prepared.visual_mask.sum()) == 1024 and ranks(prepared) == expected


def random_medium(rng, oracle, moving):
    """Sizes of all aspect ratios; every third one of whole tiles, where canvases tie."""
    if rng.random() < 1 / 3:
        width, height = (int(oracle.tile * n) for n in rng.integers(1, 4, 2))
    else:
        width, height = (int(side) for side in np.exp(rng.uniform(*np.log([0.4 * oracle.tile, 5 * oracle.tile]), 2)))
    if moving:
        return video(int(rng.integers(1, 5)), min(width, 200), min(height, 200))
    return image(width, height)


def random_example(rng, oracle, name, most):
    """Up to `most` images and videos in any order, with text between them; evidence on one or two of them."""
    videos = is_torchvision_available()
    media = [random_medium(rng, oracle, videos and rng.random() < 0.35) for _ in range(rng.integers(1, most + 1))]
    chosen = rng.choice(len(media), int(rng.integers(1, min(len(media), 2) + 1)), replace=False)
    parts = [random_evidence(rng, media, int(medium)) for medium in chosen]
    question = "Which color is next to letter A?"
    before = [str(text) for text in rng.choice(["", "Look: ", "and\n", "é<b> "], len(media))]
    turn = [part for medium, text in enumerate(before) for part in (text, medium)]
    return Example(name, tuple(media), question, "red", tuple(parts), content=(*turn, question))


def test_random_cases(case_seed, large, small):
    """One in ten with the checkpoints' tiles, the others with small ones, more media and up to three examples."""
    rng = np.random.default_rng(case_seed)
    oracle, most, batch = (large, 1, 1) if case_seed % 10 == 0 else (small, 4, int(rng.integers(1, 4)))
    settings = oracle.processor.image_processor
    before = settings.min_patches, settings.max_patches
    if rng.random() < 0.5:
        settings.max_patches = int(rng.integers(1, 13))
        settings.min_patches = int(rng.integers(1, min(3, settings.max_patches) + 1))
    try:
        examples = [random_example(rng, oracle, f"case {case_seed}, row {row}", most) for row in range(batch)]
        assert disagreements(oracle, FAMILY, examples) == []
    finally:
        settings.min_patches, settings.max_patches = before


def changed(geometry, order):
    return Geometry(*(getattr(geometry, name)[order] for name in ("cells", "weights", "frames", "views")))


def thumbnail_first(geometry):
    return changed(geometry, np.r_[len(geometry) - 16 : len(geometry), 0 : len(geometry) - 16])


WRONG = {
    "off by one": lambda g: changed(g, np.roll(np.arange(len(g)), 1)),
    "column-major tokens": lambda g: changed(g, np.arange(len(g)).reshape(-1, 4, 4).transpose(0, 2, 1).ravel()),
    "column-major tiles": lambda g: changed(
        g, np.r_[np.arange(96).reshape(2, 3, 16).transpose(1, 0, 2).ravel(), 96:112]
    ),
    "tiles as one big grid": lambda g: changed(
        g, np.r_[np.arange(96).reshape(2, 3, 4, 4).transpose(0, 2, 1, 3).ravel(), 96:112]
    ),
    "thumbnail first": thumbnail_first,
    "thumbnail forgotten": lambda g: replace(g, weights=g.weights * (g.views != GLOBAL)[:, None]),
    "padded instead of stretched": lambda g: replace(g, cells=g.cells * [1, 1.2, 1, 1.2]),
}


class Wrong(InternVL):
    def __init__(self, change):
        self.change = change

    def geometries(self, processor, inputs, examples):
        return [[self.change(part) for part in row] for row in super().geometries(processor, inputs, examples)]


@pytest.mark.parametrize("name", WRONG)
def test_wrong_mappings_are_caught(small, name):
    """An image of 3 x 2 tiles, with evidence over four of them."""
    case = example([image(192, 128)], Evidence(0, (50, 40, 90, 81)))
    assert disagreements(small, FAMILY, [case]) == []
    assert disagreements(small, Wrong(WRONG[name]), [case]) != []


@VIDEOS
def test_a_wrong_order_of_frames_and_media_is_caught(small):
    case = example([video(3, 50, 40), image(64, 64)], Evidence(0, (9, 9, 30, 30), frames=(1,)))
    backwards = Wrong(lambda g: changed(g, np.arange(len(g))[::-1]))
    swapped = Wrong(None)
    swapped.placeholders = lambda processor, example: [(processor.image_token_id, [1, 0])]
    swapped.change = lambda g: g
    assert disagreements(small, FAMILY, [case]) == []
    assert disagreements(small, backwards, [case]) != [] != disagreements(small, swapped, [case])


# Ties decided by hand: the larger of equally near canvases wins while its area is less than twice the image's.
@pytest.mark.parametrize(
    "width, height, limits, canvas",
    [
        (448, 448, (1, 12), (1, 1)),
        (633, 633, (1, 12), (1, 1)),  # 400,689 px: 2 x 2 tiles have more than twice as many
        (634, 634, (1, 12), (2, 2)),  # 401,956 px of 802,816
        (950, 950, (1, 12), (2, 2)),
        (951, 951, (1, 12), (3, 3)),  # 904,401 px of 1,806,336
        (500, 400, (1, 6), (1, 1)),  # 1.25 is as far from 1 as from 1.5
        (800, 640, (1, 6), (2, 2)),
        (1000, 800, (1, 6), (3, 2)),
        (640, 480, (1, 12), (4, 3)),
        (10, 4000, (1, 12), (1, 12)),
        (448, 448, (2, 2), (1, 2)),
        (448, 448, (3, 2), (1, 1)),  # no canvas at all
    ],
)
def test_canvases_by_hand(width, height, limits, canvas):
    assert best_canvas(width, height, 448, *limits) == canvas


def test_canvases_are_the_processors(small):
    """Its own choice, over sizes with many exact ties."""
    theirs = inspect.getmodule(type(small.processor.image_processor)).get_optimal_tiled_canvas.__wrapped__
    rng = np.random.default_rng(0)
    for _ in range(3000):
        step, low = int(rng.choice([1, 1, 8, 64])), int(rng.integers(1, 4))
        width, height = (int(side) * step for side in rng.integers(1, 2000 // step, 2))
        limits = (low, int(rng.integers(low, 13)))
        assert best_canvas(width, height, 448, *limits) == theirs((height, width), (448, 448), *limits)


def test_views_of_tiles_by_hand(small):
    """128 x 64 px: two tiles of 4 x 4 tokens of 16 px, then a thumbnail of tokens of 32 x 16 px."""
    case = example([image(128, 64)], Evidence(0, (60, 0, 80, 16)))
    for views, expected in (("all", [3, 16, 33, 34]), ("hires", [3, 16]), ("global", [33, 34])):
        assert ranks(FAMILY.prepare(small.processor, case, views=views)) == expected
    assert ranks(FAMILY.prepare(small.processor, case, min_coverage=0.3)) == [16, 34]
    (tokens,) = FAMILY.prepare(small.processor, case).geometry[0]
    assert tokens.views.tolist() == [HIRES] * 32 + [GLOBAL] * 16
    assert tokens.cells[21, 0].tolist() == [80, 16, 96, 32] and tokens.cells[38, 0].tolist() == [64, 16, 96, 32]


def no_cropping(processor, monkeypatch):
    """Switch crop_to_patches off where each version of transformers keeps the processor's default."""
    import transformers.models.internvl.processing_internvl as module

    if hasattr(type(processor), "images_kwargs"):
        monkeypatch.setattr(processor, "images_kwargs", {"crop_to_patches": False}, raising=False)
    else:
        monkeypatch.setitem(module.InternVLProcessorKwargs._defaults, "images_kwargs", {"crop_to_patches": False})


@pytest.mark.parametrize("how", ["max_patches", "crop_to_patches"])
def test_one_tile_per_image(small, monkeypatch, how):
    """128 x 64 px on 4 x 4 tokens of 32 x 16 px; every view policy counts the only view."""
    case = example([image(128, 64), image(64, 200)], Evidence(0, (60, 0, 80, 16)))
    assert len(FAMILY.prepare(small.processor, case).geometry[0][0]) == 48
    if how == "max_patches":
        monkeypatch.setattr(small.processor.image_processor, "max_patches", 1)
    else:
        no_cropping(small.processor, monkeypatch)
    for views in ("all", "hires", "global"):
        prepared = FAMILY.prepare(small.processor, case, views=views)
        assert ranks(prepared) == [1, 2] and prepared.visual_mask.sum() == 32
        assert set(prepared.geometry[0][0].views) == {ONLY}
    assert disagreements(small, FAMILY, [case]) == []


FORMS = {
    "tiles": [image(128, 64)],
    "several images": [image(128, 64), image(64, 64), image(70, 200)],
    "video": [video(3, 50, 40)],
    "a long and a short video": [video(3, 50, 40), video(1, 80, 80)],
    "image, video, image": [image(64, 128), video(2, 64, 64), image(30, 30)],
    "video, image, video": [video(2, 64, 64), image(150, 50), video(2, 40, 90)],
}


def of_form(name, *more):
    media = FORMS[name]
    if not is_torchvision_available() and any(isinstance(medium, Video) for medium in media):
        pytest.skip("torchvision, which video processors need, is not installed")
    return example(media, Evidence(0, (9, 9, 30, 25)), Evidence(len(media) - 1), *more)


@pytest.fixture(scope="module")
def tiny_model(checkpoint):
    """A random two-layer model of the Glyphs checkpoint, and its processor, set to tile as the Hub's do."""
    config = AutoConfig.from_pretrained(checkpoint("internvl"))
    text = config.get_text_config()
    text.num_hidden_layers, text.layer_types = 2, ["full_attention"] * 2
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").float().eval()
    processor = load_processor(checkpoint("internvl"))
    processor.image_processor.max_patches = 12
    return randomize(model), processor


@pytest.mark.parametrize("form", FORMS)
def test_ram_of_every_form_is_that_of_an_eager_run(tiny_model, form):
    """In a left-padded batch with a short example, against transformers' own output_attentions of each alone."""
    model, processor = tiny_model
    examples = [of_form(form), example([image(64, 64)], Evidence(0, (0, 0, 20, 20)))]
    expected = []
    for case in examples:
        prepared = FAMILY.prepare(processor, case)
        with torch.no_grad():
            attention = torch.stack(model(**prepared.inputs, output_attentions=True).attentions, dim=1)[0].double()
        rows = attention[:, :, prepared.question_mask[0]].mean(dim=2)
        expected.append(rows[..., prepared.evidence_mask[0]].sum(dim=-1))
    batch = FAMILY.prepare(processor, examples)
    AutoCoReModel.from_model(model)
    try:
        with model.record_attention(batch.question_mask, batch.evidence_mask) as recording:
            model.prefill(**batch.inputs)
    finally:
        model.uninstall_core()
    torch.testing.assert_close(recording.ram.double(), torch.stack(expected), atol=1e-5, rtol=0)
    assert float(recording.ram.std(dim=(1, 2)).min()) > 1e-3, "all heads alike: a wrong index would not show"


@VIDEOS
@pytest.mark.parametrize("form", [form for form in FORMS if form != "a long and a short video"])
def test_media_encoded_one_by_one_are_those_of_one_call(small, form):
    """The road for videos of different lengths, which one call of the processor cannot stack."""
    examples = [of_form(form), example([image(100, 90)], Evidence(0))]
    examples[0] = replace(examples[0], content=("First: ", *range(len(FORMS[form])), "Now.\n" + examples[0].question))
    texts = [FAMILY.render(small.processor, case) for case in examples]
    options = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
    together = FAMILY.encode(small.processor, texts, examples)
    apart = _encode_one_by_one(small.processor, texts, examples, options)
    assert together.keys() == apart.keys()
    assert all(torch.equal(together[name], apart[name]) for name in together)


@pytest.mark.parametrize("height", [1, 2, 3, 4])
def test_flat_pictures_are_not_taken_for_colours(small, height):
    """transformers guesses that an array of 3 x 90 x 3 has its channels first."""
    media = [image(90, height), image(64, 64)]
    if is_torchvision_available():
        media += [video(2, 90, height), video(3, 90, height)]
    for medium in range(len(media)):
        assert disagreements(small, FAMILY, [example(media, Evidence(medium, (20, 0, 60, height)))]) == []


@VIDEOS
def test_frames_are_taken_as_they_are(small):
    """Each of nine frames has its own grey; so have the nine tiles, whatever the frames' numbers in the file are."""
    frames = np.stack([np.full((40, 60, 3), 20 * f, dtype=np.uint8) for f in range(9)])
    shown = Video(frames, fps=30, frame_ids=tuple(range(0, 270, 30)))
    pixels = FAMILY.prepare(small.processor, example([shown], Evidence(0))).inputs["pixel_values"]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    greys = (pixels.mean(dim=(2, 3)) * std + mean) * 255
    torch.testing.assert_close(greys, 20.0 * torch.arange(9)[:, None].expand(9, 3), atol=0.01, rtol=0)


@VIDEOS
def test_a_video_processor_of_another_size_is_refused(small, monkeypatch):
    """384 px is the class's own default where a checkpoint ships no settings for videos."""
    monkeypatch.setattr(small.processor.video_processor, "size", {"height": 384, "width": 384})
    with pytest.raises(ValueError, match="tiles of 384 x 384 pixels, the image processor of 64 x 64"):
        FAMILY.prepare(small.processor, of_form("video"))
    FAMILY.prepare(small.processor, of_form("tiles"))


def test_videos_without_a_video_processor_are_refused(small, monkeypatch):
    monkeypatch.setattr(small.processor, "video_processor", None)
    with pytest.raises(ImportError, match=r"needs torchvision: pip install 'corehead-hf\[video\]'"):
        FAMILY.prepare(small.processor, example([video(2, 30, 30)], Evidence(0)))


def test_processors_that_contradict_the_geometry_are_refused(small, monkeypatch):
    case = example([image(128, 64)], Evidence(0, (0, 0, 9, 9)))
    prepared = FAMILY.prepare(small.processor, case)
    monkeypatch.setattr(small.processor.image_processor, "max_patches", 1)
    with pytest.raises(ValueError, match="128 x 64 pixels has 3 tiles in the prompt; 1 x 1 and a thumbnail follow"):
        FAMILY.geometries(small.processor, prepared.inputs, [case])
    monkeypatch.setattr(small.processor, "image_seq_length", 15)
    with pytest.raises(ValueError, match="image_seq_length=15 is no square"):
        FAMILY.prepare(small.processor, case)
    monkeypatch.setattr(small.processor, "image_seq_length", 25)
    with pytest.raises(ValueError, match=r"runs of \[48\] tokens.*not tiles of 25"):
        FAMILY.geometries(small.processor, prepared.inputs, [case])


def test_runs_that_are_not_the_examples_media_are_refused(small, monkeypatch):
    case = example([image(128, 64)], Evidence(0, (0, 0, 9, 9)))
    two = FAMILY.prepare(small.processor, example([image(128, 64), image(64, 64)], Evidence(0))).inputs
    with pytest.raises(ValueError, match="1 runs of visual tokens in the prompt stand for none of its media"):
        FAMILY.geometries(small.processor, two, [case])
    with pytest.raises(ValueError, match=r"a video of 2 frames has runs of \[3, 1\] tiles"):
        FAMILY.geometries(small.processor, two, [example([video(2, 30, 30)], Evidence(0))])
    with pytest.raises(ValueError, match="an image of 128 x 64 pixels has 0 tiles"):
        FAMILY.geometries(small.processor, two, [example([image(128, 64)] * 3, Evidence(0))])
    monkeypatch.setattr(small.processor.image_processor, "size", {"height": 32, "width": 64})
    with pytest.raises(ValueError, match="tiles of 64 x 64 pixels, its size is 32 x 64"):
        FAMILY.geometries(small.processor, two, [case])


@pytest.mark.parametrize("text, reason", [("<IMG_CONTEXT>", "placeholders of"), ("<img>", "2 <img>, 1 </img>")])
def test_placeholders_in_the_text_are_refused(small, text, reason):
    case = replace(example([image(64, 64)], Evidence(0)), content=(text, 0, "Which color is next to letter A?"))
    with pytest.raises(ValueError, match=reason):
        FAMILY.prepare(small.processor, case)
