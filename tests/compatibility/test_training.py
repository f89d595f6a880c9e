"""Training through a wrapped model: gradients and steps are the native ones, and with a mode on those of an oracle."""

import copy
import gc
import importlib
import inspect

import pytest
import torch
import transformers
from native_twin import HEADS, HYBRID, check_modes, hybrid_masks, without_heads
from tiny_models import build, explicit_masks, inputs_for, logits
from transformers import AutoModelForImageTextToText

from corehead_hf import AutoCoReModel

try:
    importlib.import_module("datasets")
except ImportError:  # Trainer imports it where it is installed, also one that needs a newer huggingface_hub
    transformers.utils.import_utils._datasets_available = False

SECTION = "Training and adapters"


@pytest.fixture(autouse=True)
def no_garbage_collection(monkeypatch):
    """Accelerate collects garbage around every run of a Trainer, which takes longer than these runs."""
    monkeypatch.setattr(gc, "collect", lambda *args: 0)


def labelled(model, seed=1):
    """A left-padded batch of two with labels."""
    inputs = inputs_for(model, 2, [0, 5], seed=seed)
    return {**inputs, "labels": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)}


def gradients(model, batch):
    """(loss, {parameter: gradient}) of one backward pass."""
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def train(model, batch, steps=4):
    """The losses of a few AdamW steps on one batch."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(steps):
        losses.append(gradients(model, batch)[0])
        optimizer.step()
    return losses


def assert_gradients_close(found, expected):
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        scale = max(float(gradient.abs().max()), 1e-3)
        assert float((found[name] - gradient).abs().max()) < 1e-3 * scale, name


def differ(found, expected):
    return max(float((found[name] - expected[name]).abs().max()) for name in expected) > 1e-2


@pytest.mark.compatibility(SECTION, "full training")
def test_training_steps_are_the_native_ones(family):
    native = build(family).train()
    model = AutoCoReModel.from_model(copy.deepcopy(native))
    batch = labelled(native)
    expected = gradients(native, batch)
    found = gradients(model, batch)
    assert found[0] == expected[0] and set(found[1]) == set(expected[1])
    assert all(torch.equal(found[1][name], gradient) for name, gradient in expected[1].items())
    losses = train(model, batch)
    assert losses == train(native, batch) and losses[-1] < losses[0] - 0.5
    for name, parameter in native.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter), name
    check_modes(model.eval(), native.eval(), {k: v for k, v in batch.items() if k != "labels"})


@pytest.mark.compatibility(SECTION, "training with heads ablated")
def test_gradients_with_heads_ablated(family):
    native = build(family)
    model = AutoCoReModel.from_model(copy.deepcopy(native))
    batch = labelled(native)
    plain = gradients(native, batch)
    with without_heads(native):
        expected = gradients(native, batch)
    with model.ablate_heads(HEADS):
        found = gradients(model, batch)
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    assert_gradients_close(found[1], expected[1])
    assert differ(plain[1], expected[1])


@pytest.mark.compatibility(SECTION, "training with hybrid prefill on")
def test_gradients_through_hybrid_prefill(family):
    """What a streaming head does not see gets no gradient from it either."""
    native = build(family)
    model = AutoCoReModel.from_model(copy.deepcopy(native))
    batch = labelled(native)
    plain = gradients(native, batch)
    with explicit_masks(native, hybrid_masks()):
        expected = gradients(native, batch)
    model.enable_hybrid(**HYBRID)
    found = gradients(model, batch)
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    assert_gradients_close(found[1], expected[1])
    assert differ(plain[1], expected[1])
    losses = train(model, batch)
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.compatibility(SECTION, "gradient checkpointing")
@pytest.mark.parametrize("reentrant", [False, True], ids=["not reentrant", "reentrant"])
def test_gradient_checkpointing_with_hybrid_prefill(family, reentrant):
    """The second forward, made in the backward pass, runs the same attention as the first."""
    model = AutoCoReModel.from_model(build(family)).train()
    batch = {**labelled(model), "use_cache": False}
    plain = gradients(model, batch)[1]
    model.enable_hybrid(**HYBRID)
    expected = gradients(model, batch)
    renamed = getattr(model, "activation_checkpointing_enable", None)  # transformers >= 5.23
    (renamed or model.gradient_checkpointing_enable)({"use_reentrant": reentrant})
    if reentrant:  # else nothing that enters a checkpointed layer requires a gradient
        model.enable_input_require_grads()
    found = gradients(model, batch)
    assert found[0] == pytest.approx(expected[0], abs=1e-6)
    text = {name: gradient for name, gradient in expected[1].items() if "language_model" in name}
    assert_gradients_close({name: found[1][name] for name in text}, text)
    assert differ({name: plain[name] for name in text}, text)


@pytest.mark.compatibility(SECTION, "model.train() and model.eval()")
def test_train_and_eval(family):
    """Dropout of attention weights is the native one; eval() switches it off, in ablated heads as well."""
    native = build(family, attention_dropout=0.4)
    inputs = inputs_for(native, 2, [0, 5])
    model = AutoCoReModel.from_model(copy.deepcopy(native))
    evaluated = logits(native, **inputs)
    for each in (native.train(), model.train()):
        assert all(module.training for module in each.modules())
    trained = []
    for each in (native, model):
        torch.manual_seed(0)
        trained.append(logits(each, **inputs))
    assert torch.equal(*trained)
    assert float((trained[0] - evaluated).abs().max()) > 0.1
    ablated = []
    with model.ablate_heads(HEADS), without_heads(native):
        for each in (native, model):
            torch.manual_seed(0)
            ablated.append(logits(each, **inputs))
    torch.testing.assert_close(*ablated, atol=1e-4, rtol=0)
    assert float((ablated[0] - trained[0]).abs().max()) > 0.1
    assert not any(module.training for module in model.eval().modules())
    check_modes(model, native.eval(), inputs)


def samples(model, num=4):
    """One-row inputs of different lengths."""
    rows = [inputs_for(model, 1, seed=seed, text=9 + 3 * seed) for seed in range(num)]
    return [{**row, "labels": row["input_ids"].clone()} for row in rows]


def collate(side):
    """Pads token rows on one side, labels with -100; pictures are put one behind the other."""
    fill = {"labels": -100}

    def collator(rows):
        length, batch = max(row["input_ids"].shape[1] for row in rows), {}
        for name in rows[0]:
            if name in ("input_ids", "attention_mask", "mm_token_type_ids", "labels"):
                missing = [length - row[name].shape[1] for row in rows]
                pads = [(count, 0) if side == "left" else (0, count) for count in missing]
                values = zip((row[name] for row in rows), pads, strict=True)
                padded = [torch.nn.functional.pad(value, pad, value=fill.get(name, 0)) for value, pad in values]
                batch[name] = torch.cat(padded)
            else:
                batch[name] = torch.cat([row[name] for row in rows])
        return batch

    return collator


class Losses(transformers.TrainerCallback):
    """Keeps what the trainer logs."""

    def __init__(self):
        self.losses = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.losses += [logs["loss"]] if "loss" in logs else []


def trainer_of(model, folder, side, **options):
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True,
        per_device_train_batch_size=2, per_device_eval_batch_size=2, remove_unused_columns=False,
        prediction_loss_only=True, learning_rate=3e-3, seed=0, **options,
    )  # fmt: skip
    rows, callback = samples(model), Losses()
    trainer = transformers.Trainer(model, arguments, collate(side), rows, rows, callbacks=[callback])
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer, callback.losses


@pytest.mark.compatibility(SECTION, "Trainer.evaluate")
@pytest.mark.parametrize("side", ["left", "right"])
def test_trainer_evaluate(family, side, tmp_path):
    native = build(family)
    model = AutoCoReModel.from_model(copy.deepcopy(native))
    expected, _ = trainer_of(native, tmp_path, side)
    found, _ = trainer_of(model, tmp_path, side)
    plain = expected.evaluate()["eval_loss"]
    assert found.evaluate()["eval_loss"] == plain
    with without_heads(native), model.ablate_heads(HEADS):
        ablated = expected.evaluate()["eval_loss"]
        assert found.evaluate()["eval_loss"] == pytest.approx(ablated, abs=1e-5)
    assert abs(ablated - plain) > 1e-2
    model.enable_hybrid(**HYBRID)
    if side == "left":
        with explicit_masks(native, hybrid_masks()):
            hybrid = expected.evaluate()["eval_loss"]
        assert found.evaluate()["eval_loss"] == pytest.approx(hybrid, abs=1e-5)
        assert abs(hybrid - plain) > 1e-3


@pytest.mark.compatibility(SECTION, "Trainer.train")
def test_trainer_train(family, tmp_path):
    """Two optimizer steps and the checkpoint that is written after them."""
    native = build(family)
    model = AutoCoReModel.from_model(copy.deepcopy(native))
    before = copy.deepcopy(native.state_dict())
    expected, losses = trainer_of(native, tmp_path / "native", "right", max_steps=2)
    expected.train()
    found, again = trainer_of(model, tmp_path / "core", "right", max_steps=2)
    found.train()
    assert losses == again and len(losses) == 2
    state = native.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert any(not torch.equal(value, state[name]) for name, value in before.items())
    found.save_model(tmp_path / "saved")
    reloaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved", attn_implementation="sdpa").eval()
    assert type(reloaded) is type(native)
    inputs = inputs_for(native, 2, [0, 5])
    assert torch.equal(logits(reloaded, **inputs), logits(native.eval(), **inputs))
    check_modes(model.eval(), native, inputs)


@pytest.mark.compatibility(SECTION, "Trainer.train in bfloat16 (autocast), then uninstalled")
def test_trainer_train_in_mixed_precision(family, tmp_path):
    """Accelerate binds a wrapped forward on the model itself; taking CoRe out leaves it in place."""
    native = build(family)
    model = AutoCoReModel.from_model(copy.deepcopy(native))
    expected, losses = trainer_of(native, tmp_path, "left", max_steps=2, bf16=True)
    expected.train()
    found, again = trainer_of(model, tmp_path, "left", max_steps=2, bf16=True)
    found.train()
    assert losses == again and len(losses) == 2
    state = native.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    inputs = inputs_for(native, 2, [0, 5])
    bound = inspect.ismethod(model.__dict__.get("forward"))
    model.uninstall_core()
    assert type(model) is type(native) and inspect.ismethod(model.__dict__.get("forward")) == bound
    assert torch.equal(logits(model.eval(), **inputs), logits(native.eval(), **inputs))
