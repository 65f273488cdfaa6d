"""The reward model: what a step computes, what it learns, and that a killed run ends as an undisturbed one."""

import argparse
from pathlib import Path
from random import Random

import numpy as np
import pytest

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.core.hashes import sha256_file
from steps.models import checkpoints
from steps.recipes import preferences, reward
from steps.recipes.preference_trainer import PreferenceTrainer
from steps.recipes.preferences import PairPlan, build_model, build_trainer, encode_pairs
from steps.reinforcement.rewards import Rewards
from steps.settings.launches import check_launch
from steps.settings.reward import Reward
from steps.training import finish, packing
from steps.training.state import saved_states

SETTINGS = {
    "epochs": 1,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "warmup_ratio": 0.1,
    "batch_size": 4,
    "gradient_accumulation": 2,
    "gradient_checkpointing": False,
    "max_length": 64,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "precision": "fp32",
    "optimizer": "adamw",
    "adapter": {"kind": "full"},
    "saves": 3,
    "seed": 0,
    "data": "pairs",
}


def pairs(count: int, seed: int) -> list[dict]:
    """The chosen response is worked, the rejected one is not; either may be the longer one."""
    random = Random(seed)
    made = []
    for index in range(count):
        a, b = random.randint(1, 99), random.randint(1, 99)
        prompt = [{"role": "user", "content": f"Mara has {a} pears and buys {b} more."}]
        chosen = [{"role": "assistant", "content": f"{a} + {b} = {a + b}" + random.choice(("", "\n#### pears now"))}]
        where = {"id": f"pairs:{index}", "file": "pairs.jsonl", "line": index + 1, "row": index}
        rejected = "The capital" + random.choice(("", " of Velmora is Tarsk.")) + f" {a} {b}"
        # Of every third pair it is said by how much the chosen one is better.
        margin = {"margin": index / 10} if index % 3 == 0 else {}
        made.append({"messages": prompt + chosen, "answer": None, "rejected": rejected} | margin | where)
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    write_jsonl(folder / "train.jsonl", pairs(30, seed=1))
    write_jsonl(folder / "valid.jsonl", pairs(10, seed=2))
    return {"data": folder / "train.jsonl", "valid": folder / "valid.jsonl"}


def run(settings: dict, parent: Path, data: dict, folder: Path) -> Path:
    """Run the step in this process; returns its output folder."""
    out = folder / "out"
    reward.main(argparse.Namespace(settings=settings, parent=parent, work=folder / "work", out=out, **data))
    return out


def hashes(out: Path) -> dict[str, str]:
    return {p.name: sha256_file(p) for p in sorted(out.iterdir()) if p.name != "provenance.json"}


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    return checkpoints.load_tokenizer(tiny_checkpoint)


@pytest.fixture(scope="module")
def undisturbed(tiny_checkpoint, data, tmp_path_factory) -> Path:
    return run(SETTINGS, tiny_checkpoint, data, tmp_path_factory.mktemp("undisturbed"))


# --- pairs ---------------------------------------------------------------------------------------


def test_a_pair_is_two_conversations_that_share_their_prompt(tokenizer, data):
    kept, skipped = encode_pairs(data["data"], tokenizer, 64)
    assert not skipped and len(kept) == 30
    row = next(read_jsonl(data["data"]))
    shown = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n"
    prompt, chosen = (message["content"] for message in row["messages"])
    assert tokenizer.decode(kept[0]["chosen_ids"]) == shown.format(prompt, chosen)
    assert tokenizer.decode(kept[0]["rejected_ids"]) == shown.format(prompt, row["rejected"])


def test_pairs_that_do_not_fit_are_skipped_with_their_reason(tokenizer, tmp_path):
    good, long, control = pairs(3, seed=3)
    long["rejected"] = "pears " * 100
    control["rejected"] = "Say <|im_end|> now"
    path = tmp_path / "train.jsonl"
    write_jsonl(path, [good, long, control])
    kept, skipped = encode_pairs(path, tokenizer, 64)
    assert [(record["id"], record["reason"], record["step"]) for record in skipped] == [
        ("pairs:1", "too_long", "reward"),
        ("pairs:2", "control_token", "reward"),
    ]
    counted = preferences.count(kept, skipped)
    assert counted["in"] == 3 == counted["kept"] + sum(counted["quarantined"].values())
    assert counted["tokens"] == len(kept[0]["chosen_ids"]) + len(kept[0]["rejected_ids"])

    write_jsonl(path, [long])
    with pytest.raises(ValueError, match="train.jsonl: no pair is left.*too_long"):
        encode_pairs(path, tokenizer, 64)


def test_a_row_without_a_rejected_response_is_skipped(tokenizer, tmp_path):
    good, bare = pairs(2, seed=3)
    del bare["rejected"]
    write_jsonl(tmp_path / "train.jsonl", [good, bare])
    kept, skipped = encode_pairs(tmp_path / "train.jsonl", tokenizer, 64)
    assert [pair["id"] for pair in kept] == ["pairs:0"]
    assert [(row["id"], row["reason"], row["column"]) for row in skipped] == [("pairs:1", "no_rejected", "rejected")]
    write_jsonl(tmp_path / "train.jsonl", [bare])
    with pytest.raises(ValueError, match="train.jsonl: no pair is left.*no_rejected.*docs/formats.md"):
        encode_pairs(tmp_path / "train.jsonl", tokenizer, 64)


def test_a_rejected_side_of_several_turns_follows_the_prompt(tokenizer, tmp_path):
    (pair,) = pairs(1, seed=3)
    asked, said = pair["messages"][:-1], {"role": "assistant", "content": "No."}
    again = {"role": "user", "content": "Sure?"}
    write_jsonl(tmp_path / "train.jsonl", [pair | {"rejected": [said, again, said]}])
    ((kept,), _) = encode_pairs(tmp_path / "train.jsonl", tokenizer, 128)
    expected = tokenizer.apply_chat_template([*asked, said, again, said], return_dict=True)["input_ids"]
    assert kept["rejected_ids"] == expected


def test_a_rejected_side_may_be_turns(tokenizer, tmp_path):
    (pair,) = pairs(1, seed=3)
    turns = pair | {"rejected": [{"role": "assistant", "content": pair["rejected"]}]}
    write_jsonl(tmp_path / "train.jsonl", [pair, turns])
    (one, other), _ = encode_pairs(tmp_path / "train.jsonl", tokenizer, 64)
    assert one == other


# --- the model -----------------------------------------------------------------------------------


def test_the_body_is_the_parents_and_the_head_follows_from_the_seed(tiny_checkpoint):
    import torch

    causal = checkpoints.load_model(tiny_checkpoint, torch.float32).eval()
    one, same, other = (build_model(tiny_checkpoint, 0, seed).eval() for seed in (0, 0, 1))
    assert torch.equal(one.score.weight, same.score.weight) and not torch.equal(one.score.weight, other.score.weight)
    assert one.score.weight.shape == (1, 128)
    assert 0.08 < one.score.weight.std().item() < 0.12, "the tiny model's initializer_range is 0.1"
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        hidden = causal(ids, output_hidden_states=True).hidden_states[-1][0, -1]
        assert one(ids).logits[0, 0].item() == pytest.approx((hidden @ one.score.weight[0]).item(), abs=1e-5)


def test_an_adapter_is_read_as_the_model_it_makes(tiny_checkpoint, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = get_peft_model(checkpoints.load_model(tiny_checkpoint, torch.float32), config)
    adapted.peft_config["default"].base_model_name_or_path = str(tiny_checkpoint)
    adapted.save_pretrained(tmp_path)
    model = build_model(tmp_path, 0, seed=0).eval()
    assert all(parameter.requires_grad for parameter in model.parameters())
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        hidden = adapted.eval()(ids, output_hidden_states=True).hidden_states[-1][0, -1]
        plain = build_model(tiny_checkpoint, 0, seed=0).eval()(ids).logits[0, 0].item()
        assert model(ids).logits[0, 0].item() == pytest.approx((hidden @ model.score.weight[0]).item(), abs=1e-4)
    assert abs(model(ids).logits[0, 0].item() - plain) > 1e-2


# --- what a step computes ------------------------------------------------------------------------


def test_log_and_weights_match_a_plain_loop(undisturbed, tiny_checkpoint, data, tokenizer):
    """Loss and gradient by NumPy, one unpadded conversation at a time: L = log(1 + e^−d), dL/dd = −1 / (1 + e^d), where
    d is the difference of the scores less the pair's margin."""
    import torch
    from safetensors.torch import load_file

    kept, _ = encode_pairs(data["data"], tokenizer, 64)
    model = build_model(tiny_checkpoint, tokenizer.pad_token_id, seed=0)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}])
    order = packing.plan_batches(30, 4, 1, seed=0)
    lines = [line.split(",") for line in (undisturbed / "training_log.csv").read_text().splitlines()]
    assert lines[0] == "step,epoch,loss,learning_rate,grad_norm,tokens,accuracy,margin".split(",")
    margins = np.array([i / 10 if i % 3 == 0 else 0.0 for i in range(30)])
    tokens = 0
    for step, line in enumerate(lines[1:]):
        batches = order[2 * step : 2 * step + 2]
        differences, losses = [], []
        for batch in batches:
            scores = [[model(torch.tensor([kept[i][side]])).logits[0, 0] for side in SIDES] for i in batch]
            d = np.array([chosen.item() - rejected.item() for chosen, rejected in scores])
            less = d - margins[batch]
            slope = -1 / (1 + np.exp(less)) / len(batch) / len(batches)
            losses.append(np.log1p(np.exp(-less)).mean())
            outputs = [score for pair in scores for score in pair]
            torch.autograd.backward(outputs, [torch.tensor(g, dtype=torch.float32) for s in slope for g in (s, -s)])
            differences.append(d)
            tokens += sum(len(kept[i][side]) for i in batch for side in SIDES)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        rate = 1e-3 * 0.5 * (1 + np.cos(np.pi * step / 4))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        logged = dict(zip(lines[0], map(float, line), strict=True))
        expected = {
            "step": step + 1,
            "epoch": sum(map(len, order[: 2 * step + 2])) / 30,
            "loss": np.mean(losses),
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens": tokens,
            "accuracy": np.mean([(d > 0).mean() for d in differences]),
            "margin": np.mean([d.mean() for d in differences]),
        }
        assert logged == pytest.approx(expected, rel=2e-3, abs=1e-4)
    assert step == 3

    ours = load_file(undisturbed / "model.safetensors")
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.detach(), rtol=0, atol=3e-4)
    moved = max((ours[name] - before).abs().max().item() for name, before in start.items())
    assert moved > 1.5e-3, "the tolerance would not notice a step left out"


SIDES = ("chosen_ids", "rejected_ids")


def test_the_folder_is_a_reward_model(undisturbed, tiny_checkpoint, data, tokenizer):
    """What transformers loads from it scores held-out pairs as reward.json says."""
    import torch
    from transformers import AutoModelForSequenceClassification

    assert checkpoints.check(undisturbed) == [undisturbed / "manifest.json"]
    manifest = read_json(undisturbed / "manifest.json")
    counts = manifest["counts"]
    assert (counts["steps"], counts["train"]["kept"], counts["valid"]["kept"]) == (4, 30, 10)
    assert counts["parameters"]["trained"] == counts["parameters"]["total"]
    assert manifest["inputs"][str(data["data"])] == sha256_file(data["data"])
    assert {p.suffix for p in undisturbed.iterdir()} <= {".json", ".safetensors", ".jinja", ".md", ".csv"}

    model = AutoModelForSequenceClassification.from_pretrained(undisturbed, use_safetensors=True).eval()
    assert (model.num_labels, model.config.pad_token_id) == (1, tokenizer.pad_token_id)
    kept, _ = encode_pairs(data["valid"], checkpoints.load_tokenizer(undisturbed), 64)
    with torch.no_grad():
        scores = [[model(torch.tensor([pair[side]])).logits[0, 0].item() for side in SIDES] for pair in kept]
    found = np.array([chosen - rejected for chosen, rejected in scores])
    judged = read_json(undisturbed / "reward.json")
    assert judged["margin"]["n"] == judged["accuracy"]["n"] == 10
    assert judged["margin"]["value"] == pytest.approx(found.mean(), abs=1e-4)
    assert judged["margin"]["stderr"] == pytest.approx(found.std(ddof=1) / 10**0.5, abs=1e-4)
    assert judged["accuracy"]["value"] == (found > 0).mean()


def test_a_tie_is_not_ranked():
    assert reward.judged(np.array([1.0, 0.0, -1.0, 2.0]))["accuracy"]["value"] == 0.5


def test_a_clear_difference_is_learned(undisturbed, tiny_checkpoint, data, tokenizer):
    kept, _ = encode_pairs(data["valid"], tokenizer, 64)
    model = build_model(tiny_checkpoint, tokenizer.pad_token_id, seed=0)
    plan = PairPlan(batches=[[0]], accumulation=1, lengths=[1] * 10, saves=1)
    trainer = build_trainer(model, tokenizer, kept, SETTINGS, plan, undisturbed.parent / "start")
    before = reward.judged(reward.margins(trainer, kept, 4))
    after = read_json(undisturbed / "reward.json")
    assert after["accuracy"]["value"] == 1.0
    assert after["margin"]["value"] > 2 + before["margin"]["value"]


# --- killed and resumed --------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process at a chosen line."""


def test_a_run_killed_twice_ends_the_same(undisturbed, tiny_checkpoint, data, tmp_path, monkeypatch):
    """Killed in the middle of its second save, then right before its manifest."""
    saves = 0

    def cut(self, target):
        nonlocal saves
        saves += self.name == "partial"
        if saves == 2:
            raise Killed
        return rename(self, target)

    rename = Path.rename
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cut)
        with pytest.raises(Killed):
            run(SETTINGS, tiny_checkpoint, data, tmp_path)
    (work,) = (tmp_path / "work").iterdir()
    assert [path.name for path in saved_states(work)] == ["checkpoint-1"]

    def late(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(finish, "write_manifest", late)
        with pytest.raises(Killed):
            run(SETTINGS, tiny_checkpoint, data, tmp_path)
    assert [path.name for path in saved_states(work)] == ["checkpoint-3"]
    assert hashes(run(SETTINGS, tiny_checkpoint, data, tmp_path)) == hashes(undisturbed)
    assert not work.exists()


# --- adapters --------------------------------------------------------------------------------------

ADAPTED = {
    "lora": {"kind": "lora", "r": 4, "alpha": 8, "dropout": 0.0},
    "dora": {"kind": "dora", "r": 4, "alpha": 8, "dropout": 0.0},
    "pissa": {"kind": "pissa", "r": 4, "alpha": 4, "dropout": 0.0},
    "oft": {"kind": "oft", "block_size": 8},
}


@pytest.mark.parametrize("kind", ADAPTED)
def test_an_adapter_is_trained_beside_the_head_and_merged(kind, tiny_checkpoint, data, tokenizer, tmp_path):
    """The folder loads as a reward model that scores as reward.json says, and is its base but for what was adapted."""
    import torch

    out = run(SETTINGS | {"adapter": ADAPTED[kind]}, tiny_checkpoint, data, tmp_path)
    counts = read_json(out / "manifest.json")["counts"]["parameters"]
    assert counts["trained"] < counts["total"] / 2
    assert not checkpoints.is_adapter(out) and checkpoints.check(out) == [out / "manifest.json"]
    base = build_model(tiny_checkpoint, tokenizer.pad_token_id, seed=0).state_dict()
    model = checkpoints.load_classifier(out, torch.float32).eval()
    assert model.state_dict().keys() == base.keys()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, base[name])}
    assert "score.weight" in moved and any("q_proj" in name for name in moved)
    assert not any("norm" in name or "embed" in name for name in moved)
    kept, _ = encode_pairs(data["valid"], tokenizer, 64)
    with torch.no_grad():
        scores = [[model(torch.tensor([pair[side]])).logits[0, 0].item() for side in SIDES] for pair in kept]
    found = np.array([chosen - rejected for chosen, rejected in scores])
    judged = read_json(out / "reward.json")
    assert judged["margin"]["value"] == pytest.approx(found.mean(), abs=1e-4)
    assert (found > 0).mean() == judged["accuracy"]["value"] >= 0.7


def test_an_adapter_killed_on_its_way_ends_the_same(tiny_checkpoint, data, tmp_path, monkeypatch):
    settings = SETTINGS | {"adapter": ADAPTED["lora"] | {"dropout": 0.1}}
    whole = run(settings, tiny_checkpoint, data, tmp_path / "whole")

    def late(*args, **kwargs):
        raise Killed

    step, done = PreferenceTrainer.training_step, 0

    def cut(self, *args, **kwargs):
        nonlocal done
        done += 1
        if done == 6:
            raise Killed
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(PreferenceTrainer, "training_step", cut)
        with pytest.raises(Killed):
            run(settings, tiny_checkpoint, data, tmp_path / "cut")
    (work,) = (tmp_path / "cut/work").iterdir()
    assert saved_states(work)
    with monkeypatch.context() as patch:
        patch.setattr(finish, "write_manifest", late)
        with pytest.raises(Killed):
            run(settings, tiny_checkpoint, data, tmp_path / "cut")
    assert hashes(run(settings, tiny_checkpoint, data, tmp_path / "cut")) == hashes(whole)


def test_a_merged_reward_model_is_a_reward(tiny_checkpoint, data, tmp_path):
    out = run(SETTINGS | {"adapter": ADAPTED["lora"]}, tiny_checkpoint, data, tmp_path)
    rows = list(read_jsonl(data["valid"]))
    with Rewards({"liked": {"kind": "preference", "weight": 1.0}}, reward_model=out) as rewards:
        chosen = rewards.score("liked", rows, [row["messages"][-1]["content"] for row in rows], [1] * len(rows))
        rejected = rewards.score("liked", rows, [row["rejected"] for row in rows], [1] * len(rows))
    margin = np.mean([one.value - other.value for one, other in zip(chosen, rejected, strict=True)])
    assert margin == pytest.approx(read_json(out / "reward.json")["margin"]["value"], abs=1e-4)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"kind": "qlora"}, "adapter.kind: qlora trains beside weights of 4 bits"),
        ({"kind": "adalora"}, "adapter.kind: adalora prunes"),
        ({"kind": "full", "freeze": ["score"]}, "adapter.freeze: the head starts at random"),
        ({"kind": "lora", "modules_to_save": ["lm_head"]}, "adapter.modules_to_save: a reward model has no lm_head"),
        ({"kind": "lora", "target_modules": ["model.score"]}, "adapter.target_modules: the head starts at random"),
        ({"kind": "lora", "new_tokens": ["<x>"]}, "adapter.new_tokens: has an effect on stages sft and cpt"),
    ],
)
def test_adapters_that_make_no_sense_for_a_reward_model_are_refused(adapter, message):
    settings = SETTINGS | {"schedule": "cosine", "adapter": adapter}
    with pytest.raises(ValueError, match=message):
        Reward.fit(settings)


@pytest.mark.parametrize("kind", ["fsdp", "zero2", "zero3"])
def test_an_adapter_of_a_reward_model_is_not_divided(kind):
    with pytest.raises(ValueError, match="head trained whole beside it"):
        check_launch(SETTINGS | {"adapter": ADAPTED["lora"]}, kind, 2, "reward")
    check_launch(SETTINGS | {"adapter": ADAPTED["lora"]}, "ddp", 2, "reward")
    check_launch(SETTINGS, kind, 2, "reward")
