"""The finished checkpoint: weights or adapter, tokenizer, card, log, manifest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steps.core.files import read_json, write_json, write_text
from steps.core.manifest import write_manifest
from steps.models.adapters.save import save_adapter
from steps.models.adapters.stacked import unstack
from steps.models.checkpoints import full_checkpoint, load_config, model_card, weight_files
from steps.models.fit import check_finite
from steps.training import balance
from steps.training.plan import LOG_COLUMNS, check_logged, log_csv
from steps.training.rounding import round_weights

# Of a configuration what TRL sets for its own passes.
SET_TO_TRAIN = ("use_cache", balance.LOGITS, balance.COEFFICIENT)


def save_checkpoint(
    out: Path,
    *,
    trainer: Any,
    tokenizer: Any,
    parent: Path | None,
    step: str,
    settings: dict,
    inputs: list[Path],
    counts: dict,
    log: list[dict],
    started: float,
    columns: Sequence[str] = LOG_COLUMNS,
    config: dict | None = None,
    speed: list[float] | None = None,
    save_dtype: str | None = None,
) -> None:
    """Write a trained model or adapter, its tokenizer, card and log; the manifest comes last.

    Args:
        parent: as the recipe names it, or None for a model made from scratch; an adapter's config points to it.
        columns: of the log.
        config: keys of config.json to set, beside what the model says of itself.
        speed: tokens per second, step by step.
        save_dtype: what a full model's weights are stored in; None is that of the settings.

    Raises:
        ValueError: a number of the log, or a weight as it is stored, is NaN or infinite. Without a manifest what was
            written counts as not made.
    """
    for row in log:
        check_logged(row, row["step"], trainer.args.fp16)
    model = trainer.model
    counts = counts | trainer.micro_batches.counts()
    is_adapter = hasattr(model, "peft_config")
    if is_adapter:
        save_adapter(model, out, parent)
        is_adapter = unstack(out)
    else:
        save_dtype = save_dtype or settings.get("save_dtype", "float32")
        if lost := round_weights(model, save_dtype, settings["seed"], parent):
            counts["rounding"] = {"dtype": save_dtype} | lost
        model.save_pretrained(out)
        write_json(out / "config.json", as_of_parent(read_json(out / "config.json"), parent) | (config or {}))
    for path in weight_files(out):
        check_finite(path, "lower learning_rate and train again")
    tokenizer.save_pretrained(out)
    write_text(out / "training_log.csv", log_csv(log, columns))
    parents = [parent] if parent else []
    library = "peft" if is_adapter else "transformers"
    write_text(out / "README.md", model_card(out.name, step, parents, settings, counts, library))
    write_manifest(
        out,
        step=step,
        settings=settings,
        inputs=inputs,
        counts=counts,
        seed=settings["seed"],
        started=started,
        tokens=log[-1]["tokens"] if log else 0,
        speed=speed,
    )


def as_of_parent(config: dict, parent: Path | None) -> dict:
    """A checkpoint's configuration with what a trainer set for its own passes as its parent has it."""
    if parent is None:
        return config
    loaded = load_config(full_checkpoint(parent)).to_dict()

    def put_back(section: dict, before: dict) -> dict:
        kept = {key: before[key] for key in SET_TO_TRAIN if key in section and key in before}
        if isinstance(section.get("text_config"), dict) and "text_config" in before:
            kept["text_config"] = put_back(section["text_config"], before["text_config"])
        return section | kept

    return put_back(config, loaded)
