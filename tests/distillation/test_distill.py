"""Off-policy distillation: what is trained on, the divergence, the alignment with the cache, killed and resumed."""

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.core.hashes import sha256_file
from steps.distillation import distill, logprobs
from steps.distillation.distill_objective import encode_rows, forward_kl, layout, open_caches
from steps.models import checkpoints
from steps.models.chat import Chat
from steps.training import packing
from steps.training.plan import LOG_COLUMNS
from steps.training.supervised import encode, plan_bins
from tests.conftest import build_tokenizer, padded
from tests.manifests import seal
from tests.recipes import test_sft

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "objective": "tokens",
    "epochs": 2,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "warmup_ratio": 0.1,
    "batch_size": 4,
    "gradient_accumulation": 2,
    "max_length": 128,
    "packing": True,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "precision": "fp32",
    "optimizer": "adamw",
    "gradient_checkpointing": False,
    "saves": 3,
    "adapter": {"kind": "full"},
    "seed": 0,
}
FORWARD_KL = SETTINGS | {"objective": "forward_kl"}
VOCABULARY = len(build_tokenizer())


def rows(count: int, seed: int) -> list[dict]:
    """Conversations of one or two turns, as `generate` leaves them."""
    return [row | {"id": f"{row['id']}#0"} for row in test_sft.rows(count, seed)]


def trained_tokens(path: Path, tokenizer) -> list[int]:
    """Of every row, how many tokens its last turn has: counted in the text, not by the code under test."""
    return [len(tokenizer(row["messages"][-1]["content"] + "<|im_end|>")["input_ids"]) for row in read_jsonl(path)]


def write_cache(folder: Path, data: Path, ids: np.ndarray, logps: np.ndarray, tail: np.ndarray, lengths: list) -> Path:
    """A folder as `logprobs` leaves it."""
    folder.mkdir(parents=True)
    arrays = {
        "ids": ids.astype(np.uint16),
        "logps": logps.astype(np.float16),
        "tail": tail.astype(np.float16),
        "lengths": np.array(lengths, np.uint32),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    outputs = {f"{name}.npy": sha256_file(folder / f"{name}.npy") for name in arrays}
    manifest = {"step": "logprobs", "settings": {}, "seed": None, "inputs": {str(data): sha256_file(data)}}
    seal(folder / "manifest.json", manifest | {"outputs": outputs, "counts": {}})
    return folder


def random_cache(folder: Path, data: Path, tokenizer, k: int, seed: int, without: tuple = ()) -> Path:
    """A teacher that is drawn at random, place by place; `without`: rows that the cache leaves out."""
    lengths = [0 if i in without else n for i, n in enumerate(trained_tokens(data, tokenizer))]
    logits = np.random.default_rng(seed).normal(size=(sum(lengths), VOCABULARY)) * 3
    logps = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    order = np.argsort(-logps, 1)
    top, rest = np.take_along_axis(logps, order[:, :k], 1), np.take_along_axis(logps, order[:, k:], 1)
    tail = np.log(np.exp(rest).sum(1)) if k < VOCABULARY else np.full(len(logps), -20.0)
    return write_cache(folder, data, order[:, :k], top, np.maximum(tail, -20), lengths)


@pytest.fixture(scope="module")
def tokenizer(small_checkpoint):
    return checkpoints.load_tokenizer(small_checkpoint)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    write_jsonl(path, rows(24, seed=1))
    return path


@pytest.fixture(scope="module")
def cache(data, tokenizer, tmp_path_factory) -> Path:
    return random_cache(tmp_path_factory.mktemp("cache") / "teacher", data, tokenizer, 8, seed=0)


def run(settings: dict, parent: Path, data: Path | list[Path], folder: Path, caches: Path | list[Path] = ()) -> Path:
    """Run the step in this process; returns its output folder."""
    out = folder / "out"
    data, caches = ([given] if isinstance(given, Path) else list(given) for given in (data, caches))
    distill.main(
        argparse.Namespace(settings=settings, parent=parent, data=data, logprobs=caches, work=folder / "work", out=out)
    )
    return out


def hashes(out: Path) -> dict[str, str]:
    return {p.name: sha256_file(p) for p in sorted(out.iterdir()) if p.name != "provenance.json"}


def losses(out: Path) -> list[float]:
    return [float(line.split(",")[2]) for line in (out / "training_log.csv").read_text().splitlines()[1:]]


# --- the rows ------------------------------------------------------------------------------------


def test_only_what_the_teacher_wrote_is_trained_on(data, tokenizer):
    kept, _ = encode_rows(data, tokenizer, SETTINGS)
    two_turns = 0
    for row, encoded in zip(read_jsonl(data), kept, strict=True):
        trained = tokenizer.decode([label for label in encoded["labels"] if label != -100])
        assert trained == row["messages"][-1]["content"] + "<|im_end|>"
        two_turns += len(row["messages"]) > 2
    assert 0 < two_turns < 24


def test_skipped_rows_stay_aligned(small_checkpoint, tokenizer, tmp_path):
    """A row too long for the student, one that the cache lacks, one with a control token: each other row keeps its own.

    What a row's cache holds is marked by its place in the file: id 100 + place.
    """
    made = rows(6, seed=3)
    made[1]["messages"][0]["content"] = "pears " * 500
    made[4]["messages"][0]["content"] = "Say <|im_end|> now"
    path = tmp_path / "train.jsonl"
    write_jsonl(path, made)
    lengths = trained_tokens(path, tokenizer)
    lengths[2] = 0
    ids = np.repeat(100 + np.arange(6), lengths)[:, None]
    folder = write_cache(tmp_path / "cache", path, ids, np.full(ids.shape, -0.5), np.full(len(ids), -0.9327), lengths)
    (cached,) = open_caches([path], [folder], VOCABULARY)
    kept, skipped = encode_rows(path, tokenizer, SETTINGS, cached)
    assert [row["id"] for row in kept] == ["rows:0#0", "rows:3#0", "rows:5#0"]
    assert sorted((record["row"], record["reason"], record["step"]) for record in skipped) == [
        (1, "too_long", "distill"), (2, "not_cached", "distill"), (4, "control_token", "distill")
    ]  # fmt: skip

    batch = layout(kept, SETTINGS, tokenizer.pad_token_id)
    trained = batch["labels"][:, 1:] != -100
    assert len(batch["ids"]) == len(batch["logps"]) == len(batch["tail"]) == trained.sum()
    # The rows of a batch are told apart by their prompts: which row lies where is read from the tokens.
    found = []
    for b, members in enumerate(plan_bins(kept, SETTINGS)):
        start = 0
        for i in members:
            end = start + len(kept[i]["input_ids"])
            assert batch["input_ids"][b, start:end].tolist() == kept[i]["input_ids"]
            found += [100 + int(kept[i]["id"][5])] * sum(label != -100 for label in kept[i]["labels"])
            start = end
    assert batch["ids"][:, 0].tolist() == found

    out = run(FORWARD_KL, small_checkpoint, path, tmp_path, folder)
    train = read_json(out / "manifest.json")["counts"]["train"]
    assert train["in"] == 6 == train["kept"] + sum(train["quarantined"].values())
    assert train["quarantined"] == {"control_token": 1, "not_cached": 1, "too_long": 1}
    assert sorted(record["row"] for record in read_jsonl(out / "skipped.jsonl")) == [1, 2, 4]


# --- the divergence ------------------------------------------------------------------------------


def by_hand(logits: np.ndarray, ids: np.ndarray, logps: np.ndarray, tail: np.ndarray | None) -> np.ndarray:
    """KL over the k and the rest, in float64, from probabilities. Without `tail` there is no rest."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    found = []
    for row in range(len(p)):
        inside = [p[row, i] for i in ids[row]]
        q = [math.exp(value) for value in logps[row]]
        terms = list(zip(q, inside, strict=True))
        if tail is not None:
            outside = sum(p[row, v] for v in range(p.shape[1]) if v not in set(ids[row]))
            terms.append((math.exp(tail[row]), outside))
        found.append(sum(a * math.log(a / b) for a, b in terms))
    return np.array(found)


def teacher_of(seed: int, n: int, v: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    logits = np.random.default_rng(seed).normal(size=(n, v)) * 2
    q = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    ids = np.argsort(-q, 1)[:, :k]
    top = np.take_along_axis(q, ids, 1)
    return ids, np.log(top), np.log(np.maximum(1 - top.sum(1), 1e-9))


@pytest.mark.parametrize("k", [1, 3, 11])
def test_loss_and_gradient_by_hand(k):
    import torch

    logits = np.random.default_rng(1).normal(size=(5, 12)) * 2
    ids, logps, tail = teacher_of(2, 5, 12, k)
    given = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    value = forward_kl(given, torch.tensor(ids), torch.tensor(logps).float(), torch.tensor(tail).float())
    np.testing.assert_allclose(value.detach().numpy(), by_hand(logits, ids, logps, tail), rtol=1e-5, atol=1e-6)
    value.sum().backward()
    step, difference = 1e-5, np.empty_like(logits)
    for place in np.ndindex(*logits.shape):
        shift = np.zeros_like(logits)
        shift[place] = step
        above, below = (by_hand(logits + sign * shift, ids, logps, tail).sum() for sign in (1, -1))
        difference[place] = (above - below) / (2 * step)
    assert np.abs(difference).max() > 0.1
    np.testing.assert_allclose(given.grad.numpy(), difference, atol=1e-5)


def test_all_of_the_vocabulary_is_the_full_divergence():
    import torch

    logits = np.random.default_rng(1).normal(size=(5, 12)) * 2
    ids, logps, _ = teacher_of(2, 5, 12, 12)
    given = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    # The cache's floor of the tail: there is no rest, so it must not count.
    value = forward_kl(given, torch.tensor(ids), torch.tensor(logps).float(), torch.full((5,), -20.0))
    np.testing.assert_allclose(value.detach().numpy(), by_hand(logits, ids, logps, None), rtol=1e-5)
    value.sum().backward()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    q = np.zeros_like(p)
    np.put_along_axis(q, ids, np.exp(logps), 1)
    np.testing.assert_allclose(given.grad.numpy(), p - q, atol=1e-5)


def test_a_rest_that_is_almost_nothing_keeps_its_gradient():
    """The student leaves e^-40 outside: 1 - sum would be 0 or noise there."""
    import torch

    logits = torch.tensor([[20.0, 19.0, -20.0, -21.0]], requires_grad=True)
    ids, tail = torch.tensor([[0, 1]]), torch.log(torch.tensor([0.5]))
    value = forward_kl(logits, ids, torch.log(torch.tensor([[0.3, 0.2]])), tail)
    p = np.exp(logits.detach().numpy().astype(np.float64))[0]
    p /= p.sum()
    expected = 0.3 * math.log(0.3 / p[0]) + 0.2 * math.log(0.2 / p[1]) + 0.5 * math.log(0.5 / (p[2] + p[3]))
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.sum().backward()
    share = p[2] / (p[2] + p[3])
    np.testing.assert_allclose(logits.grad[0, 2:].numpy(), [-0.5 * share, -0.5 * (1 - share)], rtol=1e-4)


def test_it_is_least_where_student_and_teacher_agree():
    import torch

    ids, logps, tail = (torch.tensor(part) for part in teacher_of(2, 5, 12, 3))
    logits = torch.full((5, 12), 0.0, dtype=torch.float64).scatter(1, ids, logps)
    outside = torch.ones(5, 12).scatter(1, ids, 0.0).bool()
    logits[outside] = (tail - math.log(9)).repeat_interleave(9)
    assert forward_kl(logits, ids, logps, tail).abs().max() < 1e-6


# --- training ------------------------------------------------------------------------------------


def test_tokens_is_a_fine_tune_on_the_same_rows(small_checkpoint, data, tmp_path):
    """Rows of one turn: all that the assistant says is the teacher's."""
    single = [row | {"messages": row["messages"][-2:]} for row in read_jsonl(data)]
    write_jsonl(tmp_path / "train.jsonl", single)
    out = run(SETTINGS, small_checkpoint, tmp_path / "train.jsonl", tmp_path / "distill")
    given = {"data": tmp_path / "train.jsonl", "valid": tmp_path / "train.jsonl"}
    plain = test_sft.run(test_sft.SETTINGS | SETTINGS, small_checkpoint, given, tmp_path / "sft")
    assert sha256_file(out / "model.safetensors") == sha256_file(plain / "model.safetensors")
    assert losses(out) == losses(plain) and len(losses(out)) == 6
    manifest = read_json(out / "manifest.json")
    assert manifest["step"] == "distill" and manifest["counts"]["steps"] == 6
    assert checkpoints.check(out) == [out / "manifest.json"]
    assert (out / "training_log.csv").read_text().splitlines()[0] == ",".join(LOG_COLUMNS)


@pytest.fixture(scope="module")
def undisturbed(small_checkpoint, data, cache, tmp_path_factory) -> Path:
    return run(FORWARD_KL, small_checkpoint, data, tmp_path_factory.mktemp("undisturbed"), cache)


def test_weights_match_a_plain_loop(undisturbed, small_checkpoint, data, cache, tokenizer):
    """Packing, accumulation, the narrowed head and the cache against a loop over single rows of the whole model.

    The loop reads the arrays itself and writes the divergence with the probabilities of all tokens.
    """
    import torch
    from safetensors.torch import load_file

    ids, logps, tail, lengths = (np.load(cache / f"{n}.npy") for n in ("ids", "logps", "tail", "lengths"))
    ends = np.cumsum(lengths)
    chat = Chat(tokenizer)
    encoded = [encode(chat, row, True)[-1]["input_ids"] for row in read_jsonl(data)]
    model = checkpoints.load_model(small_checkpoint, torch.float32)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}])
    order = [i for batch in packing.plan_batches(24, 4, 2, seed=0) for i in batch]
    found = []
    for step in range(6):
        members = order[step * 8 : step * 8 + 8]
        loss = 0
        for i in members:
            p = model(input_ids=torch.tensor([encoded[i]])).logits[0, :, :VOCABULARY].softmax(-1)
            # The last turn closes the row, but for the line break after it.
            places = range(len(encoded[i]) - 2 - lengths[i], len(encoded[i]) - 2)
            for place, j in zip(places, range(ends[i] - lengths[i], ends[i]), strict=True):
                q = np.exp(np.append(logps[j], tail[j]).astype(np.float64))
                q /= q.sum()
                inside = p[place, ids[j].astype(int)]
                student = torch.cat([inside, 1 - inside.sum()[None]])
                loss += (torch.tensor(q).float() * (torch.tensor(q).float().log() - student.log())).sum()
        loss = loss / sum(int(lengths[i]) for i in members)
        found.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:  # half a cosine: a tenth of six steps is no step of warm-up
            group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * step / 6))
        optimizer.step()
        optimizer.zero_grad()
    np.testing.assert_allclose(losses(undisturbed), found, rtol=1e-4)
    ours = load_file(undisturbed / "model.safetensors")
    before = load_file(small_checkpoint / "model.safetensors")
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.detach(), rtol=0, atol=2e-4)
    moved = max((ours[name] - before[name]).abs().max().item() for name in ours)
    assert moved > 2e-3, "the tolerance would not notice a step left out"


def test_a_padded_student_learns_as_an_unpadded_one(undisturbed, small_checkpoint, data, cache, tmp_path):
    wide = padded(Path(shutil.copytree(small_checkpoint, tmp_path / "wide")), 1024)
    found = run(FORWARD_KL, wide, data, tmp_path, cache)
    np.testing.assert_allclose(losses(found), losses(undisturbed), rtol=1e-4)


def test_some_places_at_a_time_learn_the_same(undisturbed, small_checkpoint, data, cache, tmp_path, some_places):
    out = run(FORWARD_KL, small_checkpoint, data, tmp_path, cache)
    assert some_places["passes"] > 0
    np.testing.assert_allclose(losses(out), losses(undisturbed), rtol=1e-4)


def test_packed_is_as_unpacked(undisturbed, small_checkpoint, data, cache, tmp_path):
    out = run(FORWARD_KL | {"packing": False}, small_checkpoint, data, tmp_path, cache)
    np.testing.assert_allclose(losses(out), losses(undisturbed), rtol=1e-4)


def test_gradient_checkpointing_changes_nothing(undisturbed, small_checkpoint, data, cache, tmp_path):
    out = run(FORWARD_KL | {"gradient_checkpointing": True}, small_checkpoint, data, tmp_path, cache)
    np.testing.assert_allclose(losses(out), losses(undisturbed), rtol=1e-4)


def test_a_student_learns_the_distribution_of_its_teacher(small_checkpoint, tiny_checkpoint, data, tokenizer, tmp_path):
    """The cache of a real model, all of the vocabulary: the loss starts at the full divergence and falls."""
    import torch

    teacher, student = (
        checkpoints.load_model(folder, torch.float32).eval() for folder in (tiny_checkpoint, small_checkpoint)
    )
    kept, _ = encode_rows(data, tokenizer, SETTINGS)
    values, divergences = [], []
    for row in kept:
        trained = torch.tensor(row["labels"][1:]) != -100
        with torch.no_grad():
            q, p = (
                model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1, :VOCABULARY][trained].log_softmax(-1)
                for model in (teacher, student)
            )
        values.append(q.numpy())
        divergences.append((q.exp() * (q - p)).sum(1).numpy())
    logps = np.concatenate(values)
    order = np.argsort(-logps, 1)
    lengths = [len(value) for value in values]
    top = np.take_along_axis(logps, order, 1)
    folder = write_cache(tmp_path / "cache", data, order, top, np.full(len(top), -20.0), lengths)
    # All rows in the first step, so that its loss is their mean.
    settings = FORWARD_KL | {"batch_size": 24, "gradient_accumulation": 1, "epochs": 12, "learning_rate": 3e-3}
    out = run(settings, small_checkpoint, data, tmp_path, folder)
    assert losses(out)[0] == pytest.approx(np.concatenate(divergences).mean(), rel=2e-3)
    assert losses(out)[-1] < 0.7 * losses(out)[0]


def test_a_student_that_is_its_teacher_has_nothing_to_learn(small_checkpoint, data, cache, tmp_path):
    """The cache of the `logprobs` step: at the first step, from the parent's weights, every place has to agree."""
    settings = {"top_k": 8, "max_length": 128, "batch_size": 8}
    given = argparse.Namespace(settings=settings, input=data, teacher=small_checkpoint, out=tmp_path / "cache")
    logprobs.main(given)
    out = run(FORWARD_KL, small_checkpoint, data, tmp_path, tmp_path / "cache")
    assert 0 <= losses(out)[0] < 1e-4
    assert read_json(out / "manifest.json")["counts"]["train"]["trained_tokens"] == len(np.load(cache / "tail.npy"))


def test_several_files_each_with_its_cache(small_checkpoint, data, cache, tokenizer, undisturbed, tmp_path):
    """Cut in two, rows and caches give the weights of the one file; the caches exchanged are refused."""
    made = list(read_jsonl(data))
    arrays = {name: np.load(cache / f"{name}.npy") for name in ("ids", "logps", "tail", "lengths")}
    cut = int(arrays["lengths"][:10].sum())
    paths = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    write_jsonl(paths[0], made[:10])
    write_jsonl(paths[1], made[10:])
    parts = [slice(0, cut), slice(cut, None)]
    folders = [
        write_cache(tmp_path / path.stem, path, *(arrays[n][part] for n in ("ids", "logps", "tail")), lengths)
        for path, part, lengths in zip(paths, parts, (arrays["lengths"][:10], arrays["lengths"][10:]), strict=True)
    ]
    out = run(FORWARD_KL, small_checkpoint, paths, tmp_path, folders)
    assert sha256_file(out / "model.safetensors") == sha256_file(undisturbed / "model.safetensors")
    inputs = read_json(out / "manifest.json")["inputs"]
    assert {str(path) for path in (*paths, *(folder / "manifest.json" for folder in folders))} <= inputs.keys()
    with pytest.raises(ValueError, match="second: made from other rows than .*first.jsonl"):
        run(FORWARD_KL, small_checkpoint, paths, tmp_path, folders[::-1])


@pytest.mark.parametrize("adapter", [test_sft.LORA, {"kind": "oft", "block_size": 16}])
def test_an_adapter_learns_it_too(adapter, small_checkpoint, data, cache, tmp_path):
    # All rows in each step, so that the losses compare.
    settings = FORWARD_KL | {"batch_size": 24, "gradient_accumulation": 1, "epochs": 12, "learning_rate": 1e-2}
    out = run(settings | {"adapter": adapter}, small_checkpoint, data, tmp_path, cache)
    assert checkpoints.is_adapter(out) and checkpoints.check(out)
    assert losses(out)[-1] < losses(out)[0] - 0.1


# --- killed and resumed --------------------------------------------------------------------------


def test_kill_minus_9_then_run_again(small_checkpoint, data, cache, tmp_path):
    """With LoRA and dropout, so that the random state matters too."""
    settings = FORWARD_KL | {"adapter": test_sft.LORA | {"loraplus_ratio": 4.0}, "epochs": 12, "saves": 8}
    settings |= {"schedule": "wsd", "min_lr_ratio": 0.1, "betas": [0.8, 0.95]}
    expected = hashes(run(settings, small_checkpoint, data, tmp_path / "undisturbed", cache))

    out, work = tmp_path / "killed" / "out", tmp_path / "killed" / "work"
    command = [
        sys.executable,
        "-m",
        "steps.distillation.distill",
        "--settings",
        json.dumps(settings),
        "--parent",
        small_checkpoint,
    ]
    command += ["--data", data, "--logprobs", cache, "--work", work, "--out", out]
    process = subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not list(work.glob("*/checkpoint-*")):
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert not out.exists() and list(work.glob("*/checkpoint-*"))
    assert hashes(run(settings, small_checkpoint, data, tmp_path / "killed", cache)) == expected


# --- the user's mistakes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "caches", "message"),
    [
        (SETTINGS | {"objective": "reverse_kl"}, 0, "objective: reverse_kl is none of tokens, forward_kl"),
        (SETTINGS, 1, "logprobs: have no effect with objective tokens"),
        (FORWARD_KL, 0, "one folder for each data file; there are 0 for 1"),
        (FORWARD_KL, 2, "one folder for each data file; there are 2 for 1"),
        (SETTINGS | {"schedule": "cosin"}, 0, "schedule: cosin"),
    ],
)
def test_bad_settings_name_their_key(settings, caches, message, small_checkpoint, data, cache, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(settings, small_checkpoint, data, tmp_path, [cache] * caches)


def test_a_cache_that_does_not_fit_is_refused(small_checkpoint, data, cache, tokenizer, tmp_path):
    arrays = {name: np.load(cache / f"{name}.npy") for name in ("ids", "logps", "tail", "lengths")}

    def refused(name: str, message: str, **change) -> None:
        folder = write_cache(tmp_path / name, data, **(arrays | change))
        with pytest.raises(ValueError, match=message):
            run(FORWARD_KL, small_checkpoint, data, tmp_path / f"run_{name}", folder)

    foreign = arrays["ids"].copy()
    foreign[5, 7] = VOCABULARY
    ends = f"has token {VOCABULARY}, the student's vocabulary ends at {VOCABULARY - 1}"
    refused("foreign", ends, ids=foreign)
    moved = arrays["lengths"].astype(int)
    moved[3:5] += [1, -1]
    refused(
        "moved", "row rows:3#0 has .* trained tokens, its teacher's log-probabilities .*chat template", lengths=moved
    )
    empty = {name: arrays[name][:0] for name in ("ids", "logps", "tail")}
    refused("empty", "no row is left .not_cached.", lengths=arrays["lengths"] * 0, **empty)

    other = random_cache(tmp_path / "other", data, tokenizer, 4, seed=1)
    with pytest.raises(ValueError, match="other: stores 4 tokens a place, .* 8; use one top_k"):
        run(FORWARD_KL, small_checkpoint, [data, data], tmp_path, [cache, other])

    damaged = random_cache(tmp_path / "damaged", data, tokenizer, 8, seed=0)
    (damaged / "logps.npy").write_bytes((damaged / "logps.npy").read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged/logps.npy is damaged"):
        run(FORWARD_KL, small_checkpoint, data, tmp_path, damaged)
