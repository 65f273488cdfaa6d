"""Off-policy distillation: train a checkpoint on what a teacher wrote, through the same trainer as fine-tuning.

Reads rows whose last turn is a teacher's response (`steps.generate`); that turn alone is trained on. With `objective`

- tokens: the cross-entropy of the teacher's tokens (sequence-level distillation, Kim & Rush 2016,
  https://arxiv.org/abs/1606.07947, section 3.2);
- forward_kl: at each of them the divergence KL(teacher || student) of the whole next-token distribution (word-level
  distillation, ibid. section 3.1), from the teacher's k most probable tokens that `steps.logprobs` stored. No teacher
  is loaded.

Rows that cannot be trained on whole are not cut: they go to `skipped.jsonl`, counted in the manifest. A killed run
resumes from its work folder and ends with the bytes of an undisturbed one.

Run as: python -m steps.distill --settings '{"objective": "forward_kl", …}' --parent data/fable/base
    --data results/fable/generate/exercises/grpo/train.jsonl --logprobs results/fable/logprobs/exercises/grpo
    --work work/fable/cold --out results/fable/distillation/cold
"""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from steps import adapters, checkpoints, logprobs, packing, sft, training
from steps.common import (
    MANIFEST,
    fingerprint,
    fresh_folder,
    read_json,
    read_jsonl,
    run,
    sha256_file,
    step_parser,
    write_jsonl,
)

SOURCES = [*sft.SOURCES, Path(logprobs.__file__), Path(__file__)]
OBJECTIVES = ("tokens", "forward_kl")


def check_settings(settings: dict, data: list[Path], caches: list[Path]) -> None:
    """What the schema cannot say.

    Raises:
        ValueError: naming the setting or the argument, and the fix.
    """
    objective = settings["objective"]
    if objective not in OBJECTIVES:
        raise ValueError(f"objective: {objective} is none of {', '.join(OBJECTIVES)}")
    if objective == "tokens" and caches:
        raise ValueError("logprobs: have no effect with objective tokens; leave them out, or write forward_kl")
    if objective == "forward_kl" and len(caches) != len(data):
        raise ValueError(
            f"logprobs: forward_kl needs one folder for each data file; there are {len(caches)} for {len(data)}"
        )


# --- the rows ------------------------------------------------------------------------------------


def encode_rows(path: Path, tokenizer: Any, settings: dict, cached: Any = None) -> tuple[list[dict], list[dict]]:
    """Every row of a file, encoded or skipped with the reason; trained on is its last turn, the teacher's.

    Args:
        cached: the `logprobs.Cached` of the file; its rows then have "cached": it and their place in it.

    Raises:
        ValueError: no row is left; the cache is of other tokens.
    """
    kept, skipped = sft.encode_rows(path, tokenizer, settings | {"completion_only_loss": True})
    skipped = [record | {"step": "distill"} for record in skipped]
    for row in kept:
        begin, end = logprobs.last_turn(row["labels"])
        row["labels"] = [label if begin <= i < end else packing.IGNORED for i, label in enumerate(row["labels"])]
    if cached is None:
        return kept, skipped
    gone = {record["id"] for record in skipped}
    places = [(place, row) for place, row in enumerate(read_jsonl(path)) if row["id"] not in gone]
    rows = []
    for encoded, (place, row) in zip(kept, places, strict=True):
        stored = int(cached.lengths[place])
        trained = sum(label != packing.IGNORED for label in encoded["labels"])
        if not stored:
            hint = "the teacher's log-probabilities lack this row, too long for them; raise max_length of logprobs"
            text = "\n".join(message["content"] for message in row["messages"])
            skipped.append(sft.skip(row, "not_cached", trained, hint, text) | {"step": "distill"})
            continue
        if stored != trained:
            raise ValueError(
                f"{path}: row {row['id']} has {trained} trained tokens, its teacher's log-probabilities {stored}:"
                " student and teacher need the same tokenizer and chat template"
            )
        rows.append(encoded | {"cached": (cached, place)})
    if not rows:
        raise ValueError(f"{path}: no row is left (not_cached); raise max_length of logprobs")
    return rows, skipped


def open_caches(data: list[Path], folders: list[Path], vocabulary: int) -> list[Any]:
    """The stored log-probabilities of each data file.

    Args:
        vocabulary: tokens that the student has a logit for.

    Raises:
        ValueError: a folder was made from other rows or a larger vocabulary, or stores another k than the first.
    """
    caches = []
    for path, folder in zip(data, folders, strict=True):
        if sha256_file(path) not in read_json(folder / MANIFEST)["inputs"].values():
            raise ValueError(f"{folder}: made from other rows than {path}; run logprobs on that file")
        cached = logprobs.Cached(folder)
        if (largest := int(cached.ids.max(initial=0))) >= vocabulary:
            raise ValueError(
                f"{folder}: has token {largest}, the student's vocabulary ends at {vocabulary - 1}:"
                " student and teacher need the same tokenizer"
            )
        if cached.k != (caches or [cached])[0].k:
            raise ValueError(f"{folder}: stores {cached.k} tokens a place, {folders[0]} {caches[0].k}; use one top_k")
        caches.append(cached)
    return caches


# --- the loss ------------------------------------------------------------------------------------


def forward_kl(logits: Any, ids: Any, logps: Any, tail: Any) -> Any:
    """KL(q || p) of teacher q and student p at each place, in nats: k tokens, and all others as one more.

    The merged rest makes it a lower bound of the divergence over the whole vocabulary (data processing inequality),
    with the minimum, zero, where p agrees with q on the k tokens. Where k is the vocabulary there is no rest.

    Args:
        logits: of the student, [n, V].
        ids: int64 [n, k], none twice in a place.
        logps: log q of them, [n, k].
        tail: log of the mass of q outside them, [n].

    Returns:
        [n].
    """
    import torch

    logits = logits.float()
    chosen = logits.gather(1, ids)
    if ids.shape[1] == logits.shape[1]:
        return (logps.exp() * (logps - chosen.log_softmax(1))).sum(1)
    # Not log(1 - sum of the k): where the k hold almost all of the mass, rounding would decide what is left.
    rest = logits.scatter(1, ids, -torch.inf).logsumexp(1, keepdim=True)
    student = torch.cat([chosen, rest], 1).log_softmax(1)
    teacher = torch.cat([logps, tail[:, None]], 1)
    return (teacher.exp() * (teacher - student)).sum(1)


def layout(rows: list[dict], settings: dict, pad_token_id: int) -> dict:
    """`sft.layout`, and the teacher's "ids", "logps" and "tail" of the trained places, as they lie in the batch."""
    import torch

    bins = sft.plan_bins(rows, settings)
    laid = [rows[i] for members in bins for i in members]
    # No place of an `sft.untrained` row is read, all of the others' are.
    found = [(*row["cached"], sum(label != packing.IGNORED for label in row["labels"])) for row in laid]
    stored = zip(*([part[:n] for part in cached[place]] for cached, place, n in found), strict=True)
    teacher = {
        name: torch.cat([torch.as_tensor(part) for part in parts])
        for name, parts in zip(("ids", "logps", "tail"), stored, strict=True)
    }
    return packing.collate(rows, bins, pad_token_id) | teacher


def loss(model: Any, inputs: dict, tokens: Any) -> Any:
    """Sum of `forward_kl` over a batch of `layout`, divided by the trained tokens of the whole step."""
    from accelerate.utils import extract_model_from_parallel

    teacher = [inputs.pop(name) for name in ("ids", "logps", "tail")]
    trained = inputs.pop("labels")[:, 1:] != packing.IGNORED

    # The head is by far the widest layer: it sees only the places that predict a trained token.
    def narrow(head: Any, arguments: tuple) -> tuple:
        return (arguments[0][:, :-1][trained][None], *arguments[1:])

    head = extract_model_from_parallel(model).get_output_embeddings()
    handle = head.register_forward_pre_hook(narrow)
    try:
        logits = model(**inputs, use_cache=False).logits[0]
    finally:
        handle.remove()
    return forward_kl(logits, *teacher).sum() / tokens


# --- the step ------------------------------------------------------------------------------------


def main(args: argparse.Namespace) -> None:
    started = time.time()
    settings = args.settings
    training.check_settings(settings, "distill")
    check_settings(settings, args.data, args.logprobs)
    cache_files = [path for folder in args.logprobs for path in logprobs.check(folder)]
    inputs = [*checkpoints.check(args.parent), *args.data, *cache_files]
    work = args.work / fingerprint(settings, [*inputs, *SOURCES])

    import torch

    tokenizer = checkpoints.load_tokenizer(args.parent)
    model = checkpoints.load_model(args.parent, dtype=torch.float32)
    by_kl = settings["objective"] == "forward_kl"
    caches = [None] * len(args.data)
    if by_kl:
        caches = open_caches(args.data, args.logprobs, model.get_output_embeddings().weight.shape[0])
    rows, skipped = [], []
    for path, cached in zip(args.data, caches, strict=True):
        kept, left_out = encode_rows(path, tokenizer, settings, cached)
        rows += kept
        skipped += left_out
    plan = training.Plan(
        batches=packing.plan_batches(len(rows), settings["batch_size"], settings["epochs"], settings["seed"]),
        accumulation=settings["gradient_accumulation"],
        lengths=[len(row["input_ids"]) for row in rows],
        saves=settings["saves"],
    )
    model = adapters.attach(model, settings["adapter"], settings["seed"], plan.steps)
    parameters = adapters.trained(model)
    objective = {"lay": layout, "loss": loss} if by_kl else {}
    trainer = sft.build_trainer(model, tokenizer, rows, settings, plan, work, **objective)
    log = training.train(trainer, plan, "distill")
    if not training.gather(trainer):
        return

    out = fresh_folder(args.out)
    if skipped:
        write_jsonl(out / "skipped.jsonl", skipped)
    training.save_checkpoint(
        out,
        trainer=trainer,
        tokenizer=tokenizer,
        parent=args.parent,
        dtype=checkpoints.stored_dtype(args.parent),
        step="distill",
        settings=settings,
        inputs=inputs,
        counts={"train": sft.count(rows, skipped), "steps": plan.steps, "parameters": parameters},
        log=log,
        started=started,
    )
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--parent", type=Path, required=True, help="checkpoint folder to start from")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="train.jsonl of generate")
    parser.add_argument(
        "--logprobs", type=Path, nargs="*", default=[], help="folder of logprobs for each, with forward_kl"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of resumable state")
    run(main, parser)
