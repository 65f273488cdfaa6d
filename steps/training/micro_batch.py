"""Micro-batches: the forward pass is cut in two as often as memory runs out."""

from pathlib import Path

from steps.core import processes
from steps.core.work import keep, kept


class MicroBatches:
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
        parts = kept(self.file) or 1
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
        keep(own, 2 * self.parts)
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
