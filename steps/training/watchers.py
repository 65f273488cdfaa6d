"""What is measured while a training runs: validation loss, every row's loss, whether another epoch pays."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from steps.core import processes
from steps.models import head
from steps.training.dealing import stop_epoch
from steps.training.packing import IGNORED, collate
from steps.training.plan import Plan
from steps.training.spread import put
from steps.training.state import PARTIAL, saved_states, sum_of, sums_of, trained_weights, write_tensors

# Of the metadata of weights that were put aside.
SUM = "sha256"
# By so much of itself a difference of two shares, as of 12 and 10 in 100, may be rounded.
ROUNDING = 1e-9


def valid_loss(trainer: Any, batches: list[dict]) -> float:
    """Mean loss per trained token over collated batches, in evaluation mode."""
    import torch

    total = tokens = 0.0
    trainer.model.eval()
    for batch in batches:
        inputs = trainer._prepare_inputs(dict(batch))
        trained = (inputs["labels"][:, 1:] != IGNORED).sum()
        with torch.no_grad(), trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=trained).item()
        # The loss is of one process's part, whose gradients will be averaged with those of the others.
        total += loss / processes.count() * trained.item()
        tokens += trained.item()
    return processes.shared(total / tokens)


class Score(NamedTuple):
    """How a model does on the trained tokens of one row, each predicted from the true ones before it.

    Attributes:
        loss: mean negative log-probability.
        correct: every token is the most probable one.
        weakest: probability of the least probable one.
    """

    loss: float
    correct: bool
    weakest: float


def score(trainer: Any, rows: list[dict], batch_size: int, pad_token_id: int) -> list[Score]:
    """The score of every row, in evaluation mode; draws no random numbers."""
    import torch

    scores: dict[int, Score] = {}
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    trainer.model.eval()
    for start in range(0, len(rows), batch_size):
        members = order[start : start + batch_size]
        batch = collate([rows[i] for i in members], [[i] for i in range(len(members))], pad_token_id)
        inputs = trainer._prepare_inputs(batch)
        labels = inputs.pop("labels")[:, 1:]
        with torch.no_grad(), trainer.compute_loss_context_manager():
            logits = head.read(trainer.model, **inputs, use_cache=False)[:, :-1]
        trained = labels != IGNORED
        logits, labels = logits[trained].float(), labels[trained]
        with torch.no_grad():
            chosen, right = head.per_place(judged, [logits], labels)
        sizes = trained.sum(1).tolist()
        for i, values, hits in zip(members, chosen.split(sizes), right.split(sizes), strict=True):
            scores[i] = Score(-values.mean().item(), hits.all().item(), values.min().exp().item())
    return [Score(*values) for values in processes.shared([scores[i] for i in range(len(rows))])]


def judged(logits: Any, labels: Any) -> tuple[Any, Any]:
    """Of logits [n, V] and labels [n]: the log-probability of each, and whether it is the likeliest token."""
    return logits.gather(1, labels[:, None])[:, 0] - logits.logsumexp(-1), logits.argmax(-1) == labels


class Trajectory:
    """The scores of every training row at equal distances, the last at the end of training, and where a source ends.

    Each point is a file of the work folder, written by rename: a resumed run finds those of the steps it need not
    repeat, and writes the others again with the same bytes.

    Args:
        points: how many; fewer where there are fewer steps.
        ends: steps at which to look besides.
        rows: encoded training rows with their "id" and "file".
        measure: gives the score of every row.
    """

    def __init__(
        self,
        points: int,
        ends: list[int],
        plan: Plan,
        rows: list[dict],
        folder: Path,
        measure: Callable[[], list[Score]],
    ):
        self.plan, self.rows, self.folder, self.measure = plan, rows, folder, measure
        self.steps = {plan.steps * i // points for i in range(1, points + 1)} - {0} | {*ends}

    def after(self, step: int) -> None:
        if step not in self.steps:
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {"id": pa.string(), "file": pa.string(), "step": pa.int32(), "epoch": pa.float64()}
        types |= {"loss": pa.float64(), "correct": pa.bool_(), "weakest": pa.float64()}
        place = {"step": step, "epoch": self.plan.epoch(step)}
        measured = self.measure()
        for row, value in zip(self.rows, measured, strict=True):
            if not math.isfinite(value.loss):
                raise ValueError(
                    f"the loss of row {row['id']} of {row['file']} is {value.loss} at step {step}: lower learning_rate"
                )
        if not processes.first():
            return
        scored = zip(self.rows, measured, strict=True)
        points = [{"id": row["id"], "file": row["file"], **place, **score._asdict()} for row, score in scored]
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / PARTIAL
        pq.write_table(pa.Table.from_pylist(points, schema=pa.schema(types)), partial)
        partial.replace(self.folder / f"{step}.parquet")

    def close(self, end: int) -> None:
        """Have a point at the step whose weights are kept."""
        if end not in self.steps:
            self.steps.add(end)
            self.after(end)

    def write(self, path: Path, end: int) -> None:
        """All points up to the step whose weights are kept, that one included."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables = [pq.read_table(self.folder / f"{step}.parquet") for step in sorted(self.steps) if step <= end]
        pq.write_table(pa.concat_tables(tables).combine_chunks(), path)


class Progressive:
    """Epochs until the validation loss rises: the weights of each epoch's end are put aside until the next one's.

    Attributes:
        ends: the step with which each epoch is complete.
        kept: the epoch, counted from 1, whose weights the model has when training is over.
    """

    column = "valid_loss"

    def __init__(self, plan: Plan, epochs: int, delta: float, folder: Path):
        self.ends, self.delta, self.folder, self.kept = plan.epoch_ends(epochs), delta, folder, epochs

    @property
    def kept_step(self) -> int:
        """The step whose weights the model has when training is over."""
        return self.ends[self.kept - 1]

    def finish(self, trainer: Any, done: int, planned: int) -> None:
        """Give the model the weights of the kept epoch after `done` of the planned steps."""
        if self.kept == len(self.ends):
            assert done == planned, f"trained {done} of {planned} planned steps"
            return
        assert done == self.ends[self.kept], f"stopped at step {done}, not at the end of an epoch"
        put_back(trainer, self.folder / f"{self.kept_step}.safetensors")

    def after(self, trainer: Any, losses: dict[int, float]) -> bool:
        """Whether training stops; `losses` are the validation losses so far, by step."""
        done = [step for step in self.ends if step in losses]
        stopped = stop_epoch([losses[step] for step in done], self.delta)
        if stopped is not None:
            self.kept = stopped - 1
            return True
        put_aside(trainer, self.folder, done[-1], done[:-2])
        return False


class Best:
    """The weights with the lowest validation loss, or the highest share of right answers, put aside whenever it is
    measured and better than before.

    Args:
        patience: training stops where so many measurements in a row are not better; None never does.
        delta: by how much better one must at least be, in nats or as a share.
        column: of the log: what is measured.
        higher: more of it is better.

    Attributes:
        ends: the steps at which it is measured.
        kept_step: the step whose weights the model has when training is over.
    """

    def __init__(
        self,
        plan: Any,
        patience: int | None,
        delta: float,
        folder: Path,
        column: str = "valid_loss",
        higher: bool = False,
    ):
        self.column, self.sign = column, -1 if higher else 1
        self.ends, self.patience, self.delta, self.folder = sorted(plan.valid_steps), patience, delta, folder
        self.kept_step, self.stopped = plan.steps, False

    def after(self, trainer: Any, measured: dict[int, float]) -> bool:
        """Whether training stops; `measured` is what was measured so far, by step."""
        losses = {step: self.sign * value for step, value in measured.items()}
        done = [step for step in self.ends if step in losses]
        best = done[0]
        for step in done[1:]:
            gained = losses[best] - losses[step]
            best = step if gained > 0 and gained >= self.delta * (1 - ROUNDING) else best
        self.kept_step = best
        if best == done[-1]:
            put_aside(trainer, self.folder, best, done[:-1])
        self.stopped = self.patience is not None and len(done) - 1 - done.index(best) >= self.patience
        return self.stopped

    def finish(self, trainer: Any, done: int, planned: int) -> None:
        """Give the model its best weights after `done` of the planned steps."""
        assert self.stopped or done == planned, f"trained {done} of {planned} planned steps"
        if self.kept_step != done:
            put_back(trainer, self.folder / f"{self.kept_step}.safetensors")


def put_aside(trainer: Any, folder: Path, step: int, older: list[int]) -> None:
    """Write the trained weights of a step into a folder of the work folder, and remove those of older steps that no
    state names. Every process must call it."""
    weights = trained_weights(trainer.model)
    if processes.first():
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / PARTIAL, weights, {SUM: sum_of(weights)})
        (folder / PARTIAL).replace(folder / f"{step}.safetensors")
        work = folder.parent
        # What a state names stays as long as the state.
        named = {name for state in saved_states(work) for name in (sums_of(state) or {"beside": {}})["beside"]}
        for file in [folder / f"{before}.safetensors" for before in older]:
            if str(file.relative_to(work)) not in named:
                file.unlink(missing_ok=True)
    processes.wait()


def put_back(trainer: Any, file: Path) -> None:
    """Give the model the trained weights of a file that `put_aside` has written.

    Raises:
        ValueError: the file is not as it was written.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as found:
            weights = {name: found.get_tensor(name) for name in found.keys()}
            written = (found.metadata() or {}).get(SUM)
    except (SafetensorError, FileNotFoundError):
        weights, written = {}, None
    if written is None or sum_of(weights) != written:
        raise ValueError(f"{file}: the weights that were put aside are damaged; run again, which makes them again")
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            put(parameter, weights[name])
