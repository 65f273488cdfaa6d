"""SFT: what is trained on, what a step computes, and that a killed run ends as an undisturbed one."""

import argparse
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
import trl

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.core.hashes import sha256_file
from steps.models import checkpoints
from steps.models.chat import Chat
from steps.recipes import sft
from steps.settings.sft import Sft
from steps.training import dealing, finish, supervised
from steps.training.arguments import check_settings
from steps.training.plan import LOG_COLUMNS
from steps.training.state import Resumable, saved_states
from steps.training.supervised import build_trainer, encode, encode_rows
from tests.manifests import seal

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "epochs": 1,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "warmup_ratio": 0.1,
    "batch_size": 4,
    "gradient_accumulation": 2,
    "max_length": 128,
    "packing": True,
    "completion_only_loss": True,
    "thinking": "kept",
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "precision": "fp32",
    "optimizer": "adamw",
    "gradient_checkpointing": False,
    "saves": 3,
    "adapter": {"kind": "full"},
    "order": "shuffle",
    "trajectory": 0,
    "buckets": None,
    "resample": None,
    "progressive": None,
    "seed": 0,
    "data": "problems",
}
LORA = {"kind": "lora", "r": 4, "alpha": 8, "dropout": 0.1}


def rows(count: int, seed: int) -> list[dict]:
    random = Random(seed)
    made = []
    for index in range(count):
        a, b = random.randint(1, 99), random.randint(1, 99)
        turns = []
        for _ in range(random.randint(1, 2)):
            turns.append({"role": "user", "content": "Mara has pears. " * random.randint(1, 3) + f"{a} and {b}?"})
            turns.append({"role": "assistant", "content": f"{a} + {b} = {a + b}\n#### {a + b}"})
        made.append({"id": f"rows:{index}", "messages": turns, "file": "rows.jsonl", "line": index + 1, "row": index})
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    write_jsonl(folder / "train.jsonl", rows(48, seed=1))
    write_jsonl(folder / "valid.jsonl", rows(8, seed=2))
    return {"data": folder / "train.jsonl", "valid": folder / "valid.jsonl"}


def run(settings: dict, parent: Path, data: dict, folder: Path) -> Path:
    """Run the step in this process; returns its output folder."""
    out = folder / "out"
    sft.main(argparse.Namespace(settings=settings, parent=parent, work=folder / "work", out=out, **data))
    return out


def hashes(out: Path) -> dict[str, str]:
    return {p.name: sha256_file(p) for p in sorted(out.iterdir()) if p.name != "provenance.json"}


@pytest.fixture(scope="module")
def tokenizer(small_checkpoint):
    return checkpoints.load_tokenizer(small_checkpoint)


# --- what is trained on --------------------------------------------------------------------------


CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Mara has 12 pears?"},
    {"role": "assistant", "content": "12 pears"},
    {"role": "user", "content": "And 30 more?"},
    {"role": "assistant", "content": "12 + 30 = 42\n#### 42"},
]


def test_every_assistant_turn_is_trained_and_nothing_else(tokenizer):
    (encoded,) = encode(Chat(tokenizer), {"messages": CONVERSATION}, completion_only=True)
    # The reference cuts the written-out conversation by hand and counts the tokens of each piece.
    pieces = [
        ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nMara has 12 pears?<|im_end|>\n", False),
        ("<|im_start|>assistant\n", False),
        ("12 pears<|im_end|>", True),
        ("\n<|im_start|>user\nAnd 30 more?<|im_end|>\n<|im_start|>assistant\n", False),
        ("12 + 30 = 42\n#### 42<|im_end|>", True),
        ("\n", False),
    ]
    ids = [(i, trained) for text, trained in pieces for i in tokenizer(text)["input_ids"]]
    assert encoded["input_ids"] == [i for i, _ in ids]
    assert encoded["labels"] == [i if trained else -100 for i, trained in ids]


def test_without_completion_only_everything_is_trained(tokenizer):
    (encoded,) = encode(Chat(tokenizer), {"messages": CONVERSATION}, completion_only=False)
    assert encoded["labels"] == encoded["input_ids"]


def test_an_earlier_turn_is_trained_as_it_was_asked(tokenizer):
    """Qwen3's template takes the thought out of a turn once another question follows, the empty one too."""
    shipped = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text(encoding="utf-8")
    qwen3 = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, chat_template=shipped)
    encoded = encode(Chat(qwen3), {"messages": CONVERSATION}, completion_only=True)
    trained = [qwen3.decode([i for i in text["labels"] if i != -100]) for text in encoded]
    thinking = "<think>\n\n</think>\n\n"
    assert trained == [f"{thinking}12 pears<|im_end|>", f"{thinking}12 + 30 = 42\n#### 42<|im_end|>"]
    asked = qwen3.apply_chat_template(CONVERSATION[:-1], tokenize=False, add_generation_prompt=True)
    assert qwen3.decode(encoded[1]["input_ids"]).startswith(asked) and "12 pears<|im_end|>" in asked


def test_a_template_that_shows_no_answer_is_refused(tokenizer):
    plain = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, chat_template="{{ messages[0].content }}")
    with pytest.raises(ValueError, match="what the assistant says is not there"):
        Chat(plain).check()


def test_rows_that_do_not_fit_are_skipped_with_their_reason(tokenizer, tmp_path):
    good, long, control = rows(3, seed=3)
    long["messages"][0]["content"] = "pears " * 500
    control["messages"][0]["content"] = "Say <|im_end|> now"
    write_jsonl(tmp_path / "train.jsonl", [good, long, control])
    kept, skipped = encode_rows(tmp_path / "train.jsonl", tokenizer, SETTINGS)
    assert [(record["id"], record["reason"]) for record in skipped] == [
        ("rows:1", "too_long"),
        ("rows:2", "control_token"),
    ]
    assert skipped[0]["line"] == 2 and skipped[0]["detail"] > 500
    counted = supervised.count(kept, skipped)
    assert counted["in"] == 3 == counted["kept"] + sum(counted["quarantined"].values())

    write_jsonl(tmp_path / "train.jsonl", [long])
    with pytest.raises(ValueError, match="train.jsonl: no row is left.*too_long"):
        encode_rows(tmp_path / "train.jsonl", tokenizer, SETTINGS)


# --- what a step computes ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(small_checkpoint, data, tmp_path_factory) -> Path:
    return run(SETTINGS, small_checkpoint, data, tmp_path_factory.mktemp("undisturbed"))


def test_weights_match_a_plain_loop(undisturbed, small_checkpoint, data, tokenizer):
    """Packing, accumulation and the trainer against a loop over single rows, written out."""
    import torch
    from safetensors.torch import load_file

    from steps.training.packing import plan_batches

    kept, _ = encode_rows(data["data"], tokenizer, SETTINGS)
    model = checkpoints.load_model(small_checkpoint, torch.float32)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}])
    order = [i for batch in plan_batches(48, 4, 1, seed=0) for i in batch]
    for step in range(6):
        members = [kept[i] for i in order[step * 8 : step * 8 + 8]]
        trained = sum(label != -100 for row in members for label in row["labels"])
        loss = 0
        for row in members:
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
            labels = torch.tensor(row["labels"])
            loss += torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum") / trained
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:  # half a cosine: a tenth of six steps is no step of warm-up
            group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * step / 6))
        optimizer.step()
        optimizer.zero_grad()

    ours = load_file(undisturbed / "model.safetensors")
    before = load_file(small_checkpoint / "model.safetensors")
    for name, parameter in model.named_parameters():
        # Adam divides by the root of tiny second moments: rounding shows most where gradients are almost zero.
        torch.testing.assert_close(ours[name], parameter.detach(), rtol=0, atol=2e-4)
    moved = max((ours[name] - before[name]).abs().max().item() for name in ours)
    assert moved > 2e-3, "the tolerance would not notice a step left out"


def test_the_folder_is_a_checkpoint(undisturbed, small_checkpoint, data):
    manifest = read_json(undisturbed / "manifest.json")
    assert checkpoints.check(undisturbed) == [undisturbed / "manifest.json"]
    assert manifest["counts"]["steps"] == 6
    assert manifest["counts"]["train"]["kept"] == 48
    assert manifest["inputs"][str(data["data"])] == sha256_file(data["data"])
    lines = (undisturbed / "training_log.csv").read_text().splitlines()
    assert lines[0] == ",".join(LOG_COLUMNS) and len(lines) == 7
    last = dict(zip(LOG_COLUMNS, lines[-1].split(","), strict=True))
    assert last["step"] == "6" and last["epoch"] == "1"
    assert int(last["tokens"]) == manifest["counts"]["train"]["tokens"]
    measured = [line.split(",")[0] for line in lines[1:] if line.split(",")[-1]]
    assert measured == ["1", "2", "3", "4", "6"]  # four at equal distances and the end, however often a state is saved
    assert str(small_checkpoint) in (undisturbed / "README.md").read_text()
    assert not (undisturbed.parent / "work").exists() or not list((undisturbed.parent / "work").iterdir())


def test_no_pickle_anywhere(undisturbed):
    assert {p.suffix for p in undisturbed.iterdir()} <= {".json", ".safetensors", ".jinja", ".md", ".csv"}


def test_valid_loss_is_the_mean_over_tokens(undisturbed, data, tokenizer):
    import torch

    kept, _ = encode_rows(data["valid"], tokenizer, SETTINGS)
    model = checkpoints.load_model(undisturbed, torch.float32).eval()
    losses = []
    for row in kept:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(row["labels"][1:])
        chosen = logits.log_softmax(-1)[torch.arange(len(labels)), labels.clamp(min=0)]
        losses += [-value.item() for value, label in zip(chosen, labels, strict=True) if label != -100]
    logged = float((undisturbed / "training_log.csv").read_text().splitlines()[-1].split(",")[-1])
    assert logged == pytest.approx(sum(losses) / len(losses), rel=1e-4)


# --- what is stored, and wide vocabularies --------------------------------------------------------


@pytest.fixture(scope="module")
def half(small_checkpoint, tmp_path_factory) -> Path:
    """A parent in bfloat16, as most models come."""
    import torch

    folder = tmp_path_factory.mktemp("half") / "parent"
    checkpoints.load_model(small_checkpoint, torch.float32).to(torch.bfloat16).save_pretrained(folder)
    checkpoints.load_tokenizer(small_checkpoint).save_pretrained(folder)
    return folder


SMALL_STEPS = SETTINGS | {"learning_rate": 1e-6, "schedule": "constant", "warmup_ratio": 0.0, "weight_decay": 0.0}


@pytest.mark.parametrize("save_dtype", ["float32", "bfloat16", "bfloat16_stochastic"])
def test_a_full_fine_tune_is_stored_as_it_was_trained(half, data, tmp_path, monkeypatch, save_dtype):
    import torch
    from safetensors.torch import load_file

    trained = {}

    def noting(model, *args):
        trained.update((name, value.detach().double()) for name, value in model.named_parameters())
        return of_step(model, *args)

    of_step = finish.round_weights
    monkeypatch.setattr(finish, "round_weights", noting)
    out = run(SMALL_STEPS | {"save_dtype": save_dtype}, half, data, tmp_path)
    saved, start = load_file(out / "model.safetensors"), load_file(half / "model.safetensors")
    dtype = torch.float32 if save_dtype == "float32" else torch.bfloat16
    assert {value.dtype for value in saved.values()} == {dtype}
    assert read_json(out / "config.json")["dtype"] == str(dtype).removeprefix("torch.")
    change, kept = (
        torch.cat([(of[name].double() - start[name].double()).flatten() for name in start]) for of in (trained, saved)
    )
    cosine = (change @ kept / change.norm() / kept.norm()).item()
    found = read_json(out / "manifest.json")["counts"].get("rounding")
    if save_dtype == "float32":
        assert cosine >= 0.9999 and found is None
        # A child starts from what was trained.
        loaded = dict(checkpoints.load_model(out, torch.float32).named_parameters())
        assert all(torch.equal(loaded[name].double(), value) for name, value in trained.items())
    else:
        assert cosine < 0.8
        assert found["dtype"] == save_dtype and found["cosine"] == pytest.approx(cosine, abs=1e-5)
        assert found["equal"] == pytest.approx((kept == 0).double().mean().item(), abs=1e-6) and found["equal"] > 0.5


def test_an_adapter_is_stored_as_trained_or_refused(half, data, tmp_path):
    with pytest.raises(ValueError, match="^save_dtype: bfloat16 rounds what adapter kind full trains"):
        run(SETTINGS | {"adapter": LORA, "save_dtype": "bfloat16"}, half, data, tmp_path)


def logged(out: Path) -> list[list[float]]:
    lines = (out / "training_log.csv").read_text().splitlines()[1:]
    return [[float(cell or 0) for cell in line.split(",")] for line in lines]


def test_some_places_at_a_time_train_the_same(undisturbed, small_checkpoint, data, tmp_path, some_places):
    """Losses of training and validation, gradient norms, weights; and the scores of rows that trajectory measures."""
    import torch
    from safetensors.torch import load_file

    out = run(SETTINGS | {"trajectory": 1}, small_checkpoint, data, tmp_path / "wide")
    assert some_places["passes"] > 12
    np.testing.assert_allclose(logged(out), logged(undisturbed), rtol=1e-4, atol=1e-5)
    found, expected = (load_file(folder / "model.safetensors") for folder in (out, undisturbed))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-4)


def test_some_places_at_a_time_resume_to_the_same_bytes(small_checkpoint, data, tmp_path, monkeypatch, some_places):
    """With weights that are rounded at random, too."""
    settings = SETTINGS | {"save_dtype": "bfloat16_stochastic"}
    expected = hashes(run(settings, small_checkpoint, data, tmp_path / "whole"))
    save, saves = Resumable._save_checkpoint, []

    def dying(self, *args):
        save(self, *args)
        saves.append(self.state.global_step)
        if len(saves) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Resumable, "_save_checkpoint", dying)
        with pytest.raises(KeyboardInterrupt):
            run(settings, small_checkpoint, data, tmp_path / "killed")
    found = run(settings, small_checkpoint, data, tmp_path / "killed")
    assert hashes(found) == expected


# --- killed and resumed --------------------------------------------------------------------------


def test_kill_minus_9_then_run_again(small_checkpoint, data, tmp_path):
    """With LoRA and dropout, so that the random state matters too."""
    settings = SETTINGS | {"adapter": LORA, "epochs": 6, "saves": 8}
    expected = hashes(run(settings, small_checkpoint, data, tmp_path / "undisturbed"))

    out, work = tmp_path / "killed" / "out", tmp_path / "killed" / "work"
    command = [
        sys.executable,
        "-m",
        "steps.recipes.sft",
        "--settings",
        json.dumps(settings),
        "--parent",
        small_checkpoint,
    ]
    command += ["--data", data["data"], "--valid", data["valid"], "--work", work, "--out", out]
    process = subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not list(work.glob("*/checkpoint-*")):
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert not out.exists() and list(work.glob("*/checkpoint-*"))

    assert hashes(run(settings, small_checkpoint, data, tmp_path / "killed")) == expected


class Killed(BaseException):
    """Stands for the end of the process at a chosen line."""


@pytest.mark.parametrize("save", [1, 3])
def test_a_save_that_was_cut_short_is_ignored(undisturbed, small_checkpoint, data, tmp_path, monkeypatch, save):
    calls = 0

    def cut(self, target):
        nonlocal calls
        calls += self.name == "partial"
        if calls == save:
            raise Killed
        return rename(self, target)

    rename = Path.rename
    monkeypatch.setattr(Path, "rename", cut)
    with pytest.raises(Killed):
        run(SETTINGS, small_checkpoint, data, tmp_path)
    monkeypatch.setattr(Path, "rename", rename)
    (folder,) = (tmp_path / "work").iterdir()
    (folder / "partial" / "state.safetensors").write_bytes(b"half")
    assert len(saved_states(folder)) == save - 1 if save == 1 else 1
    assert hashes(run(SETTINGS, small_checkpoint, data, tmp_path)) == hashes(undisturbed)


def test_a_run_killed_before_its_manifest_does_not_train_again_from_the_start(
    undisturbed, small_checkpoint, data, tmp_path, monkeypatch
):
    def cut(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(finish, "write_manifest", cut)
        with pytest.raises(Killed):
            run(SETTINGS, small_checkpoint, data, tmp_path)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert list((tmp_path / "work").glob("*/checkpoint-4"))
    assert hashes(run(SETTINGS, small_checkpoint, data, tmp_path)) == hashes(undisturbed)


# --- watched and steered -------------------------------------------------------------------------


def test_trajectory_is_what_a_plain_loop_finds_and_changes_nothing(undisturbed, small_checkpoint, data, tmp_path):
    """Every row alone, no padding: loss, correctness and weakest token of the final weights."""
    import pyarrow.parquet as pq
    import torch

    settings = SETTINGS | {"trajectory": 4}
    out = run(settings, small_checkpoint, data, tmp_path)
    for name in ("model.safetensors", "training_log.csv"):
        assert sha256_file(out / name) == sha256_file(undisturbed / name)
    points = pq.read_table(out / "trajectory.parquet").to_pylist()
    assert [point["step"] for point in points] == [step for step in (1, 3, 4, 6) for _ in range(48)]
    assert [point["id"] for point in points] == [f"rows:{i}" for i in range(48)] * 4
    assert {(point["step"], point["epoch"]) for point in points} == {(1, 8 / 48), (3, 0.5), (4, 32 / 48), (6, 1.0)}

    model = checkpoints.load_model(out, torch.float32).eval()
    kept, _ = encode_rows(data["data"], checkpoints.load_tokenizer(out), SETTINGS)
    for row, point in zip(kept, points[-48:], strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        found = [(logits[i - 1].softmax(-1)[t].item(), logits[i - 1].argmax().item() == t)
                 for i, t in enumerate(row["labels"]) if i and t != -100]  # fmt: skip
        losses = [-math.log(probability) for probability, _ in found]
        assert point["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
        assert point["weakest"] == pytest.approx(min(probability for probability, _ in found), rel=1e-3)
        assert point["correct"] == all(right for _, right in found)


def test_sources_are_gone_through_one_after_the_other(small_checkpoint, data, tmp_path, monkeypatch):
    two = [row | {"file": f"{row['row'] % 2}.jsonl"} for row in read_jsonl(data["data"])]
    write_jsonl(tmp_path / "train.jsonl", two)
    plans = []
    build = build_trainer
    monkeypatch.setattr(sft, "build_trainer", lambda *args: plans.append(args[-2]) or build(*args))
    run(SETTINGS | {"order": "sources"}, small_checkpoint, data | {"data": tmp_path / "train.jsonl"}, tmp_path)
    assert [row % 2 for batch in plans[0].batches for row in batch] == [0] * 24 + [1] * 24


def test_a_curriculum_goes_from_easy_to_hard(small_checkpoint, data, tmp_path, monkeypatch):
    rated = [row | {"pass_rate": (row["row"] % 5) / 4, "bucket": "easy"} for row in read_jsonl(data["data"])]
    write_jsonl(tmp_path / "train.jsonl", rated)
    plans = []
    build = build_trainer
    monkeypatch.setattr(sft, "build_trainer", lambda *args: plans.append(args[-2]) or build(*args))
    settings = SETTINGS | {"order": "easy_to_hard", "bucket_shares": {"easy": 1.0}}
    out = run(settings, small_checkpoint, data | {"data": tmp_path / "train.jsonl"}, tmp_path)
    rates = [row % 5 for batch in plans[0].batches for row in batch]
    assert rates == sorted(rates, reverse=True) and len(rates) == 48
    assert read_json(out / "manifest.json")["counts"]["buckets"] == {"easy": {"rows": 48, "dealt": 48}}


# A rate at which this model learns the rows and then falls back, so that there is something to steer.
STEERED = {"learning_rate": 2e-2, "schedule": "constant", "warmup_ratio": 0.0, "epochs": 4, "saves": 5, "trajectory": 3}


@pytest.fixture(scope="module")
def steered_data(tmp_path_factory) -> dict[str, Path]:
    """Three domains, one of them without validation rows; every fourth row pairs with the next."""
    folder = tmp_path_factory.mktemp("steered")
    train = [
        row
        | {"file": f"{'abc'[i % 3]}.jsonl", "conflict_group": f"g{i // 4}" if i % 4 < 2 else None}
        | {"pass_rate": (i % 4) / 4, "bucket": "easy" if i % 4 > 1 else "hard"}
        for i, row in enumerate(rows(48, seed=1))
    ]
    write_jsonl(folder / "train.jsonl", train)
    valid = [row | {"file": f"{'ab'[i % 2]}.jsonl"} for i, row in enumerate(rows(8, seed=2))]
    write_jsonl(folder / "valid.jsonl", valid)
    return {"data": folder / "train.jsonl", "valid": folder / "valid.jsonl"}


@pytest.mark.parametrize(
    "steering",
    [
        {"buckets": {"every": 3}, "resample": {"every": 2, "drop": 0.05, "share": 0.5}, "adapter": LORA},
        {"progressive": {"delta": 0.05}, "epochs": 6},
        {
            "order": "easy_to_hard",
            "bucket_shares": {"easy": 0.5, "hard": 0.5},
            "source_weights": [{"a.jsonl": 1.5, "b.jsonl": 0.5}],
        },
    ],
)
def test_a_steered_run_that_is_killed_ends_the_same(small_checkpoint, steered_data, tmp_path, monkeypatch, steering):
    """Killed as it puts away its third state, then once more right before the end."""
    monkeypatch.setattr(dealing, "fallen", lambda before, now, drop: sorted(now))
    settings = SETTINGS | STEERED | steering
    expected = hashes(run(settings, small_checkpoint, steered_data, tmp_path / "undisturbed"))

    calls = 0

    def cut(self, target):
        nonlocal calls
        calls += self.name == "partial" and target.name.startswith("checkpoint-")
        if calls == 3:
            raise Killed
        return rename(self, target)

    rename = Path.rename
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cut)
        with pytest.raises(Killed):
            run(settings, small_checkpoint, steered_data, tmp_path / "killed")

    def late(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(sft, "save_checkpoint", late)
        with pytest.raises(Killed):
            run(settings, small_checkpoint, steered_data, tmp_path / "killed")
    assert list((tmp_path / "killed" / "work").glob("*/checkpoint-*"))
    assert hashes(run(settings, small_checkpoint, steered_data, tmp_path / "killed")) == expected


def test_dealing_is_logged_and_keeps_the_budget(undisturbed, small_checkpoint, steered_data, tmp_path, monkeypatch):
    """Every domain counts as fallen: the tiny model has no row right."""
    monkeypatch.setattr(dealing, "fallen", lambda before, now, drop: sorted(now))
    plans = []
    build = build_trainer
    monkeypatch.setattr(sft, "build_trainer", lambda *args: plans.append(args[-2]) or build(*args))
    change = {"epochs": 2, "buckets": {"every": 4}, "resample": {"every": 3, "drop": 0.05, "share": 0.5}}
    settings = SETTINGS | STEERED | change
    out = run(settings, small_checkpoint, steered_data, tmp_path)
    log = list(read_jsonl(out / "dealing.jsonl"))
    assert [(line["step"], line["kind"]) for line in log] == [
        (0, "buckets"), (3, "resample"), (4, "buckets"), (6, "resample"), (8, "buckets"), (9, "resample")
    ]  # fmt: skip
    assert log[0]["groups_open"] == 12
    looks = [line for line in log if line["kind"] == "resample"]
    assert all(line["left_out"] == ["c.jsonl"] and set(line["accuracies"]) == {"a.jsonl", "b.jsonl"} for line in looks)
    # Two of the four rows of each of the batches of three steps, fewer where the run ends before.
    assert [line["replaced"] for line in looks] == [12, 12, 2 * 2 * 2]
    assert [len(batch) for batch in plans[0].batches] == [4] * 24
    assert read_json(out / "manifest.json")["counts"]["steps"] == 12


def test_progressive_keeps_the_epoch_before_the_rise(small_checkpoint, steered_data, tmp_path):
    """The weights are those of a run that has the same steps and is cut at the kept epoch."""
    settings = SETTINGS | STEERED | {"progressive": {"delta": 0.05}, "epochs": 8}
    out = run(settings, small_checkpoint, steered_data, tmp_path / "progressive")
    counts = read_json(out / "manifest.json")["counts"]
    lines = [line.split(",") for line in (out / "training_log.csv").read_text().splitlines()[1:]]
    losses = [float(line[-1]) for line in lines if int(line[0]) % 6 == 0]
    kept = counts["epochs"]["kept"]
    assert counts["epochs"]["planned"] == 8 and kept == len(losses) - 1 < 7, "the rate is to let the loss rise"
    assert losses[kept] > losses[kept - 1] + 0.05
    assert all(after <= before + 0.05 for before, after in zip(losses[: kept - 1], losses[1:kept], strict=True))
    assert counts["steps"] == len(lines) == 6 * (kept + 1) and counts["kept_steps"] == 6 * kept

    whole = SETTINGS | STEERED | {"epochs": kept, "trajectory": 0}
    reference = run(whole, small_checkpoint, steered_data, tmp_path / "reference")
    assert sha256_file(out / "model.safetensors") == sha256_file(reference / "model.safetensors")

    import pyarrow.parquet as pq

    steps = pq.read_table(out / "trajectory.parquet")["step"].to_pylist()
    assert steps[-1] == 6 * kept and steps == sorted(steps)


# --- adapters ------------------------------------------------------------------------------------


def test_lora_loads_on_the_untouched_parent_and_can_be_a_parent(small_checkpoint, data, tmp_path):
    import torch
    from peft import PeftModel

    before = sha256_file(small_checkpoint / "model.safetensors")
    out = run(SETTINGS | {"adapter": LORA}, small_checkpoint, data, tmp_path / "first")
    assert read_json(out / "adapter_config.json")["base_model_name_or_path"] == str(small_checkpoint)
    assert sha256_file(small_checkpoint / "model.safetensors") == before
    base = checkpoints.load_model(small_checkpoint, torch.float32).eval()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, str(out)).eval()(ids).logits
        merged = checkpoints.load_model(out, torch.float32).eval()(ids).logits
    assert (adapted - plain).abs().max() > 1e-3
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-4)

    child = run(SETTINGS, out, data, tmp_path / "second")
    assert not checkpoints.is_adapter(child)
    manifest = read_json(child / "manifest.json")
    assert str(out / "manifest.json") in manifest["inputs"]


# --- the user's mistakes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "cosin"}, "schedule: cosin"),
        ({"precision": "fp16"}, "precision: fp16"),
        ({"progressive": {"delta": 0.01}, "epochs": 2.5}, "epochs: 2.5 must be whole"),
        ({"progressive": {"delta": 0.01}, "adapter": {"kind": "adalora"}}, "progressive: may end a run before adalora"),
        ({"buckets": {"every": 5}, "order": "sources"}, "order: sources"),
    ],
)
def test_bad_settings_name_their_key(change, message):
    with pytest.raises(ValueError, match=message):
        check_settings(SETTINGS | change, Sft)


def test_an_adapter_that_does_not_fit_its_parent_is_refused(small_checkpoint, data, tmp_path):
    with pytest.raises(ValueError, match="adapter.r: 33 is above 32"):
        run(SETTINGS | {"adapter": LORA | {"r": 33}}, small_checkpoint, data, tmp_path)


def test_buckets_need_rows_that_name_their_group(small_checkpoint, data, tmp_path):
    with pytest.raises(ValueError, match="no row of .*train.jsonl has a conflict_group"):
        run(SETTINGS | {"buckets": {"every": 2}}, small_checkpoint, data, tmp_path)


def test_a_missing_or_truncated_parent_is_named(small_checkpoint, tmp_path):
    import shutil

    with pytest.raises(ValueError, match="nowhere is missing"):
        checkpoints.check(tmp_path / "nowhere")
    copy = tmp_path / "copy"
    shutil.copytree(small_checkpoint, copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="copy/model.safetensors is damaged"):
        checkpoints.check(copy)
    digest = hashlib.sha256((small_checkpoint / "model.safetensors").read_bytes()).hexdigest()
    seal(copy / "manifest.json", {"outputs": {"model.safetensors": digest}})
    with pytest.raises(ValueError, match="copy/model.safetensors is damaged"):
        checkpoints.check(copy)
    weights.unlink()
    (copy / "manifest.json").unlink()
    with pytest.raises(ValueError, match="copy/model.safetensors is missing"):
        checkpoints.check(copy)


def test_a_loss_that_is_not_a_number_is_the_users_error(small_checkpoint, data, tmp_path):
    with pytest.raises(ValueError, match="lower learning_rate"):
        run(SETTINGS | {"learning_rate": 1e20, "epochs": 2, "max_grad_norm": 1e20}, small_checkpoint, data, tmp_path)


def test_skipped_rows_are_written(small_checkpoint, data, tmp_path):
    with_long = [*read_jsonl(data["data"])]
    with_long[5]["messages"][0]["content"] = "pears " * 500
    write_jsonl(tmp_path / "train.jsonl", with_long)
    out = run(SETTINGS, small_checkpoint, data | {"data": tmp_path / "train.jsonl"}, tmp_path)
    (record,) = read_jsonl(out / "skipped.jsonl")
    assert (record["row"], record["reason"], record["step"]) == (5, "too_long", "sft")
    assert read_json(out / "manifest.json")["counts"]["train"]["quarantined"] == {"too_long": 1}
