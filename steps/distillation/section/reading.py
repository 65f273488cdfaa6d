"""Reads what is done of distillation.

Reads results/…/{forecast,generate} and, beside the manifests of stages `opd` and `distill`, positions and rollouts.
"""

import json
from collections import Counter
from pathlib import Path

from steps.core.files import read_csv, read_json, read_jsonl
from steps.core.manifest import read_manifest
from steps.core.promises import MANIFEST
from steps.distillation.section.facts import Distillation
from steps.distillation.section.forecasts import Forecast
from steps.distillation.section.positions import Positions
from steps.distillation.section.runs import Domain, Family, Generation, Run, method_settings
from steps.distillation.section.scores import Scores
from steps.distillation.section.spending import read_budget
from steps.report.candidates import Candidate, Checkpoint, settings_of
from steps.report.gather import Gathered
from steps.report.tables import Estimate
from steps.settings.axes import CAPABILITIES
from steps.settings.stages import TAUGHT


def read_distillation(gathered: Gathered) -> Distillation | None:
    """None while no checkpoint of stage opd or distill is done."""
    graph, candidates = gathered.graph, gathered.candidates
    nodes = {node["name"]: node for node in graph["nodes"]}
    trained = [
        candidate
        for candidate in candidates.values()
        if candidate.stage in TAUGHT and any(m.manifest for m in candidate.members)
    ]
    if not trained:
        return None
    axes = gathered.settings.get("forecast", {}).get("axes", {})
    scores = Scores(candidates)
    starts = {m.node: m.parents[0] for candidate in trained for m in candidate.members}
    teaching = {node: list(nodes[node]["teachers"]) for node in starts}
    study = Distillation(candidates, scores, axes, starts, teaching, _parameters(scores.members))
    for candidate in trained:
        node = candidate.members[0].node
        teachers = [study.candidate_of(name) for name in teaching[node]]
        run = Run(candidate, study.candidate_of(starts[node]), teachers, nodes[node]["sources"], [])
        run.domains = _domains(study, run)
        study.runs.append(run)
    study.reference = _reference(study)
    study.families = _families(study)
    study.generations = [
        Generation(planned["data"], planned["teacher"], read_manifest(Path(planned["folder"]) / MANIFEST)["counts"])
        for planned in graph["generations"]
        if (Path(planned["folder"]) / MANIFEST).is_file()
    ]
    study.budget = read_budget(study, gathered.results)
    study.forecasts = _forecasts(study, graph["forecasts"])
    done = [m.node for candidate in trained for m in candidate.members if m.manifest]
    study.positions = Positions(_of_nodes(nodes, done, "positions.csv", _numbers))
    study.rollouts = _of_nodes(nodes, done, "rollouts.jsonl", lambda path: list(read_jsonl(path)))
    return study


def _of_nodes(nodes: dict[str, dict], done: list[str], name: str, read) -> dict[str, list[dict]]:
    """Node → what a file of its folder says, of those that have it."""
    paths = {node: Path(nodes[node]["folder"]) / name for node in done}
    return {node: read(path) for node, path in paths.items() if path.is_file()}


def _numbers(path: Path) -> list[dict[str, float]]:
    return [{key: float(value) for key, value in row.items() if value} for row in read_csv(path)]


def _parameters(members: dict[str, Checkpoint]) -> dict[str, int]:
    """Node → its number of parameters, as its own manifest, that of a run it taught or that of its parent counts it."""
    sizes: dict[str, int] = {}
    for node, member in members.items():
        counts = member.manifest["counts"] if member.manifest else {}
        own = counts.get("parameters")
        if own:
            sizes[node] = own["total"] if isinstance(own, dict) else own
        for teacher, size in counts.get("teachers", {}).items():
            sizes.setdefault(teacher, size)
    for node, member in members.items():
        while node not in sizes and member.parents:
            member = members[member.parents[0]]
            if member.node in sizes:
                sizes[node] = sizes[member.node]
    return sizes


# --- what is compared ----------------------------------------------------------------------------


def _domains(study: Distillation, run: Run) -> list[Domain]:
    """One per axis; of several teachers of its data sets the one that scores highest on it."""
    domains = []
    for axis in CAPABILITIES:
        sources = [s for s in run.sources if study.axis_of_data(s["data"]) == axis]
        if not sources:
            continue
        teachers = [run.teachers[i] for i in sorted({i for s in sources for i in s["teachers"]})]
        best = max(teachers, key=lambda candidate: e.value if (e := study.scores.level(candidate, axis)) else -1.0)
        domains.append(Domain(axis, best, tuple(s["data"] for s in sources)))
    return domains


def _reference(study: Distillation) -> Run | None:
    """Of the on-policy runs of one teacher on one data set, one whose settings most of them have; rather one whose
    teacher RL made of the run's own start, on these prompts."""
    single = [run for run in study.runs if run.stage == "opd" and len(run.teachers) == len(run.sources) == 1]
    if not single:
        return None
    common = Counter(json.dumps(method_settings(run.candidate), sort_keys=True) for run in single)

    def rank(run: Run) -> tuple:
        (teacher,) = run.teachers
        of_start = teacher.stage == "rl" and study.candidate_of(teacher.members[0].parents[0]) is run.start
        same_rows = settings_of(teacher).get("data") == run.data[0]
        same_settings = common[json.dumps(method_settings(run.candidate), sort_keys=True)]
        return same_settings, of_start, same_rows, len(run.candidate.members)

    return max(single, key=rank)


def _families(study: Distillation) -> list[Family]:
    families: dict[tuple, Family] = {}
    for run in study.runs:
        names = frozenset(teacher.name for teacher in run.teachers)
        if len(names) > 1:
            key = run.start.name, names
            if key not in families:
                teachers = {domain.axis: domain.teacher for domain in run.domains}
                families[key] = Family(run.start, teachers, [], [])
            families[key].students.append(run)
    for (_, names), family in families.items():
        for candidate in study.every.values():
            parents = [study.candidate_of(name) for name in candidate.members[0].parents]
            merged = candidate.stage == "merge" and any(m.manifest for m in candidate.members)
            if merged and {p.name for p in parents} == names and candidate not in family.merges:
                family.merges.append(candidate)
                study.merged.append(_merge(study, candidate, parents, family.students[0]))
    return list(families.values())


def _merge(study: Distillation, candidate: Candidate, parents: list[Candidate], first: Run) -> Run:
    """A merge of the teachers of a student, as a run from that student's start."""
    of_seed = {m.seed: study.starts[m.node] for m in first.candidate.members}
    for member in candidate.members:
        study.starts[member.node] = of_seed.get(member.seed, next(iter(of_seed.values())))
        study.teaching[member.node] = list(member.parents)
    places = {teacher.name: i for i, teacher in enumerate(parents)}
    sources = [
        s | {"share": None, "teachers": [places[first.teachers[i].name] for i in s["teachers"]]} for s in first.sources
    ]
    run = Run(candidate, first.start, parents, sources, [])
    run.domains = _domains(study, run)
    return run


# --- forecasts -----------------------------------------------------------------------------------


def _forecasts(study: Distillation, planned: list[dict]) -> list[Forecast]:
    forecasts = []
    for pair in planned:
        folder = Path(pair["folder"])
        if not (folder / MANIFEST).is_file():
            continue
        axis = study.axis_of_data(pair["data"])
        prefixes = read_csv(folder / "prefixes.csv") if (folder / "prefixes.csv").is_file() else []
        measured = read_json(folder / "forecast.json")
        member, outcome, share = _outcome(study, pair, axis)
        forecasts.append(
            Forecast(pair["data"], pair["student"], pair["teacher"], axis, measured, prefixes, member, outcome, share)
        )
    return forecasts


def _outcome(study: Distillation, pair: dict, axis: str) -> tuple[Checkpoint | None, Estimate | None, Estimate | None]:
    """The run of exactly this student, teacher and data set with the reference's settings, its change, and the share of
    the gap that it closed."""
    for run in study.runs:
        if run.stage != "opd" or run.data != (pair["data"],) or len(run.teachers) != 1:
            continue
        if set(study.differs(run)) - {"from", "teachers", "data"}:
            continue
        for member in run.candidate.members:
            if study.starts[member.node] == pair["student"] and study.teaching[member.node] == [pair["teacher"]]:
                sides = (study.scores.candidate([node]) for node in (member.node, pair["student"]))
                if outcome := study.scores.difference(*sides, axis):
                    return member, outcome, study.recovery(run, [member.seed]).share
    return None, None, None
