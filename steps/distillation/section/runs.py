"""Runs of distillation: what each started from and learned from, and how far it came."""

from dataclasses import dataclass

from steps.distillation.section.statistics import Share
from steps.report.candidates import Candidate, settings_of
from steps.report.tables import Estimate

# Settings that say how much is trained: candidates that differ in nothing else are budgets of one method.
BUDGET_SETTINGS = ("steps", "epochs")
# Settings that change neither what is learned nor how much of it.
WITHOUT_EFFECT = (
    "seed", "saves", "keep_samples", "diagnostics", "resident", "sample_batch", "sampler", "gradient_checkpointing",
    "short_answer_words",
)  # fmt: skip
# What the sources say already.
LINEAGE = ("sources", "weights", "data")


@dataclass
class Run:
    """A candidate of stage opd or distill (or a merge of what teaches one), with what it started from and learned
    from."""

    candidate: Candidate
    start: Candidate
    teachers: list[Candidate]
    sources: list[dict]  # {"data", "share", "teachers": places in `teachers`}, one per data set
    domains: list["Domain"]

    @property
    def name(self) -> str:
        return self.candidate.name

    @property
    def stage(self) -> str:
        return self.candidate.stage

    @property
    def data(self) -> tuple[str, ...]:
        return tuple(source["data"] for source in self.sources)

    @property
    def mixed(self) -> bool:
        """Whether several teachers teach on one data set, rather than each on its own."""
        return any(len(source["teachers"]) > 1 for source in self.sources)


@dataclass
class Domain:
    """One axis that a candidate was to learn, and the teacher whose score it is measured by."""

    axis: str  # of CAPABILITIES
    teacher: Candidate
    data: tuple[str, ...]  # the data sets of this axis


@dataclass
class Recovery:
    """How much of the way from its start to its teacher a candidate went, on one axis; None where it was not measured.

    `share` is (after − before) / (teacher − before); None with a `gap` that cannot be told from nothing.
    """

    run: Run
    domain: Domain
    before: Estimate | None
    teacher: Estimate | None
    after: Estimate | None
    change: Estimate | None  # after − before
    gap: Estimate | None  # teacher − before
    share: Estimate | None
    drawn: Share | None = None  # the share with its resamples, to compare two of them

    @property
    def moved(self) -> str:
        """Whether the score `rose`, `fell` or `stayed` beyond chance; "" where it was not measured."""
        if self.change is None:
            return ""
        if self.change.low > 0:
            return "rose"
        return "fell" if self.change.high < 0 else "stayed"


@dataclass
class Family:
    """What was made of several teachers together: one student of all, merges of them."""

    start: Candidate
    teachers: dict[str, Candidate]  # axis → the teacher for it
    students: list[Run]
    merges: list[Candidate]


@dataclass
class Generation:
    """The accounting of one teacher's generations."""

    data: str
    teacher: str
    counts: dict


def method_settings(candidate: Candidate) -> dict:
    """The settings that make a difference, but for what it learned from."""
    return {k: v for k, v in settings_of(candidate).items() if k not in (*WITHOUT_EFFECT, *LINEAGE)}
