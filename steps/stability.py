"""What the report knows of stability and plasticity: how far checkpoints moved from their base, and by which paths.

Reads results/…/geometry and the path.json of interpolations, for all studies with `geometry: true` together.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from steps import learning
from steps.arms import Arm, best_points, root_of
from steps.common import MANIFEST, read_json

# What a measure is called in tables; a measure without a line here goes by its name. Those of activations end on the
# axis whose prompts they were measured on.
MEASURES = {
    "frobenius": "‖ΔW‖",
    "relative_frobenius": "‖ΔW‖ / ‖W‖",
    "spectral": "spectral norm of ΔW",
    "relative_spectral": "spectral norm, relative",
    "stable_rank": "stable rank of ΔW",
    "retention": "shift of the main directions' strength",
    "adaptation": "update along the main directions",
    "csd_abs": "absolute drift",
    "csd_rel": "relative drift",
    "csd_un": "update-normalised drift",
    "procrustes": "Procrustes residual",
    "procrustes_raw": "residual before rotation",
    "gram": "Gram distortion",
    "cka": "linear CKA",
    "cosine": "angular drift",
}
PROMPT_AXES = ("target", "general")
# Stages that train weights, so that an adapter says how.
TRAINED = ("sft", "cpt")


def measure_label(measure: str) -> str:
    for axis in PROMPT_AXES:
        if measure.endswith(f"_{axis}"):
            return f"{MEASURES.get(measure.removesuffix(f'_{axis}'), measure)} on {axis} prompts"
    return MEASURES.get(measure, measure)


@dataclass
class Moved:
    """How far one checkpoint moved from the model it descends from."""

    summary: dict[str, float]  # measure → mean over modules
    modules: list[dict[str, str]]  # one row per module, as in modules.csv


@dataclass
class Trail:
    """The interpolation path of one recipe, over its seeds; `runs` are what path.json says, in the order of seeds."""

    arm: Arm
    runs: list[dict]
    start: Arm
    end: Arm

    @property
    def settings(self) -> dict:
        return self.arm.members[0].settings

    @property
    def alphas(self) -> list[float]:
        return [point["alpha"] for point in self.runs[0]["points"]]

    def at(self, alpha: float, axis: str) -> list[list[dict]]:
        """The tasks of an axis at a point, {value, n} each, seed by seed."""
        points = [next(p for p in run["points"] if p["alpha"] == alpha) for run in self.runs]
        return [[task for task in p["tasks"].values() if task["axis"] == axis] for p in points]


@dataclass
class Arena:
    """Arms that can be compared: from one model, on the same rows, with the same number of tokens."""

    root: Arm
    data: str | None
    tokens: int | None
    arms: list[Arm]

    @property
    def of_kind(self) -> dict[str, Arm]:
        """One arm per kind of adapter: of several, the one with most seeds; of these, the best on dev."""
        found: dict[str, Arm] = {}
        for arm in self.arms:
            kind = adapter_kind(arm)
            if kind not in found or _rank(arm) > _rank(found[kind]):
                found[kind] = arm
        return found


def ranked(arena: Arena) -> list[Arm]:
    """The arms of an arena, those that keep most of the general axis first."""
    return sorted(arena.arms, key=lambda arm: -arm.axis("general").value)


def short_name(arm: Arm, arena: Arena) -> str:
    """The recipe of a grid's chosen point, where no other point of it is in the arena."""
    alone = sum(other.recipe == arm.recipe for other in arena.arms) == 1
    return arm.recipe if arm.grid and alone else arm.name


def _rank(arm: Arm) -> tuple[int, float]:
    dev = arm.axis("dev")
    return sum(m.results is not None for m in arm.members), dev.value if dev else 0.0


def adapter_kind(arm: Arm) -> str:
    return arm.members[0].settings["adapter"]["kind"]


# The size of an adapter, in a word; its other settings are in the table of nodes.
SIZES = {"r": "r", "target_r": "r", "block_size": "b", "factors": "m"}


def adapter_text(arm: Arm) -> str:
    """Kind and size of an arm's adapter: "oft b32"; "" where nothing was trained."""
    adapter = arm.members[0].settings.get("adapter", {"kind": ""})
    return " ".join([adapter["kind"], *(f"{short}{adapter[key]}" for key, short in SIZES.items() if key in adapter)])


def trained_parameters(arm: Arm) -> int | None:
    """As counted by the training, before an adapter was converted; the same for every seed."""
    known = [m.manifest["counts"].get("parameters", {}).get("trained") for m in arm.members if m.manifest]
    return known[0] if known else None


@dataclass
class Stability:
    """All studies with `geometry: true`, as far as they are done."""

    every: dict[str, Arm]
    arms: list[Arm]  # of these studies, evaluated, grid points included
    arenas: list[Arena]  # the largest first; grids by the point that was chosen on dev
    moved: dict[str, Moved]  # node → geometry
    trails: list[Trail]
    grids: dict[str, tuple[list[Arm], Arm | None]] = field(default_factory=dict)

    def root(self, arm: Arm) -> Arm:
        return root_of(arm, self.every)

    @property
    def merges(self) -> list[Arm]:
        return [arm for arm in self.arms if arm.stage == "merge"]

    @property
    def measures(self) -> list[str]:
        """In the order of modules.csv."""
        columns = dict.fromkeys(name for found in self.moved.values() for name in found.modules[0])
        return [name for name in columns if any(name in found.summary for found in self.moved.values())]

    def values(self, arm: Arm, measure: str) -> list[float]:
        """A measure of an arm, seed by seed, as far as it is known."""
        known = [self.moved[m.node].summary.get(measure) for m in arm.members if m.node in self.moved]
        return [value for value in known if value is not None]

    def chosen(self, arm: Arm) -> bool | None:
        """Whether dev chose this point of its grid; None for an arm without a grid."""
        return arm is self.grids[arm.recipe][1] if arm.grid else None


def read_stability(graph: dict, arms: dict[str, Arm], results: Path) -> Stability | None:
    """None while no trained checkpoint of these studies has been evaluated on both axes.

    Args:
        graph: what `Graph.describe` says of the graph.
    """
    nodes = {node["name"]: node for node in graph["nodes"]}
    studies = {nodes[name]["study"] for name in graph["geometry"]}
    measured = [a for a in arms.values() if a.members[0].study in studies and a.axis("target") and a.axis("general")]
    grids = best_points(arms)
    hidden = {point.name for points, best in grids.values() if best for point in points if point is not best}
    arenas = _arenas(measured, arms, hidden)
    if not arenas:
        return None
    moved = {}
    for name in graph["geometry"]:
        folder = results / "geometry" / name
        if (folder / MANIFEST).is_file():
            moved[name] = Moved(read_json(folder / "geometry.json")["summary"], _rows(folder / "modules.csv"))
    return Stability(arms, measured, arenas, moved, _trails(arms, nodes, studies), grids)


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _arenas(measured: list[Arm], every: dict[str, Arm], hidden: set[str]) -> list[Arena]:
    found: dict[tuple, Arena] = {}
    for arm in measured:
        root = root_of(arm, every)
        if arm.stage in TRAINED and arm.name not in hidden and root.axis("target") and root.axis("general"):
            data, tokens = arm.members[0].settings.get("data"), learning.tokens(arm, every)
            found.setdefault((root.name, data, tokens), Arena(root, data, tokens, [])).arms.append(arm)
    return sorted(found.values(), key=lambda arena: -len(arena.arms))


def _trails(arms: dict[str, Arm], nodes: dict[str, dict], studies: set[str]) -> list[Trail]:
    """The paths whose points have been measured, whether or not the chosen one has been evaluated yet."""
    of_node: Callable[[str], Arm] = {m.node: arm for arm in arms.values() for m in arm.members}.__getitem__
    found = []
    for arm in arms.values():
        if arm.stage != "interpolate" or arm.members[0].study not in studies:
            continue
        files = [Path(nodes[m.node]["folder"]) / "path.json" for m in arm.members if m.manifest]
        if files:
            start, end = map(of_node, arm.members[0].parents)
            found.append(Trail(arm, [read_json(file) for file in files], start, end))
    return found


# --- checkpoints side by side --------------------------------------------------------------------


@dataclass
class Pool:
    """Checkpoints of one model over which measures are correlated, with what each forgot and gained."""

    root: Arm
    over: str
    arms: list[Arm]
    families: list[str]
    forgetting: list[float]
    gain: list[float]

    def measured(self, stability: Stability, names: tuple[str, ...]) -> list[int]:
        """Places of the arms for which all these measures are known."""
        return [i for i, arm in enumerate(self.arms) if all(stability.values(arm, name) for name in names)]


def pools(stability: Stability) -> list[Pool]:
    """For each model the trained checkpoints and, where there are more, all that were made from it."""
    found = []
    for root in dict.fromkeys(arena.root.name for arena in stability.arenas):
        root = stability.every[root]
        arms = [a for a in stability.arms if a is not root and stability.root(a) is root]
        arms = [a for a in arms if any(m.node in stability.moved for m in a.members)]
        trained = [a for a in arms if a.stage in TRAINED]
        for over, members in (("trained", trained), ("all", arms)):
            if len(members) > 2 and (over == "trained" or len(members) > len(trained)):
                families = [_family(arm, stability.every) for arm in members]
                found.append(Pool(root, over, members, families, *_changes(members, root)))
    return found


def _changes(arms: list[Arm], root: Arm) -> tuple[list[float], list[float]]:
    forgotten = [root.axis("general").value - arm.axis("general").value for arm in arms]
    return forgotten, [arm.axis("target").value - root.axis("target").value for arm in arms]


def _family(arm: Arm, every: dict[str, Arm]) -> str:
    """The recipe whose training a checkpoint rests on, its own where that is more than one."""
    of_node = {m.node: a for a in every.values() for m in a.members}
    chain = [arm]
    for member in chain:
        chain += [of_node[name] for name in member.members[0].parents]
    trained = {member.recipe for member in chain if member.stage in TRAINED}
    return trained.pop() if len(trained) == 1 else arm.recipe
