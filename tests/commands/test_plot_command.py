"""corehead plot: every KIND draws its source, and refuses the others by name; the artists are those of plots."""

import json
from pathlib import Path

import hand_made
import matplotlib.image
import pytest

from corehead_hf import HeadMap, plots
from corehead_hf.analysis.result import _CLASS_OF
from corehead_hf.commands.plot import KINDS
from corehead_hf.commands.plot_sources import FITS, _other

HUB = Path(__file__).resolve().parents[2] / "hub_artifacts"
CSV = "provider,n,keep,sink,window,p20_ms,p50_ms,p80_ms,kind\n" + "".join(
    f"{provider},{n},{keep},{sizes},{ms},{ms},{ms},{kind}\n"
    for kind in ("attention", "prefill")
    for n, dense, hybrid in ((1024, 1, 2), (4096, 16, 8))
    for provider, keep, sizes, ms in (("dense", 1.0, ",", dense), ("banded", 0.05, "128,1024", hybrid))
)


@pytest.fixture
def sources(tmp_path):
    """Name -> path of a source of each sort."""
    maps = {"map": hand_made.converging(), "vision": hand_made.vision_map(layers=4, heads=6)}
    for name, head_map in maps.items():
        head_map.save_pretrained(tmp_path / name)
    studies = {
        "ablation": hand_made.ablation(variants=("zero", "mean")),
        "hybrid_grid": hand_made.hybrid_grid(),
        "keep_sweep": hand_made.keep_sweep(),
        "key_tokens": hand_made.key_tokens(),
        "prefill_latency": hand_made.prefill_latency(),
        "stability": hand_made.stability(),
        "vision_heads": hand_made.vision_heads(layers=4, heads=8, count=3),
    }
    for name, study in studies.items():
        study.save(tmp_path / f"{name}.json")
    (tmp_path / "rows.csv").write_text(CSV)
    return {**{name: tmp_path / f"{name}.json" for name in studies}, "map": tmp_path / "map"} | {
        "vision": tmp_path / "vision",
        "rows": tmp_path / "rows.csv",
    }


@pytest.fixture
def drawn(corehead, tmp_path, monkeypatch):
    """drawn(KIND, ...): what the verb handed to which function of plots."""

    def run(kind, *arguments):
        calls = []
        for name in plots.__all__:
            real = getattr(plots, name)

            def spy(*given, _name=name, _real=real, **options):
                calls.append((_name, given, options))
                return _real(*given, **options)

            monkeypatch.setattr(plots, name, spy)
        code, _, error = corehead("plot", kind, *arguments, "--out", tmp_path / "figure.png")
        monkeypatch.undo()
        assert code == 0, error
        (call,) = [call for call in calls if call[0] not in ("require_matplotlib", "new_figure")]
        return call

    return run


STUDIES = {
    "ablation": ("ablation", "ablation_curve", {"variant": ["zero"]}),
    "coverage": ("key_tokens", "coverage_curve", {}),
    "keep": ("keep_sweep", "keep_curve", {}),
    "key-tokens": ("key_tokens", "key_token_bars", {}),
    "prefill": ("prefill_latency", "prefill_curve", {}),
    "spearman": ("stability", "spearman_matrix", {}),
    "stability": ("stability", "stability_map", {}),
    "vision-overlap": ("vision_heads", "vision_overlap", {}),
}


@pytest.mark.parametrize("kind", STUDIES)
def test_studies(drawn, sources, kind):
    source, function, options = STUDIES[kind]
    name, (study,), given = drawn(kind, sources[source])
    assert (name, study.kind, given) == (function, source, options)


def test_every_kind_is_tested_here():
    assert set(KINDS) == {*STUDIES, "grid", "heatmap", "convergence", "latency", "overlay"}


def test_options_reach_the_figure(drawn, sources):
    assert drawn("ablation", sources["ablation"], "--variant", "mean", "zero")[2] == {"variant": ["mean", "zero"]}
    name, (head_map,), options = drawn("heatmap", sources["map"], "--keep", 3)
    assert name == "head_heatmap" and int(options["mark"].sum()) == 3 == int((options["mark"] & head_map.top(3)).sum())
    name, (core, vision), options = drawn("heatmap", sources["map"], "--vision", sources["vision"])
    assert name == "head_heatmaps" and list(core) == list(vision) == ["map"] and options == {"keep": 0.05}
    _, (core, vision), _ = drawn("heatmap", sources["map"], f"b={sources['map']}")
    assert list(core) == ["map", "b"] and vision is None
    name, (head_map,), options = drawn("convergence", sources["map"], "--until-stable", 0.9)
    assert name == "convergence_curve" and head_map.convergence and options == {"until_stable": 0.9}
    assert list(drawn("convergence", f"a={sources['map']}", sources["map"])[1][0]) == ["a", "map"]
    name, (grid,), _ = drawn("grid", sources["hybrid_grid"])
    assert name == "hybrid_grid_curves" and grid.kind == "hybrid_grid"
    _, (grids,), _ = drawn("grid", f"a={sources['hybrid_grid']}", f"b={sources['hybrid_grid']}")
    assert list(grids) == ["a", "b"] and grids["b"] == grid
    name, (table,), _ = drawn("latency", sources["rows"], "--where", "kind=prefill", "--where", "n=4096")
    assert name == "latency_curve" and table["p50_ms"].tolist() == [16, 8] and set(table["kind"]) == {"prefill"}


@pytest.mark.parametrize("suffix, begin", [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_formats_and_sizes(corehead, answer, sources, tmp_path, suffix, begin):
    path = tmp_path / "new" / f"figure.{suffix}"
    told = answer("plot", "keep", sources["keep_sweep"], "--out", path, "--dpi", 50)
    assert told["kind"] == "keep" and told["out"] == str(path) and path.read_bytes().startswith(begin)
    if suffix == "png":
        height, width = matplotlib.image.imread(path).shape[:2]
        assert (width, height) == pytest.approx([50 * side for side in told["inches"]], abs=1)
    code, printed, _ = corehead("plot", "--format", "json", "keep", sources["keep_sweep"], "--out", path)
    assert code == 0 and json.loads(printed) == told  # before KIND as after it


@pytest.mark.parametrize(
    "kind, source, message",
    [
        ("stability", "ablation", "holds an ablation study, which `corehead plot stability` does not draw"),
        ("stability", "ablation", "; `corehead plot ablation` does."),
        ("ablation", "key_tokens", "`corehead plot key-tokens` or `corehead plot coverage` does."),
        ("keep", "map", "holds a head map, which `corehead plot keep` does not draw; `corehead plot heatmap` or"),
        ("heatmap", "vision_heads", "holds a study of vision heads"),
        ("convergence", "rows", "holds benchmark rows"),
        ("latency", "map", "holds a head map"),
        ("keep", "rows", "`corehead plot latency` does."),
        ("grid", "keep_sweep", "holds a sweep of hybrid prefill, which `corehead plot grid` does not draw"),
        ("latency", "prefill_latency", "holds a study of prefill latency, which"),
    ],
)
def test_a_source_of_another_kind_is_named(corehead, sources, tmp_path, kind, source, message):
    code, printed, error = corehead("plot", kind, sources[source], "--out", tmp_path / "figure.png")
    assert code == 1 and message in error and not printed and not (tmp_path / "figure.png").exists()


def test_requests_that_cannot_be_met(corehead, sources, tmp_path):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty").mkdir()
    for arguments, message in [
        (("keep", tmp_path / "none.json"), "there is no such file or folder"),
        (("keep", tmp_path / "broken.json"), "no strict JSON"),
        (("heatmap", tmp_path / "empty"), "head_map_config.json"),
        (("heatmap", sources["map"], sources["map"]), "tell them apart as NAME=MAP"),
        (("heatmap", sources["map"], "--vision", sources["vision"], sources["vision"]), "--vision was given 2 maps"),
        (("convergence", sources["vision"]), "nothing is known of it"),
        (("ablation", sources["ablation"], "--variant", "stream"), "'stream'"),
        (("latency", sources["rows"]), "2 values of kind"),
        (("latency", sources["rows"], "--where", "kind=other"), "there is attention, prefill"),
        (("latency", sources["rows"], "--where", "speed=1"), "has the columns provider, n"),
    ]:
        code, printed, error = corehead("plot", *arguments, "--out", tmp_path / "figure.png")
        assert code == 1 and message in error and not printed, (arguments, error)


def test_wrong_usage(usage, sources):
    assert "figure.gif was given" in usage("plot", "keep", sources["keep_sweep"], "--out", "figure.gif")
    assert "--out" in usage("plot", "keep", sources["keep_sweep"])
    assert "1.5 was given" in usage("plot", "heatmap", sources["map"], "--keep", 1.5, "--out", "a.png")
    assert "kind was given" in usage("plot", "latency", sources["rows"], "--where", "kind", "--out", "a.png")


def test_overlay(drawn, corehead, tmp_path):
    model = HUB / "glyphs-qwen3-vl"
    asked = (model, "--dtype", "float32", "--head-map", f"{model}-head-map", "--data", "glyphs", "--limit", 3)
    name, (prepared, rows), options = drawn("overlay", *asked, "--example", 1, "--heads", 2)
    assert name == "attention_overlay" and options == {"max_frames": 8, "side_by_side": True}
    assert [example.id for example in prepared.examples] == ["glyphs-777-6x4x4-1"]
    assert next(iter(rows)).startswith("top head (0, 1), RAM 0.")
    ranking = HeadMap.from_pretrained(f"{model}-head-map").ranking().tolist()
    named = [
        f"{end} head ({layer}, {head})"
        for end, pairs in (("top", ranking[:2]), ("bottom", ranking[-2:]))
        for layer, head in pairs
    ]
    assert [label.rpartition(", RAM ")[0] for label in rows] == named
    for label, row in rows.items():  # the label's RAM is the row's mass on the evidence
        assert f"{float(row[prepared.evidence_mask[0]].sum()):.3f}" == label.split()[-1]
    out = ("--out", tmp_path / "figure.png")
    code, _, error = corehead("plot", "overlay", *asked, "--example", 3, *out)
    assert code == 1 and "--example 3 was given" in error
    code, _, error = corehead("plot", "overlay", *asked, "--heads", 25, *out)
    assert code == 1 and "of 48 heads the top and bottom would meet" in error


def test_every_saved_study_is_drawn_or_refused_by_name():
    assert set(_CLASS_OF) <= set(FITS)
    assert {kind for _, kinds in FITS.values() for kind in kinds} == set(KINDS) - {"overlay"}
    refused = str(_other(Path("e.json"), "evaluation", "keep"))
    assert (
        refused
        == "e.json holds an evaluation, which `corehead plot keep` does not draw; its numbers stand in the file."
    )
