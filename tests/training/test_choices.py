"""Settings of a training that a recipe may leave out: what each changes, and that a killed run ends the same."""

import argparse
import csv
import json
import math
import os
import re

import pytest

from steps.core.files import read_json, write_jsonl
from steps.core.hashes import sha256_file
from steps.models import checkpoints
from steps.recipes import cpt
from steps.settings.cpt import Cpt
from steps.settings.distill import Distill
from steps.settings.reinforcement import Rl
from steps.settings.sft import Sft
from steps.settings.stages import TRAINED
from steps.training.arguments import check_settings, schedule
from steps.training.state import Resumable
from steps.training.supervised import build_trainer
from tests.recipes import test_cpt, test_sft
from tests.recipes.test_sft import SETTINGS, Killed, encode_rows, hashes, run
from tests.stages import STAGES
from tests.workloads import ROOT

data, tokenizer, undisturbed = test_sft.data, test_sft.tokenizer, test_sft.undisturbed

LORA = {"kind": "lora", "r": 4, "alpha": 8}
CONSTANT = {"schedule": "constant", "warmup_ratio": 0.0}
CHOICES = {
    "wsd": {
        "max_steps": 4, "epochs": 3, "schedule": "wsd", "warmup_steps": 1, "decay_ratio": 0.5, "min_lr_ratio": 0.1,
        "betas": [0.8, 0.95],
    },
    "smoothed": {"min_lr_ratio": 0.1, "label_smoothing": 0.1, "attention": "eager"},
    "noisy": {
        "neftune_alpha": 5.0, "packing": False, "adapter": {"kind": "full", "freeze": ["embed_tokens", "layers.0"]},
    },
    "keep_best": {**CONSTANT, "eval_steps": 1, "keep_best": {"patience": 2, "min_delta": 0.0}, "learning_rate": 3e-2},
    "loraplus": {
        "adapter": LORA | {"loraplus_ratio": 16.0, "dropout": 0.1, "modules_to_save": ["embed_tokens", "norm"]},
    },
    "layers": {
        "adapter": LORA
        | {"layers_to_transform": [1], "exclude_modules": ["*.mlp.*"], "rank_pattern": {"q_proj": 2}}
        | {"new_tokens": ["<sum>", "<end>"]},
    },
    "new_tokens": {"adapter": {"kind": "full", "new_tokens": ["<sum>"]}},
    "stored": {
        "save_dtype": "bfloat16_stochastic", "optimizer": "adafactor", "schedule": "wsd", "decay_ratio": 0.5,
        "label_smoothing": 0.1, "trajectory": 2, "max_steps": 5,
    },
    "best_of_adapters": {
        "adapter": LORA | {"dropout": 0.1, "loraplus_ratio": 4.0, "modules_to_save": ["norm"]},
        "eval_steps": 1, "keep_best": {}, "learning_rate": 3e-2, "optimizer": "adamw_8bit", "betas": [0.8, 0.95],
    },
}  # fmt: skip


def log(out) -> list[dict]:
    with open(out / "training_log.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def trainer_of(settings, checkpoint, tokenizer, work, data):
    import torch

    from steps.models.adapters.attach import attach
    from steps.training import curriculum
    from steps.training.plan import Plan

    rows, _ = encode_rows(data["data"], tokenizer, settings)
    plan = Plan(curriculum.plan_batches(rows, settings), settings["gradient_accumulation"], [1] * len(rows), 1)
    model = attach(checkpoints.load_model(checkpoint, torch.float32), settings["adapter"], 0, plan.steps)
    return build_trainer(model, tokenizer, rows, settings, plan, work), rows


@pytest.mark.parametrize("choice", CHOICES)
def test_a_killed_run_ends_the_same(choice, small_checkpoint, data, tmp_path, monkeypatch):
    settings = SETTINGS | CHOICES[choice]
    expected = hashes(run(settings, small_checkpoint, data, tmp_path / "undisturbed"))
    saved = []
    save = Resumable._save_checkpoint

    def cut(self, *args):
        save(self, *args)
        saved.append(self.state.global_step)
        if len(saved) == 2:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Resumable, "_save_checkpoint", cut)
        run(settings, small_checkpoint, data, tmp_path / "killed")
    assert hashes(run(settings, small_checkpoint, data, tmp_path / "killed")) == expected


# --- the learning rate ---------------------------------------------------------------------------


def rates(settings: dict, steps: int) -> list[float]:
    import torch
    from transformers import get_scheduler

    told = schedule(settings, steps)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    made = get_scheduler(
        told["lr_scheduler_type"], optimizer, told["warmup_steps"], steps, told["lr_scheduler_kwargs"] or {}
    )
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    return found


def test_cosine_falls_to_its_share():
    found = rates(SETTINGS | {"warmup_steps": 2, "min_lr_ratio": 0.2}, 10)
    expected = [0.0, 0.5] + [0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * (s - 2) / 8)) for s in range(2, 10)]
    assert found == pytest.approx(expected)


def test_wsd_stays_and_falls_at_the_end():
    found = rates(SETTINGS | {"schedule": "wsd", "warmup_ratio": 0.2, "decay_ratio": 0.3, "min_lr_ratio": 0.1}, 10)
    # transformers lets the warmup begin at the share that it ends at.
    assert found[:2] == pytest.approx([0.1, 0.55]) and found[2:8] == [1.0] * 6
    plain = rates(SETTINGS | {"schedule": "wsd", "warmup_ratio": 0.2, "decay_ratio": 0.3}, 10)
    assert plain == pytest.approx([0, 0.5, *[1.0] * 6, 0.75, 0.25])
    fall = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * s / 3)) for s in range(3)]
    assert found[7:] == pytest.approx(fall)
    assert rates(SETTINGS | {"schedule": "wsd", "warmup_ratio": 0.0}, 10)[-1] == pytest.approx(1.0)


def test_the_log_has_the_rates(small_checkpoint, data, tmp_path):
    settings = SETTINGS | {"schedule": "wsd", "warmup_steps": 2, "decay_ratio": 0.5}
    out = run(settings, small_checkpoint, data, tmp_path)
    expected = [1e-3 * rate for rate in rates(settings, 6)]
    assert [float(row["learning_rate"]) for row in log(out)] == pytest.approx(expected)


# --- how long, and which weights -----------------------------------------------------------------


def test_max_steps_are_the_most(small_checkpoint, data, tmp_path):
    out = run(SETTINGS | {"max_steps": 2}, small_checkpoint, data, tmp_path / "two")
    assert len(log(out)) == read_json(out / "manifest.json")["counts"]["steps"] == 2
    assert float(log(out)[-1]["epoch"]) == pytest.approx(16 / 48)
    assert len(log(run(SETTINGS | {"max_steps": 100}, small_checkpoint, data, tmp_path / "all"))) == 6


def test_a_curriculum_is_gone_through_in_max_steps():
    from steps.training import curriculum

    graded = [{"pass_rate": 1 - i / 10, "file": "a"} for i in range(10)]
    settings = {"batch_size": 2, "gradient_accumulation": 1, "epochs": 1, "seed": 0, "order": "easy_to_hard"}
    dealt = [row for batch in curriculum.plan_batches(graded, settings | {"max_steps": 3}) for row in batch]
    assert len(dealt) == 6 and dealt == sorted(dealt) and dealt[-1] >= 8, "to the hardest, and no row is dealt twice"


def test_keep_best_keeps_the_lowest_validation_loss(small_checkpoint, data, tmp_path):
    settings = SETTINGS | CHOICES["keep_best"] | {"epochs": 3}
    out = run(settings, small_checkpoint, data, tmp_path / "best")
    losses = [float(row["valid_loss"]) for row in log(out)]
    kept = read_json(out / "manifest.json")["counts"]["kept_steps"]
    assert losses[kept - 1] == min(losses) and len(losses) == kept + 2 < 18, "the rate is to let the loss rise"
    short = SETTINGS | CONSTANT | {"learning_rate": 3e-2, "max_steps": kept, "epochs": 3}
    reference = run(short, small_checkpoint, data, tmp_path / "reference")
    assert sha256_file(out / "model.safetensors") == sha256_file(reference / "model.safetensors")


def test_eval_steps_are_where_the_loss_is_measured(small_checkpoint, data, tmp_path):
    out = run(SETTINGS | {"eval_steps": 4}, small_checkpoint, data, tmp_path)
    assert [row["step"] for row in log(out) if row["valid_loss"]] == ["4", "6"]


# --- the loss ------------------------------------------------------------------------------------


def test_label_smoothing_is_torchs_and_not_in_what_is_measured(small_checkpoint, data, tokenizer, tmp_path):
    import torch

    settings = SETTINGS | {"label_smoothing": 0.1}
    trainer, rows = trainer_of(settings, small_checkpoint, tokenizer, tmp_path, data)
    trainer.current_gradient_accumulation_steps = 1
    inputs = trainer.lay(rows[:4], settings, tokenizer.pad_token_id)
    trained = (inputs["labels"][:, 1:] != -100).sum()
    with torch.no_grad():
        logits = trainer.model.train()(**{k: v for k, v in inputs.items() if k != "labels"}, use_cache=False).logits
        flat, labels = logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten()
        smoothed = trainer.compute_loss(trainer.model, dict(inputs), num_items_in_batch=trained)
        plain = trainer.compute_loss(trainer.model.eval(), dict(inputs), num_items_in_batch=trained)
    expected = torch.nn.functional.cross_entropy(flat, labels, ignore_index=-100, label_smoothing=0.1)
    torch.testing.assert_close(smoothed, expected)
    torch.testing.assert_close(plain, torch.nn.functional.cross_entropy(flat, labels, ignore_index=-100))


def test_neftune_adds_noise_of_its_size_in_training_alone(small_checkpoint, data, tokenizer, tmp_path):
    """Uniform within alpha / sqrt(L d) (NEFTune, arXiv:2310.05914, algorithm 1)."""
    import torch
    from transformers.integrations.neftune import activate_neftune

    settings = SETTINGS | CHOICES["noisy"]
    trainer, _ = trainer_of(settings, small_checkpoint, tokenizer, tmp_path, data)
    assert trainer.neftune_noise_alpha == 5.0
    activate_neftune(trainer.model, trainer.neftune_noise_alpha)
    embeddings, ids = trainer.model.get_input_embeddings(), torch.arange(20)[None]
    with torch.no_grad():
        noise = embeddings.train()(ids) - embeddings.weight[ids]
        assert torch.equal(embeddings.eval()(ids), embeddings.weight[ids])
    bound = 5.0 / math.sqrt(20 * 64)
    assert 0.9 * bound < noise.abs().max() <= bound * (1 + 1e-5)


# --- the optimizer -------------------------------------------------------------------------------


def rates_of(trainer, optimizer) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each trained weight."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_b_learns_faster_than_a_by_the_ratio(small_checkpoint, data, tokenizer, tmp_path):
    """As PEFT's optimizer has it; what is trained beside the adapter has the rate of A."""
    from peft.optimizers import create_loraplus_optimizer

    adapter = LORA | {"loraplus_ratio": 16.0}
    trainer, _ = trainer_of(SETTINGS | {"adapter": adapter}, small_checkpoint, tokenizer, tmp_path / "a", data)
    kind, options = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    theirs = create_loraplus_optimizer(
        trainer.model, kind, loraplus_lr_ratio=16.0, loraplus_weight_decay=trainer.args.weight_decay, **options
    )
    found = rates_of(trainer, trainer.create_optimizer())
    assert found == rates_of(trainer, theirs)
    assert {name.split(".")[-3]: rate for name, rate in found.items() if rate[0]} == {
        "lora_A": (1e-3, 0.01), "lora_B": (16e-3, 0.01),
    }  # fmt: skip

    settings = SETTINGS | {"betas": [0.8, 0.95], "adapter": adapter | {"modules_to_save": ["norm"]}}
    trainer, _ = trainer_of(settings, small_checkpoint, tokenizer, tmp_path / "b", data)
    optimizer = trainer.create_optimizer()
    assert all(group["betas"] == (0.8, 0.95) for group in optimizer.param_groups)
    norm = {rate for name, rate in rates_of(trainer, optimizer).items() if "modules_to_save" in name}
    assert norm == {(1e-3, 0.0)}


def test_frozen_modules_keep_their_bytes(small_checkpoint, data, tmp_path):
    import torch
    from safetensors.torch import load_file

    out = run(SETTINGS | CHOICES["noisy"], small_checkpoint, data, tmp_path)
    before, after = (load_file(folder / "model.safetensors") for folder in (small_checkpoint, out))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if "embed_tokens" in name or ".layers.0." in name}
    counts = read_json(out / "manifest.json")["counts"]["parameters"]
    assert counts["trained"] == sum(t.numel() for name, t in before.items() if name not in same)


def test_attention_is_another_computation_of_the_same(small_checkpoint, data, tmp_path):
    import torch
    from safetensors.torch import load_file

    eager, auto = (
        load_file(run(SETTINGS | change, small_checkpoint, data, tmp_path / name) / "model.safetensors")
        for name, change in (("eager", {"attention": "eager"}), ("auto", {}))
    )
    assert all(torch.allclose(eager[name], auto[name], rtol=0, atol=2e-4) for name in auto)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "change", "message"),
    [
        (Sft, {"min_lr_ratio": 0.1, "schedule": "linear"}, "min_lr_ratio: has no effect with schedule linear"),
        (Sft, {"decay_ratio": 0.1}, "decay_ratio: has no effect with schedule cosine; write wsd"),
        (Sft, {"betas": [0.9, 0.95], "optimizer": "adafactor"}, "betas: adafactor has none"),
        (Sft, {"neftune_alpha": 5.0}, "neftune_alpha: its noise goes by the length of a row"),
        (Sft, {"max_steps": 3, "progressive": {"delta": 0.1}}, "max_steps: progressive chooses the end"),
        (Sft, {"keep_best": {}, "progressive": {"delta": 0.1}}, "keep_best: progressive chooses the end"),
        (Sft, {"attention": "flash_attention_2"}, "attention: flash_attention_2: needs a GPU"),
        (Sft, {"liger": True}, "liger: needs a GPU"),
        (Cpt, {"neftune_alpha": 5.0}, "neftune_alpha: its noise goes by the length of a row"),
        (Distill, {"label_smoothing": 0.1, "objective": "forward_kl"}, "label_smoothing: has no effect with objective"),
        (Distill, {"adapter": {"kind": "full", "new_tokens": ["<a>"]}}, "adapter.new_tokens: has an effect on stages"),
    ],
)
def test_what_has_no_effect_or_is_not_there_is_refused(of, change, message):
    with pytest.raises(ValueError, match=message):
        check_settings(SETTINGS | change, of)


def test_the_fits_of_rl_are_asked_too():
    from tests.graph.test_recipes import PARAMS

    with pytest.raises(ValueError, match="decay_ratio: has no effect"):
        Rl.fit(PARAMS["rl"] | {"decay_ratio": 0.2})


def test_a_warmup_beyond_the_run_is_refused():
    with pytest.raises(ValueError, match="warmup_steps: 8 steps of warmup and 3 of the fall are more than the 10"):
        schedule(SETTINGS | {"schedule": "wsd", "warmup_steps": 8, "decay_ratio": 0.3}, 10)


# --- boards --------------------------------------------------------------------------------------


def test_tensorboard_has_what_is_logged(small_checkpoint, data, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(SETTINGS, small_checkpoint, data | {"logs": tmp_path / "sft"}, tmp_path)
    write_jsonl(tmp_path / "documents.jsonl", [{"text": "Mara has pears."} for _ in range(8)])
    cpt.main(
        argparse.Namespace(
            settings=test_cpt.SETTINGS, parent=small_checkpoint, data=tmp_path / "documents.jsonl",
            work=tmp_path / "work_cpt", out=tmp_path / "out_cpt", logs=tmp_path / "cpt",
        )
    )  # fmt: skip
    for stage in ("sft", "cpt"):
        events = EventAccumulator(str(tmp_path / stage))
        events.Reload()
        measured = {"valid_loss"} if stage == "sft" else set()
        assert {"loss", "grad_norm", "learning_rate"} | measured <= {*events.Tags()["scalars"]}


@pytest.mark.parametrize("stage", TRAINED)
def test_every_stage_that_trains_tells_the_boards(stage):
    """Its rule names a folder, its step hands the trainer over before it trains."""
    text = (ROOT / STAGES[stage].replace(".", "/")).with_suffix(".py").read_text()
    assert '"--logs"' in text
    assert text.index("boards.add(trainer, args, settings)") < text.index(" training.train(")
    rules = "".join(file.read_text() for file in sorted((ROOT / "rules").glob("*.smk")))
    (rule,) = re.findall(rf"^rule {stage}:\n(?:(?:    .*)?\n)+", rules, re.MULTILINE)
    assert "--logs {params.logs:q}" in rule and 'logs="logs/{workload}/{study}/{node}"' in rule


FAKE = """
import json, os
from pathlib import Path
run = None
class Run:
    summary = {}
    def _label(self, **told): pass
class Config(dict):
    def update(self, told, **options): pass
config = Config()
said = []
def note(**told):
    said.append(told)
    Path(os.environ["WANDB_DIR"], "said.json").write_text(json.dumps(said))
def init(**told):
    global run
    run = Run()
    note(init=told, mode=os.environ["WANDB_MODE"])
def log(told): note(log=told)
def define_metric(*names, **told): pass
def finish(): pass
"""


def test_wandb_is_told_offline_and_changes_no_byte(undisturbed, small_checkpoint, data, tmp_path, monkeypatch):
    """Against a package of its name that notes what it is told."""
    for name in ("sdk", "sdk/lib"):
        (tmp_path / "site/wandb" / name).mkdir(parents=True)
        (tmp_path / "site/wandb" / name / "__init__.py").touch()
    (tmp_path / "site/wandb/__init__.py").write_text(FAKE)
    (tmp_path / "site/wandb/sdk/lib/config_util.py").write_text("class ConfigError(Exception): pass")
    monkeypatch.syspath_prepend(tmp_path / "site")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    monkeypatch.setattr(os, "environ", environment)
    (tmp_path / "logs").mkdir()
    out = run(SETTINGS | {"tracker": "wandb"}, small_checkpoint, data | {"logs": tmp_path / "logs"}, tmp_path / "mine")
    said = json.loads((tmp_path / "logs/said.json").read_text())
    assert said[0] == {"init": {"project": tmp_path.name, "name": "out"}, "mode": "offline"}
    steps = [entry["log"]["train/global_step"] for entry in said if "train/loss" in entry.get("log", {})]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert sha256_file(out / "model.safetensors") == sha256_file(undisturbed / "model.safetensors")


def test_a_tracker_that_is_not_installed_is_refused():
    with pytest.raises(ValueError, match="tracker: trackio is not installed; install it"):
        check_settings(SETTINGS | {"tracker": "trackio"}, Sft)
