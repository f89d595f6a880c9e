"""What a page shows is what was recorded."""

import numpy as np
import pytest
import torch
from pages import example_of, picture, video

from corehead_hf import AutoCoReModel, Evidence
from corehead_hf.explorer import scene_of
from corehead_hf.explorer.scene import caption, cells_of
from corehead_hf.families import Geometry, family_of
from corehead_hf.families.geometry import GLOBAL, HIRES, concatenate, grid, no_place, single_cells
from corehead_hf.plots.pictures import Picture


@pytest.fixture(scope="module")
def recorded(shipped):
    prepared = family_of(shipped.model).prepare(shipped.processor, shipped.example)
    masks = (prepared.question_mask, prepared.evidence_mask)
    with shipped.model.record_attention(*masks, visual_mask=prepared.visual_mask, keep_rows=True) as recording:
        shipped.model.prefill(**prepared.inputs)
    return prepared, recording


def test_the_numbers_are_the_recorded_ones(scene, recorded):
    prepared, recording = recorded
    visual = prepared.visual_mask[0].nonzero().flatten()
    assert scene.columns.tolist() == visual.tolist() and len(visual) == 96
    assert scene.shape == (12, 4) and scene.rows.shape == (48, 96)
    assert np.array_equal(scene.rows.reshape(12, 4, 96), recording.rows[0][..., visual].numpy())
    assert np.array_equal(scene.ram.reshape(12, 4), recording.ram[0].numpy())
    assert np.array_equal(scene.vision.reshape(12, 4), recording.vision_mass[0].numpy())
    assert scene.chance == float(recording.chance[0])
    assert np.flatnonzero(scene.counted).tolist() == [22] and scene.columns[22] == prepared.evidence_mask[0].nonzero()


def test_attention_adds_up(scene):
    assert scene.vision + scene.text == pytest.approx(np.ones(48), abs=1e-5)
    assert scene.rows.sum(axis=1) == pytest.approx(scene.vision, abs=1e-5)
    assert scene.rows[:, scene.counted == 1].sum(axis=1) == pytest.approx(scene.ram, abs=1e-6)


def test_heads_rank_by_the_head_map(scene, shipped):
    layers, heads = scene.ranking // 4, scene.ranking % 4
    assert np.stack([layers, heads], axis=1).tolist() == shipped.head_map.ranking().tolist()
    assert np.array_equal(scene.scores.reshape(12, 4), shipped.head_map.scores.numpy()) and scene.notes == ()
    facts = dict(scene.facts)
    assert facts["Measured on"] == "192 examples of glyphs" and facts["Computed in"] == "float32"
    assert facts["Tokens"] == "122 in the prompt, 96 visual, 1 evidence, 6 of the question"  # What color is letter T ?


def test_the_models_own_head_map_is_taken(shipped, monkeypatch):
    monkeypatch.setitem(shipped.model.__dict__, "core_head_map", shipped.head_map)
    assert np.array_equal(scene_of(shipped.model, shipped.processor, shipped.example).scores.reshape(12, 4),
                          shipped.head_map.scores.numpy())  # fmt: skip


def test_without_a_head_map_the_examples_own_ram_ranks(shipped, recorded, caplog):
    found = scene_of(shipped.model, shipped.processor, shipped.example)
    ram = recorded[1].ram[0].flatten()
    assert found.scores is None and np.array_equal(ram[found.ranking], ram.sort(descending=True).values)
    (note,) = found.notes
    assert "ranked by their RAM on this example" in note and note in caplog.text
    assert dict(found.facts)["Ranked by"] == "RAM on this example"


def test_another_models_head_map_is_refused(shipped):
    from tiny_models import build

    other = AutoCoReModel.from_model(build("qwen3_vl"))
    with pytest.raises(ValueError, match="was asked to fit"):
        scene_of(other, shipped.processor, shipped.example, shipped.head_map)


def test_rows_that_are_not_finite_are_refused(shipped, monkeypatch):
    measure = type(shipped.model).prefill

    def overflow(self, **inputs):
        (mode,) = [mode for mode in self.core_state.modes if hasattr(mode, "keep_rows")]
        measure(self, **inputs)
        mode._layers[3]["row"][0, 2, 5] = torch.nan

    monkeypatch.setattr(type(shipped.model), "prefill", overflow)
    with pytest.raises(ValueError, match="row of 1 heads is not finite"):
        scene_of(shipped.model, shipped.processor, shipped.example)


def test_token_boxes_are_the_geometrys_cells(scene, recorded):
    """Token t of a page of 4 x 4 cells shows 16 px at its row and column."""
    geometry = recorded[0].geometry[0]
    assert len(scene.cells) == len(scene.pictures) == 6
    for number, cells in enumerate(scene.cells):
        assert cells.tokens.tolist() == list(range(16 * number, 16 * number + 16))
        assert np.array_equal(cells.boxes, geometry[number].cells[:, 0])
        assert cells.boxes[6].tolist() == [32, 16, 48, 32]


def test_cells_of_views_newlines_and_padding():
    """8 x 4 px, 4 tokens of a tile, a newline, one token of the whole that reaches over the edge; a second image."""
    whole = single_cells(np.array([[-2.0, 0, 12, 4]]), view=GLOBAL)
    first = concatenate([grid((4, 8), 2, 2, view=HIRES), no_place(), whole])
    geometry = (first, grid((8, 8), 1, 1))
    cells = cells_of(geometry, Picture(0, 0, picture(4, 8)))
    assert cells.tokens.tolist() == [0, 1, 2, 3, 5]
    assert cells.boxes[[0, 3, 4]].tolist() == [[0, 0, 4, 2], [4, 2, 8, 4], [0, 0, 8, 4]]
    other = cells_of(geometry, Picture(1, 0, picture()))
    assert other.tokens.tolist() == [6] and other.boxes.tolist() == [[0, 0, 8, 8]]


def test_cells_of_frames():
    """A token of frames 0 and 1 is in both; one of frame 2 only there; a cell of weight 0 nowhere."""
    tokens = Geometry(
        np.array([[[0, 0, 8, 8]] * 2, [[0, 0, 4, 8]] * 2], dtype=float),
        np.array([[0.5, 0.5], [1, 0]]),
        np.array([[0, 1], [2, 0]]),
        np.full(2, HIRES, dtype=np.int8),
    )
    shown = [cells_of((tokens,), Picture(0, frame, picture())).tokens.tolist() for frame in range(3)]
    assert shown == [[0], [0], [1]]


def test_captions():
    page, clip = picture(), video(3, fps=2.0, frame_ids=(0, 5, 9))
    assert caption(example_of([page], Evidence(0)), Picture(0, 0, page)) == "Image"
    mixed = example_of([page, clip, page], Evidence(0))
    assert caption(mixed, Picture(2, 0, page)) == "Image 2"
    assert caption(mixed, Picture(1, 1, page)) == "Frame 1, 2.5 s"
    assert caption(example_of([clip, clip], Evidence(0)), Picture(1, 2, page)) == "Video 2, frame 2, 4.5 s"
