"""The models that a student learns from: do they speak its language, and which of them are in memory."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.models import checkpoints, composed
from steps.models.context import context as context_of
from steps.models.positions import by_mask
from steps.models.today import dated

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_same_language(
    student: Path, teacher: Path, of_student: dict | None = None, of_teacher: dict | None = None
) -> None:
    """A teacher scores the student's tokens as they are, so both must number the same tokens alike, and read a
    conversation through the same template.

    Read from tokenizer.json and the template's file: no model is loaded.

    Args:
        of_student, of_teacher: what is still to be made of their templates: see `composed`.

    Raises:
        ValueError: a file is missing, or the two differ; the message names both folders and the first difference.
    """
    ours, theirs = checkpoints.vocabulary(student), checkpoints.vocabulary(teacher)
    if ours != theirs:
        differ = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
        first = differ[0]
        raise ValueError(
            f"the vocabularies of {student} ({len(ours)} tokens) and its teacher {teacher} ({len(theirs)}) differ in"
            f" {len(differ)} tokens, first {first!r}: {ours.get(first, 'none')} and {theirs.get(first, 'none')}; take a"
            " teacher of the same family, or let it write rows for a recipe of stage sft"
        )
    if _template(student, of_student) != _template(teacher, of_teacher):
        raise ValueError(
            f"the chat templates of {student} and its teacher {teacher} differ, so that the teacher would read prompts"
            " as it never did; give both the same by models.<name>.chat_template if that is meant"
        )


def _template(folder: Path, settings: dict | None) -> str | None:
    """As `checkpoints.load_tokenizer` reads it."""
    template = composed.template_of(folder, settings or {})
    return None if template is None else dated(template)


def context(folder: Path) -> int:
    """Tokens that a checkpoint can read at once."""
    return context_of(checkpoints.load_config(checkpoints.full_checkpoint(folder)))


class Teachers:
    """Teacher models by number, loaded when they are first asked.

    Args:
        folders: checkpoints that `checkpoints.check` has verified.
        resident: how many are held at once; the one that was asked longest ago makes room. None holds all.
    """

    def __init__(self, folders: list[Path], resident: int | None = None):
        self.folders, self.resident = folders, resident
        self.held: OrderedDict[int, Any] = OrderedDict()
        self.sizes: dict[int, int] = {}

    def model(self, i: int) -> PreTrainedModel:
        """Teacher i, in evaluation mode and frozen, in `checkpoints.computed_dtype`."""
        if i not in self.held:
            import torch

            while self.resident and len(self.held) >= self.resident:
                self.held.popitem(last=False)
            device = "cuda" if torch.cuda.is_available() else "cpu"
            model = checkpoints.load_model(self.folders[i], checkpoints.computed_dtype(self.folders[i]))
            self.held[i] = model.to(device).eval().requires_grad_(False)
            by_mask(self.held[i])
            self.sizes[i] = model.num_parameters()
        self.held.move_to_end(i)
        return self.held[i]

    def size(self, i: int) -> int:
        """Parameters of teacher i."""
        if i not in self.sizes:
            self.model(i)
        return self.sizes[i]
