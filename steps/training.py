"""What every training stage shares: adapters, trainer arguments, resumable state, the finished checkpoint.

A stage plans its batches (`steps.packing`), builds a TRL trainer with `Resumable` in front of it, calls
`train` and closes with `save_checkpoint`. Nothing here pickles: state is safetensors and JSON.
"""

import contextlib
import csv
import io
import json
import math
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

# Read by huggingface_hub when it is first imported. TRL's trainers report each run to the hub otherwise.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from steps import adapters, processes, zero
from steps.checkpoints import model_card
from steps.common import Progress, read_json, write_json, write_manifest, write_text
from steps.dealing import stop_epoch
from steps.packing import IGNORED, collate

LOG_COLUMNS = ("step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "valid_loss")
SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# The name of a setting → transformers' for it. Those in 8 bits are bitsandbytes' (arXiv:2110.02861); the paged one
# moves its state to the main memory when a GPU's runs out.
OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
}
# What a process that was told to end by SIGTERM exits with, as a shell would say it.
TERMINATED = 128 + signal.SIGTERM


# --- settings ------------------------------------------------------------------------------------


def check_settings(settings: dict, stage: str) -> None:
    """What the schema cannot say.

    Raises:
        ValueError: naming the setting, its value and the fix.
    """
    if settings["schedule"] not in SCHEDULES:
        raise ValueError(f"schedule: {settings['schedule']} is none of {', '.join(SCHEDULES)}")
    if settings["precision"] not in PRECISIONS:
        raise ValueError(f"precision: {settings['precision']} is none of {', '.join(PRECISIONS)}")
    if settings["optimizer"] not in OPTIMIZERS:
        raise ValueError(f"optimizer: {settings['optimizer']} is none of {', '.join(OPTIMIZERS)}")
    check_device(settings)
    processes.check(settings, stage, processes.count())
    if processes.apart():
        processes.check_apart(settings)
    if settings.get("progressive") and settings["epochs"] != int(settings["epochs"]):
        raise ValueError(f"epochs: {settings['epochs']} must be whole with progressive, which looks after each epoch")
    if settings.get("progressive") and settings["order"] != "shuffle":
        raise ValueError("order: sources knows no epoch over all rows, after which progressive looks; write shuffle")
    if settings.get("progressive") and settings["adapter"]["kind"] == "adalora":
        raise ValueError("progressive: may end a run before adalora has pruned to target_r; remove it")
    if settings.get("buckets") and settings["order"] != "shuffle":
        raise ValueError(
            f"order: {settings['order']} has no effect with buckets, which deal an epoch's rows; remove it"
        )


def check_device(settings: dict) -> None:
    """Raise a ValueError for what only a GPU does, where there is none."""
    if settings["precision"] != "fp16" and settings["optimizer"] != "paged_adamw_8bit":
        return
    import torch

    if torch.cuda.is_available():
        return
    # Both would quietly be something else there: fp32, and adamw_8bit.
    if settings["precision"] == "fp16":
        raise ValueError("precision: fp16 needs a GPU, and this job sees none; write auto")
    raise ValueError("optimizer: paged_adamw_8bit needs a GPU, and this job sees none; write adamw_8bit")


def uses_bf16(precision: str) -> bool:
    """`auto` is bf16 where a GPU multiplies in it; on CPUs its autocast is slower than fp32."""
    import torch

    return precision == "bf16" or (precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported())


# --- the plan ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """Everything about a run that is known before its first step.

    Attributes:
        batches: row indices of each forward pass, in order (`packing.plan_batches`).
        accumulation: forward passes per step.
        lengths: tokens of each row, for the token counts of the log.
        saves: how often, at equal distances, the state is put aside; the end is not counted.
    """

    batches: list[list[int]]
    accumulation: int
    lengths: list[int]
    saves: int
    shown = "loss"  # what the progress line shows

    @property
    def steps(self) -> int:
        return math.ceil(len(self.batches) / self.accumulation)

    @property
    def save_steps(self) -> set[int]:
        return {self.steps * i // (self.saves + 1) for i in range(1, self.saves + 1)} - {0}

    def may_stop(self, step: int) -> bool:
        """Whether a resumed run could go on from after this step."""
        return True

    def part(self, item: int, parts: int) -> list[int]:
        """Row indices of one process's share of a forward pass, of which each batch makes `parts`; of a small batch it
        may be empty."""
        return self.batches[item // parts][item % parts :: parts]

    def epoch(self, step: int) -> float:
        """Epochs seen after a step."""
        return sum(map(len, self.batches[: step * self.accumulation])) / len(self.lengths)

    def epoch_ends(self, epochs: int) -> list[int]:
        """The step with which each of the first epochs is complete; it may hold rows of the next."""
        step_rows = len(self.batches[0]) * self.accumulation
        return [min(math.ceil(len(self.lengths) * e / step_rows), self.steps) for e in range(1, epochs + 1)]

    def progress(self) -> list[tuple[float, int]]:
        """After each step 0, 1, …: epochs and tokens (padding not counted) seen."""
        seen = [(0.0, 0)]
        rows = tokens = 0
        for step in range(self.steps):
            for batch in self.batches[step * self.accumulation : (step + 1) * self.accumulation]:
                rows += len(batch)
                tokens += sum(self.lengths[i] for i in batch)
            seen.append((rows / len(self.lengths), tokens))
        return seen

    def log(self, history: list[dict], done: int) -> list[dict]:
        """One {column: value} for each step done, from what the trainer logged."""
        seen = self.progress()
        rows = [{"step": s, "epoch": seen[s][0], "tokens": seen[s][1]} for s in range(done + 1)]
        for entry in history:
            rows[entry["step"]] |= {key: entry[key] for key in entry.keys() & {*LOG_COLUMNS} - {"epoch", "tokens"}}
        return rows[1:]


def trainer_arguments(settings: dict, plan: Plan, work: Path, cuts: int) -> dict:
    """Keyword arguments that every TRL config takes. The trainer's item is a part of a planned batch, so its size is 1.

    Args:
        cuts: the parts that memory asks for (`Ladder.cuts`).
    """
    import torch

    return {
        "output_dir": str(work),
        "max_steps": plan.steps,
        "per_device_train_batch_size": 1,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "gradient_accumulation_steps": settings["gradient_accumulation"] * cuts,
        "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": SCHEDULES[settings["schedule"]],
        "warmup_steps": math.ceil(settings["warmup_ratio"] * plan.steps),
        "weight_decay": settings["weight_decay"],
        "max_grad_norm": settings["max_grad_norm"],
        "optim": OPTIMIZERS[settings["optimizer"]],
        "bf16": uses_bf16(settings["precision"]),
        "fp16": settings["precision"] == "fp16",
        "use_cpu": not torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,
        "activation_checkpointing": settings["gradient_checkpointing"],
        "gradient_checkpointing": None,  # the older name of the line above; TRL's configs would turn it on
        "seed": settings["seed"],
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


# --- memory --------------------------------------------------------------------------------------


class Ladder:
    """How often the forward pass of a training was cut in two because memory ran out.

    Each rung halves the rows of a forward pass and doubles the passes of a step, so that a step's rows stay the same.
    The rung is a file of the work folder: the run that starts again reads it there.

    Attributes:
        cuts: into so many parts a planned forward pass is cut.
        parts: into so many it is divided in all, the processes included.
    """

    def __init__(self, work: Path, rows: int, even: bool = False):
        """
        Args:
            rows: of a planned forward pass.
            even: its parts must be of one size.
        """
        self.file, self.rows, self.even = work / "ladder.json", rows, even
        # Memory lasts for as many parts whoever computes them: more processes need fewer cuts.
        parts = read_json(self.file)["parts"] if self.file.is_file() else 1
        self.cuts = max(1, parts // processes.count())

    @property
    def parts(self) -> int:
        return self.cuts * processes.count()

    def down(self, error: Exception) -> None:
        """Start the step again, one rung lower; does not return.

        Raises:
            ValueError: a part has no row to spare.
        """
        part, rest = divmod(self.rows, 2 * self.parts)
        if not part or (self.even and rest):
            raise ValueError(
                f"out of memory with {self.rows // self.parts} rows in a forward pass ({error_line(error)}): set"
                " gradient_checkpointing: true, optimizer: adamw_8bit, an adapter, or launch more processes"
            ) from error
        # It may run out in all processes at once.
        own = self.file.with_name(f"ladder-{processes.rank()}.json")
        write_json(own, {"parts": 2 * self.parts})
        own.replace(self.file)
        print(
            f"out of memory ({error_line(error)}): starting again with {part} rows in a forward pass"
            f" instead of {self.rows // self.parts}, and twice as many passes",
            flush=True,
        )
        processes.start_again()

    def counts(self) -> dict:
        """What the manifest says of it: nothing where memory was enough."""
        if self.cuts == 1:
            return {}
        used = {"asked": self.rows, "used": self.rows // self.cuts, "out_of_memory": self.cuts.bit_length() - 1}
        return {"micro_batch": used}


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on a GPU or on the CPU."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in said)


def error_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


# --- whole tensors -------------------------------------------------------------------------------


def whole(tensor: Any) -> Any:
    """A tensor with all its parts: where a strategy spread them over the processes, in the first one's main memory, and
    nothing in the others. All processes must call it."""
    if zero.owns(tensor):
        return zero.whole(tensor)
    return processes.kept(tensor.full_tensor()) if hasattr(tensor, "full_tensor") else tensor


def spread(tensor: Any, like: Any) -> Any:
    """A whole tensor, spread over the processes as another one of its shape is."""
    if not hasattr(like, "full_tensor") or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def put(target: Any, tensor: Any) -> None:
    """Copy a whole tensor into one that may be spread over the processes."""
    import torch

    with torch.no_grad():
        target.copy_(spread(tensor, target))


def settle(model: Any) -> None:
    """Spread again what an evaluation left whole, in the precision that is computed in: FSDP's last layers."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gather(trainer: Any) -> bool:
    """Give the first process the whole model; true there, where the checkpoint is then written.

    All processes must call it. What was spread over them is not trained any further.
    """
    import torch
    from torch.distributed.fsdp import FSDPModule

    settle(trainer.model)
    gathered: dict[Any, Any] = {}  # tied parameters stay tied
    for module in trainer.model.modules():
        if isinstance(module, FSDPModule):
            # FSDP put a class of its own in front of the module's, which would look for the parts.
            module.__class__ = type(module).__bases__[1]
        for name, parameter in list(module.named_parameters(recurse=False)):
            # What ZeRO does not train it has no master copy of, and an adapter's checkpoint does not need it.
            if hasattr(parameter, "full_tensor") or (zero.owns(parameter) and parameter.requires_grad):
                if parameter not in gathered:
                    full = whole(parameter).detach()
                    gathered[parameter] = torch.nn.Parameter(full, requires_grad=parameter.requires_grad)
                module._parameters[name] = gathered[parameter]
    return processes.first()


# --- resumable state -----------------------------------------------------------------------------


class Resumable:
    """Put in front of a `transformers.Trainer`: its checkpoints as safetensors and JSON, whole or absent.

    The trainer's own checkpoints are pickles written file by file into their final folder. These are
    written beside it, synced, and renamed. They hold the trained parameters only, so an adapter's are small.
    """

    ladder: Ladder
    dealer: Any = None  # a `dealing.Dealer` that changes the plan under way: its state is part of the run's
    teacher: Any = None  # a `self_teacher.Teacher`, whose weights are

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        import numpy as np
        import torch
        from safetensors.torch import save_file

        work = Path(self.args.output_dir)
        partial = work / "partial"
        spread_by_zero = self.is_deepspeed_enabled
        optimizer = zero.optimizer_state(self) if spread_by_zero else self.optimizer.state_dict()
        tensors = {f"model.{name}": tensor for name, tensor in trained_weights(self.model).items()}
        numbers: dict[int, dict] = {}
        for index, state in optimizer["state"].items():
            # bitsandbytes nests what is in 8 bits, and shares its code book among all parameters.
            state = {**state, **state.get("__bnb_optimizer_quant_state__", {})}
            state.pop("__bnb_optimizer_quant_state__", None)
            for name, value in state.items():
                if torch.is_tensor(value):
                    value = value.clone() if name.startswith("qmap") else whole(value)
                    tensors[f"optimizer.{index}.{name}"] = value
                else:
                    numbers.setdefault(index, {})[name] = value
        of_adapter, rest_of_adapter = adapters.state(self.model)
        tensors |= {f"adapter.{name}": tensor for name, tensor in of_adapter.items()}
        if self.teacher:
            tensors |= {f"teacher.{name}": tensor for name, tensor in self.teacher.state().items()}
        if processes.first():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial / "state.safetensors")
            scaler = self.accelerator.scaler
            state = {
                "processes": processes.count(),
                "param_groups": optimizer["param_groups"],
                "numbers": numbers,
                "scheduler": self.lr_scheduler.state_dict(),
                "scaler": scaler and scaler.state_dict(),
                "dealer": self.dealer and self.dealer.state(),
                "adapter": rest_of_adapter,
            }
            (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
            self.state.save_to_json(str(partial / "trainer_state.json"))
        processes.wait()

        # Every process draws its own random numbers.
        kind, keys, *rest = np.random.get_state()
        drawn = {"python": random.getstate(), "numpy": [kind, keys.tolist(), *rest]}
        own = {"torch": torch.random.get_rng_state()}
        if torch.cuda.is_available():
            own["cuda"] = torch.cuda.random.get_rng_state()
        name = f"random-{processes.rank()}"
        (partial / f"{name}.json").write_text(json.dumps(drawn), encoding="utf-8")
        save_file(own, partial / f"{name}.safetensors")
        processes.wait()

        if processes.first():
            for path in (*partial.iterdir(), partial):
                descriptor = os.open(path, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)
            previous = saved_states(work)
            partial.rename(work / f"checkpoint-{self.state.global_step}")
            for folder in previous:
                shutil.rmtree(folder)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        if not self.is_deepspeed_enabled or resume_from_checkpoint is None:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        # The trainer would ask DeepSpeed for its own kind of checkpoint.
        self._load_from_checkpoint(resume_from_checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        from safetensors import safe_open

        with safe_open(Path(resume_from_checkpoint) / "state.safetensors", "pt") as file:
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    put(parameter, file.get_tensor(f"model.{name}"))
            kept = {
                owner: {
                    name.removeprefix(f"{owner}."): file.get_tensor(name)
                    for name in file.keys()
                    if name.startswith(f"{owner}.")
                }
                for owner in ("adapter", "teacher")
            }
        adapters.restore(self.model, kept["adapter"], read_json(Path(resume_from_checkpoint) / "state.json")["adapter"])
        if self.teacher:
            self.teacher.restore(kept["teacher"])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        from safetensors import safe_open

        if checkpoint is None:
            return
        saved = read_json(Path(checkpoint) / "state.json")
        states: dict[int, dict] = {int(index): dict(numbers) for index, numbers in saved["numbers"].items()}
        groups = [] if self.is_deepspeed_enabled else self.optimizer.param_groups
        parameters = [parameter for group in groups for parameter in group["params"]]
        weights = {}
        with safe_open(Path(checkpoint) / "state.safetensors", "pt") as file:
            for key in file.keys():
                owner, _, rest = key.partition(".")
                if owner == "optimizer":
                    index, name = rest.split(".")
                    tensor = file.get_tensor(key)
                    tensor = tensor if self.is_deepspeed_enabled else spread(tensor, parameters[int(index)])
                    states.setdefault(int(index), {})[name] = tensor
                elif owner == "model" and self.is_deepspeed_enabled:
                    weights[rest] = file.get_tensor(key)
        optimizer = {"state": states, "param_groups": saved["param_groups"]}
        if self.is_deepspeed_enabled:
            zero.restore(self, weights, optimizer)
        else:
            self.optimizer.load_state_dict(optimizer)
        self.lr_scheduler.load_state_dict(saved["scheduler"])
        if saved["scaler"]:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        if self.dealer:
            self.dealer.restore(saved["dealer"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        import numpy as np
        import torch
        from safetensors import safe_open

        if checkpoint is None:
            return
        name = f"random-{processes.rank()}"
        saved = read_json(Path(checkpoint) / f"{name}.json")
        version, internal, gauss = saved["python"]
        random.setstate((version, tuple(internal), gauss))
        np.random.set_state(tuple(saved["numpy"]))
        with safe_open(Path(checkpoint) / f"{name}.safetensors", "pt") as file:
            torch.random.set_rng_state(file.get_tensor("torch"))
            if torch.cuda.is_available():
                torch.cuda.random.set_rng_state(file.get_tensor("cuda"))


def saved_states(work: Path) -> list[Path]:
    """Whole states of a work folder, oldest first."""
    return sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def check_processes(state: Path) -> None:
    """Raise a ValueError for a state that another number of processes left: each has random numbers of its own."""
    saved = read_json(state / "state.json")["processes"]
    if saved != processes.count():
        raise ValueError(
            f"{state}: saved by {saved} process{'es' * (saved != 1)}, and this training has {processes.count()}; launch"
            f" it with processes: {saved}, or delete {state.parent} to start it over"
        )


def trained_weights(model: Any) -> dict[str, Any]:
    """The trained parameters by name, whole. All processes must call it."""
    settle(model)
    return {name: whole(parameter).detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


# --- what is measured under way ------------------------------------------------------------------


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
            logits = trainer.model(**inputs, use_cache=False).logits[:, :-1]
        trained = labels != IGNORED
        logits, labels = logits[trained].float(), labels[trained]
        chosen = logits.gather(1, labels[:, None])[:, 0] - logits.logsumexp(-1)
        right = logits.argmax(-1) == labels
        sizes = trained.sum(1).tolist()
        for i, values, hits in zip(members, chosen.split(sizes), right.split(sizes), strict=True):
            scores[i] = Score(-values.mean().item(), hits.all().item(), values.min().exp().item())
    return [Score(*values) for values in processes.shared([scores[i] for i in range(len(rows))])]


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
        if not processes.first():
            return
        scored = zip(self.rows, measured, strict=True)
        points = [{"id": row["id"], "file": row["file"], **place, **score._asdict()} for row, score in scored]
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / "partial"
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

    def __init__(self, plan: Plan, epochs: int, delta: float, folder: Path):
        self.ends, self.delta, self.folder, self.kept = plan.epoch_ends(epochs), delta, folder, epochs

    def after(self, trainer: Any, losses: dict[int, float]) -> bool:
        """Whether training stops; `losses` are the validation losses so far, by step."""
        from safetensors.torch import save_file

        done = [step for step in self.ends if step in losses]
        stopped = stop_epoch([losses[step] for step in done], self.delta)
        if stopped is not None:
            self.kept = stopped - 1
            return True
        weights = trained_weights(trainer.model)
        if processes.first():
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(weights, self.folder / "partial")
            (self.folder / "partial").replace(self.folder / f"{done[-1]}.safetensors")
            for step in {*done} - {*done[-2:]}:
                (self.folder / f"{step}.safetensors").unlink(missing_ok=True)
        processes.wait()
        return False

    def restore(self, trainer: Any) -> None:
        """Give the model the weights of the kept epoch."""
        from safetensors.torch import load_file

        weights = load_file(self.folder / f"{self.ends[self.kept - 1]}.safetensors")
        for name, parameter in trainer.model.named_parameters():
            if parameter.requires_grad:
                put(parameter, weights[name])


def train(
    trainer: Any,
    plan: Any,
    name: str,
    valid_batches: Sequence[dict] = (),
    watchers: Sequence[Any] = (),
    progressive: Progressive | None = None,
) -> list[dict]:
    """Run or resume a trainer to the end of its plan; returns the plan's log, one {column: value} per step.

    With `progressive` the run may end before its plan; the log is of all steps, the weights are of the kept epoch.
    Where memory runs out, the step starts again with smaller parts (`Ladder`). Told to end by SIGTERM, it puts its
    state aside after the step at hand and exits.

    Args:
        plan: a `Plan`, or what has its `steps`, `save_steps`, `may_stop`, `shown` and `log`.
        watchers: each is told of every step done, by `after(step)`, before the state is put aside.
    """
    import torch
    from transformers import PrinterCallback, TrainerCallback

    progress = Progress(name, plan.steps, "step")
    epoch_ends = progressive.ends if progressive else []
    told: list[int] = []  # signals to end

    class Watch(TrainerCallback):
        """Puts the state aside where the plan says, measures the valid loss there and at the end, shows progress."""

        def on_optimizer_step(self, args, state, control, **kwargs):
            adapters.after_step(trainer.model, state.global_step + 1)

        def on_step_end(self, args, state, control, **kwargs):
            step = state.global_step
            control.should_save = step in plan.save_steps
            for watcher in watchers:
                watcher.after(step)
            if valid_batches and (control.should_save or step == plan.steps or step in epoch_ends):
                state.log_history.append({"step": step, "valid_loss": valid_loss(trainer, valid_batches)})
            if step in epoch_ends:
                losses = {entry["step"]: entry["valid_loss"] for entry in state.log_history if "valid_loss" in entry}
                if progressive.after(trainer, losses):
                    # A state saved here would be resumed beyond the stop.
                    control.should_training_stop, control.should_save = True, False
                    return
            # One process may have heard of it before the others.
            if step < plan.steps and plan.may_stop(step) and processes.total(len(told)):
                control.should_training_stop = control.should_save = self.ended = True

        ended = False

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" in logs:
                if not math.isfinite(logs["loss"]):
                    raise ValueError(f"loss is {logs['loss']} at step {state.global_step}: lower learning_rate")
                progress.update(state.global_step, **{key: logs[key] for key in [plan.shown] if key in logs})

    assert trainer.args.world_size == processes.count(), "processes that do not know of each other"
    if processes.rank():
        # Else a dropout would leave out the same places in all of them.
        torch.manual_seed(trainer.args.seed + processes.rank())
    if trainer.is_fsdp_enabled and trainer.args.bf16:
        from torch.distributed.fsdp import MixedPrecisionPolicy

        # As with ddp. accelerate would also sum the gradients in bf16, and round the loss to it.
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        trainer.accelerator.state.fsdp_plugin.mixed_precision_policy = policy
    watch = Watch()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watch)
    states = saved_states(Path(trainer.args.output_dir))
    if states:
        check_processes(states[-1])
    # The launcher repeats the signal: it is heard until all is said.
    with hearing(signal.SIGTERM, told):
        try:
            trainer.train(resume_from_checkpoint=str(states[-1]) if states else None)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            trainer.ladder.down(error)
        done = trainer.state.global_step
        if watch.ended:
            if processes.first():
                said = f"told to end: the state after step {done} of {plan.steps} is saved; start again to go on"
                print(said, flush=True)
            sys.exit(TERMINATED)
    if progressive and progressive.kept < len(epoch_ends):
        assert done == epoch_ends[progressive.kept], f"stopped at step {done}, not at the end of an epoch"
        progressive.restore(trainer)
    else:
        assert done == plan.steps, f"trained {done} of {plan.steps} planned steps"
    return plan.log(trainer.state.log_history, done)


@contextlib.contextmanager
def hearing(number: int, told: list[int]) -> Iterator[None]:
    """Note a signal instead of dying of it."""
    before = signal.signal(number, lambda received, _: told.append(received))
    try:
        yield
    finally:
        signal.signal(number, before)


# --- the finished checkpoint ---------------------------------------------------------------------


def log_csv(log: list[dict], columns: Sequence[str] = LOG_COLUMNS) -> str:
    """training_log.csv: no times in it, so that a resumed run writes the same bytes as an undisturbed one."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in log:
        values = (row.get(column, "") for column in columns)
        writer.writerow(f"{value:.6g}" if isinstance(value, float) else value for value in values)
    return text.getvalue()


def save_checkpoint(
    out: Path,
    *,
    trainer: Any,
    tokenizer: Any,
    parent: Path | None,
    dtype: Any,
    step: str,
    settings: dict,
    inputs: list[Path],
    counts: dict,
    log: list[dict],
    started: float,
    columns: Sequence[str] = LOG_COLUMNS,
    config: dict | None = None,
    speed: list[float] | None = None,
) -> None:
    """Write a trained model or adapter, its tokenizer, card and log; the manifest comes last.

    Args:
        parent: as the recipe names it, or None for a model made from scratch; an adapter's config points to it.
        dtype: what a full model's weights are stored in: that of its parent.
        columns: of the log.
        config: keys of config.json to set, beside what the model says of itself.
        speed: tokens per second, step by step.
    """
    model = trainer.model
    counts = counts | trainer.ladder.counts()
    is_adapter = hasattr(model, "peft_config")
    if is_adapter:
        adapters.save(model, out, parent)
    else:
        model.to(dtype).save_pretrained(out)
        write_json(out / "config.json", read_json(out / "config.json") | (config or {}))
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
