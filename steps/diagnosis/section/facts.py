"""What the report knows of incomplete learning: which rows each checkpoint leaves unlearned, why, who treats what.

Reads results/…/{detect,attribute,score_causes}. A `Study` holds one array per examined checkpoint over the same rows,
so that every rate and difference of `steps.diagnosis.section.statistics` is a sum over masks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from steps.core.files import read_csv, read_jsonl
from steps.core.manifest import read_manifest
from steps.core.promises import MANIFEST, check_promise
from steps.diagnosis.causes import CAUSES, LABELS, NUMERALS, UNASSIGNED
from steps.report.candidates import Candidate
from steps.report.tables import Link

# Groups of rows beside the causes.
LEARNABLE, LEARNED, ALL = "learnable", "learned", "all"
GROUP_LABELS = LABELS | {LEARNABLE: "learnable", LEARNED: "learned before", ALL: "all rows"}
# What a row was given by the attribution, or is by the truth.
ATTRIBUTED, TRUE = (*CAUSES, UNASSIGNED), (*CAUSES, LEARNABLE)
NEITHER = -1
# What rows are grouped by, with the truth or without.
BASES = {False: "attribution", True: "truth"}
# What treats this cause changes the order of the rows, whichever they are.
UNDIAGNOSED = "left_side_forgetting"


@dataclass
class Detected:
    """One examined checkpoint, over the rows of its study: whether a row was examined, and whether it is unlearned.

    `compared` are those that may stand on both sides of a comparison: all checkpoints of the seed that examined them
    did so against one answer. A row that a treatment took out as wrong is examined against another answer there: to
    compare it with its own elsewhere would take the change of the label for what the treatment did.
    """

    examined: np.ndarray
    unlearned: np.ndarray
    manifest: dict
    compared: np.ndarray


@dataclass
class StudyCandidate:
    """A candidate of a study, with the causes that it treats and its pairs of (checkpoint, its diagnosis).

    `treats` are causes treated where they were found; `at_random` are those treated on rows drawn at random.
    """

    candidate: Candidate
    treats: tuple[str, ...]
    at_random: tuple[str, ...]
    pairs: list[tuple[str, str]]

    @property
    def name(self) -> str:
        return self.candidate.name

    def controls(self, cause: str) -> bool:
        """Whether this is a control for the treatment of a cause: it treats that cause at random, or nothing by a
        diagnosis (another order of the rows is none) and that cause not at all.

        For the treatment of all rows, it is no treatment.
        """
        if cause == ALL:
            return not self.treatment
        by_diagnosis = {*self.treats, *self.at_random} - {UNDIAGNOSED}
        return cause not in self.treats and (cause in self.at_random or not by_diagnosis)

    @property
    def treatment(self) -> bool:
        return bool(self.treats) and not self.at_random


@dataclass
class Study:
    """One study with `detect`. `plain` is the diagnosed candidate that the others are compared with; it leads
    `candidates`."""

    name: str
    ids: list[str]
    detected: dict[str, Detected]
    cause: dict[str, np.ndarray]  # diagnosed checkpoint → index into ATTRIBUTED for its unlearned rows, else NEITHER
    truth: np.ndarray | None  # index into TRUE, NEITHER where the scorer does not know the row
    kind: np.ndarray | None  # of the planted row, "" of another
    excluded: list[dict]  # {reason, hint, rows} of the first diagnosed checkpoint
    candidates: list[StudyCandidate] = field(default_factory=list)
    rows: list[dict] = field(default_factory=list)  # of the first diagnosed checkpoint, as its pages show them
    links: list[tuple[str, Link]] = field(default_factory=list)  # (checkpoint, file with all unlearned rows)
    every: dict[str, Candidate] = field(default_factory=dict)  # of all studies, by name

    @property
    def plain(self) -> StudyCandidate:
        return self.candidates[0]

    @property
    def diagnosed(self) -> list[str]:
        return [diagnosis for _, diagnosis in self.plain.pairs]

    @property
    def settings(self) -> dict:
        return self.detected[self.diagnosed[0]].manifest["settings"]

    @property
    def unlearned(self) -> int:
        return sum(int(self.detected[name].unlearned.sum()) for name in self.diagnosed)

    def group(self, name: str, by_truth: bool = False) -> Callable[[str], np.ndarray]:
        """The rows of a group, as a mask for the diagnosis given."""

        def mask(diagnosis: str) -> np.ndarray:
            if name == ALL:
                return np.ones(len(self.ids), dtype=bool)
            if name == LEARNED:
                marks = self.detected[diagnosis]
                return marks.examined & ~marks.unlearned
            if by_truth:
                return self.truth == TRUE.index(name)
            return self.cause[diagnosis] == ATTRIBUTED.index(name)

        return mask


# --- reading -------------------------------------------------------------------------------------


def read_columns(path: Path, columns: list[str], ids: list[str] | None = None) -> list[dict]:
    """Rows of a Parquet file, some columns of it; with `ids`, those rows only."""
    import pyarrow.parquet as pq

    if ids == []:
        return []
    check_promise(path)
    return pq.read_table(path, columns=columns, filters=ids and [("id", "in", ids)]).to_pylist()


def read_study(name: str, graph: dict, candidates: dict[str, Candidate], results: Path) -> Study | None:
    """A study as far as it is done; None while no diagnosed checkpoint has a cause for its unlearned rows.

    Args:
        graph: what `Graph.describe` says of the graph.
    """
    nodes = {node["name"]: node for node in graph["nodes"]}

    def done(names: list[str], step: str) -> list[str]:
        return [n for n in names if nodes[n]["study"] == name and (results / step / n / MANIFEST).is_file()]

    examined = done(graph["detected"], "detect")
    diagnosed = [node for node in done(graph["diagnosed"], "attribute") if node in examined]
    if not diagnosed:
        return None
    place: dict[str, int] = {}
    marks = {}
    for node in examined:
        rows = read_columns(results / "detect" / node / "detected.parquet", ["id", "unlearned", "answer"])
        at = [place.setdefault(row["id"], len(place)) for row in rows]
        marks[node] = at, [row["unlearned"] for row in rows], [row["answer"] for row in rows]
    compared = _compared({node: (at, answers) for node, (at, _, answers) in marks.items()}, nodes, len(place))
    detected = {}
    for node, (at, unlearned, _) in marks.items():
        manifest = read_manifest(results / "detect" / node / MANIFEST)
        marks_of_node = Detected(*np.zeros((2, len(place)), dtype=bool), manifest, compared[nodes[node]["seed"]])
        marks_of_node.examined[at], marks_of_node.unlearned[at] = True, unlearned
        marks_of_node.compared = marks_of_node.examined & marks_of_node.compared
        detected[node] = marks_of_node
    cause = {}
    for node in diagnosed:
        cause[node] = np.full(len(place), NEITHER)
        for row in read_columns(results / "attribute" / node / "attribution.parquet", ["id", "cause"]):
            cause[node][place[row["id"]]] = ATTRIBUTED.index(row["cause"])
    left_out = _excluded(results / "detect" / diagnosed[0] / "excluded.jsonl")
    study = Study(name, list(place), detected, cause, *_truth(examined, place, results), left_out)
    study.every = candidates
    study.candidates = _study_candidates(study, diagnosed, nodes, candidates)
    return study


def _compared(
    answers: dict[str, tuple[list[int], list[str]]], nodes: dict[str, dict], rows: int
) -> dict[int | None, np.ndarray]:
    """Seed → the rows that all its checkpoints examined against one answer, where they did.

    Args:
        answers: node → (places of its rows, the answer of each).
    """
    one: dict[int | None, dict[int, str]] = {}
    masks: dict[int | None, np.ndarray] = {}
    for node, (at, of_rows) in answers.items():
        seed = nodes[node]["seed"]
        known, mask = one.setdefault(seed, {}), masks.setdefault(seed, np.ones(rows, dtype=bool))
        for place, answer in zip(at, of_rows, strict=True):
            mask[place] &= known.setdefault(place, answer) == answer
    return masks


def _truth(names: list[str], place: dict[str, int], results: Path) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Planted cause and kind of every row that a scorer has seen; None where there is no scorer."""
    files = [results / "score_causes" / name / "rows.csv" for name in names]
    files = [file for file in files if file.is_file()]
    if not files:
        return None, None
    truth, kind = np.full(len(place), NEITHER), np.full(len(place), "", dtype=object)
    for path in files:
        for row in read_csv(path):
            if row["id"] in place:
                truth[place[row["id"]]], kind[place[row["id"]]] = TRUE.index(row["truth"]), row["kind"]
    return truth, kind


def _excluded(path: Path) -> list[dict]:
    """Rows that could not be examined, by reason, with the hint of the first of each."""
    reasons: dict[str, dict] = {}
    for row in read_jsonl(path):
        entry = reasons.setdefault(row["reason"], {"reason": row["reason"], "hint": row["hint"], "rows": 0})
        entry["rows"] += 1
    return sorted(reasons.values(), key=lambda entry: -entry["rows"])


# --- candidates ----------------------------------------------------------------------------------


def _chain(name: str, nodes: dict[str, dict]) -> list[dict]:
    """A node and its first parents, as far as they are nodes."""
    chain = []
    while name in nodes:
        chain.append(nodes[name])
        name = nodes[name]["parents"][0]
    return chain


def _study_candidates(
    study: Study, diagnosed: list[str], nodes: dict[str, dict], candidates: dict[str, Candidate]
) -> list[StudyCandidate]:
    """The candidates with an examined checkpoint, the diagnosed one that treatments rest on first."""
    of_seed = {nodes[name]["seed"]: name for name in reversed(diagnosed)}
    members = []
    for candidate in candidates.values():
        pairs = []
        for member in candidate.members:
            if member.node not in study.detected:
                continue
            named = [node["treatment"]["diagnosis"] for node in _chain(member.node, nodes) if node.get("treatment")]
            diagnosis = named[0] if named else of_seed.get(member.seed)
            if member.node in diagnosed:
                diagnosis = member.node
            if diagnosis in diagnosed:
                pairs.append((member.node, diagnosis))
        if pairs:
            treats, at_random = treated(nodes[pairs[0][0]], nodes[pairs[0][1]], nodes)
            members.append(StudyCandidate(candidate, treats, at_random, pairs))
    first = next(candidate for candidate in members if candidate.pairs[0][0] in diagnosed)
    return [first, *(candidate for candidate in members if candidate is not first)]


def treated(node: dict, diagnosis: dict, nodes: dict[str, dict]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The causes that a checkpoint's chain treats where they were found, and those it treats at random.

    Left-side forgetting needs no diagnosed rows: what treats it is a shuffle of all rows where the diagnosed checkpoint
    went through its sources in order, or resampling.
    """
    causes, at_random, of_all_rows = set(), set(), []
    for member in _chain(node["name"], nodes):
        treatment = member.get("treatment") or {"at_random": False, "causes": []}
        (at_random if treatment["at_random"] else causes).update(treatment["causes"])
        if member["stage"] == "sft" and "insufficient_optimisation" not in treatment["causes"]:
            of_all_rows.append(member)
    settings, before = [*of_all_rows, node][0]["settings"], diagnosis["settings"]
    ordered = before.get("order") == "sources" and settings.get("order") == "shuffle"
    if ordered or (settings.get("resample") and not before.get("resample")):
        causes.add(UNDIAGNOSED)
    return tuple(c for c in CAUSES if c in causes), tuple(c for c in CAUSES if c in at_random)


def bases(study: Study) -> list[bool]:
    """By which causes rows are grouped: those found and, where it is known, the truth."""
    return [False] if study.truth is None else [False, True]


def numbered(name: str) -> str:
    return f"{NUMERALS[name]} {GROUP_LABELS[name]}" if name in NUMERALS else GROUP_LABELS[name]


def treats_text(candidate: StudyCandidate, study: Study) -> str:
    if candidate is study.plain:
        return "nothing (diagnosed)"
    parts = [" ".join(NUMERALS[cause] for cause in candidate.treats)] if candidate.treats else []
    parts += ["at random: " + " ".join(NUMERALS[cause] for cause in candidate.at_random)] if candidate.at_random else []
    return ", ".join(parts) or "nothing (control)"
