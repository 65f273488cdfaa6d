"""Resumable state of a training: safetensors and JSON, whole or absent, and held to its hashes before it is used."""

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steps.core import processes
from steps.core.files import read_json, write_json, write_text
from steps.core.hashes import sha256_file
from steps.models.adapters import hooks
from steps.training import zero
from steps.training.micro_batch import MicroBatches
from steps.training.spread import put, settle, spread, whole

STATE = re.compile(r"checkpoint-\d+")
# A state under way, the hashes that close one, and the weights of whole epochs (`watchers.Progressive`).
PARTIAL, SUMS = "partial", "sha256.json"
# Weights that are kept of the ends of epochs, and of the best measurement.
EPOCHS, BEST = "epochs", "best"


class Resumable:
    """Put in front of a `transformers.Trainer`: its checkpoints as safetensors and JSON, whole or absent.

    The trainer's own checkpoints are pickles written file by file into their final folder. These are written beside
    it, read back, closed with their hashes, and renamed. They hold the trained parameters only, so an adapter's are
    small.
    """

    micro_batches: MicroBatches
    dealer: Any = None  # a `dealing.Dealer` that changes the plan under way: its state is part of the run's
    teacher: Any = None  # a `self_teacher.Teacher`, whose weights are

    def create_optimizer(self, model: Any = None) -> Any:
        """As the trainer's; with `loraplus_ratio`, the B of a LoRA have so many times the learning rate of its A.

        LoRA+ (arXiv:2402.12354, section 4). PEFT's own optimizer gives that rate to all vectors too, such as norms that
        are trained beside the adapter.
        """
        ratio = getattr(self, "settings", {}).get("adapter", {}).get("loraplus_ratio", 1)
        made = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        if ratio == 1 or made:
            return optimizer
        parts = (".lora_B.", ".lora_embedding_B.")
        faster = {id(p) for name, p in self.model.named_parameters() if any(part in name for part in parts)}
        for group in [*optimizer.param_groups]:
            own = [parameter for parameter in group["params"] if id(parameter) in faster]
            if own:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in faster]
                optimizer.add_param_group({**group, "params": own, "lr": ratio * group["lr"]})
        return optimizer

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Put the state aside; the one before it stays until this one has been read back.

        Raises:
            ValueError: it cannot be written, as on a full disk, or reads back otherwise.
        """
        work = Path(self.args.output_dir)
        partial, step = work / PARTIAL, self.state.global_step
        tensors, values = self._state()
        own, drawn = random_numbers()
        with all_or_none(work, step):
            if processes.first():
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
        with all_or_none(work, step):
            if processes.first():
                write_tensors(partial / "state.safetensors", tensors)
                write_proven(partial / "state.json", json.dumps(values))
                write_proven(partial / "trainer_state.json", json.dumps(dataclasses.asdict(self.state)))
            # Every process draws its own random numbers.
            write_tensors(partial / f"random-{processes.rank()}.safetensors", own)
            write_proven(partial / f"random-{processes.rank()}.json", json.dumps(drawn))
        with all_or_none(work, step):
            if processes.first():
                seal(partial)
                previous = saved_states(work)
                partial.rename(work / f"checkpoint-{step}")
                sync(work)
                for state in previous:
                    # What cannot be removed is not gone on with, for a later one is there.
                    shutil.rmtree(state, ignore_errors=True)

    def _state(self) -> tuple[dict[str, Any], dict]:
        """All that the processes share: tensors by name, and what JSON can say. Every process must call it."""
        import torch

        optimizer = zero.optimizer_state(self) if self.is_deepspeed_enabled else self.optimizer.state_dict()
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
        of_adapter, rest_of_adapter = hooks.state(self.model)
        tensors |= {f"adapter.{name}": tensor for name, tensor in of_adapter.items()}
        if self.teacher:
            tensors |= {f"teacher.{name}": tensor for name, tensor in self.teacher.state().items()}
        scaler = self.accelerator.scaler
        return tensors, {
            "processes": processes.count(),
            "param_groups": optimizer["param_groups"],
            "numbers": numbers,
            "scheduler": self.lr_scheduler.state_dict(),
            "scaler": scaler and scaler.state_dict(),
            "dealer": self.dealer and self.dealer.state(),
            "adapter": rest_of_adapter,
        }

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
        hooks.restore(self.model, kept["adapter"], read_json(Path(resume_from_checkpoint) / "state.json")["adapter"])
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


def random_numbers() -> tuple[dict[str, Any], dict]:
    """Where this process's generators of random numbers stand: tensors, and what JSON can say."""
    import numpy as np
    import torch

    kind, keys, *rest = np.random.get_state()
    own = {"torch": torch.random.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.random.get_rng_state()
    return own, {"python": random.getstate(), "numpy": [kind, keys.tolist(), *rest]}


# --- written and proven --------------------------------------------------------------------------


@contextlib.contextmanager
def all_or_none(work: Path, step: int) -> Iterator[None]:
    """Have every process fail where one cannot write its part of a state; who met the error removes what there is."""
    error = None
    try:
        yield
    except OSError as met:
        error = met
    if processes.total(error is not None):
        if processes.first():
            shutil.rmtree(work / PARTIAL, ignore_errors=True)
        said = error or "another process met the error"
        raise ValueError(
            f"{work}: the state after step {step} cannot be put aside ({said}); make room, or see to the disk, and run"
            f" again: it {goes_on(saved_states(work))}"
        ) from error


def write_tensors(path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
    """Write and sync, then compare what the disk has with what is in memory.

    Raises:
        OSError: it cannot be written, or reads back otherwise.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        save_file(tensors, path, metadata)
        sync(path)
        with safe_open(path, "pt") as file:
            equal = set(file.keys()) == tensors.keys() and all(
                same_bytes(file.get_tensor(name), tensor) for name, tensor in tensors.items()
            )
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error
    if not equal:
        raise OSError(f"{path}: reads back otherwise than it was written")


def write_proven(path: Path, text: str) -> None:
    """As `write_tensors`, a text."""
    write_text(path, text)
    sync(path)
    if path.read_text(encoding="utf-8") != text:
        raise OSError(f"{path}: reads back otherwise than it was written")


def same_bytes(one: Any, other: Any) -> bool:
    """Whether two tensors are equal bit by bit, a NaN to itself too."""
    import torch

    one, other = (tensor.detach().cpu().reshape(-1) for tensor in (one, other))
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def sum_of(tensors: dict[str, Any]) -> str:
    """The sha256 of tensors, by name."""
    import torch

    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def sync(path: Path) -> None:
    """Have a file or folder on the disk, and a file read from there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if path.is_file():
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def seal(state: Path) -> None:
    """Close a state: the sha256 of each of its files, and of those beside it that it goes on with, written last."""
    work = state.parent
    for path in state.iterdir():
        sync(path)
    sums = {
        "state": {path.name: sha256_file(path) for path in sorted(state.iterdir())},
        "beside": {str(path.relative_to(work)): sha256_file(path) for path in beside(work)},
    }
    write_json(state / SUMS, sums)
    sync(state)


def beside(work: Path) -> list[Path]:
    """What a run has kept outside of its states and cannot make again without them: points, samples, weights."""
    # Of these weights only the last can still be gone back to, and the others will be removed.
    older = [
        path
        for folder in (EPOCHS, BEST)
        for path in sorted((work / folder).glob("*.safetensors"), key=lambda path: int(path.stem))[:-1]
    ]
    return [path for path in kept_beside(work) if path not in older]


def kept_beside(work: Path) -> list[Path]:
    """All files that a run has kept outside of its states."""
    return [
        path
        for folder in sorted(work.iterdir())
        if folder.is_dir() and folder.name != PARTIAL and not STATE.fullmatch(folder.name)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != PARTIAL and not path.name.startswith(".")
    ]


def forget_later(work: Path, state: Path | None) -> None:
    """Remove what a run has kept beside its states since this one, or since its start: the next state would go on with
    it, which may be written again with other bytes, by another device."""
    named = (sums_of(state) or {"beside": {}})["beside"] if state else {}
    for path in kept_beside(work) if work.is_dir() else ():
        if str(path.relative_to(work)) not in named:
            path.unlink()


# --- found and read ------------------------------------------------------------------------------


def saved_states(work: Path) -> list[Path]:
    """The states of a work folder, oldest first: by their steps, as clocks may be set back."""
    folders = work.iterdir() if work.is_dir() else ()
    return sorted(
        (path for path in folders if STATE.fullmatch(path.name) and path.is_dir()),
        key=lambda path: int(path.name.split("-")[1]),
    )


def goes_on(states: list[Path]) -> str:
    return f"goes on from {states[-1].name}" if states else "starts over"


def usable_state(work: Path) -> Path | None:
    """The newest state that is whole, in all processes; a damaged one is removed, and a line says so.

    Raises:
        ValueError: it was saved by another number of processes, or cannot be read.
    """
    found = unreadable = None
    if processes.first():
        shutil.rmtree(work / PARTIAL, ignore_errors=True)
        states = saved_states(work)
        try:
            while states and found is None:
                state = states.pop()
                damage = damage_of(state)
                if damage:
                    print(f"{state}: {damage}: it is removed, and the training {goes_on(states)}", flush=True)
                    shutil.rmtree(state)
                else:
                    found = str(state)
            forget_later(work, found and Path(found))
        except OSError as error:
            unreadable = f"{error.filename}: {error.strerror}; make it readable and writable, or delete {work}"
    found, unreadable = processes.shared([found, unreadable])
    if unreadable:
        raise ValueError(unreadable)
    if found:
        check_processes(Path(found))
    return found and Path(found)


def sums_of(state: Path) -> dict[str, dict[str, str]] | None:
    """The hashes that a state was closed with; None where they cannot be made out."""
    try:
        sums = read_json(state / SUMS)
        return {part: dict(sums[part]) for part in ("state", "beside")}
    except (ValueError, KeyError, TypeError):
        return None


def damage_of(state: Path) -> str | None:
    """What is wrong with a state, by the first of its files that is not as it was written; None where all are."""
    if not (state / SUMS).is_file():
        return f"has no {SUMS}, as a state of an older version or one that was cut short"
    sums = sums_of(state)
    if not (sums and sums["state"]):
        return f"{SUMS} is damaged"
    for folder, files in ((state, sums["state"]), (state.parent, sums["beside"])):
        for name, expected in files.items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if sha256_file(folder / name) != expected:
                return f"{name} is damaged (its sha256 is not the one in {SUMS})"
    return None


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
