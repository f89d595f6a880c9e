import json

import numpy as np
import pytest
import transformers
from transformers.utils import is_torchvision_available

from corehead_hf import load_processor
from corehead_hf.families import FAMILIES

FAMILY_NAMES = ["internvl", "llava_onevision", "qwen3_vl"]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_it_is_the_native_class_and_takes_pictures(checkpoint, family):
    processor = load_processor(checkpoint(family))
    assert isinstance(processor, getattr(transformers, FAMILIES[family].processor_class))
    pictures = [np.zeros((64, 64, 3), dtype=np.uint8)] * 2
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "What?"}]}]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=[pictures], return_tensors="pt")
    per_page = 17 if family == "llava_onevision" else 16  # 4 x 4 cells, and LLaVA's newline
    assert int((inputs["input_ids"] == processor.image_token_id).sum()) == 2 * per_page


@pytest.mark.skipif(not is_torchvision_available(), reason="torchvision, which video processors need, is not installed")
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_with_torchvision_it_takes_videos_as_well(checkpoint, family):
    assert load_processor(checkpoint(family)).video_processor is not None


def test_other_model_types_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(ValueError, match="'qwen2' is not supported; supported: qwen3_vl"):
        load_processor(tmp_path)
