"""params.yaml as a whole: a class for each section, and the studies with their recipes."""

from typing import Annotated

from pydantic import ConfigDict, Field

from steps.settings.base import OneOf, Seed, Settings, Text, Unique
from steps.settings.cpt import Cpt
from steps.settings.data import Bucket, DataSet, Decontaminate, Dedup, Filter, Ingest, Model, Split
from steps.settings.delivery import Deliver, Inspect, Preflight, Report
from steps.settings.diagnosis import CAUSES, Attribute, Detect, Evidence, Mixture, Treat
from steps.settings.distill import Distill
from steps.settings.evaluation import Evaluate, Explore, Geometry
from steps.settings.forecast import Forecast
from steps.settings.generate import Generate, Logprobs
from steps.settings.interpolation import Interpolate
from steps.settings.merging import Merge
from steps.settings.names import OF_WORKLOAD, WORKLOAD, Name, spelled
from steps.settings.opd import Opd
from steps.settings.reinforcement import Difficulty, Gate, Rl
from steps.settings.reward import Reward
from steps.settings.sampling import ENGINES
from steps.settings.sft import Sft
from steps.settings.stages import STAGES
from steps.settings.training import Launch
from steps.settings.world import Pretrain, World

Names = Annotated[list[str], Unique, Field(min_length=1)]
Seeds = Annotated[list[Seed], Unique, Field(min_length=1)]
Values = Annotated[list[float | str | bool | list[float]], Unique, Field(min_length=1)]


class Recipe(Settings):
    """One way to make one checkpoint. Every other key is a setting of its stage, and is checked as one."""

    model_config = ConfigDict(extra="allow")

    stage: Annotated[str, OneOf(tuple(STAGES))] = Field(description="The kind of recipe")
    start: str | Annotated[list[str], Field(min_length=1)] = Field(alias="from", description="Its parents")
    data: str | Names = Field("", description="The entries of data: that it trains on")
    teachers: Names | Annotated[dict[str, str], Field(min_length=1)] = Field(
        [], description="Recipes or models: a list for all data sets, or one by data set"
    )
    seeds: Seeds = Field([], description="Instead of those for all")
    grid: Annotated[dict[str, Values], Field(min_length=1)] = Field(
        {}, description="Setting to its values: a node for each"
    )
    diagnosis: str = Field("", description="The sft recipe whose unlearned rows are treated")
    treats: Annotated[list[Annotated[str, OneOf(tuple(CAUSES))]], Unique, Field(min_length=1)] = Field(
        [], description="The causes that it treats"
    )
    at_random: bool = Field(False, description="Permute the causes among the unlearned rows first, a control")
    launch: Launch = Field(Launch(kind="single", processes=1), description="Instead of that for all")


# The key of an overlay that names the one that it stands on, beside the sections.
EXTENDS = "extends"
# Keys of a recipe that place it in the graph; every other key is a setting of its stage.
GRAPH_KEYS = tuple(Recipe.keys())


class Study(Settings):
    """One question, answered by comparing checkpoints."""

    geometry: bool = Field(False, description="Measure how far its checkpoints moved from their base")
    explore: bool = Field(False, description="Sample its checkpoints, and those they start from, many times")
    detect: str = Field("", description="The entry of data: on whose training rows its sft checkpoints are examined")
    recipes: dict[Name, Recipe] = Field(min_length=1)


class Params(Settings):
    """Every scientific setting."""

    workload: str = spelled(WORKLOAD, OF_WORKLOAD, description="Names the results and reports folders")
    seeds: Seeds = Field(description="Of every recipe that names none of its own")
    launch: Launch
    engine: Annotated[str, OneOf(ENGINES)] = Field(description="What samples and scores")
    models: dict[Name, Model] = Field(min_length=1, description="Checkpoints that recipes start from")
    data: dict[Name, DataSet] = Field(min_length=1, description="Named data sets")
    world: World | None = None
    pretrain: Pretrain | None = None
    ingest: Ingest
    filter: Filter
    dedup: Dedup
    decontaminate: Decontaminate
    split: Split
    bucket: Bucket
    sft: Sft
    cpt: Cpt
    difficulty: Difficulty
    gate: Gate
    rl: Rl  # type: ignore[valid-type]  # made of the methods' own sections
    reward: Reward
    generate: Generate
    logprobs: Logprobs
    distill: Distill
    opd: Opd
    forecast: Forecast
    preflight: Preflight
    merge: Merge
    interpolate: Interpolate
    geometry: Geometry
    detect: Detect
    evidence: Evidence
    attribute: Attribute
    mixture: Mixture
    treat: Treat
    evaluate: Evaluate
    explore: Explore
    report: Report
    inspect: Inspect
    inspected: Text = Field("", description="What `snakemake inspect` shows: an entry of data, told by --config data=")
    recipe: Text = Field("", description="How it is seen: by a recipe, or a point of its grid")
    checkpoint: Text = Field("", description="What `snakemake deliver` delivers: a node or an entry of models")
    live: bool = Field(False, description="Keep logs/<workload>/live.html while a run lasts: --config live=true")
    deliver: Deliver
    studies: dict[Name, Study] = Field(min_length=1)


# What no result of the report depends on: what a command is told, and the sections of those commands.
ASIDE = ("inspect", "inspected", "recipe", "checkpoint", "deliver", "live")
# Section -> its class, of those that every workload has.
SECTIONS: dict[str, type[Settings]] = {
    name: info.annotation
    for name, info in Params.model_fields.items()
    if isinstance(info.annotation, type) and issubclass(info.annotation, Settings)
}
