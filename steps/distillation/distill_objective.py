"""The objectives of distillation on rows that a teacher wrote: their rows, layout and loss."""

from pathlib import Path
from typing import Any

from steps.core.files import read_jsonl
from steps.core.hashes import sha256_file
from steps.core.manifest import read_manifest
from steps.core.promises import MANIFEST
from steps.distillation.teacher_cache import Cached
from steps.models import head
from steps.models.unfit import Unfit
from steps.training import packing, supervised
from steps.training.supervised import lay_out, plan_bins
from steps.training.texts import skip


def encode_rows(path: Path, tokenizer: Any, settings: dict, cached: Any = None) -> tuple[list[dict], list[dict]]:
    """Every row of a file, encoded or skipped with the reason; trained on is its last turn, the teacher's.

    Args:
        cached: the `cache.Cached` of the file; its rows then have "cached": it and their place in it.

    Raises:
        ValueError: no row is left; the cache is of other tokens.
    """
    kept, skipped = supervised.encode_rows(
        path, tokenizer, settings | {"completion_only_loss": True}, last_only=True, step="distill"
    )
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
            skipped.append(skip(row, Unfit("not_cached", "messages", trained, hint), "distill"))
            continue
        if stored != trained:
            raise ValueError(
                f"{path}: row {row['id']} has {trained} trained tokens, its teacher's log-probabilities {stored}:"
                " student and teacher need the same tokenizer and chat template, and a recipe of its own no `thinking`"
            )
        rows.append(encoded | {"cached": (cached, place)})
    if not rows:
        raise ValueError(f"{path}: no row is left (not_cached); raise max_length of logprobs")
    return rows, skipped


def open_caches(data: list[Path], folders: list[Path], vocabulary: int) -> list[Any]:
    """The stored log-probabilities of each data file.

    Args:
        vocabulary: the student's tokens.

    Raises:
        ValueError: a folder was made from other rows or a larger vocabulary, or stores another k than the first.
    """
    caches = []
    for path, folder in zip(data, folders, strict=True):
        if sha256_file(path) not in read_manifest(folder / MANIFEST)["inputs"].values():
            raise ValueError(f"{folder}: made from other rows than {path}; run logprobs on that file")
        cached = Cached(folder)
        if (largest := int(cached.ids.max(initial=0))) >= vocabulary:
            raise ValueError(
                f"{folder}: has token {largest}, the student's vocabulary ends at {vocabulary - 1}:"
                " student and teacher need the same tokenizer"
            )
        if cached.k != (caches or [cached])[0].k:
            raise ValueError(f"{folder}: stores {cached.k} tokens a place, {folders[0]} {caches[0].k}; use one top_k")
        caches.append(cached)
    return caches


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
    """`supervised.layout` with the teacher's "ids", "logps", "tail" of the trained places, as they lie in the batch."""
    import torch

    bins = plan_bins(rows, settings)
    laid = [rows[i] for members in bins for i in members]
    # No place of an `supervised.untrained` row is read, all of the others' are.
    places = [(*row["cached"], sum(label != packing.IGNORED for label in row["labels"])) for row in laid]
    stored = zip(*([part[:n] for part in cached[place]] for cached, place, n in places), strict=True)
    teacher = {
        name: torch.cat([torch.as_tensor(part) for part in parts])
        for name, parts in zip(("ids", "logps", "tail"), stored, strict=True)
    }
    return lay_out(rows, bins, settings, pad_token_id) | teacher


def loss(model: Any, inputs: dict, tokens: Any, vocabulary: int) -> Any:
    """Sum of `forward_kl` over a batch of `layout`, divided by the trained tokens of the whole step.

    Args:
        vocabulary: the student's tokens; it may have logits beyond, which count for nothing.
    """
    from accelerate.utils import extract_model_from_parallel

    teacher = [inputs.pop(name) for name in ("ids", "logps", "tail")]
    trained = inputs.pop("labels")[:, 1:] != packing.IGNORED

    def compared(logits: Any, *teacher: Any) -> Any:
        return forward_kl(logits[:, :vocabulary], *teacher)

    if head.is_wide(model):
        logits = head.read(model, **inputs, use_cache=False)[:, :-1][trained]
        return head.per_place(compared, [logits], *teacher).sum() / tokens

    # The head is by far the widest layer: it sees only the places that predict a trained token.
    def narrow(layer: Any, arguments: tuple) -> tuple:
        return (arguments[0][:, :-1][trained][None], *arguments[1:])

    layer = extract_model_from_parallel(model).get_output_embeddings()
    handle = layer.register_forward_pre_hook(narrow)
    try:
        logits = model(**inputs, use_cache=False).logits[0]
    finally:
        handle.remove()
    return compared(logits, *teacher).sum() / tokens
