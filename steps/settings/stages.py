"""The stages: kinds of recipe. One entry of `STAGES` is all that is said of one.

The rest of a stage is its rule, the module that the rule runs and, of a training, how pre-flight rehearses it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from steps.settings.base import Settings
from steps.settings.cpt import Cpt
from steps.settings.distill import Distill
from steps.settings.interpolation import PATHS, Interpolate
from steps.settings.merging import MERGES, Merge
from steps.settings.methods import METHODS
from steps.settings.opd import Opd
from steps.settings.reinforcement import Rl
from steps.settings.reward import Reward
from steps.settings.sft import Sft


@dataclass(frozen=True)
class Stage:
    """What a stage is.

    Attributes:
        settings: the class that its section and its recipes are checked against.
        label: what tables and legends call it.
        look: colour token and marker in figures. The colour says the family: trained on rows, on rewards, from a
            teacher, mixed.
        parents: how many it takes, (least, most).
        trains: it draws random numbers and is repeated by `seeds`, may be launched in several processes, and pre-flight
            rehearses it. The others inherit the seeds of their parents.
        data: it needs `data`.
        documents: it trains on documents: those of `data`, or those that are made for the causes that it treats.
        taught: it learns from `teachers`, and takes several data sets.
        mixture: several teachers may answer the same prompts.
        supervised: it trains on rows or documents as they are, so that its adapter says how its weights moved.
        samples: it learns from samples of its own, which takes a whole policy in each process.
        writes: what it makes answers prompts: may be started from, measured, delivered.
        treats: the causes of incomplete learning that it treats.
        choice: the setting under which others act, and which do under each of its values.
    """

    settings: type[Settings]
    label: str
    look: tuple[str, str]
    parents: tuple[int, int | None] = (1, 1)
    trains: bool = True
    data: bool = True
    documents: bool = False
    taught: bool = False
    mixture: bool = False
    supervised: bool = False
    samples: bool = False
    writes: bool = True
    treats: tuple[str, ...] = ()
    choice: tuple[str, Mapping[str, tuple[str, ...]]] | None = None


_OF_METHOD = {name: ("contexts", name) if method.settings else () for name, method in METHODS.items()}
_OF_MERGE = {name: method.keys for name, method in MERGES.items()}

STAGES = {
    # By a change of its rows.
    "sft": Stage(Sft, "SFT", ("blue", "o"), supervised=True, treats=("data_conflict", "insufficient_optimisation")),
    # By documents.
    "cpt": Stage(
        Cpt,
        "CPT",
        ("blue", "v"),
        data=False,
        documents=True,
        supervised=True,
        treats=("missing_knowledge", "base_conflict"),
    ),
    "rl": Stage(Rl, "RL", ("teal", "^"), samples=True, choice=("method", _OF_METHOD)),
    "reward": Stage(Reward, "reward model", ("teal", "X"), writes=False),
    "merge": Stage(
        Merge, "merge", ("orange", "D"), parents=(2, None), trains=False, data=False, choice=("method", _OF_MERGE)
    ),
    "interpolate": Stage(
        Interpolate, "path", ("orange", "d"), parents=(2, 2), trains=False, data=False, choice=("path", PATHS)
    ),
    "distill": Stage(Distill, "distillation", ("magenta", "P"), taught=True),
    "opd": Stage(Opd, "OPD", ("magenta", "*"), taught=True, mixture=True, samples=True),
}
# What is there without a recipe.
ORIGINS = {"model": ("neutral", "s"), "pretrain": ("neutral", "p")}
UNKNOWN_LOOK = ("muted", "o")

TRAINED = tuple(name for name, stage in STAGES.items() if stage.trains)
SUPERVISED = tuple(name for name, stage in STAGES.items() if stage.supervised)
TAUGHT = tuple(name for name, stage in STAGES.items() if stage.taught)
ON_POLICY = tuple(name for name, stage in STAGES.items() if stage.samples)


def look(stage: str) -> tuple[str, str]:
    """Colour token and marker of a stage; of one that has no entry too, which a newer run may have written."""
    return STAGES[stage].look if stage in STAGES else ORIGINS.get(stage, UNKNOWN_LOOK)


def label(stage: str) -> str:
    """What tables call a stage."""
    return STAGES[stage].label if stage in STAGES else stage
