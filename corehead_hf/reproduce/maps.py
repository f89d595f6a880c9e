"""The head maps of every data set, and what they show: Figures 4, 5, 6b and 6c."""

from __future__ import annotations

from typing import Any

from corehead_hf import plots
from corehead_hf.analysis import key_tokens, observe, ram_per_example, stability, vision_heads
from corehead_hf.detection import measure
from corehead_hf.head_map import HeadMap
from corehead_hf.head_map.format import CONFIG_NAME
from corehead_hf.measuring import read_measured
from corehead_hf.reproduce.plan import Source
from corehead_hf.reproduce.run import Run

TOP_SHARE = 0.05  # eq. (20)


def measure_maps(run: Run) -> None:
    """Measure, or read, RAM and vision-head scores on every data set."""
    for source in run.plan.measured:
        with run.part(f"head map of {source.name}"):
            core = _map(run, source, "evidence")
            vision = _map(run, source, "visual")
            run.maps[source.name], run.vision_maps[source.name] = core, vision


def compare_maps(run: Run) -> None:
    """Figure 4: heat maps; Figure 5: what the data sets agree on; and whether CoRe heads are vision heads."""
    if not run.maps:
        return
    run.head_map.save_pretrained(run.place("maps", "pooled"))
    figure = plots.head_heatmaps(run.maps, run.vision_maps, keep=TOP_SHARE)
    run.draw(figure, "figure 4 head maps")
    with run.part("Figure 5"):
        found = stability(run.maps, share=TOP_SHARE, per_example=_per_example(run))
        run.save(found, "stability")
        run.draw(plots.stability_map(found), "figure 5 stability")
        run.draw(plots.spearman_matrix(found), "figure 5 spearman")
    with run.part("CoRe heads beside vision heads"):
        pooled = HeadMap.merge(list(run.vision_maps.values()))
        overlap = vision_heads(run.head_map, pooled, share=TOP_SHARE)
        run.save(overlap, "vision heads")
        run.draw(plots.vision_overlap(overlap), "vision heads")


def find_key_tokens(run: Run) -> None:
    """Figure 6b, 6c: what the top heads find, on examples of each data set behind the measured ones."""
    for source in run.plan.measured:
        if source.name not in run.maps:
            continue
        with run.part(f"key tokens of {source.name}"):
            study = run.saved(f"key tokens {source.name}")
            if study is None:
                study = _key_tokens(run, source)
                run.save(study, f"key tokens {source.name}")
            run.draw(plots.key_token_bars(study), f"figure 6b {source.name}")
            run.draw(plots.coverage_curve(study), f"figure 6c {source.name}")


def _key_tokens(run: Run, source: Source) -> Any:
    done = [outcome.id for outcome in read_measured(_kept(run, source, "evidence")) if outcome.id]
    rest = run.examples(source, len(done) + run.plan.num_observed).without(done)
    observed = observe(run.model, run.processor, rest, batch_size=run.plan.batch_size)
    return key_tokens(observed, run.head_map, k=run.plan.top, seeds=run.plan.seeds, dataset=source.name)


def _kept(run: Run, source: Source, target: str) -> Any:
    return run.place("measured", source.name, target)


def _map(run: Run, source: Source, target: str) -> HeadMap:
    folder = run.place("maps", source.name, target)
    if (folder / CONFIG_NAME).exists():  # written last
        return HeadMap.from_pretrained(folder)
    examples = run.examples(source, run.plan.num_measured)  # before the model: where they are missing, it is not needed
    head_map = measure(
        run.model,
        run.processor,
        examples,
        dataset=source.name,
        batch_size=run.plan.batch_size,
        on_error="skip",
        resume_from=_kept(run, source, target),
        target=target,
    )
    if run.is_main:
        head_map.save_pretrained(folder)
    return head_map


def _per_example(run: Run) -> dict[str, Any]:
    sources = [source for source in run.plan.measured if source.name in run.maps]
    return {
        source.name: ram_per_example(_kept(run, source, "evidence"), run.maps[source.name].num_examples)
        for source in sources
    }
