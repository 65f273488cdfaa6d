"""What a step of on-policy distillation measures along the student's own responses, by step, by place and by response.

The values are those of `steps.distillation.overlap`, of every token that the student wrote itself; what a teacher
wrote is learned from and not measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from steps.core import processes
from steps.distillation import overlap

if TYPE_CHECKING:
    from torch import Tensor

# A diagnostic of `overlap.measure` → its column in positions.csv.
BY_POSITION = {
    "overlap": "overlap",
    "mass_student": "mass_student",
    "mass_teacher": "mass_teacher",
    "advantage": "overlap_advantage",
    "entropy_gap": "entropy_gap",
    "entropy": "entropy",
    "teacher_entropy": "teacher_entropy",
    "divergence": "divergence",
}
# Means over the tokens of a step, by the name under which they are logged.
BY_STEP = {name: "student_entropy" if name == "entropy" else name for name in overlap.NAMES}


class Measures:
    """The diagnostics of one step: collected part by part, then gathered from all processes."""

    def __init__(self, top_k: int, width: int):
        """
        Args:
            top_k: tokens of student and teacher that are compared.
            width: places of a response that share a row of positions.csv.
        """
        self.top_k, self.width = top_k, width
        self.parts: list[dict[str, Tensor]] = []
        self.own: dict[str, Tensor] = {}
        self.whole: dict[str, Tensor] = {}

    def clear(self) -> None:
        """Begin another step."""
        self.parts = []

    def add(
        self, measure: Callable[[Tensor], dict[str, Tensor]], mask: Tensor, samples: list[int], written: list[bool]
    ) -> None:
        """Measure some samples of this process.

        Args:
            measure: gives `overlap.measure` of some of their tokens, from [tokens] bool.
            mask: [samples, T], which places of the responses the tokens are.
            samples: their numbers within the step.
            written: by the student itself.
        """
        import torch

        own = torch.tensor(written, device=mask.device)
        kept = own[:, None].expand_as(mask)[mask]
        values = measure(kept)
        rows, places = mask[own].nonzero(as_tuple=True)
        numbers = torch.tensor(samples, device=mask.device)[own][rows]
        self.parts.append({"sample": numbers, "place": places, **values})

    def gather(self) -> bool:
        """Bring together what all processes measured in the step; whether it was anything."""
        import torch

        names = self.parts[0] if self.parts else {}
        self.own = {name: torch.cat([part[name] for part in self.parts]).cpu() for name in names}
        self.whole = {name: processes.gathered(values) for name, values in self.own.items()}
        return bool(self.whole) and len(self.whole["place"]) > 0

    def by_step(self) -> dict[str, float]:
        """Logged name → mean over all tokens."""
        return {logged: self.whole[name].mean().item() for name, logged in BY_STEP.items()}

    def by_sample(self, count: int, samples: list[int]) -> dict[int, float]:
        """Of some samples of this process, the mean of log q(y) − log p(y) over their tokens.

        Args:
            count: samples that this process has.
        """
        import torch

        tokens = torch.bincount(self.own["sample"], minlength=count).clamp(min=1)
        sums = torch.zeros(count).index_add(0, self.own["sample"], self.own["log_ratio"])
        return {i: (sums[i] / tokens[i]).item() for i in samples}

    def by_position(self, step: int) -> list[dict]:
        """The step's rows of positions.csv."""
        rows, bins = [], self.whole["place"] // self.width
        for k in range(int(bins.max()) + 1):
            inside = bins == k
            place = {"step": step, "begin": k * self.width, "end": (k + 1) * self.width}
            means = {column: self.whole[name][inside].mean().item() for name, column in BY_POSITION.items()}
            rows.append(place | {"tokens": int(inside.sum())} | means)
        return rows
