"""On-policy distillation: what a step computes against NumPy and against TRL's trainer, kills, routing, flags."""

import argparse
import csv
import itertools
import json
import random
import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.core.hashes import sha256_file
from steps.distillation import opd
from steps.engines import transformers as engine
from steps.engines.interface import Sample
from steps.judges.rows import RowJudge
from steps.models import checkpoints
from steps.training import run as training
from tests import by_hand
from tests.conftest import build_model, build_tokenizer, padded

TEMPERATURE, LONGEST, VOCABULARY = 0.8, 6, len(build_tokenizer())
FULL = {"kind": "full"}
REVERSE, FORWARD = {"kind": "reverse_kl"}, {"kind": "forward_kl"}
PAPER = {"kind": "top_k", "of": "student", "k": 16, "rest": "renormalised"}
ONE = [{"data": "one", "share": 1.0, "teachers": [0]}]
ROUTED = [{"data": "one", "share": 0.5, "teachers": [0]}, {"data": "two", "share": 0.5, "teachers": [1]}]
MIXED = [{"data": "one", "share": 1.0, "teachers": [0, 1]}]
JUDGE = RowJudge()
SETTINGS = {
    "steps": 2,
    "prompts": 4,
    "generations": 2,
    "divergence": REVERSE,
    "support": PAPER,
    "horizon": None,
    "off_policy": 0.0,
    "pass_rate": None,
    "curriculum": "shuffle",
    "resident": None,
    "diagnostics": {"top_k": 16, "width": 4},
    "temperature": TEMPERATURE,
    "max_new_tokens": LONGEST,
    "short_answer_words": 5,
    "learning_rate": 3e-3,
    "schedule": "constant",
    "warmup_ratio": 0.0,
    "batch_size": 8,
    "sample_batch": 32,
    "sampler": {"kind": "transformers"},
    "gradient_checkpointing": False,
    "weight_decay": 0.0,
    "max_grad_norm": 0.0,
    "precision": "fp32",
    "optimizer": "adamw",
    "saves": 0,
    "keep_samples": 3,
    "adapter": {"kind": "full"},
    "seed": 0,
    "sources": ONE,
    "weights": [1.0],
}
COLUMNS = (
    "step,epoch,loss,learning_rate,grad_norm,tokens,generated,scored,correct,length,truncated,sampler_gap,log_ratio,entropy,"
    "teacher_entropy,entropy_gap,overlap,mass_student,mass_teacher,overlap_advantage"
).split(",")
PLACES = (
    "step,begin,end,tokens,overlap,mass_student,mass_teacher,overlap_advantage,entropy_gap,entropy,teacher_entropy,"
    "divergence"
).split(",")
close = partial(np.testing.assert_allclose, rtol=0, atol=1e-6)
architecture = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}


def saved(folder: Path, seed: int, **over) -> Path:
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    build_model(tokenizer, seed=seed, architecture=architecture | over).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    """A student and three teachers: a larger one, one of its size, and one whose vocabulary is padded further. Read
    only."""
    base = tmp_path_factory.mktemp("models")
    return [
        saved(base / "student", 0),
        saved(base / "large", 1, hidden_size=48, num_hidden_layers=3),
        saved(base / "other", 2),
        padded(saved(base / "padded", 3), 800),
    ]


def made_rows(count: int, thing: str = "pears") -> list[dict]:
    return [
        {
            "id": f"{thing}:{i}",
            "messages": [
                {"role": "user", "content": f"Mara has {i} {thing}" + " and 7 more" * (i % 3) + "?"},
                {"role": "assistant", "content": f"#### {i}"},
            ],
            "answer": str(i),
            "file": f"{thing}.jsonl",
            "line": i + 1,
            "row": i,
            "pass_rate": (i % 5) / 5,
            "bucket": "medium",
        }
        for i in range(count)
    ]


def run(models, folder: Path, settings: dict, data=None, responses=(), teachers=None) -> Path:
    """A whole run, from files to files; the folder of what it wrote."""
    data = [made_rows(6), made_rows(5, "boxes")][: len(settings["sources"])] if data is None else data
    paths = {"data": [], "responses": []}
    for kind, sets in (("data", data), ("responses", responses)):
        for i, rows in enumerate(sets):
            paths[kind].append(folder.parent / f"{kind}-{i}.jsonl")
            write_jsonl(paths[kind][-1], rows)
    opd.main(
        argparse.Namespace(
            settings=settings, parent=models[0], teachers=teachers or models[1 : 1 + len(settings["weights"])],
            work=folder / "work", logs=folder / "logs", out=folder / "out", **paths,
        )
    )  # fmt: skip
    return folder / "out"


def table(path: Path) -> list[dict]:
    with open(path, encoding="utf-8") as file:
        return [{name: float(value) if value else None for name, value in row.items()} for row in csv.DictReader(file)]


# --- what a run computes -------------------------------------------------------------------------


@pytest.fixture
def doubles(monkeypatch):
    """Lets the trainer compute in float64, where differences of 1e-6 are differences of formulas."""
    import torch
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    def norm(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    single, load = torch.Tensor.float, checkpoints.load_model
    monkeypatch.setattr(torch.Tensor, "float", lambda t: t if t.dtype == torch.float64 else single(t))
    monkeypatch.setattr(Qwen3RMSNorm, "forward", norm)
    monkeypatch.setattr(checkpoints, "load_model", lambda folder, dtype: load(folder, dtype).double())
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Written:
    """In place of the engine's sampling: some tokens for every prompt, a right answer at times; what was asked."""

    def __init__(self, tokenizer):
        self.tokenizer, self.calls = tokenizer, []

    def __call__(self, engine, prompts, *, n, temperature, max_new_tokens, seed, **_):
        draw = random.Random(str(seed))
        groups = [[self.one(draw, prompt, max_new_tokens) for _ in range(n)] for prompt in prompts]
        self.calls.append({"prompts": prompts, "n": n, "limit": max_new_tokens, "seed": seed, "groups": groups})
        assert temperature == TEMPERATURE
        return groups

    def one(self, draw, prompt, limit: int) -> Sample:
        ids = [draw.randrange(3, len(self.tokenizer)) for _ in range(draw.randint(1, limit))]
        right = self.tokenizer("#### " + prompt[-1]["content"].split()[2])["input_ids"]
        if draw.random() < 0.3 and len(right) < limit:
            ids = [*right, 0]
        if draw.random() < 0.7 or ids[-1] == 0:
            ids[-1] = self.tokenizer.eos_token_id
        return Sample(self.tokenizer.decode(ids, skip_special_tokens=True), 0.0, len(ids), tuple(ids))

    def pairs(self, call: dict) -> list[tuple[str, tuple[int, ...]]]:
        """(prompt, response ids) of each sample."""
        return [
            (prompt[-1]["content"], sample.ids)
            for prompt, group in zip(call["prompts"], call["groups"], strict=True)
            for sample in group
        ]


@pytest.fixture
def written(models, monkeypatch) -> Written:
    double = Written(checkpoints.load_tokenizer(models[0]))
    monkeypatch.setattr(engine.Engine, "sample", lambda self, prompts, **k: double(self, prompts, **k))
    return double


def watched(trainer) -> list[dict]:
    """Per step: the loss, the gradients, the weights they were computed with, and (prompt ids, response ids)."""
    from transformers import TrainerCallback

    steps: list[dict] = []

    class Eye(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
            steps.append({"weights": weights, "loss": 0.0, "texts": [], "parts": []})

        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            steps[-1]["gradient"] = {
                name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.requires_grad
            }

    def compute_loss(model, inputs, *args, **kwargs):
        loss = of_trainer(model, inputs, *args, **kwargs)
        steps[-1]["loss"] += loss.item()
        part = [
            tuple(tuple(inputs[f"{kind}_ids"][i][inputs[f"{kind}_mask"][i].bool()].tolist()) for kind in KINDS)
            for i in range(len(inputs["prompt_ids"]))
        ]
        steps[-1]["texts"] += part
        steps[-1]["parts"].append(part)
        return loss

    of_trainer, trainer.compute_loss = trainer.compute_loss, compute_loss
    trainer.add_callback(Eye())
    return steps


KINDS = ("prompt", "completion")


@pytest.fixture
def seen(monkeypatch) -> dict:
    """The trainer of a run, and its steps as `watched`."""
    found, train = {}, training.train

    def spying(trainer, *args, **kwargs):
        found["trainer"], found["steps"] = trainer, watched(trainer)
        return train(trainer, *args, **kwargs)

    monkeypatch.setattr(training, "train", spying)
    return found


class Reference:
    """Loss and diagnostics of one step in NumPy, from the logits of the models that are asked for here."""

    def __init__(self, models, settings: dict, trainer, step: dict):
        import torch

        self.settings, self.student, self.step = settings, trainer.model.eval(), step
        self.tokenizer = checkpoints.load_tokenizer(models[0])
        self.teachers = [
            checkpoints.load_model(models[1 + i], dtype=torch.float32) for i in range(len(settings["weights"]))
        ]
        self.rows = [
            (t, k) for t, (_, ids) in enumerate(step["texts"]) for k in range(len(ids))
        ]  # (text, place) of every token that is learned from
        self.tokens = [step["texts"][t][1][k] for t, k in self.rows]
        by_teacher = [self.logits(model, None) for model in self.teachers]
        self.taught = []
        for n, (t, _) in enumerate(self.rows):
            asked = settings["sources"][self.source(t)]["teachers"]
            if len(asked) == 1:
                self.taught.append(by_teacher[asked[0]][n])
            else:
                self.taught.append(
                    by_hand.mixture([by_teacher[i][n] for i in asked], [settings["weights"][i] for i in asked])
                )

    def source(self, text: int) -> int:
        prompt = self.tokenizer.decode(self.step["texts"][text][0])
        return int("boxes" in prompt)

    def logits(self, model, weights: dict | None) -> np.ndarray:
        """[tokens, V], over the temperature; each text in a pass of its own, so that there is no padding."""
        import torch

        found = []
        for prompt, ids in self.step["texts"]:
            batch = torch.tensor([[*prompt, *ids]])
            with torch.no_grad():
                called = {} if weights is None else weights
                out = torch.func.functional_call(model, called, (batch,)).logits[0, :, :VOCABULARY].numpy()
            found.append(out[len(prompt) - 1 : len(prompt) + len(ids) - 1] / self.settings["temperature"])
        return np.concatenate(found)

    def fixed(self, weights: dict) -> list:
        """What carries no gradient: the places that are compared, or the weight of the sampled token's logarithm."""
        found = []
        for n, student in enumerate(self.logits(self.student, weights)):
            p, q = (by_hand.probabilities(x) for x in (student, self.taught[n]))
            if self.settings["support"]["kind"] == "sampled":
                found.append(np.log(p[self.tokens[n]] / q[self.tokens[n]]))
            else:
                found.append(by_hand.compared(p, q, self.settings["support"]))
        return found

    def loss(self, weights: dict, fixed: list, surrogate: bool = False) -> float:
        """Mean over all tokens of the step; of a sampled token its log ratio, or what is differentiated."""
        total = 0.0
        for n, student in enumerate(self.logits(self.student, weights)):
            if self.settings["support"]["kind"] == "sampled":
                assert self.settings["divergence"] == REVERSE
                total += fixed[n] * by_hand.log_softmax(student)[self.tokens[n]] if surrogate else fixed[n]
            else:
                total += by_hand.distillation(
                    student, self.taught[n], self.settings["divergence"], self.settings["support"], fixed[n]
                )
        return total / len(self.rows)

    def measures(self, own: list[bool]) -> tuple[list[dict], list[int]]:
        """Diagnostics of every token of the student's own texts, and its place in its text."""
        found, places = [], []
        for n, student in enumerate(self.logits(self.student, self.step["weights"])):
            t, k = self.rows[n]
            if own[t]:
                values = by_hand.overlap_of(student, self.taught[n], self.settings["diagnostics"]["top_k"])
                p, q = by_hand.log_softmax(student), by_hand.log_softmax(self.taught[n])
                found.append(values | {"text": t, "log_ratio": q[self.tokens[n]] - p[self.tokens[n]]})
                places.append(k)
        return found, places


def stored_rows(count: int, thing: str) -> list[dict]:
    """What a teacher wrote to the same prompts, as `steps/distillation/generate.py` leaves it."""
    rows = made_rows(count, thing)
    for j, row in enumerate(rows):
        row["messages"][-1]["content"] = "Mara has pears" + ", 7" * (j % 2)
        row |= {"id": f"{row['id']}#0", "sample": 0, "tokens": 4}
    return rows


CASES = {
    "top-16": {},
    "padded-teacher": {"sources": [ONE[0] | {"teachers": [2]}], "weights": [0.0, 0.0, 1.0], "support": FULL},
    "padded-in-mixture-recomputed": {
        "sources": [ONE[0] | {"teachers": [0, 1, 2]}],
        "weights": [0.2, 0.3, 0.5],
        "gradient_checkpointing": True,
        "batch_size": 4,
    },
    "full-reverse-parts": {"support": FULL, "batch_size": 2},
    "full-forward": {"support": FULL, "divergence": FORWARD},
    "sampled": {"support": {"kind": "sampled"}},
    "union-jsd": {
        "divergence": {"kind": "jsd", "beta": 0.3},
        "support": {"kind": "top_k", "of": "union", "k": 8, "rest": "renormalised"},
    },
    "overlap-tail": {"support": {"kind": "top_k", "of": "overlap", "k": 64, "rest": "tail"}},
    "teacher-tail": {
        "divergence": FORWARD,
        "support": {"kind": "top_k", "of": "teacher", "k": 4, "rest": "tail"},
        "adapter": {"kind": "lora", "r": 4, "alpha": 8, "dropout": 0.0},
        "learning_rate": 0.03,
        "batch_size": 4,
    },
    "horizon": {"horizon": {"tokens": 3}},
    "routed": {"sources": ROUTED, "weights": [0.5, 0.5]},
    "routed-parts-one-resident": {"sources": ROUTED, "weights": [0.5, 0.5], "batch_size": 2, "resident": 1},
    "mixed": {"sources": MIXED, "weights": [0.3, 0.7], "support": FULL},
    "off-policy": {"off_policy": 0.5, "support": FULL},
    "off-policy-routed-parts": {
        "off_policy": 0.25,
        "sources": ROUTED,
        "weights": [0.5, 0.5],
        "batch_size": 4,
        "steps": 4,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_loss_gradient_and_diagnostics_are_those_of_the_formula(case, models, tmp_path, doubles, written, seen):
    import torch

    settings = SETTINGS | CASES[case]
    responses = [stored_rows(6, "pears"), stored_rows(5, "boxes")] if settings["off_policy"] else []
    out = run(models, tmp_path / "run", settings, responses=responses[: len(settings["sources"])])
    steps, log = seen["steps"], table(out / "training_log.csv")
    assert len(steps) == len(log) == settings["steps"]
    parts = settings["prompts"] * settings["generations"] // settings["batch_size"]
    tokenizer, stored, sums = written.tokenizer, 0, Counter()
    for number in (0, settings["steps"] - 1):
        step = steps[number]
        assert len(step["parts"]) == parts and len({len(part) for part in step["parts"]}) == 1
        reference = Reference(models, settings, seen["trainer"], step)
        held = reference.fixed(step["weights"])
        close(step["loss"], reference.loss(step["weights"], held), atol=1e-7)
        np.testing.assert_allclose(log[number]["loss"], step["loss"], rtol=1e-5)
    # The slope of the last step's loss along a random direction of the trained weights.
    draw = torch.Generator().manual_seed(0)
    towards = {n: torch.randn(g.shape, generator=draw) for n, g in step["gradient"].items()}
    slope = sum((towards[n] * g).sum().item() for n, g in step["gradient"].items())
    width = 1e-6
    rise = [
        reference.loss(step["weights"] | {n: step["weights"][n] + by * d for n, d in towards.items()}, held, True)
        for by in (width, -width)
    ]
    np.testing.assert_allclose(slope, (rise[0] - rise[1]) / (2 * width), rtol=1e-5, atol=1e-6)
    assert abs(slope) > 1e-3

    # What was learned from is what was written in this step, and the share of what a teacher had written.
    calls = {tuple(call["seed"]): call for call in written.calls}
    for number, step in enumerate(steps):
        call = calls[(0, number)]
        wrote = Counter((tuple(encode(tokenizer, prompt)), ids) for prompt, ids in written.pairs(call))
        got = Counter(step["texts"])
        assert not wrote - got
        rest = got - wrote
        stored += rest.total()
        known = {text for rows in responses for text in map(partial(whole, tokenizer, settings), rows)}
        assert set(rest) <= known
        sums["tokens"] += sum(len(p) + len(r) for p, r in step["texts"])
        sums["scored"] += sum(
            (len(p) + len(r)) * len(settings["sources"][int("boxes" in tokenizer.decode(p))]["teachers"])
            for p, r in step["texts"]
        )
        sums["generated"] += sum(len(ids) for _, ids in written.pairs(call))
        for name, value in sums.items():
            assert log[number][name] == value, name
    counts = read_json(out / "manifest.json")["counts"]
    samples = settings["steps"] * settings["prompts"] * settings["generations"]
    assert counts["samples"] == samples
    assert counts["off_policy_samples"] == stored == round(settings["off_policy"] * samples)

    # The diagnostics are of the student's own texts.
    own = own_texts(written, calls[(0, settings["steps"] - 1)], step)
    found, places = reference.measures(own)
    row = log[-1]
    names = {"overlap_advantage": "advantage"} | {
        name: name for name in ("overlap", "mass_student", "mass_teacher", "entropy_gap", "entropy", "teacher_entropy")
    }
    for column, name in names.items():
        close(row[column], np.mean([each[name] for each in found]), atol=2e-5, err_msg=column)
    by_text: dict[int, list[float]] = {}
    for each in found:
        by_text.setdefault(each["text"], []).append(each["log_ratio"])
    close(row["log_ratio"], np.mean([np.mean(values) for values in by_text.values()]), atol=2e-5)
    texts = step["texts"]
    close(row["length"], np.mean([len(ids) for _, ids in texts]), atol=1e-4)
    close(row["truncated"], np.mean([ids[-1] != tokenizer.eos_token_id for _, ids in texts]), atol=1e-4)

    bins = [each for each in table(out / "positions.csv") if each["step"] == settings["steps"]]
    assert [each["begin"] for each in bins] == [4 * i for i in range(max(places) // 4 + 1)]
    for each in bins:
        inside = [value for value, place in zip(found, places, strict=True) if each["begin"] <= place < each["end"]]
        assert each["tokens"] == len(inside) and each["end"] - each["begin"] == 4
        for column, name in (names | {"divergence": "divergence"}).items():
            close(each[column], np.mean([value[name] for value in inside]), atol=2e-5, err_msg=column)
    for column in names:
        mean = sum(each["tokens"] * each[column] for each in bins) / sum(each["tokens"] for each in bins)
        close(mean, row[column], atol=2e-5, err_msg=column)


@pytest.mark.parametrize(
    "case", ["top-16", "padded-in-mixture-recomputed", "sampled", "teacher-tail", "routed", "mixed"]
)
def test_so_they_are_some_places_at_a_time(case, models, tmp_path, doubles, written, seen, some_places):
    test_loss_gradient_and_diagnostics_are_those_of_the_formula(case, models, tmp_path, doubles, written, seen)
    assert some_places["passes"] > 2


def encode(tokenizer, prompt: str) -> list[int]:
    return tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)["input_ids"]


def whole(tokenizer, settings: dict, row: dict) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(prompt ids, response ids with the end token), cut as a sample of the student would be."""
    prompt = encode(tokenizer, row["messages"][0]["content"])
    response = tokenizer(row["messages"][-1]["content"])["input_ids"]
    return tuple(prompt), tuple([*response, tokenizer.eos_token_id][: settings["max_new_tokens"]])


def own_texts(written: Written, call: dict, step: dict) -> list[bool]:
    wrote = Counter((tuple(encode(written.tokenizer, prompt)), ids) for prompt, ids in written.pairs(call))
    return [text in wrote for text in step["texts"]]


def test_correct_is_the_share_of_the_samples_that_solve_their_row(models, tmp_path, written, seen):
    settings = SETTINGS | {"steps": 3}
    rows = made_rows(6)
    out = run(models, tmp_path / "run", settings, data=[rows])
    by_prompt = {row["messages"][0]["content"]: row for row in rows}
    log, shares = table(out / "training_log.csv"), []
    for call in written.calls:
        right = [
            JUDGE.verdict(by_prompt[prompt[-1]["content"]], sample.text, 5).right
            for prompt, group in zip(call["prompts"], call["groups"], strict=True)
            for sample in group
        ]
        shares.append(np.mean(right))
    np.testing.assert_allclose([row["correct"] for row in log], shares, atol=1e-5)
    assert len(set(shares)) > 1 and max(shares) > 0
    kept = list(read_jsonl(out / "rollouts.jsonl"))
    assert [row["step"] for row in kept] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    for row in kept:
        samples = dict(
            itertools.chain.from_iterable(
                [(sample.text, prompt[-1]["content"]) for sample in group]
                for prompt, group in zip(
                    written.calls[row["step"] - 1]["prompts"], written.calls[row["step"] - 1]["groups"], strict=True
                )
            )
        )
        assert samples[row["response"]] == row["prompt"]
        assert row["correct"] == JUDGE.verdict(by_prompt[row["prompt"]], row["response"], 5).right
        assert row["id"] == by_prompt[row["prompt"]]["id"]
        assert set(row) == {"step", "id", "data", "teacher", "prompt", "response", "correct", "log_ratio"}


def test_correct_is_empty_where_nothing_can_be_told(models, tmp_path, written):
    rows = [row | {"answer": None} for row in made_rows(6)]
    for row in rows:
        row["messages"][-1]["content"] = "a response of more words than a short answer has"
    out = run(models, tmp_path / "run", SETTINGS | {"steps": 1}, data=[rows])
    assert table(out / "training_log.csv")[0]["correct"] is None
    assert all(row["correct"] is None for row in read_jsonl(out / "rollouts.jsonl"))


# --- horizon, prompts ----------------------------------------------------------------------------


def test_the_horizon_grows_to_its_end_and_nothing_is_written_beyond(models, tmp_path, written, seen):
    settings = SETTINGS | {"steps": 6, "max_new_tokens": 12, "horizon": {"tokens": 10, "from": 2, "until": 4}}
    out = run(models, tmp_path / "run", settings)
    limits = [call["limit"] for call in written.calls]
    assert limits == [2, 4, 6, 8, 10, 10]
    for limit, step in zip(limits, seen["steps"], strict=True):
        assert max(len(ids) for _, ids in step["texts"]) <= limit
    ends = [max(each["end"] for each in table(out / "positions.csv") if each["step"] == s) for s in range(1, 7)]
    assert ends == [4, 4, 8, 8, 12, 12]
    # No response is whole, so none is right or wrong.
    assert all(row["correct"] is None for row in table(out / "training_log.csv"))


def test_a_horizon_cuts_a_teachers_response_too(models, tmp_path, written, seen):
    settings = SETTINGS | {"horizon": {"tokens": 2}, "off_policy": 1.0, "support": FULL}
    out = run(models, tmp_path / "run", settings, responses=[stored_rows(6, "pears")])
    assert {len(ids) for step in seen["steps"] for _, ids in step["texts"]} == {2}
    counts = read_json(out / "manifest.json")["counts"]
    assert counts["off_policy_samples"] == counts["samples"] == 16
    assert counts["generated_tokens"] == 0 and not (out / "rollouts.jsonl").read_text()


def asked(written: Written) -> list[str]:
    return [prompt[-1]["content"] for call in written.calls for prompt in call["prompts"]]


def test_prompts_are_shuffled_anew_each_pass_and_shared_out(models, tmp_path, written):
    settings = SETTINGS | {"steps": 3, "sources": [dict(ROUTED[0], share=0.25), dict(ROUTED[1], share=0.75)]}
    out = run(models, tmp_path / "run", settings | {"weights": [0.5, 0.5]})
    prompts = asked(written)
    boxes = [prompt for prompt in prompts if "boxes" in prompt]
    assert len(prompts) == 12 and len(boxes) == 9
    assert [sum("boxes" in p for p in prompts[i : i + 4]) for i in (0, 4, 8)] == [3, 3, 3]
    every = {row["messages"][0]["content"] for row in made_rows(5, "boxes")}
    assert set(boxes[:5]) == every and len(set(boxes[5:])) == 4
    assert read_json(out / "manifest.json")["counts"]["prompts"] == {"one": 6, "two": 5}


def test_a_curriculum_goes_from_easy_to_hard(models, tmp_path, written):
    run(models, tmp_path / "run", SETTINGS | {"steps": 3, "curriculum": "easy_to_hard"}, data=[made_rows(10)])
    rates = {row["messages"][0]["content"]: row["pass_rate"] for row in made_rows(10)}
    found = [rates[prompt] for prompt in asked(written)]
    assert found == sorted(found, reverse=True) and len(set(found)) == 5


def test_a_pass_rate_leaves_rows_out_and_counts_them(models, tmp_path, written):
    settings = SETTINGS | {"pass_rate": {"above": 0.2, "below": 0.8}}
    rows = made_rows(10)
    out = run(models, tmp_path / "run", settings, data=[rows])
    fit = {row["messages"][0]["content"] for row in rows if 0.2 < row["pass_rate"] < 0.8}
    assert set(asked(written)) == fit and 0 < len(fit) < 10
    assert read_json(out / "manifest.json")["counts"]["prompts"] == {"one": len(fit)}
    with pytest.raises(ValueError, match=r"one.*pass_rate") as caught:
        run(models, tmp_path / "none", settings, data=[made_rows(1)])
    assert "\n" not in str(caught.value)


# --- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("support", [FULL, PAPER, {"kind": "sampled"}], ids=["full", "top-16", "sampled"])
def test_a_teacher_that_is_the_student_teaches_nothing(support, models, tmp_path, seen):
    from safetensors.torch import load_file

    settings = SETTINGS | {"support": support, "steps": 1, "sources": MIXED if support is FULL else ONE}
    settings |= {"weights": [0.5, 0.5]} if support is FULL else {}
    out = run(models, tmp_path / "run", settings, teachers=[models[0]] * len(settings["weights"]))
    (row,) = table(out / "training_log.csv")
    close([row["overlap"], row["mass_student"] - row["mass_teacher"]], [1, 0])
    close([row[name] for name in ("loss", "entropy_gap", "overlap_advantage", "log_ratio", "grad_norm")], 0, atol=1e-5)
    before, after = (load_file(folder / "model.safetensors") for folder in (models[0], out))
    # Adam scales what rounding leaves of a gradient up to a whole step, so the gradient itself is looked at.
    assert max(g.abs().max().item() for g in seen["steps"][0]["gradient"].values()) < 1e-6
    assert before.keys() == after.keys()


def test_learning_closes_the_gap_to_the_teacher(models, tmp_path):
    settings = SETTINGS | {"steps": 30, "support": FULL, "learning_rate": 1e-2, "prompts": 8, "batch_size": 16}
    log = table(run(models, tmp_path / "run", settings, teachers=[models[2]]) / "training_log.csv")
    first, last = (
        {name: np.mean([row[name] for row in rows]) for name in ("loss", "overlap", "log_ratio")}
        for rows in (log[:3], log[-3:])
    )
    assert last["loss"] < 0.7 * first["loss"] and last["overlap"] > first["overlap"] + 0.05
    assert last["log_ratio"] > first["log_ratio"]


# --- TRL's own trainer ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "beta"), [(REVERSE, 1.0), (FORWARD, 0.0), ({"kind": "jsd", "beta": 0.3}, 0.3)],
    ids=["reverse", "forward", "jsd"],
)  # fmt: skip
def test_a_step_is_that_of_trls_trainer(objective, beta, models, tmp_path, written, seen, monkeypatch):
    # Theirs counts ids without a token as well.
    monkeypatch.setattr(checkpoints, "token_count", lambda tokenizer: 768)
    import torch
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    settings = SETTINGS | {"divergence": objective, "support": FULL}
    run(models, tmp_path / "ours", settings)
    ours, calls = seen["steps"], written.calls
    prompts = [prompt for call in calls for prompt in call["prompts"] for _ in range(2)]
    stock = DistillationTrainer(
        model=checkpoints.load_model(models[0], dtype=torch.float32),
        teacher_model=checkpoints.load_model(models[1], dtype=torch.float32),
        args=DistillationConfig(
            output_dir=str(tmp_path / "stock"), max_steps=2, per_device_train_batch_size=8, beta=beta,
            max_completion_length=LONGEST, temperature=TEMPERATURE, learning_rate=3e-3, lr_scheduler_type="constant",
            max_grad_norm=0.0, shuffle_dataset=False, bf16=False, gradient_checkpointing=False, report_to="none",
            disable_tqdm=True, save_strategy="no",
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=checkpoints.load_tokenizer(models[0]),
    )  # fmt: skip
    stock._generate_single_turn = lambda *_, **__: [
        list(sample.ids) for group in calls[stock.state.global_step]["groups"] for sample in group
    ]
    steps = watched(stock)
    stock.train()
    assert len(steps) == len(ours) == 2
    for mine, its in zip(ours, steps, strict=True):
        assert sorted(mine["texts"]) == sorted(its["texts"])
        np.testing.assert_allclose(mine["loss"], its["loss"], rtol=1e-5, atol=1e-6)
    for name, gradient in steps[0]["gradient"].items():
        close(ours[0]["gradient"][name], gradient, atol=1e-5, err_msg=name)


# --- whole runs ----------------------------------------------------------------------------------

REAL = {"steps": 6, "saves": 2, "max_grad_norm": 1.0, "learning_rate": 1e-3, "temperature": 1.0}
TWO = {"sources": ROUTED, "weights": [0.5, 0.5]}


def hashes(out: Path) -> dict[str, str]:
    return {p.name: sha256_file(p) for p in sorted(out.iterdir()) if p.name != "provenance.json"}


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "over",
    [
        {
            "adapter": {"kind": "lora", "r": 4, "alpha": 8, "dropout": 0.2, "loraplus_ratio": 4.0},
            "schedule": "wsd",
            "min_lr_ratio": 0.1,
            "betas": [0.8, 0.95],
        },
        TWO | {"batch_size": 2, "resident": 1, "off_policy": 0.25, "support": FULL},
        {"horizon": {"tokens": 6, "from": 2, "until": 5}, "curriculum": "easy_to_hard", "batch_size": 4},
    ],
    ids=["lora", "routed", "horizon"],
)
def test_a_killed_run_ends_as_an_undisturbed_one(over, models, tmp_path, monkeypatch):
    import torch
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = SETTINGS | REAL | over
    responses = [stored_rows(6, "pears"), stored_rows(5, "boxes")] if settings["off_policy"] else []
    again = partial(run, models, settings=settings, responses=responses)
    undisturbed = again(tmp_path / "whole")

    sample, calls = engine.Engine.sample, []

    def killed(*args, **kwargs):
        calls.append(kwargs["seed"])
        if len(calls) == 6:
            raise Killed
        return sample(*args, **kwargs)

    monkeypatch.setattr(engine.Engine, "sample", killed)
    with pytest.raises(Killed):
        again(tmp_path / "killed")
    assert not (tmp_path / "killed" / "out").exists()
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    done = len(calls)
    resumed = again(tmp_path / "killed")
    # The state of step 4 was there: what had been done before is not done again.
    assert calls[done:] == [[0, 4], [0, 5]]
    assert hashes(resumed) == hashes(undisturbed)
    assert not list((tmp_path / "killed" / "work").glob("*"))

    assert (resumed / "training_log.csv").read_text().splitlines()[0].split(",") == COLUMNS
    assert (resumed / "positions.csv").read_text().splitlines()[0].split(",") == PLACES
    assert {row["step"] for row in read_jsonl(resumed / "rollouts.jsonl")} == {1, 2, 3, 4, 5, 6}
    log = table(resumed / "training_log.csv")
    for name in ("tokens", "generated", "scored", "epoch"):
        values = [row[name] for row in log]
        assert values == sorted(values) and len(set(values)) == 6
    curves = EventAccumulator(str(tmp_path / "killed" / "logs")).Reload()
    assert [event.step for event in curves.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def test_the_manifest_and_the_samples_say_who_taught(models, tmp_path):
    out = run(models, tmp_path / "run", SETTINGS | TWO | {"keep_samples": 8})
    manifest = read_json(out / "manifest.json")
    counts, log = manifest["counts"], table(out / "training_log.csv")
    sizes = [
        sum(p.numel() for p in build_model(build_tokenizer(), architecture=architecture | over).parameters())
        for over in ({"hidden_size": 48, "num_hidden_layers": 3}, {})
    ]
    assert counts["teachers"] == {"large": sizes[0], "other": sizes[1]}
    assert counts["parameters"] == {"total": sizes[1], "trained": sizes[1]}
    assert (counts["prompts"], counts["steps"], counts["samples"]) == ({"one": 6, "two": 5}, 2, 16)
    for count, column in (("tokens", "tokens"), ("generated_tokens", "generated"), ("scored_tokens", "scored")):
        assert counts[count] == log[-1][column]
    assert any("large" in path for path in manifest["inputs"]) and any("data-1" in path for path in manifest["inputs"])
    for row in read_jsonl(out / "rollouts.jsonl"):
        boxes = "boxes" in row["prompt"]
        assert row["data"] == ("two" if boxes else "one")
        assert "other" in str(row["teacher"]) if boxes else "large" in str(row["teacher"])


def test_a_run_without_diagnostics_learns_the_same(models, tmp_path):
    with_them = run(models, tmp_path / "with", SETTINGS)
    without = run(models, tmp_path / "without", SETTINGS | {"diagnostics": None})
    assert sha256_file(with_them / "model.safetensors") == sha256_file(without / "model.safetensors")
    assert all(row["overlap"] is None and row["length"] for row in table(without / "training_log.csv"))


def test_a_student_that_is_an_adapter_and_a_teacher_that_is_one(models, tmp_path):
    lora = {"adapter": {"kind": "lora", "r": 4, "alpha": 8, "dropout": 0.0}, "learning_rate": 0.03}
    first = run(models, tmp_path / "a" / "run", SETTINGS | lora)
    assert (first / "adapter_model.safetensors").is_file()
    second = run([first, models[1]], tmp_path / "b" / "run", SETTINGS | lora)
    third = run([models[0], second], tmp_path / "c" / "run", SETTINGS)
    assert all(row["loss"] > 0 for row in table(third / "training_log.csv"))


def test_the_student_draws_from_the_part_of_the_vocabulary_that_is_told(models, tmp_path, monkeypatch):
    sample, told = engine.Engine.sample, []

    def noted(*args, **options):
        told.append({key: options.get(key) for key in ("top_p", "top_k", "min_p")})
        return sample(*args, **options)

    monkeypatch.setattr(engine.Engine, "sample", noted)
    out = run(models, tmp_path / "run", SETTINGS | {"top_k": 2, "min_p": 0.01, "support": FULL})
    assert told == [{"top_p": None, "top_k": 2, "min_p": 0.01}] * len(table(out / "training_log.csv"))


# --- one line, before training -------------------------------------------------------------------


def fails(call, *words: str) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message, message
    for word in words:
        assert word in message, message
    return message


@pytest.fixture
def untrained(monkeypatch):
    """Whatever is wrong must be found before the first step."""

    def train(*_, **__):
        raise AssertionError("training began")

    monkeypatch.setattr(training, "train", train)


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"batch_size": 3}, ["batch_size", "3", "8 samples"]),
        ({"support": {"kind": "top_k", "of": "student", "k": 1, "rest": "renormalised"}}, ["renormalised", "1"]),
        ({"support": {"kind": "sampled"}, "off_policy": 0.5}, ["sampled", "off_policy"]),
        ({"divergence": {"kind": "jsd", "beta": 1.0}}, ["beta", "reverse_kl"]),
        ({"horizon": {"tokens": 7}}, ["horizon", "7", "max_new_tokens"]),
        ({"horizon": {"tokens": 6, "from": 2}}, ["horizon", "until"]),
        ({"horizon": {"tokens": 4, "from": 5, "until": 2}}, ["horizon", "5", "4"]),
        ({"pass_rate": {"above": 0.8, "below": 0.2}}, ["pass_rate", "0.8"]),
        ({"off_policy": 0.5, "sources": MIXED, "weights": [0.5, 0.5], "support": FULL}, ["off_policy"]),
        ({"off_policy": 0.5, "support": FULL}, ["off_policy", "responses"]),
        ({"schedule": "triangle"}, ["schedule", "triangle"]),
        ({"support": {"kind": "sampled"}, "min_p": 0.1}, ["min_p", "0.1", "sampled"]),
    ],
)
def test_settings_that_do_not_fit_are_named(over, words, models, tmp_path, untrained):
    fails(lambda: run(models, tmp_path / "run", SETTINGS | over), *words)


def test_data_without_teachers_responses_is_named(models, tmp_path, untrained):
    settings = SETTINGS | TWO | {"off_policy": 0.5, "support": FULL}
    fails(lambda: run(models, tmp_path / "run", settings, responses=[stored_rows(6, "pears")]), "responses")
    empty = [stored_rows(6, "pears"), []]
    fails(lambda: run(models, tmp_path / "run", settings, responses=empty), "two", "responses")


def test_prompts_without_room_for_a_response_are_left_out_and_told(models, tmp_path):
    rows = made_rows(6)
    for row in rows[2:4]:
        row["messages"][0]["content"] = "Mara has 12 pears. " * 300
    out = run(models, tmp_path / "run", SETTINGS | {"steps": 1}, data=[rows])
    counts = read_json(out / "manifest.json")["counts"]
    assert (counts["prompts"], counts["excluded"]) == ({"one": 4}, {"no_room": 2})
    assert [(one["id"], one["reason"]) for one in read_jsonl(out / "excluded.jsonl")] == [
        (row["id"], "no_room") for row in rows[2:4]
    ]


def test_a_teacher_with_a_shorter_context_is_heeded(models, tmp_path, untrained):
    short = tmp_path / "short"
    shutil.copytree(models[1], short)
    config = read_json(short / "config.json") | {"max_position_embeddings": 16}
    (short / "config.json").write_text(json.dumps(config))
    fails(lambda: run(models, tmp_path / "run", SETTINGS, teachers=[short]), "pears.jsonl row", "16")


def test_a_stored_response_without_room_is_left_out_and_told(models, tmp_path):
    responses = stored_rows(6, "pears")
    responses[2]["messages"][0]["content"] = "Mara has 12 pears. " * 300
    settings = SETTINGS | {"off_policy": 0.5, "support": FULL, "steps": 1}
    out = run(models, tmp_path / "run", settings, responses=[responses])
    assert read_json(out / "manifest.json")["counts"]["excluded"] == {"no_room": 1}


@pytest.mark.parametrize("wide", ["student", "teacher", "both"])
@pytest.mark.parametrize("divergence", [REVERSE, FORWARD, {"kind": "jsd", "beta": 0.3}], ids=lambda d: d["kind"])
@pytest.mark.parametrize(
    "support",
    [FULL, PAPER, PAPER | {"of": "union", "rest": "tail"}, {"kind": "sampled"}],
    ids=["full", "renormalised", "tail", "sampled"],
)
def test_ids_without_a_token_count_for_nothing(wide, divergence, support, models):
    """The loss of a part is that of models whose vocabularies end at the last token, and no row beyond learns."""
    import torch

    from steps.distillation import divergence as formulas
    from steps.distillation.opd_trainer import OnPolicyTrainer

    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, VOCABULARY, generator=draw, dtype=torch.float64) * 2
    tokens = torch.randint(VOCABULARY, (6,), generator=draw)
    expected = formulas.per_token(student, teacher, tokens, divergence, support)

    beyond = torch.full((6, 40), 3.0, dtype=torch.float64)
    given = torch.cat([student, beyond], 1) if wide != "teacher" else student
    given.requires_grad_()
    taught = torch.cat([teacher, beyond[:, :8]], 1) if wide != "student" else teacher
    trainer = SimpleNamespace(vocabulary=VOCABULARY, settings={"divergence": divergence, "support": support}, pair=None)
    trainer.pair = partial(OnPolicyTrainer.pair, trainer)
    found = OnPolicyTrainer.divergences(trainer, 0, given, taught, tokens)
    close(found.detach(), expected, atol=1e-12)
    found.sum().backward()
    assert not given.grad[:, VOCABULARY:].any() and given.grad[:, :VOCABULARY].any()


def test_a_padded_student_and_teacher_train_as_unpadded_ones(models, tmp_path, written):
    twins = [tmp_path / "student", tmp_path / "large"]
    for twin, model in zip(twins, models, strict=False):
        shutil.copytree(model, twin)
    padded(twins[0], 832), padded(twins[1], 1024)
    settings = SETTINGS | {"support": FULL}
    plain = run(models, tmp_path / "plain", settings)
    wide = run(twins, tmp_path / "wide", settings)
    for ours, theirs in zip(*(table(out / "training_log.csv") for out in (wide, plain)), strict=True):
        for name, value in theirs.items():
            assert ours[name] == (value if value is None else pytest.approx(value, rel=1e-4, abs=1e-6)), name


def test_a_teacher_of_another_vocabulary_is_refused(models, tmp_path, untrained):
    stranger = tmp_path / "stranger"
    shutil.copytree(models[1], stranger)
    content = read_json(stranger / "tokenizer.json")
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (stranger / "tokenizer.json").write_text(json.dumps(content))
    settings = SETTINGS | {"sources": MIXED, "weights": [0.5, 0.5]}
    fails(lambda: run(models, tmp_path / "run", settings, teachers=[models[1], stranger]), "vocabular", str(stranger))


def test_a_damaged_teacher_is_named(models, tmp_path, untrained):
    broken = tmp_path / "broken"
    shutil.copytree(models[1], broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    fails(lambda: run(models, tmp_path / "run", SETTINGS, teachers=[broken]), str(weights), "damaged")
    fails(lambda: run(models, tmp_path / "run", SETTINGS, teachers=[tmp_path / "none"]), str(tmp_path / "none"))
