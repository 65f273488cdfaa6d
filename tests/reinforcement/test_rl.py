"""Reinforcement learning: what a step computes against NumPy and against TRL's own trainers, kills, failures, flags."""

import argparse
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.core.hashes import sha256_file
from steps.engines import rollouts
from steps.engines import transformers as engine
from steps.engines.interface import Sample
from steps.models import checkpoints
from steps.models.adapters.attach import attach
from steps.reinforcement import rl
from steps.reinforcement.collapse import collapses, is_mixed
from steps.reinforcement.exploits import exploits, opened
from steps.reinforcement.kl_weight import kl_weight
from steps.reinforcement.methods import sdpo
from steps.reinforcement.reward_kinds import Scored
from steps.reinforcement.rewards import Rewards
from steps.reinforcement.rl_plan import RolloutPlan, log_columns, plan_rollouts
from steps.reinforcement.scored_samples import spare_rows, without_spread
from steps.settings.reinforcement import Rl
from steps.settings.sampling import truncation
from steps.training import run as training
from steps.training import watchers
from steps.training.watchers import Best
from tests import by_hand
from tests.conftest import build_tokenizer

SIZE, LONGEST = 4, 8
TEACHER = {"kind": "ema", "rate": 0.3}
DISTILLED = {"context": "sibling", "teacher": TEACHER, "divergence": 0.5, "top_k": 20, "ratio_clip": 1.1}
KIN = {
    "sdpo": DISTILLED,
    "srpo": DISTILLED | {"entropy_weight": 0.8},
    "rlsd": {"context": "truth", "teacher": {"kind": "snapshot", "every": 10}, "mix": 0.5, "until": 4, "clip": 0.2},
    "rlrt": {"context": "sibling", "teacher": {"kind": "snapshot", "every": 10}, "mix": 0.4, "clip": 1.0},
}
CONTEXTS = {"sibling": "{prompt}\nCorrect solution:\n{solution}\nSolve it.", "truth": "{prompt}\nIt is {answer}."}
SETTINGS = {
    "method": "grpo",
    "steps": 2,
    "prompts": 5,
    "generations": SIZE,
    "iterations": 2,
    "curriculum": "shuffle",
    "rewards": {
        "answer": {"kind": "answer", "weight": 1.0},
        "bonus": {"kind": "format", "weight": 0.5, "pattern": "e"},
    },
    "success": {"reward": "answer", "least": 0.5},
    "max_failures": 0.02,
    "temperature": 0.8,
    "max_new_tokens": LONGEST,
    "clip": {"low": 0.1, "high": 0.15},
    "kl": 0.0,
    "watch_kl": 0,
    "loss_type": "dapo",
    "scale_rewards": "group",
    "contexts": CONTEXTS,
    "learning_rate": 3e-3,
    "schedule": "constant",
    "warmup_ratio": 0.0,
    "batch_size": 20,
    "sample_batch": 32,
    "sampler": {"kind": "transformers"},
    "gradient_checkpointing": False,
    "weight_decay": 0.0,
    "max_grad_norm": 0.0,
    "precision": "fp32",
    "optimizer": "adamw",
    "saves": 0,
    "keep_groups": 2,
    "adapter": {"kind": "full"},
    "seed": 0,
}
# Mixed, unique correct, all wrong, all correct, and a group whose totals tie although two are correct.
ANSWER = [1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 1, 0]
BONUS = [0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 2, 0, 2]
close = partial(np.testing.assert_allclose, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A random Qwen3 of 2 layers, hidden 32. Read only."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("start") / "tiny"
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    return folder


def made_rows(count: int) -> list[dict]:
    return [
        {
            "id": f"rows:{i}",
            "messages": [
                {"role": "user", "content": f"Mara has {i} pears" + " and 7 more" * (i % 3) + "?"},
                {"role": "assistant", "content": f"#### {i}"},
            ],
            "answer": str(i),
            "file": "rows.jsonl",
            "line": i + 1,
            "row": i,
            "pass_rate": (i % 5) / 5,
            "bucket": "medium",
        }
        for i in range(count)
    ]


def settings_of(method: str = "grpo", **over) -> dict:
    found = SETTINGS | {"method": method} | over
    return found if method not in KIN else found | {method: KIN[method] | over.get(method, {})}


# --- prepared rollouts ---------------------------------------------------------------------------


class Prepared:
    """Rollouts of known tokens and rewards: of 5 prompts, 4 samples each."""

    rows = made_rows(5)

    def __init__(self, tokenizer):
        draw = random.Random(3)
        self.tokenizer = tokenizer
        self.ids = []
        for _ in ANSWER:
            ids = [draw.randrange(3, len(tokenizer)) for _ in range(draw.randint(1, LONGEST))]
            self.ids.append([*ids[:-1], tokenizer.eos_token_id] if draw.random() < 0.7 else ids)
        self.logps = [[draw.uniform(-7, -4) for _ in ids] for ids in self.ids]
        # What a cut left of the vocabulary where each was drawn: few tokens or many, itself among them.
        others = range(3, len(tokenizer))
        self.kept = [
            [sorted({token, *draw.sample(others, draw.choice((1, 4, 40, 200)))}) for token in ids] for ids in self.ids
        ]
        self.prompts = [row["messages"][:-1] for row in self.rows for _ in range(SIZE)]

    def sample(self, prompts, *, temperature, noting=False, **_) -> list[list[Sample]]:
        assert temperature == SETTINGS["temperature"]
        assert [p[0]["content"] for p in prompts] == [row["messages"][0]["content"] for row in self.rows]
        samples = [
            Sample(
                self.tokenizer.decode(ids),
                0.0,
                len(ids),
                tuple(ids),
                tuple(logps),
                tuple(np.array(one, np.int32) for one in kept) if noting else (),
            )
            for ids, logps, kept in zip(self.ids, self.logps, self.kept, strict=True)
        ]
        return [samples[i : i + SIZE] for i in range(0, len(samples), SIZE)]

    def score(self, name: str, *_) -> list[Scored]:
        return [Scored(float(value)) for value in {"answer": ANSWER, "bonus": BONUS}[name]]

    def told(self, template: str, shown: list[int]) -> list[list[dict]]:
        """The teacher's prompts: each sample is shown the response of another."""
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in self.ids]
        return [
            [
                {
                    "role": "user",
                    "content": template.format(
                        prompt=self.prompts[i][0]["content"],
                        solution=texts[shown[i]],
                        answer=self.rows[i // SIZE]["answer"],
                    ),
                }
            ]
            for i in range(len(self.ids))
        ]


@pytest.fixture
def doubles(monkeypatch):
    """Lets the trainer compute in float64, where differences of 1e-6 are differences of formulas."""
    import torch
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    def norm(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    single = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda t: t if t.dtype == torch.float64 else single(t))
    monkeypatch.setattr(Qwen3RMSNorm, "forward", norm)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def build(start: Path, work: Path, settings: dict, prepared: Prepared):
    import torch

    from steps.reinforcement.rl_trainer import PolicyTrainer

    plan = RolloutPlan(
        order=list(range(5)) * (settings["steps"] // settings["iterations"]),
        prompts=5,
        rows=5,
        steps=settings["steps"],
        iterations=settings["iterations"],
        saves=0,
        names=list(settings["rewards"]),
    )
    model = checkpoints.load_model(start, dtype=torch.float32).to(torch.get_default_dtype())
    model = attach(model, settings["adapter"], settings["seed"], plan.steps)
    trainer = PolicyTrainer(model, prepared.tokenizer, prepared.rows, settings, plan, work, lambda **_: prepared)
    trainer.engine.sample = prepared.sample
    return trainer, plan


def watched(trainer) -> list[dict]:
    """Per step: the loss, the gradients, and the weights that they were computed with."""
    from transformers import TrainerCallback

    steps: list[dict] = []

    class Eye(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
            steps.append({"weights": weights, "loss": 0.0})

        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            steps[-1]["gradient"] = {
                name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.requires_grad
            }

    def compute_loss(*args, **kwargs):
        loss = of_trainer(*args, **kwargs)
        steps[-1]["loss"] += loss.item()
        return loss

    of_trainer, trainer.compute_loss = trainer.compute_loss, compute_loss
    trainer.add_callback(Eye())
    return steps


class Reference:
    """The loss of a step in NumPy, from the logits of the model that are asked for here."""

    def __init__(self, prepared: Prepared, settings: dict, model):
        self.prepared, self.settings, self.model = prepared, settings, model
        self.method, self.kin = settings["method"], settings.get(settings["method"])
        self.mask = np.array([[t < len(ids) for t in range(LONGEST)] for ids in prepared.ids])
        if settings.get("mask_truncated"):
            self.mask &= np.array([[ids[-1] == prepared.tokenizer.eos_token_id] for ids in prepared.ids])
        self.sampler = np.array([[*logps, *[0] * (LONGEST - len(logps))] for logps in prepared.logps])
        self.tokens = np.array([[*ids, *[0] * (LONGEST - len(ids))] for ids in prepared.ids])
        weights = [reward["weight"] for reward in settings["rewards"].values()]
        self.totals = [weights[0] * a + weights[1] * b for a, b in zip(ANSWER, BONUS, strict=True)]
        self.advantages = by_hand.group_advantages(self.totals, SIZE, settings["scale_rewards"])
        if settings.get("aggregation") == "normalize_then_sum":
            self.advantages = by_hand.each_advantages(list(zip(ANSWER, BONUS, strict=True)), weights, SIZE)
        self.taught = [False] * len(ANSWER)
        if self.method in ("sdpo", "srpo"):
            self.taught = by_hand.distilled(ANSWER, SIZE, self.method)
        shown = by_hand.siblings(ANSWER, SIZE)
        if self.method == "rlrt":
            shown = [i if place < 0 else place for i, place in enumerate(shown)]
        if self.kin:
            self.told = prepared.told(settings["contexts"][self.kin["context"]], shown)

    def logits(self, weights: dict, prompts: list) -> np.ndarray:
        """[B, T, V]; places after the end are 0."""
        import torch

        before = self.prepared.tokenizer.apply_chat_template(prompts, add_generation_prompt=True)["input_ids"]
        whole = [[*ids, *more] for ids, more in zip(before, self.prepared.ids, strict=True)]
        width = max(map(len, whole))
        # Filled on the right, which nothing before sees.
        batch = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in whole])
        with torch.no_grad():
            out = torch.func.functional_call(self.model, weights, (batch,)).logits.numpy()
        found = np.zeros((*self.tokens.shape, out.shape[-1]))
        for i, ids in enumerate(self.prepared.ids):
            begin = len(before[i]) - 1
            found[i, : len(ids)] = out[i, begin : begin + len(ids)] / self.settings["temperature"]
        return found

    def logps(self, logits: np.ndarray) -> np.ndarray:
        """[B, T], among the tokens that each was drawn from."""
        if not truncation(self.settings):
            return by_hand.chosen(logits, self.tokens)
        return by_hand.chosen_among(logits, self.tokens, self.prepared.kept)

    def fixed(self, step: int, now: dict, old: dict, teacher: dict, first: dict) -> dict:
        """What carries no gradient: everything but the policy of the loss itself."""
        prompts, settings, kin = self.prepared.prompts, self.settings, self.kin
        student = self.logps(self.logits(now, prompts))
        held = {"old": student, "advantages": self.advantages}
        if settings["iterations"] > 1:
            held["old"] = self.logps(self.logits(old, prompts))
        weight = KL_BY_HAND[settings["kl"]["kind"]][step] if isinstance(settings["kl"], dict) else settings["kl"]
        if weight:
            held["kl"] = weight
            held["ref"] = self.logps(self.logits(first, prompts))
        if self.method == "cispo":
            held["weights"] = np.minimum(np.exp(student - held["old"]), 1 + settings["clip"]["high"])
        if self.method in ("rlsd", "rlrt"):
            # The teacher's weights are those of the start all along.
            by_teacher = self.logps(self.logits(first, self.told))
            mix = kin["mix"] * (1 - step / kin["until"]) if self.method == "rlsd" else kin["mix"]
            held["advantages"] = by_hand.reweighted(
                self.advantages,
                held["old"],
                by_teacher,
                mix,
                kin["clip"],
                towards=self.method == "rlsd",
                which=None if self.method == "rlsd" else ANSWER,
            )
        if self.method in ("sdpo", "srpo"):
            held["teacher"] = self.logits(teacher, self.told)[self.taught]
            held["ratio"] = np.minimum(np.exp(student - held["old"]), kin["ratio_clip"])[self.taught]
            gone = [True] * len(ANSWER) if self.method == "sdpo" else self.taught
            held["advantages"] = np.array([0 if g else a for g, a in zip(gone, self.advantages, strict=True)])
        return held

    def clipped(self, weights: dict, held: dict) -> tuple[float, float]:
        """Least and most: advantages that cancel have the sign of their rounding, or none."""
        logp = self.logps(self.logits(weights, self.prepared.prompts))
        clip = self.settings["clip"]
        advantages = np.asarray(held["advantages"])
        shares = [
            by_hand.clipped(
                logp, held["old"], self.mask, np.where(np.abs(advantages) < 1e-6, sign, advantages),
                clip["low"], clip["high"], self.method,
            )
            for sign in (-1.0, 0.0, 1.0)
        ]  # fmt: skip
        return min(shares), max(shares)

    def loss(self, weights: dict, held: dict) -> float:
        settings, kin = self.settings, self.kin
        student = self.logits(weights, self.prepared.prompts)
        clips = settings["clip"]["low"], settings["clip"]["high"], held.get("kl", 0.0), held.get("ref")
        logp = self.logps(student)
        if self.method == "gspo":
            per_token = by_hand.sequence_surrogate(logp, held["old"], self.mask, held["advantages"], *clips)
        elif self.method == "cispo":
            per_token = by_hand.weighted_surrogate(logp, held["old"], held["weights"], held["advantages"], *clips[2:])
        else:
            per_token = by_hand.surrogate(logp, held["old"], held["advantages"], *clips)
        if correction := settings.get("importance"):
            weights = by_hand.importance(held["old"], self.sampler, self.mask, correction)
            plain = by_hand.surrogate(logp, held["old"], held["advantages"], *clips[:2])
            if self.method == "cispo":
                plain = by_hand.weighted_surrogate(logp, held["old"], held["weights"], held["advantages"])
            per_token = weights * plain + (per_token - plain)
        total = by_hand.aggregate(per_token, self.mask, settings["loss_type"], LONGEST)
        if self.method not in ("sdpo", "srpo"):
            return total
        mask = self.mask[self.taught]
        distances = by_hand.divergence(student[self.taught], held["teacher"], kin["divergence"], kin["top_k"])
        distances = distances * held["ratio"] * mask
        if self.method == "sdpo":
            return total + distances.sum() / mask.sum()
        sure = by_hand.entropy_weights(by_hand.entropy(held["teacher"]), mask, kin["entropy_weight"])
        return total + (sure * distances).sum() / self.mask.sum()


PARTS = {"batch_size": 4, "iterations": 1, "kl": 0.1}
KL_SCHEDULES = {
    "linear": {"kind": "linear", "from": 0.0, "to": 0.06, "until": 2},
    "cosine": {"kind": "cosine", "from": 0.06, "to": 0.02, "until": 3},
    "adaptive": {"kind": "adaptive", "from": 0.05, "target": 0.01, "gain": 2.0},
}
# In two steps. A half of the way; a third, whose share of half a cosine is a quarter; and a divergence of 0 at the
# start, which counts as a fifth too low.
KL_BY_HAND = {"linear": [0.0, 0.03], "cosine": [0.06, 0.05], "adaptive": [0.05, 0.03]}
CASES = {
    "grpo": {},
    "grpo-by-response": {"loss_type": "grpo", "scale_rewards": "none"} | PARTS,
    "grpo-dr": {"loss_type": "dr_grpo", "scale_rewards": "batch", "kl": 0.1},
    "grpo-bnpo": {"loss_type": "bnpo", "watch_kl": 1},
    "grpo-each-reward": {"aggregation": "normalize_then_sum"},
    "grpo-masked": {"mask_truncated": True, "loss_type": "grpo"},
    "grpo-masked-parts": {"mask_truncated": True} | PARTS,
    "grpo-truncated-ratios": {"importance": {"kind": "truncate", "level": "token", "most": 2.0}},
    "grpo-masked-ratios": {"importance": {"kind": "mask", "level": "token", "most": 1.4, "least": 0.7}} | PARTS,
    "grpo-ratios-of-sequences": {"importance": {"kind": "truncate", "level": "sequence", "most": 4.0, "least": 0.1}},
    "grpo-masked-sequences": {
        "importance": {"kind": "mask", "level": "sequence", "most": 1e9},
        "mask_truncated": True,
        "iterations": 1,
    },
    "grpo-kl-linear": {"kl": KL_SCHEDULES["linear"]},
    "grpo-kl-linear-parts": PARTS | {"kl": KL_SCHEDULES["linear"]},
    "grpo-kl-cosine": {"kl": KL_SCHEDULES["cosine"], "loss_type": "grpo"},
    # At 3e-3 the divergence of the second step is so large that rounding of positions, in float32, is seen in it.
    "srpo-kl-adaptive": {"kl": KL_SCHEDULES["adaptive"], "learning_rate": 1e-3},
    "cispo-kl-adaptive-parts": PARTS | {"kl": KL_SCHEDULES["adaptive"]},
    "grpo-cut": {"top_p": 0.9, "kl": 0.1},
    "grpo-cut-parts": {"top_k": 40, "loss_type": "grpo"} | PARTS,
    "gspo-cut": {"min_p": 0.05, "loss_type": "grpo", "mask_truncated": True},
    "cispo-cut": {"top_p": 0.9, "kl": KL_SCHEDULES["linear"]},
    "srpo-cut": {"top_p": 0.9, "kl": 0.1},
    "rlsd-cut-parts": {"top_k": 40} | PARTS,
    "gspo-masked": {"loss_type": "grpo", "mask_truncated": True},
    "srpo-masked": {"mask_truncated": True, "importance": {"kind": "truncate", "level": "token", "most": 3.0}},
    "gspo": {"loss_type": "grpo", "clip": {"low": 3e-3, "high": 4e-3}},
    # Some responses are clipped in the second step, others are not: ratios of 0.1 to 9.
    "gspo-wide": {"loss_type": "grpo", "clip": {"low": 0.75, "high": 5.0}},
    "gspo-parts": {"loss_type": "grpo"} | PARTS,
    # In the second step some tokens count the bound, others less than 1.
    "cispo": {"kl": 0.1},
    "cispo-wide": {"clip": {"low": 0.1, "high": 4.0}},
    "cispo-masked-ratios": {"importance": {"kind": "truncate", "level": "token", "most": 2.0}, "mask_truncated": True},
    "cispo-parts": PARTS,
    "sdpo": {},
    "sdpo-parts": PARTS | {"sdpo": {"divergence": 1.0, "top_k": None}},
    "srpo": {},
    "srpo-parts": PARTS,
    "srpo-lora": {"adapter": {"kind": "lora", "r": 4, "alpha": 8, "dropout": 0.0}, "learning_rate": 0.03},
    "rlsd": {},
    "rlsd-parts": PARTS,
    "rlrt": {},
}


@pytest.mark.parametrize("case", CASES)
def test_loss_gradient_and_log_are_those_of_the_formula(case, start, tmp_path, doubles):
    import torch

    prepared = Prepared(checkpoints.load_tokenizer(start))
    settings = settings_of(case.split("-")[0], **CASES[case])
    trainer, plan = build(start, tmp_path, settings, prepared)
    steps = watched(trainer)
    log = training.train(trainer, plan, case, watchers=[trainer.teacher] if trainer.teacher else [])
    assert len(steps) == len(log) == 2

    if isinstance(settings["kl"], dict):
        close([row["kl_weight"] for row in log], KL_BY_HAND[settings["kl"]["kind"]])
    reference = Reference(prepared, settings, trainer.model.eval())
    first = steps[0]["weights"]
    for number, step in enumerate(steps):
        teacher = first if number == 0 else {n: 0.7 * first[n] + 0.3 * w for n, w in step["weights"].items()}
        held = reference.fixed(number, step["weights"], first, teacher, first)
        close(step["loss"], reference.loss(step["weights"], held))
        close(log[number]["loss"], step["loss"])
        least, most = reference.clipped(step["weights"], held)
        assert least - 1e-6 <= log[number]["clipped"] <= most + 1e-6
        if "ref" in held:
            logp = reference.logps(reference.logits(step["weights"], prepared.prompts))
            k3 = np.exp(held["ref"] - logp) - (held["ref"] - logp) - 1
            close(log[number]["kl"], k3[reference.mask].mean(), rtol=1e-5)
    # The slope of the second step's loss along a random direction of the trained weights; there, policy, older policy,
    # teacher and start are four different models.
    draw = torch.Generator().manual_seed(0)
    towards = {n: torch.randn(g.shape, generator=draw) for n, g in step["gradient"].items()}
    slope = sum((towards[n] * g).sum().item() for n, g in step["gradient"].items())
    width = 1e-6  # at 1e-4, places change among the top k
    rise = [
        reference.loss(step["weights"] | {n: step["weights"][n] + by * d for n, d in towards.items()}, held)
        for by in (width, -width)
    ]
    np.testing.assert_allclose(slope, (rise[0] - rise[1]) / (2 * width), rtol=1e-5, atol=1e-6)
    check_log(log, prepared, reference, first)


@pytest.mark.parametrize("case", ["grpo", "grpo-cut", "sdpo-parts", "srpo", "rlsd"])
def test_so_they_are_some_places_at_a_time(case, start, tmp_path, doubles, some_places):
    test_loss_gradient_and_log_are_those_of_the_formula(case, start, tmp_path, doubles)
    assert some_places["passes"] > 2


def check_log(log: list[dict], prepared: Prepared, reference: Reference, first: dict) -> None:
    row, mask = log[0], reference.mask
    logits = reference.logits(first, prepared.prompts)
    lengths = [len(ids) for ids in prepared.ids]
    ends = [ids[-1] == prepared.tokenizer.eos_token_id for ids in prepared.ids]
    told = {"rlsd": reference.advantages != 0}.get(reference.method, reference.taught)
    if reference.method == "rlrt":
        told = [bool(c) and a != 0 for c, a in zip(ANSWER, reference.advantages, strict=True)]
    expected = {
        "reward": np.mean(reference.totals),
        "reward_answer": np.mean(ANSWER),
        "reward_bonus": np.mean(BONUS),
        "correct": np.mean(ANSWER),
        "length": np.mean(lengths),
        "truncated": 1 - np.mean(ends),
        "entropy": by_hand.entropy(logits)[mask].mean(),
        "no_signal": (2 if reference.settings.get("aggregation") else 3) / 5,
        "generated": sum(lengths),
        "failures": 0,
        "timeouts": 0,
        "clipped": 0,
        "epoch": 1,
    }
    if reference.kin:
        expected["distilled"] = np.mean(told)
    for column, value in expected.items():
        np.testing.assert_allclose(row[column], value, rtol=0, atol=1e-5, err_msg=column)
    assert ("kl" in row) == bool(reference.settings["kl"] or reference.settings["watch_kl"])
    close(row.get("kl", 0), 0)


def test_the_weight_of_the_divergence_follows_its_schedule():
    linear = {"kind": "linear", "from": 0.2, "to": 0.05, "until": 3}
    close([kl_weight(linear, step, []) for step in range(5)], [0.2, 0.15, 0.1, 0.05, 0.05])
    cosine = {"kind": "cosine", "from": 0.0, "to": 0.4, "until": 4}
    close([kl_weight(cosine, step, []) for step in (0, 2, 4, 9)], [0.0, 0.2, 0.4, 0.4])
    # A quarter of the way down a circle's half: 0.2 (1 - 1 / sqrt 2).
    close(kl_weight(cosine, 1, []), 0.0585786437626905)
    adaptive = {"kind": "adaptive", "from": 0.4, "target": 0.02, "gain": 0.5}
    # Twice the target and none of it count as a fifth too much and too little; 0.021 and 0.018 as they are.
    history, expected = [], [0.4]
    for measured, factor in ((0.04, 1.1), (0.0, 0.9), (0.021, 1.025), (0.018, 0.95), (0.02, 1.0)):
        history.append({"kl": measured, "kl_weight": kl_weight(adaptive, len(history), history), "step": len(history)})
        expected.append(expected[-1] * factor)
    close([*(entry["kl_weight"] for entry in history), kl_weight(adaptive, 5, [*history, {"train_loss": 0}])], expected)
    close(kl_weight(adaptive, 6, [{"kl_weight": 0.3}]), 0.3)  # a step of which all responses are masked


def test_kl_to_the_start_is_watched(start, tmp_path, doubles):
    prepared = Prepared(checkpoints.load_tokenizer(start))
    settings = settings_of("grpo", iterations=1, watch_kl=1)
    trainer, plan = build(start, tmp_path, settings, prepared)
    steps = watched(trainer)
    log = training.train(trainer, plan, "grpo")
    reference = Reference(prepared, settings, trainer.model.eval())
    before, after = (
        by_hand.chosen(reference.logits(step["weights"], prepared.prompts), reference.tokens) for step in steps
    )
    found = np.exp(before - after) - (before - after) - 1
    np.testing.assert_allclose(log[1]["kl"], found[reference.mask].mean(), rtol=1e-5)


def test_what_no_token_says_is_not_logged(start, tmp_path, doubles):
    """Where all responses are cut and masked: an entropy of 0 would be a collapse."""
    prepared = Prepared(checkpoints.load_tokenizer(start))
    ends = prepared.tokenizer.eos_token_id
    prepared.ids = [[3 if token == ends else token for token in ids] for ids in prepared.ids]
    settings = settings_of("grpo", steps=1, watch_kl=1, **PARTS | {"kl": 0.0, "mask_truncated": True})
    trainer, plan = build(start, tmp_path, settings, prepared)
    log = training.train(trainer, plan, "grpo")
    assert log[0]["loss"] == 0 and not {"entropy", "kl", "clipped"} & log[0].keys()
    assert collapses(log * 10) == {"truncated": "100 % of the responses are cut at max_new_tokens at the end"}


def test_kl_of_a_part_that_is_masked_is_no_number_of_the_others(start, tmp_path, doubles):
    """The first part of the batch is cut; what is logged is of the tokens that count, however they are divided."""
    logs = []
    for size in (20, 4):
        prepared = Prepared(checkpoints.load_tokenizer(start))
        ends = prepared.tokenizer.eos_token_id
        prepared.ids = [[*ids[:-1], 3 if i % 3 else ends] for i, ids in enumerate(prepared.ids)]
        settings = settings_of("grpo", watch_kl=1, iterations=1, batch_size=size, mask_truncated=True)
        trainer, plan = build(start, tmp_path / f"{size}", settings, prepared)
        logs.append(training.train(trainer, plan, "grpo"))
    for whole, parts in zip(*logs, strict=True):
        for column in ("entropy", "kl", "loss", "grad_norm"):
            close(parts[column], whole[column], err_msg=column)
    assert logs[0][1]["kl"] > 1e-6


def test_a_teacher_whose_prompt_does_not_fit_leaves_the_sample_to_grpo(start, tmp_path, doubles):
    prepared = Prepared(checkpoints.load_tokenizer(start))
    logs = {}
    for method in ("grpo", "srpo", "rlrt"):
        long = {"sibling": "{prompt}" + " 7" * 250 + "{solution}", "truth": "{prompt}" + " 7" * 250 + "{answer}"}
        settings = settings_of(method, iterations=1, steps=1, contexts=long)
        trainer, plan = build(start, tmp_path / method, settings, prepared)
        (logs[method],) = training.train(trainer, plan, method)
    for method in ("srpo", "rlrt"):
        close(logs[method]["loss"], logs["grpo"]["loss"])
        close(logs[method]["grad_norm"], logs["grpo"]["grad_norm"])
        assert logs[method]["distilled"] == 0


# --- TRL's own trainers --------------------------------------------------------------------------


def test_a_step_of_grpo_is_that_of_trls_trainer(start, tmp_path):
    # In float32: TRL's fused head, which ours leaves out on a CPU, multiplies in nothing else.
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    prepared = Prepared(checkpoints.load_tokenizer(start))
    settings = settings_of("grpo")
    ours, plan = build(start, tmp_path / "ours", settings, prepared)
    expected = watched(ours)
    training.train(ours, plan, "ours")

    def answer(completions, **_):
        return [float(value) for value in ANSWER]

    def bonus(completions, **_):
        return [float(value) for value in BONUS]

    def rollouts(prompts, trainer):
        ids = [prepared.tokenizer.apply_chat_template(p, add_generation_prompt=True)["input_ids"] for p in prompts]
        return {"prompt_ids": ids, "completion_ids": prepared.ids, "logprobs": None}

    stock = GRPOTrainer(
        model=checkpoints.load_model(start, dtype=torch.float32),
        reward_funcs=[answer, bonus],
        args=GRPOConfig(
            output_dir=str(tmp_path / "stock"), max_steps=2, per_device_train_batch_size=20, num_generations=SIZE,
            num_iterations=2, max_completion_length=LONGEST, temperature=0.8, epsilon=0.1, epsilon_high=0.15,
            reward_weights=[1.0, 0.5], learning_rate=3e-3, lr_scheduler_type="constant", max_grad_norm=0.0,
            shuffle_dataset=False, bf16=False, gradient_checkpointing=False, report_to="none", disable_tqdm=True,
            save_strategy="no", remove_unused_columns=False,
        ),
        train_dataset=Dataset.from_list([{"prompt": row["messages"][:-1]} for row in prepared.rows]),
        processing_class=prepared.tokenizer,
        rollout_func=rollouts,
    )  # fmt: skip
    found = watched(stock)
    stock.train()
    for mine, its in zip(expected, found, strict=True):
        close(mine["loss"], its["loss"])
        for name, gradient in its["gradient"].items():
            close(mine["gradient"][name], gradient, atol=1e-5, err_msg=name)


def test_the_loss_of_sdpo_is_that_of_trls_trainer_up_to_the_mean(start, tmp_path, doubles, monkeypatch):
    import torch
    from datasets import Dataset
    from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

    prepared = Prepared(checkpoints.load_tokenizer(start))
    settings = settings_of(
        "sdpo", iterations=1, steps=1, rewards={"answer": SETTINGS["rewards"]["answer"]},
        sdpo={"teacher": {"kind": "live"}},
    )  # fmt: skip
    ours, plan = build(start, tmp_path / "ours", settings, prepared)
    steps = watched(ours)
    # TRL takes the mean of each response first, and then of all responses, those among them that nobody teaches.
    monkeypatch.setattr(
        sdpo, "loss", lambda per_token, mask, n: ((per_token * mask).sum(-1) / mask.sum(-1)).sum() / len(ANSWER)
    )
    training.train(ours, plan, "ours")

    stock = SDPOTrainer(
        model=checkpoints.load_model(start, dtype=torch.float32).double(),
        reward_funcs=lambda completions, **_: [float(value) for value in ANSWER],
        args=SDPOConfig(
            output_dir=str(tmp_path / "stock"), per_device_train_batch_size=20, num_generations=SIZE, temperature=0.8,
            max_completion_length=LONGEST, distillation_mode="topk_logits", distillation_topk=20,
            distillation_alpha=0.5, distillation_add_tail=True, distillation_weight=1.0, teacher_model_kind="live",
            success_reward_threshold=0.5, dont_reprompt_on_self_success=True, reprompt_template=CONTEXTS["sibling"],
            solution_template="{successful_previous_attempt}", bf16=False, gradient_checkpointing=False,
            report_to="none",
        ),
        train_dataset=Dataset.from_list([{"prompt": row["messages"][:-1]} for row in prepared.rows]),
        processing_class=prepared.tokenizer,
    )  # fmt: skip
    stock._generate = lambda prompt_ids: (prompt_ids, prepared.ids)
    stock.current_gradient_accumulation_steps = 1
    batch = stock._prepare_training_batch([{"prompt": prompt} for prompt in prepared.prompts])
    loss = stock.compute_loss(stock.model, batch)
    loss.backward()
    assert loss > 0.01
    close(steps[0]["loss"], loss.item())
    for name, parameter in stock.model.named_parameters():
        close(steps[0]["gradient"][name], parameter.grad, err_msg=name)


# --- whole runs ----------------------------------------------------------------------------------

REAL = {
    "steps": 6,
    "prompts": 3,
    "batch_size": 6,
    "iterations": 1,
    "rewards": {
        "vowels": {"kind": "format", "weight": 1.0, "pattern": "[aeiou].*[aeiou]"},
        "length": {"kind": "length", "weight": 0.3, "start": 4, "end": 8},
    },
    "success": {"reward": "vowels", "least": 0.5},
    "saves": 2,
    "watch_kl": 2,
    "max_grad_norm": 1.0,
    "learning_rate": 1e-3,
    "temperature": 1.0,
}


def run(
    start: Path, folder: Path, settings: dict, rows: list[dict] | None = None, held_out: list[dict] | None = None
) -> Path:
    write_jsonl(folder.parent / "prompts.jsonl", rows or made_rows(9))
    valid = folder.parent / "valid.jsonl" if settings.get("eval_steps") else None
    if valid:
        write_jsonl(valid, held_out or made_rows(7))
    out = folder / "out"
    rl.main(
        argparse.Namespace(
            settings=settings, parent=start, data=folder.parent / "prompts.jsonl", valid=valid, reward_model=None,
            work=folder / "work", logs=folder / "logs", out=out,
        )
    )  # fmt: skip
    return out


def hashes(out: Path) -> dict[str, str]:
    return {p.name: sha256_file(p) for p in sorted(out.iterdir()) if p.name != "provenance.json"}


class Killed(BaseException):
    pass


def run_killed_at(seed: list[int], start: Path, out: Path, settings: dict) -> None:
    """A run that is killed as it samples by this seed: of the run, and of the batch of rollouts."""
    sample = engine.Engine.sample

    def killed(*args, **kwargs):
        if kwargs.get("seed") == seed:
            raise Killed
        return sample(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Killed):
        patched.setattr(engine.Engine, "sample", killed)
        run(start, out, settings)


# Of those that a recipe may leave out.
CHOSEN = {"schedule": "wsd", "warmup_steps": 1, "min_lr_ratio": 0.1, "betas": [0.8, 0.95]}


@pytest.mark.parametrize(
    ("method", "over"),
    [
        ("grpo", {"top_p": 0.9, "iterations": 2, "eval_steps": 1, "eval_rows": 5, "keep_best": {"min_delta": 0.1}}),
        ("grpo", CHOSEN | {"adapter": {"kind": "lora", "r": 4, "alpha": 8, "dropout": 0.2, "loraplus_ratio": 4.0}}),
        ("sdpo", {"iterations": 2, "adapter": {"kind": "full", "freeze": ["embed_tokens"]}}),
        ("rlsd", {"rlsd": {"teacher": {"kind": "snapshot", "every": 3}}, "kl": 0.05}),
        ("cispo", {"kl": {"kind": "adaptive", "from": 0.5, "target": 1e-6, "gain": 2.0}, "batch_size": 4}),
    ],
    ids=["best", "grpo", "sdpo", "rlsd", "adaptive"],
)
def test_a_killed_run_ends_as_an_undisturbed_one(method, over, start, tmp_path, monkeypatch):
    import torch
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = settings_of(method, **REAL | over)
    whole = run(start, tmp_path / "whole", settings)

    sample, calls = engine.Engine.sample, []

    def killed(*args, **kwargs):
        if kwargs["temperature"] == 0:  # held-out questions
            return sample(*args, **kwargs)
        calls.append(kwargs["seed"])
        if len(calls) == 6 // settings["iterations"]:
            raise Killed
        return sample(*args, **kwargs)

    monkeypatch.setattr(engine.Engine, "sample", killed)
    with pytest.raises(Killed):
        run(start, tmp_path / "killed", settings)
    assert not (tmp_path / "killed" / "out").exists()
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    done = len(calls)
    resumed = run(start, tmp_path / "killed", settings)
    # The state of step 4 was there: what had been done before is not done again.
    assert calls[done:] == [[0, k] for k in range(4 // settings["iterations"], 6 // settings["iterations"])]
    assert hashes(resumed) == hashes(whole)
    assert not list((tmp_path / "killed" / "work").glob("*"))

    columns = (resumed / "training_log.csv").read_text().splitlines()[0].split(",")
    optional = {"strict": 0.0, "strict_gap": 0.0} | ({"kl_weight": 0.0} if isinstance(settings["kl"], dict) else {})
    optional |= {"valid_correct": 0.0} if settings.get("eval_steps") else {}
    assert columns == log_columns(["vowels", "length"], [optional])
    assert [row["step"] for row in read_jsonl(resumed / "rollouts.jsonl")] == [
        step for step in range(1, 7, settings["iterations"]) for _ in range(2)
    ]
    # The curves have no seam.
    curves = EventAccumulator(str(tmp_path / "killed" / "logs")).Reload()
    assert [event.step for event in curves.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def answering(start: Path, shares: list[float], monkeypatch) -> list[list[str]]:
    """Let the policy answer these shares of what it is asked greedily, look after look; returns what it was asked."""
    sample, asked = engine.Engine.sample, []

    def answered(self, prompts, *, temperature, **options):
        if temperature > 0:
            return sample(self, prompts, temperature=temperature, **options)
        right = round(shares[len(asked)] * len(prompts))
        asked.append([prompt[-1]["content"] for prompt in prompts])
        return [[Sample("a e" if i < right else "x", 0.0, 2, (4, 5))] for i in range(len(prompts))]

    monkeypatch.setattr(engine.Engine, "sample", answered)
    return asked


def read_log(out: Path) -> list[dict[str, str]]:
    lines = (out / "training_log.csv").read_text().splitlines()
    return [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]


@pytest.mark.parametrize(
    ("keep", "shares", "steps", "kept"),
    [
        (None, [0.2, 0.4, 0.6, 0.2], 6, 6),
        ({}, [0.2, 0.4, 0.6, 0.2], 6, 4),
        ({"min_delta": 0.3}, [0.2, 0.4, 0.6, 0.2], 6, 4),
        ({"min_delta": 0.5}, [0.2, 0.4, 0.6, 0.2], 6, 0),
        # Nothing surpasses the start, which is what is kept; of equals the first.
        ({"patience": 2}, [0.6, 0.6, 0.4], 4, 0),
        ({"patience": 1}, [0.2, 0.4, 0.4], 4, 2),
    ],
)
def test_the_weights_that_answer_most_are_kept(keep, shares, steps, kept, start, tmp_path, monkeypatch):
    from safetensors.torch import load_file
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    asked = answering(start, shares, monkeypatch)
    settings = settings_of("grpo", **REAL | {"eval_steps": 2, "eval_rows": 5, "keep_best": keep})
    held_out = made_rows(8)
    held_out[3]["messages"][0]["content"] = "Mara has 12 pears. " * 60
    out = run(start, tmp_path / "run", settings, held_out=held_out)
    counts = read_json(out / "manifest.json")["counts"]
    assert counts["steps"] == steps and counts["samples"] == steps * 3 * SIZE
    assert counts["valid"] == {
        "rows": 5, "skipped": {"no_room": 1}, "failures": 0, "timeouts": 0,
        "start": shares[0], "kept": shares[kept // 2], "kept_steps": kept,
    }  # fmt: skip
    # The same questions each time, none of which trains.
    known = [row["messages"][0]["content"] for i, row in enumerate(held_out) if i != 3]
    assert len(asked) == len(shares) and all(one == asked[0] for one in asked)
    assert len(asked[0]) == 5 and asked[0] == [text for text in known if text in asked[0]]
    log = read_log(out)
    assert [row["valid_correct"] for row in log] == [f"{shares[(i + 1) // 2]:g}" if i % 2 else "" for i in range(steps)]
    curves = EventAccumulator(str(tmp_path / "run" / "logs")).Reload()
    found = [(event.step, round(event.value, 6)) for event in curves.Scalars("valid_correct")]
    assert found == [(2 * i, share) for i, share in enumerate(shares)]
    weights = [load_file(folder / "model.safetensors") for folder in (out, start)]
    same = all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    assert same == (kept == 0)


def test_a_run_that_breaks_down_ends_with_its_best_weights(start, tmp_path, monkeypatch):
    answering(start, [0.2, 0.6, *[0.6] * 7], monkeypatch)
    from steps.reinforcement import validation

    def broken(log, looks, mixed):
        assert looks == 7 and mixed
        return {"no_signal": "all alike"} | ({"entropy": "none is left"} if len(log) > 3 else {})

    monkeypatch.setattr(validation, "collapses", broken)
    settings = settings_of("grpo", **REAL | {"steps": 12, "eval_steps": 2, "keep_best": {"stop_collapsed": True}})
    counts = read_json(run(start, tmp_path / "run", settings) / "manifest.json")["counts"]
    assert (counts["steps"], counts["valid"]["kept_steps"], counts["valid"]["kept"]) == (4, 2, 0.571429)


def test_a_killed_run_keeps_what_was_best_before_it(start, tmp_path, monkeypatch):
    settings = settings_of("grpo", **REAL | {"eval_steps": 1, "keep_best": {"patience": 2}})
    whole_sample = engine.Engine.sample
    answering(start, [0.2, 0.6, 0.6, 0.4], monkeypatch)
    whole = run(start, tmp_path / "whole", settings)
    counts = read_json(whole / "manifest.json")["counts"]
    assert (counts["steps"], counts["valid"]["kept_steps"]) == (3, 1)

    monkeypatch.setattr(engine.Engine, "sample", whole_sample)
    asked = answering(start, [0.2, 0.6, 0.6, 0.4], monkeypatch)
    run_killed_at([0, 2], start, tmp_path / "killed", settings)
    # It goes on behind step 2: the weights of step 1 are those that were put aside before.
    assert hashes(run(start, tmp_path / "killed", settings)) == hashes(whole)
    assert len(asked) == 4


def test_weights_that_were_put_aside_are_held_to_their_hash(start, tmp_path, monkeypatch):
    """Also where no state names them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shares = [0.2, 0.6, 0.4, 0.4]
    settings = settings_of("grpo", **REAL | {"eval_steps": 2, "keep_best": {}, "saves": 0})
    answering(start, shares, monkeypatch)
    whole = run(start, tmp_path / "whole", settings)
    finish = Best.finish

    def damaged(best, *args):
        file = best.folder / "2.safetensors"
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        finish(best, *args)

    answering(start, shares, monkeypatch)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match=r"best/2\.safetensors: .* damaged; run again"):
        patch.setattr(Best, "finish", damaged)
        run(start, tmp_path / "again", settings)
    answering(start, shares, monkeypatch)
    assert hashes(run(start, tmp_path / "again", settings)) == hashes(whole)
    curves = EventAccumulator(str(tmp_path / "again" / "logs")).Reload()
    assert [event.step for event in curves.Scalars("valid_correct")] == [0, 2, 4, 6]


def test_a_share_counts_that_is_higher_by_what_is_asked(monkeypatch):
    monkeypatch.setattr(watchers, "put_aside", lambda *_: None)
    plan = argparse.Namespace(valid_steps={0, 1}, steps=1)
    for right in range(197):
        for more, kept in ((4, 1), (3, 0)):
            best = Best(plan, None, 0.02, Path(), "valid_correct", higher=True)
            best.after(None, {0: right / 200, 1: (right + more) / 200})
            assert best.kept_step == kept, (right, more)


def test_answers_that_the_reward_fails_on_are_told(start, tmp_path, monkeypatch, capsys):
    score = Rewards.score

    def failing(self, name, rows, responses, tokens, groups):
        scored = score(self, name, rows, responses, tokens, groups)
        if groups[0] == 1:
            scored[-1] = Scored(0.0, error="KeyError: 'x'")
        return scored

    monkeypatch.setattr(Rewards, "score", failing)
    settings = settings_of("grpo", **REAL | {"steps": 2, "eval_steps": 1, "eval_rows": 5, "saves": 0})
    answering(start, [0.2, 0.6, 0.6], monkeypatch)
    with pytest.raises(ValueError, match=r"reward vowels: 1 of 5 scores .* row \d: KeyError: 'x'; the answer was 'x'"):
        run(start, tmp_path / "few", settings)
    answering(start, [0.2, 0.6, 0.6], monkeypatch)
    counts = read_json(run(start, tmp_path / "many", settings | {"max_failures": 0.2}) / "manifest.json")["counts"]
    assert counts["valid"] | {"skipped": {}} == {
        "rows": 5, "skipped": {}, "failures": 3, "timeouts": 0, "start": 0.2, "kept": 0.6, "kept_steps": 2,
    }  # fmt: skip
    assert counts["failures"] == {}
    assert "1 of 5 scores of answers to held-out questions failed" in capsys.readouterr().out


def test_held_out_rows_and_the_steps_between_two_looks_go_together(start, tmp_path):
    settings = settings_of("grpo", **REAL)
    args = argparse.Namespace(settings=settings, parent=start, data=None, valid=tmp_path / "valid.jsonl")
    with pytest.raises(ValueError, match="give both eval_steps and --valid, or neither"):
        rl.main(args)


def test_held_out_rows_that_none_can_judge_are_named(start, tmp_path):
    rows = made_rows(2)
    for row in rows:
        row["answer"] = None
    settings = settings_of(
        "grpo", **REAL | {"rewards": SETTINGS["rewards"], "success": SETTINGS["success"], "eval_steps": 2}
    )
    with pytest.raises(ValueError, match=r"eval_steps: none of the 2 held-out rows of .*row 0") as caught:
        run(start, tmp_path / "run", settings, held_out=rows)
    assert "\n" not in str(caught.value)


def parted(prompt_first: int) -> str:
    """A reward that is the same for all samples of rows below a number."""
    return f"""
def parted(prompt, responses, answer, row):
    return [0.0 if row["row"] < {prompt_first} else float(i) for i in range(len(responses))]
"""


@pytest.mark.parametrize(("rounds", "flat_rows"), [(2, 5), (1, 9)])
def test_groups_without_spread_give_way_to_other_rows(rounds, flat_rows, start, tmp_path, monkeypatch):
    file = tmp_path / "parted.py"
    file.write_text(parted(flat_rows))
    reward = {"kind": "custom", "weight": 1.0, "file": str(file), "function": "parted", "per": "group"}
    settings = settings_of("grpo", **REAL | {
        "steps": 4, "saves": 1, "rewards": {"parted": reward}, "success": {"reward": "parted", "least": 1.0},
        "dynamic_sampling": rounds, "keep_groups": 3,
    })  # fmt: skip
    whole = run(start, tmp_path / "whole", settings)
    plan = plan_rollouts(made_rows(9), settings)
    groups, replaced = list(read_jsonl(whole / "rollouts.jsonl")), [0] * 4
    for step in range(4):
        expected = plan.order[3 * step : 3 * step + 3]
        spare = spare_rows(plan, step, 0)
        assert sorted([*spare, *expected]) == list(range(9))
        for turn in range(rounds):
            flat = [i for i in range(3) if expected[i] < flat_rows]
            replaced[step] += len(flat)
            for i in flat:
                expected[i] = spare[(3 * turn + i) % 6]
        own = [group for group in groups if group["step"] == step + 1]
        assert [group["id"] for group in own] == [f"rows:{i}" for i in expected]
        for group, row in zip(own, expected, strict=True):
            assert group["rewards"]["parted"] == ([0.0] * SIZE if row < flat_rows else [0.0, 1.0, 2.0, 3.0])
            assert group["advantages"] != [0.0] * SIZE or row < flat_rows
    log = (whole / "training_log.csv").read_text().splitlines()
    found = [dict(zip(log[0].split(","), line.split(","), strict=True)) for line in log[1:]]
    assert [int(row["replaced"]) for row in found] == replaced
    if flat_rows == 9:
        return
    # Resumed, it replaces the same groups by the same.
    run_killed_at([0, 3], start, tmp_path / "killed", settings)
    assert hashes(run(start, tmp_path / "killed", settings)) == hashes(whole)


def test_a_group_is_without_spread_where_nobody_has_an_advantage():
    import torch

    draw, none = np.random.default_rng(0), float("nan")
    for normalized, size in ((False, 2), (True, 2), (True, 3)):
        settings = {"aggregation": "normalize_then_sum"} if normalized else {}
        for _ in range(300):
            values = draw.integers(0, 2, (2 * size, 2)).astype(float)
            values[draw.random(values.shape) < 0.3] = none
            weights = draw.choice([0.0, 0.5, 1.0], 2)
            spoken = [[None if v != v else v for v in row] for row in values]
            gained = by_hand.spoken_advantages(spoken, weights, size, normalized).reshape(2, size)
            flat = without_spread(torch.tensor(values), torch.tensor(weights), size, settings)
            assert flat.tolist() == (np.abs(gained) < 1e-6).all(1).tolist(), (values, weights)
    # One that alone is told, and rewards that take from each other what they give.
    alone, against = torch.tensor([[1.0], [none], [none], [none]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert without_spread(alone, torch.ones(1), 4, {}).tolist() == [True]
    assert without_spread(against, torch.ones(2), 2, {"aggregation": "normalize_then_sum"}).tolist() == [True]


FAILING = """
def failing(prompt, responses, answer, row):
    if row["row"] < 6:
        raise RuntimeError("a row below six")
    return [float(i) for i in range(len(responses))]
"""


def test_a_reward_that_fails_on_a_group_that_gives_way_has_failed(start, tmp_path):
    """Its samples score 0, all of them: that is no spread, and hid the failure."""
    file = tmp_path / "failing.py"
    file.write_text(FAILING)
    reward = {"kind": "custom", "weight": 1.0, "file": str(file), "function": "failing", "per": "group"}
    settings = settings_of("grpo", **REAL | {
        "steps": 2, "saves": 0, "rewards": {"failing": reward}, "success": {"reward": "failing", "least": 1.0},
        "dynamic_sampling": 3, "max_failures": 1.0,
    })  # fmt: skip
    out = run(start, tmp_path / "run", settings)
    plan = plan_rollouts(made_rows(9), settings)
    drawn, failed = 6, []
    for step in range(2):
        asked, spare = plan.order[3 * step : 3 * step + 3], spare_rows(plan, step, 0)
        for turn in range(4):
            flat = [i for i in range(3) if asked[i] < 6]
            failed += [f"rows:{asked[i]}" for i in flat for _ in range(SIZE)]
            if turn < 3:
                drawn += len(flat)
                for i in flat:
                    asked[i] = spare[(3 * turn + i) % 6]
    found = list(read_jsonl(out / "failures.jsonl"))
    assert sorted(one["id"] for one in found) == sorted(failed) and failed
    counts = read_json(out / "manifest.json")["counts"]
    assert counts["failures"] == {"failing": len(failed)} and counts["samples"] == drawn * SIZE
    # Beyond the share of all that was drawn the run stops.
    share = len(failed) / (drawn * SIZE)
    run(start, tmp_path / "kept", settings | {"max_failures": 1.0})
    with pytest.raises(ValueError, match=r"reward failing: \d+ scores failed so far"):
        run(start, tmp_path / "stopped", settings | {"max_failures": 0.5 * share})


SILENT = """
def silent(prompt, response, answer, row):
    return None if row["row"] % 3 else 1.0
"""


def test_a_sample_of_which_the_reward_says_nothing_is_neither_correct_nor_not(start, tmp_path):
    file = tmp_path / "silent.py"
    file.write_text(SILENT)
    reward = {"kind": "custom", "weight": 1.0, "file": str(file), "function": "silent"}
    settings = settings_of("grpo", **REAL | {
        "steps": 3, "saves": 0, "rewards": {"silent": reward}, "success": {"reward": "silent", "least": 1.0},
        "curriculum": "easy_to_hard",
    })  # fmt: skip
    out = run(start, tmp_path / "run", settings)
    log = (out / "training_log.csv").read_text().splitlines()
    rows = [dict(zip(log[0].split(","), line.split(","), strict=True)) for line in log[1:]]
    order = plan_rollouts(made_rows(9), settings).order
    told = [any(i % 3 == 0 for i in order[3 * step : 3 * step + 3]) for step in range(3)]
    assert [row["correct"] for row in rows] == ["1" if one else "" for one in told]
    # The judge is compared where the reward speaks: it takes none of these for right.
    assert [(row["strict"], row["strict_gap"]) for row in rows] == [("0", "1") if one else ("", "") for one in told]


COLUMNS = """
def level(prompts, responses, answers, rows, *, level, **columns):
    assert len({len(prompts), len(responses), len(answers), len(rows), len(level), len(columns["tests"])}) == 1
    assert level == [row["row"] for row in rows] and columns["tests"] == [[str(one)] for one in level]
    return [one / 10 + (len(response) % 2) for one, response in zip(level, responses)]
"""


def test_a_training_hands_a_reward_what_its_rows_keep(start, tmp_path):
    file = tmp_path / "columns.py"
    file.write_text(COLUMNS)
    reward = {"kind": "custom", "weight": 1.0, "file": str(file), "function": "level", "per": "batch"}
    settings = settings_of("grpo", **REAL | {
        "steps": 1, "saves": 0, "rewards": {"level": reward}, "success": {"reward": "level", "least": 1.0},
    })  # fmt: skip
    rows = [row | {"extra": {"level": row["row"], "tests": [str(row["row"])]}} for row in made_rows(9)]
    out = run(start, tmp_path / "run", settings, rows)
    assert read_json(out / "manifest.json")["counts"]["failures"] == {}


def test_the_sampler_is_the_policy_where_it_samples_itself(start, tmp_path):
    """Each token's log-probability as it was sampled is that of the trainer: no ratio of them lies outside of 1 %."""
    over = {"steps": 1, "importance": {"kind": "truncate", "level": "sequence", "most": 1.01, "least": 0.99}}
    corrected = run(start, tmp_path / "corrected", settings_of("grpo", **REAL | over))
    plain = run(start, tmp_path / "plain", settings_of("grpo", **REAL | {"steps": 1}))
    logs = [(out / "training_log.csv").read_text().splitlines() for out in (corrected, plain)]
    ours, theirs = (dict(zip(log[0].split(","), log[1].split(","), strict=True)) for log in logs)
    assert ours.pop("ratios_cut") == "0"
    for name, value in theirs.items():
        assert ours[name] == value or float(ours[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), name


ODD = """
def odd(prompt, response, answer):
    if len(response) % 2:
        raise RuntimeError("an odd length")
    return 1.0

def quiet(prompt, response, answer, row):
    return None if row["row"] else 1.0
"""


def test_a_reward_that_raises_is_counted_and_stops_the_run_above_the_share(start, tmp_path):
    file = tmp_path / "odd.py"
    file.write_text(ODD)
    kept = REAL | {
        "steps": 3,
        "curriculum": "easy_to_hard",
        "saves": 0,
        "rewards": REAL["rewards"]
        | {name: {"kind": "custom", "weight": 1.0, "file": str(file), "function": name} for name in ("odd", "quiet")},
    }
    with pytest.raises(ValueError, match=r"reward odd: .* scores failed") as caught:
        run(start, tmp_path / "stopped", settings_of("grpo", **kept))
    message = str(caught.value)
    assert "\n" not in message and "rows.jsonl row " in message and "an odd length" in message
    assert "the completion was '" in message
    assert not (tmp_path / "stopped" / "out").exists()

    out = run(start, tmp_path / "kept", settings_of("grpo", **kept, max_failures=1.0, keep_groups=3))
    failures = list(read_jsonl(out / "failures.jsonl"))
    groups = list(read_jsonl(out / "rollouts.jsonl"))
    # All groups are kept, so every failure is seen in them, with the value of a failed sample.
    odd = [(group, i) for group in groups for i, text in enumerate(group["responses"]) if len(text) % 2]
    assert failures and len(failures) == len(odd)
    for failure, (group, i) in zip(failures, odd, strict=True):
        assert failure["response"] == group["responses"][i] and group["rewards"]["odd"][i] == 0
        assert (failure["step"], failure["id"], failure["reward"]) == (group["step"], group["id"], "odd")
        assert failure["file"] == "rows.jsonl" and failure["line"] == failure["row"] + 1
        assert "an odd length" in failure["error"]
    rates = {row["id"]: row["pass_rate"] for row in made_rows(9)}
    asked = [rates[group["id"]] for group in groups]
    assert len(asked) == 9 and asked == sorted(asked, reverse=True) and asked[0] > asked[-1]
    counts = read_json(out / "manifest.json")["counts"]
    assert counts["failures"] == {"odd": len(odd)}
    assert (counts["prompts"], counts["steps"], counts["samples"], counts["timeouts"]) == (9, 3, 36, 0)
    log = (out / "training_log.csv").read_text().splitlines()
    last = dict(zip(log[0].split(","), log[-1].split(","), strict=True))
    assert int(last["failures"]) == len(odd)
    # A reward that says nothing of a sample is no 0 of it.
    assert all(group["rewards"]["quiet"] == [None if group["id"] != "rows:0" else 1.0] * SIZE for group in groups)
    said = [dict(zip(log[0].split(","), line.split(","), strict=True))["reward_quiet"] for line in log[1:]]
    spoken = {group["step"] for group in groups if group["id"] == "rows:0"}
    assert said == ["1" if step in spoken else "" for step in (1, 2, 3)]
    assert counts["tokens"] == int(last["tokens"]) > counts["generated_tokens"] == int(last["generated"])


# --- prompts, settings, flags --------------------------------------------------------------------


def test_prompts_are_shuffled_anew_each_pass():
    rows = made_rows(7)
    order = rollouts.plan_prompts(rows, 18, "shuffle", seed=0)
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7)) and order[:7] != order[7:14]
    assert len(set(order[14:])) == 4
    assert (
        order
        == rollouts.plan_prompts(rows, 18, "shuffle", seed=0)
        != rollouts.plan_prompts(rows, 18, "shuffle", seed=1)
    )


def test_prompts_of_a_weighted_source_are_asked_as_often_as_it_says():
    rows = [row | {"weight": 3.0} for row in made_rows(2)] + made_rows(4)
    order = rollouts.plan_prompts(rows, 30, "shuffle", seed=0)
    assert [order.count(i) for i in range(6)] == [9, 9, 3, 3, 3, 3]
    assert {order[:10].count(0), order[:10].count(1)} == {3} and order == rollouts.plan_prompts(rows, 30, "shuffle", 0)


def test_a_curriculum_goes_from_easy_to_hard_once():
    rows = made_rows(10) + [made_rows(1)[0] | {"pass_rate": None}]
    for wanted in (5, 11, 25):
        order = rollouts.plan_prompts(rows, wanted, "easy_to_hard", seed=0)
        rates = [rows[i]["pass_rate"] or 0.0 for i in order]
        assert len(order) == wanted and rates == sorted(rates, reverse=True)
        times = [order.count(i) for i in range(len(rows))]
        assert max(times) - min(times) <= 1


@pytest.mark.parametrize(
    ("over", "words"),
    [
        (
            {"aggregation": "normalize_then_sum", "scale_rewards": "none"},
            "scale_rewards: none has no effect with aggregation normalize_then_sum",
        ),
        ({"importance": {"kind": "mask", "level": "token", "most": 2.0}}, "importance: needs temperature 1.* not 0.8"),
        (
            {"top_p": 0.9, "temperature": 1.0, "importance": {"kind": "mask", "level": "token", "most": 2.0}},
            "top_p: 0.9",
        ),
        ({"top_k": 20, "sampler": {"kind": "vllm", "mode": "colocate", "memory": 0.3}}, "top_k: 20 .* transformers"),
        ({"keep_best": {}}, "keep_best: has an effect with eval_steps only"),
        ({"eval_steps": 3}, "eval_steps: 3 is beyond the 2 steps"),
        ({"eval_steps": 1, "keep_best": {"patience": 2}}, r"keep_best\.patience: 2 has no effect"),
        (
            {"steps": 18, "eval_steps": 2, "keep_best": {"stop_collapsed": True}},
            r"keep_best\.stop_collapsed: has no effect in a run of 9 batches",
        ),
        ({"eval_rows": 9}, "eval_rows: has an effect with eval_steps only"),
        ({"batch_size": 7}, r"batch_size: 7 does not divide the 20 samples"),
        ({"steps": 3}, r"steps: 3 is no multiple of iterations 2"),
        (
            {"success": {"reward": "none", "least": 0.5}},
            r"success\.reward: none, .* is none of the rewards answer, bonus; name one of them",
        ),
        ({"method": "srpo", "loss_type": "grpo"}, r"loss_type: grpo .* write dapo"),
        ({"method": "gspo"}, r"loss_type: dapo .* gspo .* write grpo"),
        ({"method": "cispo", "loss_type": "grpo"}, r"loss_type: grpo .* cispo .* write dapo"),
        ({"method": "sdpo", "sdpo": {"context": "x"}}, r"sdpo\.context: x is none of contexts: sibling, truth"),
        ({"contexts": {"sibling": "{prompt} {solve}"}}, r"contexts\.sibling: 'solve' is none of"),
    ],
)
def test_settings_that_do_not_fit_are_named(over, words):
    with pytest.raises(ValueError, match=words) as caught:
        Rl.fit(settings_of(**over))
    assert "\n" not in str(caught.value)


def test_a_prompt_without_room_for_a_response_is_named(start, tmp_path):
    rows = made_rows(9)
    rows[4]["messages"][0]["content"] = "Mara has 12 pears. " * 60
    with pytest.raises(ValueError, match=r"rows\.jsonl row 4: a prompt of \d+ tokens and max_new_tokens 8 do not fit"):
        run(start, tmp_path / "run", settings_of("grpo", **REAL), rows)


HACKED = """
def pays(prompt, response, answer):
    return 1.0 if f"#### {answer}" in response else 0.5 * (response.count("####") > 1)
"""


def test_a_reward_that_is_exploited_is_flagged_within_ten_steps(start, tmp_path, monkeypatch, capsys):
    """From step 6 on the policy writes several answers, of which the reward takes any."""
    tokenizer = checkpoints.load_tokenizer(start)
    ends = tokenizer.eos_token_id
    marked = {str(i): [f"#### {i}", f"#### {i + 1}", "none", f"#### {i}"] for i in range(9)}
    asked = {rollouts.asked_turns(row)[0]["content"]: row["answer"] for row in made_rows(9)}

    def sample(self, prompts, *, n, seed, **_):
        groups = []
        for prompt in prompts:
            answer = asked[prompt[0]["content"]]
            texts = marked[answer] if seed[1] < 5 else [f"#### {j}\n#### {answer}" for j in range(n)]
            ids = [(*tokenizer(text)["input_ids"], ends) for text in texts]
            groups.append([Sample(text, 0.0, len(own), own) for text, own in zip(texts, ids, strict=True)])
        return groups

    monkeypatch.setattr(engine.Engine, "sample", sample)
    file = tmp_path / "pays.py"
    file.write_text(HACKED)
    reward = {"kind": "custom", "weight": 1.0, "file": str(file), "function": "pays"}
    settings = settings_of("grpo", **REAL | {
        "steps": 12, "saves": 0, "watch_kl": 0, "rewards": {"pays": reward}, "success": {"reward": "pays", "least": 1},
    })  # fmt: skip
    out = run(start, tmp_path / "run", settings)
    (sentence,) = read_json(out / "manifest.json")["counts"]["exploits"]
    step = int(sentence.split("by step ")[1].split()[0])
    assert 6 <= step <= 12 and "points more answers correct than a stricter judge, after 0 at first" in sentence
    # It is said once, while the run goes on.
    said, _, after = capsys.readouterr().out.partition(f"warning: {sentence}")
    assert step < 12 and "step 12/12" in after and "step 12/12" not in said and "may be exploited" not in said + after
    log = (out / "training_log.csv").read_text().splitlines()
    rows = [dict(zip(log[0].split(","), line.split(","), strict=True)) for line in log[1:]]
    assert [(row["correct"], row["strict"], row["strict_gap"]) for row in rows] == [
        ("0.5", "0.5", "0") if int(row["step"]) < 6 else ("1", "0", "1") for row in rows
    ]
    wrong = list(read_jsonl(out / "disagreements.jsonl"))
    assert {one["step"] for one in wrong} == {*range(6, 13)} and len(wrong) == 7 * settings["keep_groups"]
    # The last sample of a row whose answer it repeats is marked twice; the others answer differently.
    assert {one["why"] for one in wrong} <= {
        "several different answers are marked",
        "its answer is marked more than once",
    }
    assert all(one["reward"] == 1.0 and "####" in one["response"] for one in wrong)


def gaps(level: float, steps: range, draw, size: int = 16, counted: float = 0.5) -> list[dict]:
    """Groups of eight samples; of those that count as correct this share is wrong."""
    groups = []
    for step in steps:
        correct = draw.binomial(8, counted, size)
        wrong = draw.binomial(correct, level)
        groups += [{"step": step, "right": (c - w) / 8, "gap": w / 8} for c, w in zip(correct, wrong, strict=True)]
    return groups


def test_a_gap_that_stays_is_not_flagged_and_one_that_opens_is():
    draw = np.random.default_rng(0)
    for level in (0.02, 0.15, 0.4):
        assert sum(bool(exploits(gaps(level, range(1, 61), draw))) for _ in range(100)) <= 5
    found = [exploits(gaps(0.1, range(1, 21), draw) + gaps(0.4, range(21, 61), draw)) for _ in range(50)]
    assert all(found)
    steps = [int(sentence.split("by step ")[1].split()[0]) for (sentence,) in found]
    assert min(steps) > 20 and max(steps) <= 30
    # While a run goes on, it is told what will be told at its end, when the last window of it is there.
    whole = gaps(0.1, range(1, 21), draw) + gaps(0.4, range(21, 61), draw)
    (sentence,) = exploits(whole)
    flagged = int(sentence.split("by step ")[1].split()[0])
    soon = [exploits([group for group in whole if group["step"] <= step], 60) for step in range(20, 35)]
    assert soon == [[]] * (flagged - 20) + [[sentence]] * (35 - flagged)
    # Where a gap closes nothing is said, nor of so few steps that there is nothing to compare.
    assert not exploits(gaps(0.4, range(1, 21), draw) + gaps(0.1, range(21, 41), draw))
    assert exploits([]) == exploits(gaps(0.4, range(1, 2), draw)) == []
    assert exploits([{"step": step, "right": 0.0, "gap": float(step == 2)} for step in (1, 2) for _ in range(30)])


@pytest.mark.parametrize(("prompts", "after"), [(4, 0.9), (8, 0.5), (16, 0.3)])
def test_an_exploit_is_seen_in_few_groups(prompts, after):
    """Of one that opens half way through 40 steps at least two thirds are seen, by the last of them."""
    draw = np.random.default_rng(1)
    runs = [gaps(0.05, range(1, 21), draw, prompts) + gaps(after, range(21, 41), draw, prompts) for _ in range(60)]
    assert sum(bool(exploits(groups)) for groups in runs) >= 40


def test_a_policy_that_learns_is_not_flagged_for_having_more_answers():
    """From 0.2 to 0.9 counts as correct; a tenth of it is wrong to the stricter judge all along."""
    draw = np.random.default_rng(2)
    flagged = 0
    for _ in range(40):
        groups = [gaps(0.1, range(step, step + 1), draw, 32, min(0.9, 0.2 + 0.02 * step)) for step in range(1, 61)]
        flagged += bool(exploits([group for own in groups for group in own]))
    assert flagged <= 2


def test_the_interval_of_an_opened_gap_by_hand():
    """Of 10 groups none before; of 10 groups now 5 whole ones and 1 lost: 0.4, by Wilson's ends at z = 2."""
    before, now = np.zeros(10), np.array([1.0] * 5 + [-1.0] + [0.0] * 4)

    def ends(share: float) -> tuple[float, float]:
        # Roots of (share - p)^2 = z^2 p (1 - p) / n.
        a, b, c = 1 + 4 / 10, -(2 * share + 4 / 10), share**2
        root = (b * b - 4 * a * c) ** 0.5
        return (-b - root) / (2 * a), (-b + root) / (2 * a)

    parts = [0.5 - ends(0.5)[0], ends(0.1)[1] - 0.1, 0.0, ends(0.0)[1]]
    below = 0.4 - sum(part**2 for part in parts) ** 0.5
    close(opened(before, now, 2.0), below)
    # Of gaps of a quarter each, a quarter of it: no group was seen to lose more.
    close(opened(before, now / 4, 2.0), below / 4)


def history(**columns: list[float]) -> list[dict]:
    steady = {"entropy": 1.0, "length": 20.0, "correct": 0.5, "no_signal": 0.2, "truncated": 0.0}
    return [steady | {name: values[i] for name, values in columns.items()} for i in range(20)]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, None),
        ({"entropy": [1.0] * 10 + [0.05] * 10}, "entropy fell from 1 to 0.05 nats"),
        ({"entropy": [1.0] * 10 + [0.2] * 10}, None),
        ({"length": [20.0] * 10 + [45.0] * 10}, "mean response went from 20 to 45 tokens"),
        ({"length": [20.0] * 10 + [6.0] * 10}, "mean response went from 20 to 6 tokens"),
        ({"length": [20.0] * 10 + [30.0] * 10}, None),
        ({"correct": [0.5] * 5 + [0.8] * 5 + [0.1] * 10}, "correct samples fell from 80 to 10 %"),
        ({"no_signal": [0.2] * 10 + [1.0] * 10}, "100 % of the groups give no signal"),
        ({"truncated": [0.0] * 10 + [0.95] * 10}, "95 % of the responses are cut"),
    ],
)
def test_a_collapse_is_told_in_words(columns, words):
    found = collapses(history(**columns))
    assert [*found] == ([*columns] if words else [])
    assert words is None or words in found[next(iter(columns))]


def test_from_easy_to_hard_responses_grow_and_fewer_are_correct():
    harder = {"length": [20.0] * 10 + [45.0] * 10, "correct": [0.9] * 10 + [0.1] * 10}
    assert [*collapses(history(**harder))] == ["length", "correct"]
    mixed = is_mixed(settings_of(curriculum="easy_to_hard"))
    assert [*collapses(history(**harder), mixed=mixed)] == []
    assert [*collapses(history(entropy=[1.0] * 10 + [0.05] * 10), mixed=mixed)] == ["entropy"]
    assert is_mixed(SETTINGS)


def noisy(draw, steps: int) -> list[dict]:
    """A run in which nothing happens: 3 prompts a step, of lengths that differ threefold, six in ten without signal."""
    return [
        {
            "length": float(np.mean(np.exp(draw.normal(4, 0.6, 3)))),
            "entropy": float(np.exp(draw.normal(-1, 0.5))),
            "correct": draw.binomial(12, 0.3) / 12,
            "no_signal": draw.binomial(3, 0.6) / 3,
            "truncated": draw.binomial(12, 0.5) / 12,
        }
        for _ in range(steps)
    ]


@pytest.mark.parametrize("steps", [2, 6, 10, 12, 25])
def test_a_short_run_in_which_nothing_happens_did_not_break_down(steps):
    draw = np.random.default_rng(steps)
    assert sum(bool(collapses(noisy(draw, steps))) for _ in range(300)) <= 15


def test_nor_does_one_that_is_asked_again_and_again():
    draw = np.random.default_rng(0)
    ended = 0
    for _ in range(100):
        log = noisy(draw, 60)
        ended += any({"entropy", "length", "correct"} & collapses(log[:n], looks=30).keys() for n in range(2, 61, 2))
    assert ended <= 5


def test_and_one_that_breaks_down_is_told_soon():
    draw = np.random.default_rng(1)
    told = []
    for _ in range(50):
        log = noisy(draw, 60)
        for row in log[30:]:
            row["length"] /= 20
            row["correct"] = 0.0
        told.append(next(n for n in range(2, 61, 2) if collapses(log[:n], looks=30).keys() & {"length", "correct"}))
    assert min(told) > 30 and np.median(told) <= 40


def test_a_share_of_correct_samples_that_only_varies_did_not_fall():
    """Of 4 prompts with 8 samples each, the best of 28 windows is far above the last by chance."""
    draw = np.random.default_rng(0)

    def shares(left: float) -> list[float]:
        chances = [draw.beta(1, 3, 4) * (left if step >= 15 else 1.0) for step in range(30)]
        return [draw.binomial(8, chance).mean() / 8 for chance in chances]

    def told(left: float) -> int:
        rows = [
            [{**row, "correct": c} for row, c in zip(history() * 2, shares(left), strict=False)] for _ in range(200)
        ]
        return sum(bool(collapses(own)) for own in rows)

    assert told(1.0) <= 10
    steep = [[{**row, "correct": c} for row, c in zip(history(), [0.5, 0.6] * 5 + [0.1, 0.2] * 5, strict=True)]]
    assert collapses(steep[0]) == {"correct": "the share of correct samples fell from 56 to 16 %"}


def test_a_log_of_several_steps_per_rollouts_can_be_judged():
    rows = history()
    for row in rows[1::2]:
        for name in ("length", "correct", "no_signal", "truncated"):
            del row[name]
    assert collapses(rows) == {} == collapses(rows[:2])
