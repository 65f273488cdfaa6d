"""Preference pairs as tokens, the plan of a training on them, and the model that scores them."""

from pathlib import Path
from typing import Any

from steps.core.files import read_jsonl
from steps.core.progress import Progress
from steps.models import checkpoints
from steps.models.adapters.attach import attach
from steps.models.chat import Chat
from steps.models.unfit import Unfit
from steps.settings.reward import HEAD
from steps.training.curriculum import DIFFICULTY
from steps.training.plan import Plan
from steps.training.texts import skip, texts

MEASURED = ("accuracy", "margin")
LOG_COLUMNS = ("step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", *MEASURED)


class PairPlan(Plan):
    """A plan of pairs whose log has the share of a step's pairs ranked right, and by how much on average."""

    def log(self, history: list[dict], done: int) -> list[dict]:
        rows = super().log(history, done)
        for entry in history:
            if "loss" in entry:
                rows[entry["step"] - 1] |= {name: entry[name] for name in MEASURED}
        return rows


def encode_pairs(path: Path, tokenizer: Any, max_length: int) -> tuple[list[dict], list[dict]]:
    """Every pair of a file as {"id", "chosen_ids", "rejected_ids", "margin"}, or skipped with the reason.

    Raises:
        ValueError: no pair is left.
    """
    chat = Chat(tokenizer)
    chat.check()
    kept, skipped = [], []
    progress = Progress(f"reward: {path.name}", None, "pairs")
    for done, row in enumerate(read_jsonl(path), 1):
        try:
            ids = [texts(chat, row | {"messages": side}, last_only=True)[-1].ids for side in sides(row)]
            if (longest := max(map(len, ids))) > max_length:
                hint = (
                    f"a response with its prompt is longer than max_length {max_length} tokens; raise it or shorten it"
                )
                raise Unfit("too_long", "messages", longest, hint)
        except Unfit as unfit:
            skipped.append(skip(row, unfit, "reward"))
            continue
        own = {key: row[key] for key in ("file", *DIFFICULTY) if key in row}
        own["margin"] = row.get("margin", 0.0)
        kept.append({"id": row["id"], **own, "chosen_ids": ids[0], "rejected_ids": ids[1]})
        progress.update(done)
    if not kept:
        reasons = sorted({record["reason"] for record in skipped}) or ["the file is empty"]
        raise ValueError(
            f"{path}: no pair is left ({', '.join(reasons)}); see max_length and the data:"
            " docs/formats.md has the formats of pairs"
        )
    return kept, skipped


def sides(row: dict) -> tuple[list[dict], list[dict]]:
    """The conversations of a pair, which differ in how they end: chosen, rejected.

    Raises:
        Unfit: the row has no rejected response.
    """
    turns, worse = row["messages"], row.get("rejected")
    if not worse:
        hint = "give it a rejected response, or take it out: formats with one are in docs/formats.md"
        raise Unfit("no_rejected", "rejected", None, hint)
    worse = [{"role": "assistant", "content": worse}] if isinstance(worse, str) else worse
    return turns, [*turns[:-1], *worse]


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
    assert missing == [f"{HEAD}.weight"], f"the head of {config.model_type} is {missing}"
    weight = torch.empty(model.score.weight.shape)
    generator = torch.Generator().manual_seed(seed)
    torch.nn.init.normal_(weight, std=config.initializer_range, generator=generator)
    model.score.weight = torch.nn.Parameter(weight)
    return model


def adapted(model: Any, settings: dict, steps: int) -> Any:
    """A reward model as it will be trained: whole, or an adapter and the head.

    Args:
        steps: optimizer steps planned.

    Raises:
        ValueError: as of `attach`.
    """
    adapter = settings["adapter"]
    if adapter["kind"] != "full":
        adapter = adapter | {"modules_to_save": [*adapter.get("modules_to_save", ()), HEAD]}
    return attach(model, adapter, settings["seed"], steps)


def merge(trainer: Any) -> None:
    """Put the trained adapter into the weights: what it was trained on, a policy's body under a random head, stands in
    no folder from which it could be loaded again."""
    if hasattr(trainer.model, "peft_config"):
        trainer.model = trainer.model.merge_and_unload(safe_merge=True)


def build_trainer(model: Any, tokenizer: Any, pairs: list[dict], settings: dict, plan: PairPlan, work: Path) -> Any:
    """A `preference_trainer.PreferenceTrainer`."""
    from steps.recipes.preference_trainer import PreferenceTrainer

    return PreferenceTrainer(model, tokenizer, pairs, settings, plan, work)
