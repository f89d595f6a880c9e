"""VLMEvalKit with hybrid prefill: one of its own models, wrapped after it is built.

    python examples/12_vlmevalkit.py PATH/TO/VLMEvalKit --base Qwen3-VL-8B-Instruct \\
        --base-options '{"use_vllm": false, "temperature": 0}' --head-map you/head-map --keep 0.05 \\
        -- --data Video-MME_64frame --work-dir outputs

What stands behind `--` goes to VLMEvalKit's run.py, with `--model corehead-BASE-keepKEEP-MARK` added. VLMEvalKit has no
plugins: its models are the dictionary supported_VLM, to which the wrapped one is added. It takes up results that it
finds under a model's name, so MARK stands for all options here: each setting has its own. Prompts, frames and scores
stay VLMEvalKit's. It serves whatever keeps a native transformers model of a supported family in `.model`: Qwen3VLChat
and LLaVA_OneVision_HF, not on vLLM, which "use_vllm": false turns off where a model's entry turns it on.
"""

import argparse
import hashlib
import json
import runpy
import sys

from corehead_hf import AutoCoReModel


def with_core(build, base_options, head_map, keep, **options):
    """What builds the same VLMEvalKit model with hybrid prefill switched on.

    Args:
        build: an entry of supported_VLM.
        base_options: arguments that replace those of the entry.
        head_map, keep, options: of AutoCoReModel.from_model and enable_hybrid.
    """

    def built(**given):
        vlm = build(**{**given, **base_options})
        native = getattr(vlm, "model", None)
        if not hasattr(native, "config"):
            raise ValueError(
                f"{type(vlm).__name__} holds no transformers model in .model, but {type(native).__name__} - hybrid "
                "prefill changes one - choose another --base, or --base-options '{\"use_vllm\": false}'."
            )
        AutoCoReModel.from_model(native, head_map=head_map).enable_hybrid(keep, **options)
        return vlm

    return built


def share_or_count(text):
    return int(text) if text.isdecimal() else float(text)


def run_name(options):
    """The model's name in VLMEvalKit: another setting is another name."""
    setting = [options.base_options, options.head_map, options.keep, options.sink_size, options.window_size]
    mark = hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()[:8]
    return f"corehead-{options.base}-keep{options.keep}-{mark}"


def runs_on_vllm(build, base_options):
    """Whether what supported_VLM holds under a name, a functools.partial, would build a model of vLLM."""
    return bool({**getattr(build, "keywords", {}), **base_options}.get("use_vllm"))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a checkout of open-compass/VLMEvalKit")
    parser.add_argument("--base", required=True, help="a name in supported_VLM of vlmeval/config.py")
    parser.add_argument("--base-options", type=json.loads, default={}, help="JSON object")
    parser.add_argument("--head-map", required=True, help="folder or Hub id")
    parser.add_argument("--keep", type=share_or_count, required=True, help="0.05 is a share of all heads, 40 a count")
    parser.add_argument("--sink-size", type=int, default=128)
    parser.add_argument("--window-size", type=int, default=2048)
    given = sys.argv[1:] if argv is None else argv
    end = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:end])
    sys.path.insert(0, options.folder)
    from vlmeval.config import supported_VLM

    if options.base not in supported_VLM:
        parser.error(f"--base {options.base} is none of VLMEvalKit's {len(supported_VLM)} models")
    build, name = supported_VLM[options.base], run_name(options)
    if runs_on_vllm(build, options.base_options):  # here: run.py passes over a model that cannot be built
        parser.error(
            f"--base {options.base} was given - it is set to run on vLLM, whose model hybrid prefill cannot change - "
            "add --base-options '{\"use_vllm\": false}'"
        )
    # dense_below=0: an accuracy must not depend on how fast the machine is.
    sizes = {"sink_size": options.sink_size, "window_size": options.window_size, "dense_below": 0}
    supported_VLM[name] = with_core(build, options.base_options, options.head_map, options.keep, **sizes)
    sys.argv = ["run.py", "--model", name, *given[end + 1 :]]
    runpy.run_path(f"{options.folder}/run.py", run_name="__main__")


if __name__ == "__main__":
    main()
