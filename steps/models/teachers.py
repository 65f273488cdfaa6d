"""The models that a student learns from: do they speak its language, and which of them are in memory."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.models import checkpoints
from steps.models.files import read_config, read_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_same_language(student: Path, teacher: Path) -> None:
    """A teacher scores the student's tokens as they are, so both must number the same tokens alike, and read a
    conversation through the same template.

    Read from tokenizer.json and the template's file: no model is loaded.

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
    if _template(student) != _template(teacher):
        raise ValueError(
            f"the chat templates of {student} and its teacher {teacher} differ, so that the teacher would read prompts"
            " as it never did; copy the student's chat_template.jinja into the teacher's folder if that is meant"
        )


def _template(folder: Path) -> str | None:
    """As `checkpoints.load_tokenizer` reads it."""
    config, template = folder / "tokenizer_config.json", None
    if (folder / "chat_template.jinja").is_file():
        template = read_text(folder / "chat_template.jinja")
    elif config.is_file():
        template = read_config(config).get("chat_template")
    return checkpoints.dated(template) if isinstance(template, str) else template


def context(folder: Path) -> int:
    """Tokens that a checkpoint can read at once."""
    return checkpoints.load_config(checkpoints.full_checkpoint(folder)).get_text_config().max_position_embeddings


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
            self.sizes[i] = model.num_parameters()
        self.held.move_to_end(i)
        return self.held[i]

    def size(self, i: int) -> int:
        """Parameters of teacher i."""
        if i not in self.sizes:
            self.model(i)
        return self.sizes[i]
