"""What there is: memory of the machine, of a job, of a container, of a GPU, and room on the disk."""

import os
import shutil
from pathlib import Path

from steps.settings.stages import STAGES as KINDS
from steps.training import memory
from steps.training.memory import FP32, GIB

# A file that the state of a run is written to, while the one before is still there.
STATES = 2


def machine_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> tuple[int, str]:
    """Bytes that a process may take on this machine, and who says so: what is free, or the limit of a container or a
    job."""
    free = dict(line.split(":") for line in (proc / "meminfo").read_text().splitlines())
    limits = [(int(free["MemAvailable"].split()[0]) * 1024, "free on this machine")]
    if limit := os.environ.get("SLURM_MEM_PER_NODE"):
        limits.append((int(limit) * 2**20, "in this SLURM job"))
    elif limit := os.environ.get("SLURM_MEM_PER_CPU"):
        limits.append((int(limit) * 2**20 * int(os.environ["SLURM_CPUS_ON_NODE"]), "in this SLURM job"))
    for line in (proc / "self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, names = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif controllers == "memory":
            top, names = cgroups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        own = top / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(top) and (left := _left(folder, *names)) is not None:
                limits.append((left, "left in this container"))
    return min(limits)


def _left(folder: Path, limit: str, used: str, cached: str) -> int | None:
    """Bytes that a cgroup may still take; its cache of files makes room by itself."""
    if not (folder / limit).is_file() or (text := (folder / limit).read_text().strip()) == "max":
        return None
    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return int(text) - int((folder / used).read_text()) + int(stat.get(cached, 0))


def available(count: int) -> tuple[str, int, str, int]:
    """Device, bytes that each of `count` processes may take on it, who says so, and bytes of a whole GPU, or of the
    machine's memory."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return "cuda", free, f"free of {total / GIB:.1f} GiB on {torch.cuda.get_device_name()}", total
    free, where = machine_memory()
    where += f", for each of {count} processes" if count > 1 else ""
    return "cpu", free // count, where, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def disk(stage: str, settings: dict, shape: memory.Shape) -> dict[str, float]:
    """Bytes that a training writes: the states that it resumes from (trained weights in fp32, optimizer, a
    self-teacher), of which two are there while one is written, and the checkpoint. `progressive` and `keep_best`
    put aside three times the weights."""
    adapter = settings.get("adapter", {"kind": "full"})
    count = memory.trained(shape, adapter)
    state = count * FP32 * (1 + memory.copies(stage, settings))
    state += memory.optimizer(shape, adapter, settings["optimizer"])
    asides = settings.get("progressive") or settings.get("keep_best") is not None
    epochs = 3 * count * FP32 if asides else 0
    return {
        "states": STATES * state + epochs,
        "checkpoint": count * memory.saved_bytes(settings),
    }


def stored_shape(model: Path) -> memory.Shape:
    """The shape of a checkpoint, as far as files depend on it.

    Raises:
        ValueError: it cannot be told.
    """
    return memory.read_shape(model, attention=False)


def disk_of(stage: str, settings: dict, shape: memory.Shape) -> dict[str, float]:
    """The same of any recipe, by the model that it descends from: what does not train writes that model once."""
    if KINDS[stage].trains:
        return disk(stage, settings, shape)
    return {"states": 0, "checkpoint": shape.parameters * FP32}


def check_disk(needed: dict[str, float], work: Path, out: Path) -> dict[str, float]:
    """Free bytes where both are written.

    Raises:
        ValueError: they are too few.
    """
    free, places = {}, {"states": work, "checkpoint": out}
    for name, folder in places.items():
        while not folder.exists():
            folder = folder.parent
        places[name] = folder
        free[name] = shutil.disk_usage(folder).free
    shared = os.stat(places["states"]).st_dev == os.stat(places["checkpoint"]).st_dev
    for name, folder in places.items():
        want = sum(needed.values()) if shared else needed[name]
        if want > free[name]:
            raise ValueError(
                f"disk: states and checkpoint need {want / GIB:.1f} GiB, {folder.resolve()} has"
                f" {free[name] / GIB:.1f} GiB free; make room, or put work/ and results/ on a larger disk"
            )
    return free


def held(most: bool = False) -> int:
    """Bytes that this process holds where it trains, now or at most so far: of a GPU's memory what PyTorch's allocator
    has reserved, of a CPU's what is resident."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() if most else torch.cuda.memory_reserved()
    return resident("VmHWM" if most else "VmRSS")


def resident(field: str) -> int:
    """Bytes of this process's own status: VmRSS now, VmHWM at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
