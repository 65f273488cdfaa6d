"""What was forecast of pairs of student and teacher before training, and how often that was right."""

from dataclasses import dataclass

import numpy as np

from steps.report.candidates import Checkpoint
from steps.report.tables import Estimate
from steps.stats import intervals

# The part of the gap that a run must close for its teacher to have helped.
HALF = 0.5
# What may count as help, what may stand for the forecast: properties of Forecast.
OUTCOMES = ("helped", "gained")
RULES = ("says", "says_by_ratio")
# The bar of the overlap ratio: more in common than not. `steps/distillation/forecast.py` tells why it does not judge
# by it.
RATIO = 0.5


@dataclass
class Forecast:
    """What steps/distillation/forecast.py said of one pair before training, and what came of it."""

    data: str
    student: str  # node or model
    teacher: str  # node or model
    axis: str
    measured: dict  # forecast.json
    prefixes: list[dict[str, str]]  # prefixes.csv
    member: Checkpoint | None  # the one run of this pair with the reference's settings
    outcome: Estimate | None  # its change on the axis
    share: Estimate | None = None  # of the gap, closed by that run; None where there is no gap to speak of

    @property
    def says(self) -> bool:
        return self.measured["helps"]

    @property
    def says_by_ratio(self) -> bool:
        """The verdict, had likeness been judged by the share of the k likeliest tokens in common."""
        others = [check["passed"] for check in self.measured["checks"] if check["check"] != "thinks alike"]
        return self.measured["overlap"]["low"] >= RATIO and all(passed is not False for passed in others)

    @property
    def gained(self) -> bool | None:
        """Whether the change is above nothing with its whole interval; None while there is no such run."""
        return self.outcome.low > 0 if self.outcome else None

    @property
    def helped(self) -> bool | None:
        """Whether it gained, and by at least HALF of the gap where there is one."""
        return self.gained and (self.share is None or self.share.value >= HALF)

    @property
    def right(self) -> bool | None:
        return self.says == self.helped if self.outcome else None


@dataclass
class ForecastScore:
    """How often forecasts were right, beside what guessing would give."""

    pairs: int
    recipes: int
    said: int  # pairs that were to be helped
    helped: int  # pairs that were
    right: int
    accuracy: Estimate
    commoner: float  # accuracy of always giving the commoner outcome
    guess: float  # expected accuracy of an independent guess that says "helps" as often
    kappa: float | None  # Cohen's; None where guess is 1


def scored(forecasts: list[Forecast]) -> list[Forecast]:
    """Those whose outcome is known."""
    return [forecast for forecast in forecasts if forecast.outcome]


def score_forecasts(forecasts: list[Forecast], rule: str = "says", outcome: str = "helped") -> ForecastScore | None:
    """How often a rule of RULES was right about one of OUTCOMES; None while no outcome is known."""
    known = scored(forecasts)
    if not known:
        return None
    n = len(known)
    said, helped = (sum(getattr(f, key) for f in known) for key in (rule, outcome))
    right = sum(getattr(f, rule) == getattr(f, outcome) for f in known)
    accuracy = right / n
    guess = (said * helped + (n - said) * (n - helped)) / n**2
    low, high = intervals.wilson(accuracy, n)
    return ForecastScore(
        pairs=n,
        recipes=len({forecast.member.recipe for forecast in known}),
        said=said,
        helped=helped,
        right=right,
        accuracy=Estimate(accuracy, low, high, float(np.sqrt(accuracy * (1 - accuracy) / n)), n),
        commoner=max(helped, n - helped) / n,
        guess=guess,
        kappa=(accuracy - guess) / (1 - guess) if guess < 1 else None,
    )
