"""What the report knows of stability and plasticity: how far checkpoints moved from their base, and by which paths.

Reads results/…/geometry and the path.json of interpolations, for all studies with `geometry: true` together.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from steps.core.files import read_csv, read_json
from steps.core.promises import MANIFEST
from steps.report.candidates import Candidate, best_points, root_of
from steps.report.choice import Parts, parts
from steps.report.gather import Gathered
from steps.report.logs import tokens_from_start
from steps.settings.axes import CAPABILITIES
from steps.settings.stages import SUPERVISED

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


def measure_label(measure: str) -> str:
    for axis in CAPABILITIES:
        if measure.endswith(f"_{axis}"):
            return f"{MEASURES.get(measure.removesuffix(f'_{axis}'), measure)} on {axis} prompts"
    return MEASURES.get(measure, measure)


@dataclass
class Moved:
    """How far one checkpoint moved from the model it descends from."""

    summary: dict[str, float]  # measure → mean over modules
    modules: list[dict[str, str]]  # one row per module, as in modules.csv


@dataclass
class Interpolation:
    """The interpolation path of one recipe, over its seeds; `runs` are what path.json says, in the order of seeds."""

    candidate: Candidate
    runs: list[dict]
    start: Candidate
    end: Candidate
    seeds: tuple[int | None, ...] = ()  # of the runs

    @property
    def settings(self) -> dict:
        return self.candidate.members[0].settings

    @property
    def alphas(self) -> list[float]:
        return [point["alpha"] for point in self.runs[0]["points"]]

    def at(self, alpha: float, axis: str) -> list[list[dict]]:
        """The tasks of an axis at a point, {value, n} each, seed by seed."""
        points = [next(p for p in run["points"] if p["alpha"] == alpha) for run in self.runs]
        return [[task for task in p["tasks"].values() if task["axis"] == axis] for p in points]


@dataclass
class Arena:
    """Candidates that can be compared: from one model, on the same rows, with the same number of tokens."""

    root: Candidate
    data: str | None
    tokens: int | None
    candidates: list[Candidate]

    @cached_property
    def parts(self) -> Parts:
        """The candidates and the root by the questions that choose, and by those that report."""
        return parts(self.candidates, [self.root])

    def chosen(self, axis: str, order: Callable = max) -> Candidate:
        """The candidate that scores highest on an axis, or with `min` lowest, by the questions that choose."""
        return order(self.candidates, key=lambda candidate: self.parts.choosing[candidate.name].axis(axis).value)

    @property
    def of_kind(self) -> dict[str, Candidate]:
        """One candidate per kind of adapter: of several, the one with most seeds; of these, the best on dev."""
        best: dict[str, Candidate] = {}
        for candidate in self.candidates:
            kind = adapter_kind(candidate)
            if kind not in best or _rank(candidate) > _rank(best[kind]):
                best[kind] = candidate
        return best


def ranked(arena: Arena) -> list[Candidate]:
    """The candidates of an arena, those that keep most of the general axis first."""
    return sorted(arena.candidates, key=lambda candidate: -candidate.axis("general").value)


def short_name(candidate: Candidate, arena: Arena) -> str:
    """The recipe of a grid's chosen point, where no other point of it is in the arena."""
    alone = sum(other.recipe == candidate.recipe for other in arena.candidates) == 1
    return candidate.recipe if candidate.grid and alone else candidate.name


def _rank(candidate: Candidate) -> tuple[int, float]:
    dev = candidate.axis("dev")
    return sum(m.results is not None for m in candidate.members), dev.value if dev else 0.0


def adapter_kind(candidate: Candidate) -> str:
    return candidate.members[0].settings["adapter"]["kind"]


# The size of an adapter, in a word; its other settings are in the table of nodes.
SIZES = {"r": "r", "target_r": "r", "block_size": "b", "factors": "m"}


def adapter_text(candidate: Candidate) -> str:
    """Kind and size of a candidate's adapter: "oft b32"; "" where nothing was trained."""
    adapter = candidate.members[0].settings.get("adapter", {"kind": ""})
    return " ".join([adapter["kind"], *(f"{short}{adapter[key]}" for key, short in SIZES.items() if key in adapter)])


def trained_parameters(candidate: Candidate) -> int | None:
    """As counted by the training, before an adapter was converted; the same for every seed."""
    known = [m.manifest["counts"].get("parameters", {}).get("trained") for m in candidate.members if m.manifest]
    return known[0] if known else None


@dataclass
class Stability:
    """All studies with `geometry: true`, as far as they are done."""

    every: dict[str, Candidate]
    candidates: list[Candidate]  # of these studies, evaluated, grid points included
    arenas: list[Arena]  # the largest first; grids by the point that was chosen on dev
    moved: dict[str, Moved]  # node → geometry
    interpolations: list[Interpolation]
    grids: dict[str, tuple[list[Candidate], Candidate | None]] = field(default_factory=dict)

    def root(self, candidate: Candidate) -> Candidate:
        return root_of(candidate, self.every)

    @property
    def merges(self) -> list[Candidate]:
        return [candidate for candidate in self.candidates if candidate.stage == "merge"]

    @property
    def measures(self) -> list[str]:
        """In the order of modules.csv."""
        columns = dict.fromkeys(name for moved in self.moved.values() for name in moved.modules[0])
        return [name for name in columns if any(name in moved.summary for moved in self.moved.values())]

    def values(self, candidate: Candidate, measure: str) -> list[float]:
        """A measure of a candidate, seed by seed, as far as it is known."""
        known = [self.moved[m.node].summary.get(measure) for m in candidate.members if m.node in self.moved]
        return [value for value in known if value is not None]

    def chosen(self, candidate: Candidate) -> bool | None:
        """Whether dev chose this point of its grid; None for a candidate without a grid."""
        return candidate is self.grids[candidate.recipe][1] if candidate.grid else None


def read_stability(gathered: Gathered) -> Stability | None:
    """None while no trained checkpoint of these studies has been evaluated on both axes."""
    graph, candidates, results = gathered.graph, gathered.candidates, gathered.results
    nodes = {node["name"]: node for node in graph["nodes"]}
    studies = {nodes[name]["study"] for name in graph["geometry"]}
    measured = [
        a for a in candidates.values() if a.members[0].study in studies and a.axis("target") and a.axis("general")
    ]
    grids = best_points(candidates)
    hidden = {point.name for points, best in grids.values() if best for point in points if point is not best}
    arenas = _arenas(measured, candidates, hidden)
    if not arenas:
        return None
    moved = {}
    for name in graph["geometry"]:
        folder = results / "geometry" / name
        if (folder / MANIFEST).is_file():
            moved[name] = Moved(read_json(folder / "geometry.json")["summary"], read_csv(folder / "modules.csv"))
    return Stability(candidates, measured, arenas, moved, _interpolations(candidates, nodes, studies), grids)


def _arenas(measured: list[Candidate], every: dict[str, Candidate], hidden: set[str]) -> list[Arena]:
    arenas: dict[tuple, Arena] = {}
    for candidate in measured:
        root = root_of(candidate, every)
        if (
            candidate.stage in SUPERVISED
            and candidate.name not in hidden
            and root.axis("target")
            and root.axis("general")
        ):
            data, tokens = candidate.members[0].settings.get("data"), tokens_from_start(candidate, every)
            arenas.setdefault((root.name, data, tokens), Arena(root, data, tokens, [])).candidates.append(candidate)
    return sorted(arenas.values(), key=lambda arena: -len(arena.candidates))


def _interpolations(candidates: dict[str, Candidate], nodes: dict[str, dict], studies: set[str]) -> list[Interpolation]:
    """The paths whose points have been measured, whether or not the chosen one has been evaluated yet."""
    of_node: Callable[[str], Candidate] = {
        m.node: candidate for candidate in candidates.values() for m in candidate.members
    }.__getitem__
    interpolations = []
    for candidate in candidates.values():
        if candidate.stage != "interpolate" or candidate.members[0].study not in studies:
            continue
        made = [m for m in candidate.members if m.manifest]
        files = [Path(nodes[m.node]["folder"]) / "path.json" for m in made]
        if files:
            start, end = map(of_node, candidate.members[0].parents)
            runs = [read_json(file) for file in files]
            interpolations.append(Interpolation(candidate, runs, start, end, tuple(m.seed for m in made)))
    return interpolations


# --- checkpoints side by side --------------------------------------------------------------------


@dataclass
class CheckpointSet:
    """Checkpoints of one model over which measures are correlated, with what each forgot and gained."""

    root: Candidate
    over: str
    candidates: list[Candidate]
    families: list[str]
    forgetting: list[float]
    gain: list[float]

    def measured(self, stability: Stability, names: tuple[str, ...]) -> list[int]:
        """Places of the candidates for which all these measures are known."""
        return [
            i for i, candidate in enumerate(self.candidates) if all(stability.values(candidate, name) for name in names)
        ]


def checkpoint_sets(stability: Stability) -> list[CheckpointSet]:
    """For each model the trained checkpoints and, where there are more, all that were made from it."""
    sets = []
    for root in dict.fromkeys(arena.root.name for arena in stability.arenas):
        root = stability.every[root]
        candidates = [a for a in stability.candidates if a is not root and stability.root(a) is root]
        candidates = [a for a in candidates if any(m.node in stability.moved for m in a.members)]
        trained = [a for a in candidates if a.stage in SUPERVISED]
        for over, members in (("trained", trained), ("all", candidates)):
            if len(members) > 2 and (over == "trained" or len(members) > len(trained)):
                families = [_family(candidate, stability.every) for candidate in members]
                sets.append(CheckpointSet(root, over, members, families, *_changes(members, root)))
    return sets


def _changes(candidates: list[Candidate], root: Candidate) -> tuple[list[float], list[float]]:
    forgotten = [root.axis("general").value - candidate.axis("general").value for candidate in candidates]
    return forgotten, [candidate.axis("target").value - root.axis("target").value for candidate in candidates]


def _family(candidate: Candidate, every: dict[str, Candidate]) -> str:
    """The recipe whose training a checkpoint rests on, its own where that is more than one."""
    of_node = {m.node: a for a in every.values() for m in a.members}
    chain = [candidate]
    for member in chain:
        chain += [of_node[name] for name in member.members[0].parents]
    trained = {member.recipe for member in chain if member.stage in SUPERVISED}
    return trained.pop() if len(trained) == 1 else candidate.recipe
