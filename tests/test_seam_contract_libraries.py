"""Every fact about loading, processors, accelerate and PEFT that the package relies on; see test_seam_contract.py."""

import ast
import copy
import inspect
import warnings
from pathlib import Path

import accelerate
import pytest
import torch
import transformers
from accelerate import PartialState, hooks
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache
from tiny_models import VERSION, D, L, add_lora, attentions, build, config_for, inputs_for, logits
from transformers import AutoConfig, AutoModelForImageTextToText, PretrainedConfig
from transformers.utils import cached_file, find_adapter_config_file
from transformers.utils import logging as transformers_logging

from corehead_hf import auto, processor
from corehead_hf.families import FAMILIES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved native checkpoint in bfloat16."""
    where = tmp_path_factory.mktemp("checkpoint")
    build("qwen3_vl").to(torch.bfloat16).save_pretrained(where)
    return where


# What the package imports from these libraries. A new name is a new fact.
IMPORTED = {
    "accelerate": {"Accelerator", "PartialState", "clear_device_cache", "gather_object"},
    "peft": set(),
    "transformers": {
        "ALL_ATTENTION_FUNCTIONS",
        "AttentionInterface",
        "AutoConfig",
        "AutoImageProcessor",
        "AutoModelForImageTextToText",
        "AutoProcessor",
        "AutoTokenizer",
        "DynamicCache",
        "GenerationConfig",
        "PretrainedConfig",
        "StaticCache",
        "cached_file",
        "find_adapter_config_file",
        "is_peft_available",
        "is_torchvision_available",
        "logging",
        "select_best_resolution",
    },
}


def test_every_imported_name_is_known_here():
    found = {library: set() for library in IMPORTED}
    for path in Path(auto.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (library := (node.module or "").split(".")[0]) in IMPORTED:
                found[library] |= {alias.name for alias in node.names}
    for library, names in found.items():
        assert names <= IMPORTED[library], (
            f"corehead_hf imports {sorted(names - IMPORTED[library])} from {library} now; test here what is relied on, "
            "then add the name to IMPORTED"
        )


# Loading: auto.py


def test_every_supported_type_is_an_image_text_to_text_model():
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as names

    assert set(FAMILIES) == {"qwen3_vl", "qwen3_vl_moe", "llava_onevision", "internvl"}
    assert set(FAMILIES) <= set(names), (
        f"no longer loadable with AutoModelForImageTextToText, as auto.py does: {set(FAMILIES) - set(names)}"
    )


def test_the_config_loader_takes_the_hub_arguments(folder):
    asked = {"cache_dir": None, "force_download": False, "local_files_only": True, "token": None, "revision": "main"}
    asked |= {"subfolder": "", "proxies": None, "trust_remote_code": False, "code_revision": None}
    assert set(asked) == set(auto._HUB_ARGUMENTS), "auto.py hands AutoConfig other arguments now; test them here"
    config = AutoConfig.from_pretrained(folder, **asked)
    assert isinstance(config, PretrainedConfig), (
        f"AutoConfig gives a {type(config).__name__}, no PretrainedConfig; from_pretrained in auto.py tells by it "
        "whether config= is one"
    )
    _, unused = AutoConfig.from_pretrained(folder, return_unused_kwargs=True, **asked)
    assert unused == {}, (
        f"AutoConfig.from_pretrained no longer takes {sorted(unused)} as its own; auto.py passes it so that config and "
        "weights come from one place"
    )


def test_dtype_auto_is_that_of_the_checkpoint(folder):
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
    assert model.dtype == torch.bfloat16, (
        f"dtype='auto' loads a bfloat16 checkpoint as {model.dtype}; auto.py makes it the default of every version"
    )


def test_loading_information_comes_as_a_pair(folder):
    found = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert isinstance(found, tuple) and hasattr(found[0], "generate"), (
        "output_loading_info=True no longer gives (model, information); AutoCoReModel.from_pretrained in auto.py "
        "wraps the first of a tuple"
    )


@pytest.mark.parametrize("asked", ["eager", {"text_config": "eager", "vision_config": "sdpa"}], ids=["text", "dict"])
def test_the_asked_backend_reaches_the_text_tower(folder, asked):
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation=asked)
    found = model.config.get_text_config()._attn_implementation
    assert found == "eager", (
        f"attn_implementation={asked!r} makes the text tower {found}; attention.py reads the dense backend there, and "
        "auto.py refuses CoRe's own name in a string or a dict"
    )


def test_an_adapters_folder_is_told_by_its_file(folder, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    hub = {"cache_dir": None, "force_download": False, "local_files_only": True, "token": None, "revision": None}
    found = find_adapter_config_file(str(tmp_path), **hub, subfolder="", proxies=None)
    assert found is not None and found.endswith("adapter_config.json"), (
        f"find_adapter_config_file gives {found!r} for an adapter; _read_config in auto.py finds the base model "
        "through it"
    )
    assert find_adapter_config_file(str(folder)) is None, (
        "find_adapter_config_file takes a whole model for an adapter; _read_config in auto.py would read another config"
    )


@pytest.mark.skipif(VERSION < (5, 3), reason="the argument appeared in transformers 5.3")
def test_qwen_needs_token_types_with_pictures():
    model = build("qwen3_vl")
    inputs = inputs_for(model)
    del inputs["mm_token_type_ids"]
    with pytest.raises(ValueError, match="mm_token_type_ids"):
        logits(model, **inputs)


# Processors: processor.py and families/


def test_the_processor_classes_are_where_they_are_looked_for():
    for family in FAMILIES.values():
        native = getattr(transformers, family.processor_class, None)
        assert native is not None, f"transformers has no {family.processor_class} any more; see processor.py"
        parts = [name for name in inspect.signature(native.__init__).parameters if name != "self"][:3]
        assert parts == ["image_processor", "tokenizer", "video_processor"], (
            f"{family.processor_class} begins with {parts}; load_processor in processor.py passes image processor, "
            "tokenizer and no video processor by position"
        )


def test_a_processor_counts_its_parts_where_it_is_overridden():
    for family in FAMILIES.values():
        native = getattr(transformers, family.processor_class)
        counted = native.get_attributes() if VERSION >= (5, 0) else native.attributes
        assert set(counted) == {"image_processor", "tokenizer", "video_processor"}, (
            f"{family.processor_class} has the parts {sorted(counted)}; the class without a video processor in "
            "processor.py stands for two of three"
        )


@pytest.mark.parametrize("variant", ["qwen3_vl", "llava_onevision", "internvl"])
def test_what_the_parts_of_a_processor_are_asked_for(checkpoint, variant):
    """Class methods that read settings back, and names that families/ reads geometry from."""
    loaded = processor.load_processor(checkpoint(variant))
    written, _ = loaded.image_processor.get_image_processor_dict(checkpoint(variant))
    assert isinstance(written, dict) and isinstance(loaded.image_processor.to_dict(), dict), (
        "an image processor's settings no longer come as a dict; processor.py and measuring/fingerprint.py read them"
    )
    settings, _ = type(loaded).get_processor_dict(checkpoint(variant))
    assert isinstance(settings, dict), "get_processor_dict gives no dict; load_processor in processor.py reads it"
    wanted = {
        "qwen3_vl": ("image_token_id", "video_token_id"),
        "llava_onevision": (
            "image_token",
            "image_token_id",
            "num_image_tokens",
            "video_token",
            "video_token_id",
            "vision_aspect_ratio",
            "vision_feature_select_strategy",
        ),
        "internvl": (
            "end_image_token",
            "end_image_token_id",
            "image_seq_length",
            "image_token",
            "image_token_id",
            "start_image_token",
            "start_image_token_id",
        ),
    }[variant]
    missing = [name for name in wanted if not hasattr(loaded, name)]
    assert missing == [], f"{type(loaded).__name__} has no {missing} any more; families/{variant}.py reads them"
    wanted = {
        "qwen3_vl": ("merge_size",),
        "llava_onevision": ("do_resize", "image_grid_pinpoints"),
        "internvl": ("min_patches", "max_patches", "size"),
    }[variant]
    missing = [name for name in wanted if not hasattr(loaded.image_processor, name)]
    assert missing == [], (
        f"{type(loaded.image_processor).__name__} has no {missing} any more; families/{variant}.py reads geometry there"
    )


def test_a_missing_file_can_be_asked_for(tmp_path):
    found = cached_file(tmp_path, "video_preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    assert found is None, (
        f"cached_file gives {found!r} for a file that is not there; processor.py looks for video settings with it"
    )


def test_the_best_resolution_is_height_then_width():
    from transformers.image_processing_utils import select_best_resolution

    found = tuple(select_best_resolution((10, 40), [[16, 64], [64, 16]]))
    assert found == (16, 64), (
        f"select_best_resolution((height 10, width 40)) is {found}; families/llava_anyres.py reads (height, width)"
    )


# Progress and messages: every file with a bar


def test_the_progress_bar_is_that_of_transformers(capsys):
    was_on = transformers_logging.is_progress_bar_enabled()
    try:
        transformers_logging.enable_progress_bar()
        with transformers_logging.tqdm(total=2, desc="seam", unit="step") as bar:
            bar.update(1)
        shown = capsys.readouterr().err
        transformers_logging.disable_progress_bar()
        with transformers_logging.tqdm(total=2, desc="hidden") as bar:
            bar.update(1)
        hidden = capsys.readouterr().err
    finally:
        (transformers_logging.enable_progress_bar if was_on else transformers_logging.disable_progress_bar)()
    assert "seam" in shown, "transformers.utils.logging.tqdm no longer shows a bar; detection.py and others use it"
    assert hidden == "", (
        "disable_progress_bar() no longer silences transformers.utils.logging.tqdm; the package's bars obey it through "
        "that (detection.py, analysis/passes.py, kernels/trial.py)"
    )


# accelerate: attention.py, fusion/, measuring/


def test_accelerate_keeps_a_bound_forward_on_the_module():
    module = attentions(build("qwen3_vl"))[0]
    hooks.add_hook_to_module(module, hooks.ModelHook())
    assert {"forward", "_old_forward"} <= set(module.__dict__), (
        "accelerate no longer binds forward on the instance; swap_class in attention.py and _is_replaced in "
        "fusion/checks.py look for it there"
    )
    assert module._old_forward.__func__ is type(module).forward, (
        "_old_forward is no longer the class's bound forward; swap_class in attention.py rebinds it by that"
    )
    assert "_hf_hook" in module.__dict__, (
        "accelerate keeps its hook elsewhere than in _hf_hook; _is_watched in fusion/modules.py and input_device in "
        "measuring/batch.py ask for it"
    )


def test_accelerate_calls_the_old_forward_that_stands_there_now():
    module = torch.nn.Linear(2, 2)
    hooks.add_hook_to_module(module, hooks.ModelHook())
    module._old_forward = lambda x: x + 1
    assert torch.equal(module(torch.zeros(2)), torch.ones(2)), (
        "accelerate's forward no longer calls the module's own _old_forward; a class swapped by attention.py after "
        "dispatching would never run"
    )


def test_accelerate_hands_objects_it_does_not_know_on_as_they_are():
    class Taking(torch.nn.Module):
        def forward(self, x, ours=None):
            return ours

    module, ours = Taking(), object()
    hooks.add_hook_to_module(module, hooks.AlignDevicesHook("cpu", io_same_device=True))
    assert module(torch.zeros(2), ours=ours) is ours, (
        "a keyword argument no longer comes through accelerate's hook as the object it was; core_passage in "
        "attention.py tells by it that a call reached the attention function"
    )


def test_a_hook_knows_where_an_offloaded_module_runs():
    model = build("qwen3_vl")
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    embeddings = model.get_input_embeddings()
    assert embeddings.weight.is_meta, (
        "an offloaded weight is no longer on the meta device; place_of in fusion/checks.py and weights_digest in "
        "measuring/fingerprint.py expect it there"
    )
    parts = getattr(embeddings._hf_hook, "hooks", (embeddings._hf_hook,))
    devices = [
        torch.device(part.execution_device) for part in parts if getattr(part, "execution_device", None) is not None
    ]
    assert devices == [torch.device("cpu")], (
        f"the hook of an offloaded module names the devices {devices}; input_device in measuring/batch.py reads "
        "execution_device from it or from its .hooks"
    )


def test_chained_hooks_stand_in_a_list():
    module = torch.nn.Linear(2, 2)
    for hook in (hooks.AlignDevicesHook(execution_device="cpu"), hooks.ModelHook()):
        hooks.add_hook_to_module(module, hook, append=True)
    assert [type(part).__name__ for part in module._hf_hook.hooks] == ["AlignDevicesHook", "ModelHook"], (
        "accelerate chains hooks elsewhere than in .hooks; input_device in measuring/batch.py looks there"
    )


def test_one_process_alone():
    state = PartialState(cpu=not torch.accelerator.is_available())
    found = (state.num_processes, state.process_index, state.is_main_process)
    assert found == (1, 0, True), f"without a launcher PartialState says {found}; measuring/dealing.py deals by it"
    with state.main_process_first():
        pass
    assert gather_object(["a", "b"]) == ["a", "b"], (
        "gather_object no longer gives back one process's own list; measuring/dealing.py relies on the order by rank"
    )
    assert "garbage_collection" in inspect.signature(clear_device_cache).parameters, (
        "clear_device_cache lost garbage_collection; measuring/batch.py calls it after an out-of-memory error"
    )


def test_accelerate_takes_cpu_processes_together_when_told():
    """Why process_state passes cpu=: in a CPU-only torchrun, PartialState() else sees no other process."""
    assert "cpu" in inspect.signature(PartialState.__init__).parameters, (
        "PartialState no longer takes cpu=; process_state in measuring/dealing.py joins CPU processes by it"
    )


# PEFT: patching.py


def test_peft_keeps_the_attention_module():
    model = build("qwen3_vl")
    before = attentions(model)
    adapted = add_lora(model)
    assert attentions(adapted) == before, "PEFT replaces attention modules now; patching.py swaps their classes"
    assert adapted.get_base_model() is model, (
        "get_base_model no longer gives the wrapped model; native_model in patching.py takes it from there"
    )


def test_peft_hands_the_methods_of_the_wrapped_model_through():
    model = build("qwen3_vl")
    model.seam_contract = lambda: 7
    adapted = add_lora(model)
    assert adapted.seam_contract() == 7, (
        "PeftModel no longer hands unknown attributes on to the model it wraps; a CoRe model inside it would lose "
        "enable_hybrid and record_attention (patching.py)"
    )


def test_merging_gives_back_the_wrapped_model_with_its_attentions():
    model = build("qwen3_vl")
    before = attentions(model)
    merged = add_lora(model).merge_and_unload()
    assert merged is model and attentions(merged) == before, (
        "merge_and_unload gives another model or other attention modules than it was given; what patching.py "
        "installed in them would be lost"
    )


def test_peft_leaves_projections_that_are_called_as_modules():
    """Fused layers call k_proj, v_proj, gate_proj, up_proj and down_proj, whatever these are by then."""
    adapted = add_lora(build("qwen3_vl"))
    module = attentions(adapted)[0]
    hidden = torch.randn(1, 3, module.q_proj.in_features)
    assert module.k_proj(hidden).shape == (1, 3, 2 * D), (
        "an adapted projection no longer takes and gives what the plain one does; fusion/last_token.py calls it"
    )


def test_an_embedding_that_is_trained_along_has_a_weight():
    peft = pytest.importorskip("peft", exc_type=ImportError)
    with warnings.catch_warnings():  # PEFT itself asks transformers for a deprecated property
        warnings.simplefilter("ignore", FutureWarning)
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
        adapted = peft.get_peft_model(build("qwen3_vl"), config)
    weight = adapted.get_base_model().get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor), (
        "an embedding in modules_to_save has no weight; input_device in measuring/batch.py asks for its device"
    )


def test_a_copied_model_has_its_own_attentions(native):
    copied = copy.deepcopy(native)
    assert (
        not {id(m) for m in attentions(native)} & {id(m) for m in attentions(copied)} and len(attentions(copied)) == L
    ), "deepcopy no longer copies the attention modules; CoReAttention.__reduce_ex__ in attention.py serves it"


def test_a_config_class_leads_to_its_model_class(variant):
    model_class = AutoModelForImageTextToText._model_mapping[type(config_for(variant))]
    assert model_class.__name__.endswith("ForConditionalGeneration"), (
        f"{variant} loads as {model_class.__name__}; families/ know the ForConditionalGeneration classes"
    )
