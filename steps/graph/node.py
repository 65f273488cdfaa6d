"""A node of the recipe graph: one checkpoint to make."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Node:
    """One checkpoint to make. `parents` name nodes or entries of `models`; `settings` is all that its step is told.

    `treatment` is {"diagnosis": the node whose unlearned rows it treats, "causes": […], "at_random": bool}, or None;
    `judge` is the node whose reward model scores its samples, or None. `data` is the first of its data sets. `teachers`
    name nodes or entries of `models`; `sources` has for each data set {"data": its name, "share": of the prompts, None
    for stage distill, "teachers": indices into `teachers`}. Both are empty for what is not taught. `launch` is the kind
    and number of the processes of a training, which are no setting of it; None for other stages.
    """

    name: str
    recipe: str
    study: str
    stage: str
    parents: tuple[str, ...]
    data: str | None
    seed: int | None
    point: dict[str, Any]
    settings: dict[str, Any]
    treatment: dict[str, Any] | None
    judge: str | None = None
    teachers: tuple[str, ...] = ()
    sources: tuple[dict[str, Any], ...] = ()
    launch: dict[str, Any] | None = None

    @property
    def by_difficulty(self) -> bool:
        """Whether the order of its rows goes by how hard they are for `bucket.model`."""
        return self.settings.get("order") == "easy_to_hard" or bool(self.settings.get("bucket_shares"))

    def to_dict(self) -> dict:
        lists = {key: list(getattr(self, key)) for key in ("parents", "teachers", "sources")}
        return {**asdict(self), **lists}
