"""Train a reward model on preference pairs, through TRL's RewardTrainer.

Reads rows with "messages", whose last turn is the chosen response, and "rejected", the other response to the same
prompt. Both are rendered with the tokenizer's chat template; the model, a sequence classifier with one label, gives
either a scalar r at its last token, and the loss is −log σ(r_chosen − r_rejected): the likelihood of Bradley and Terry
(1952, doi:10.2307/2334029), as equation 1 of Ouyang et al. (2022, arXiv:2203.02155) with one pair per prompt. All
weights are trained; the head starts from the seed. Pairs of which a response is too long are not cut: they go to
`skipped.jsonl`, counted in the manifest. `reward.json` says how often the model ranks held-out pairs as they are, and
by how much. A killed run resumes from its work folder and ends with the bytes of an undisturbed one.

Run as: python -m steps.reward --settings '{"learning_rate": 0.0001, …}' --parent results/fable/study/sft
    --data train.jsonl --valid valid.jsonl --work work/fable/reward --out results/fable/study/reward
"""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from steps import adapters, checkpoints, estimators, packing, processes, sft, training, zero
from steps.common import Progress, fingerprint, fresh_folder, read_jsonl, run, step_parser, write_json, write_jsonl

MODULES = (training, packing, processes, checkpoints, adapters, sft, zero)
SOURCES = [Path(module.__file__) for module in MODULES] + [Path(__file__)]
MEASURED = ("accuracy", "margin")
LOG_COLUMNS = ("step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", *MEASURED)


class Plan(training.Plan):
    """A plan of pairs whose log has the share of a step's pairs ranked right, and by how much on average."""

    def log(self, history: list[dict], done: int) -> list[dict]:
        rows = super().log(history, done)
        for entry in history:
            if "loss" in entry:
                rows[entry["step"] - 1] |= {name: entry[name] for name in MEASURED}
        return rows


# --- pairs ---------------------------------------------------------------------------------------


def encode_pairs(path: Path, tokenizer: Any, max_length: int) -> tuple[list[dict], list[dict]]:
    """Every pair of a file as {"id", "chosen_ids", "rejected_ids"}, or skipped with the reason.

    Raises:
        ValueError: a row has no rejected response, or no pair is left.
    """
    if tokenizer.chat_template is None:
        raise ValueError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; add chat_template.jinja")
    kept, skipped = [], []
    controls = checkpoints.control_tokens(tokenizer)
    progress = Progress(f"reward: {path.name}", None, "pairs")
    for done, row in enumerate(read_jsonl(path), 1):
        if "rejected" not in row:
            raise ValueError(
                f"{path}, line {done}: row {row['id']} of {row['file']} has no rejected response; the stage reward"
                " needs data of the format preference"
            )
        prompt, chosen = row["messages"][:-1], row["messages"][-1]
        text = "\n".join([*(message["content"] for message in row["messages"]), row["rejected"]])
        if control := controls.search(text):
            hint = "the tokenizer reads this text as a control token; remove it from the row"
            skipped.append(sft.skip(row, "control_token", control[0], hint, text) | {"step": "reward"})
            continue
        rejected = {"role": "assistant", "content": row["rejected"]}
        ids = [
            tokenizer.apply_chat_template([*prompt, response], return_dict=True)["input_ids"]
            for response in (chosen, rejected)
        ]
        longest = max(map(len, ids))
        if longest > max_length:
            hint = f"a response with its prompt is longer than max_length {max_length} tokens; raise it or shorten it"
            skipped.append(sft.skip(row, "too_long", longest, hint, text) | {"step": "reward"})
            continue
        kept.append({"id": row["id"], "chosen_ids": ids[0], "rejected_ids": ids[1]})
        progress.update(done)
    if not kept:
        reasons = sorted({record["reason"] for record in skipped}) or ["the file is empty"]
        raise ValueError(f"{path}: no pair is left ({', '.join(reasons)}); see max_length and the data")
    return kept, skipped


def tokens_of(pair: dict) -> int:
    return len(pair["chosen_ids"]) + len(pair["rejected_ids"])


def count(kept: list[dict], skipped: list[dict]) -> dict:
    reasons = [record["reason"] for record in skipped]
    return {
        "in": len(kept) + len(skipped),
        "kept": len(kept),
        "quarantined": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        "tokens": sum(map(tokens_of, kept)),
    }


# --- the model -----------------------------------------------------------------------------------


def build_model(parent: Path, pad_token_id: int, seed: int) -> Any:
    """The causal model of a folder with a head of one label, [1, hidden], in place of its output layer, in fp32.

    The head is drawn from the seed at the scale of the model's other weights.

    Raises:
        ValueError: transformers has no sequence classifier of this architecture.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    causal = checkpoints.load_model(parent, dtype=torch.float32)
    config = causal.config
    config.num_labels, config.pad_token_id = 1, pad_token_id
    # Nothing is allocated or drawn for the body, which comes whole from the causal model.
    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    except ValueError as error:
        raise ValueError(
            f"{parent}: transformers has no sequence classifier for {config.model_type}; train from another checkpoint"
        ) from error
    setattr(model, model.base_model_prefix, causal.base_model)
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    assert missing == ["score.weight"], f"the head of {config.model_type} is {missing}"
    weight = torch.empty(model.score.weight.shape)
    generator = torch.Generator().manual_seed(seed)
    torch.nn.init.normal_(weight, std=config.initializer_range, generator=generator)
    model.score.weight = torch.nn.Parameter(weight)
    return model


def build_trainer(model: Any, tokenizer: Any, pairs: list[dict], settings: dict, plan: Plan, work: Path) -> Any:
    """A resumable RewardTrainer whose dataset is the plan: an item is the index of a part of a batch.

    The mean over a batch is that of its parts' means, each by its share of the pairs.
    """
    import torch
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer
    from trl.trainer.reward_trainer import DataCollatorForPreference

    class Trainer(training.Resumable, RewardTrainer):
        def _prepare_dataset(self, dataset, *args):
            # RewardTrainer would look for texts to tokenize; unlike SFTConfig, its config cannot say there are none.
            return dataset

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            # TRL's own gathers the scores of all processes, which may have different numbers of pairs.
            share = inputs.pop("share")
            chosen, rejected = model(**inputs, use_cache=False).logits.squeeze(-1).chunk(2)
            own = {"accuracy": (chosen > rejected).float().mean(), "margin": (chosen - rejected).mean()}
            for name, value in own.items():
                mean = processes.total(share * value.item()) / processes.count()
                self._metrics["train"][name].append(mean)
            return -share * torch.nn.functional.logsigmoid(chosen - rejected).mean()

    ladder = training.Ladder(work, settings["batch_size"])
    lay = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)

    def collate(items: list[dict]) -> dict:
        part, batch = items[0]["part"], plan.batches[items[0]["part"] // ladder.parts]
        own = plan.part(part, ladder.parts)
        # A process to which a small batch has no pair to give computes one that counts nothing.
        return dict(lay([pairs[i] for i in own or batch[:1]])) | {"share": len(own) * ladder.parts / len(batch)}

    trainer = Trainer(
        model=model,
        args=RewardConfig(**training.trainer_arguments(settings, plan, work, ladder.cuts), max_length=None),
        train_dataset=Dataset.from_dict({"part": range(len(plan.batches) * ladder.parts)}),
        data_collator=collate,
        processing_class=tokenizer,
    )
    trainer.ladder = ladder
    return trainer


def margins(trainer: Any, pairs: list[dict], batch_size: int) -> np.ndarray:
    """r_chosen − r_rejected of every pair, [pairs], in evaluation mode."""
    import torch
    from trl.trainer.reward_trainer import DataCollatorForPreference

    collate = DataCollatorForPreference(pad_token_id=trainer.processing_class.pad_token_id)
    order = sorted(range(len(pairs)), key=lambda i: tokens_of(pairs[i]))
    found = np.empty(len(pairs))
    progress = Progress("reward: held-out pairs", len(pairs), "pairs")
    trainer.model.eval()
    for start in range(0, len(pairs), batch_size):
        members = order[start : start + batch_size]
        inputs = trainer._prepare_inputs(collate([pairs[i] for i in members]))
        with torch.no_grad(), trainer.compute_loss_context_manager():
            chosen, rejected = trainer.model(**inputs, use_cache=False).logits[:, 0].double().chunk(2)
        found[members] = (chosen - rejected).cpu().numpy()
        progress.update(start + len(members))
    return found


def judged(found: np.ndarray) -> dict:
    """reward.json: the share of pairs whose chosen response scores higher, a tie being none, and the mean margin."""
    n = len(found)
    return {
        "accuracy": estimators.mean((found > 0).astype(float)) | {"n": n},
        "margin": estimators.mean(found) | {"n": n},
    }


# --- step ----------------------------------------------------------------------------------------


def main(args: argparse.Namespace) -> None:
    started = time.time()
    settings = args.settings
    training.check_settings(settings, "reward")
    inputs = [*checkpoints.check(args.parent), args.data, args.valid]
    work = args.work / fingerprint(settings, [*inputs, *SOURCES])

    tokenizer = checkpoints.load_tokenizer(args.parent)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    pairs, skipped = encode_pairs(args.data, tokenizer, settings["max_length"])
    valid_pairs, valid_skipped = encode_pairs(args.valid, tokenizer, settings["max_length"])
    plan = Plan(
        batches=packing.plan_batches(len(pairs), settings["batch_size"], settings["epochs"], settings["seed"]),
        accumulation=settings["gradient_accumulation"],
        lengths=[tokens_of(pair) for pair in pairs],
        saves=settings["saves"],
    )
    model = build_model(args.parent, tokenizer.pad_token_id, settings["seed"])
    parameters = adapters.trained(model)
    trainer = build_trainer(model, tokenizer, pairs, settings, plan, work)
    log = training.train(trainer, plan, "reward")
    held_out = judged(margins(trainer, valid_pairs, max(1, settings["batch_size"] // trainer.ladder.parts)))
    if not training.gather(trainer):
        return

    out = fresh_folder(args.out)
    if skipped or valid_skipped:
        write_jsonl(out / "skipped.jsonl", [*skipped, *valid_skipped])
    write_json(out / "reward.json", held_out)
    counts = {"train": count(pairs, skipped), "valid": count(valid_pairs, valid_skipped), "steps": len(log)}
    training.save_checkpoint(
        out,
        trainer=trainer,
        tokenizer=tokenizer,
        parent=args.parent,
        dtype=checkpoints.stored_dtype(args.parent),
        step="reward",
        settings=settings,
        inputs=inputs,
        counts=counts | {"parameters": parameters},
        log=log,
        started=started,
        columns=LOG_COLUMNS,
    )
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--parent", type=Path, required=True, help="checkpoint folder to start from")
    parser.add_argument("--data", type=Path, required=True, help="train.jsonl, of the format preference")
    parser.add_argument("--valid", type=Path, required=True, help="valid.jsonl, the held-out pairs")
    parser.add_argument("--work", type=Path, required=True, help="folder of resumable state")
    run(main, parser)
