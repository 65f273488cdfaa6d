"""Reads what is done of reinforcement learning: runs, exploration, gates, rollouts and reward models."""

from pathlib import Path

from steps.core.files import read_csv, read_json, read_jsonl
from steps.core.manifest import read_manifest
from steps.core.promises import MANIFEST
from steps.reinforcement.section.facts import Comparison, Explored, Gate, Reinforcement, method, method_order
from steps.report.candidates import Candidate, best_points
from steps.report.gather import Gathered


def read_reinforcement(gathered: Gathered) -> Reinforcement | None:
    """None while no checkpoint of stage rl is done."""
    graph, candidates, results = gathered.graph, gathered.candidates, gathered.results
    folders = {node["name"]: Path(node["folder"]) for node in graph["nodes"]}
    hidden = {p.name for points, best in best_points(candidates).values() if best for p in points if p is not best}
    trained = [
        candidate
        for candidate in candidates.values()
        if candidate.stage == "rl" and candidate.name not in hidden and _is_done(candidate)
    ]
    if not trained:
        return None
    explored = {name: _explored(folder) for name, folder in _done(results / "explore", graph["explore"]).items()}
    gates = {name: _gate(folder) for name, folder in _done(results / "gate", graph["gates"]).items()}
    nodes = [m.node for candidate in trained for m in candidate.members if m.manifest]
    rollouts = {node: list(read_jsonl(folders[node] / "rollouts.jsonl")) for node in nodes}
    files = {node: folders[node] / "disagreements.jsonl" for node in nodes}
    disagreements = {node: list(read_jsonl(file)) for node, file in files.items() if file.is_file()}
    judges = {
        candidate.name: [read_json(folders[m.node] / "reward.json") for m in candidate.members if m.manifest]
        for candidate in candidates.values()
        if candidate.stage == "reward" and _is_done(candidate)
    }
    comparisons = _comparisons(trained, candidates, graph["explore"])
    return Reinforcement(candidates, comparisons, explored, gates, rollouts, disagreements, judges)


def _is_done(candidate: Candidate) -> bool:
    return any(member.manifest for member in candidate.members)


def _done(parent: Path, names: list[str]) -> dict[str, Path]:
    """Name → its folder, of those that are finished."""
    return {name: parent / name for name in names if (parent / name / MANIFEST).is_file()}


def _explored(folder: Path) -> Explored:
    order = read_manifest(folder / MANIFEST)["settings"]["tasks"]
    tasks = read_json(folder / "explore.json")["tasks"]
    return Explored({task: tasks[task] for task in order}, folder)


def _gate(folder: Path) -> Gate:
    return Gate(read_csv(folder / "gate.csv"), read_manifest(folder / MANIFEST)["counts"])


def _comparisons(trained: list[Candidate], candidates: dict[str, Candidate], compared: list[str]) -> list[Comparison]:
    """`compared` are the nodes to explore, whether that is done or not: what is not of stage rl there is a control."""
    of_node = {m.node: candidate for candidate in candidates.values() for m in candidate.members}

    def start(candidate: Candidate) -> Candidate | None:
        parents = candidate.members[0].parents
        return of_node[parents[0]] if parents else None

    comparisons: dict[str, Comparison] = {}
    for candidate in trained:
        comparisons.setdefault(start(candidate).name, Comparison(start(candidate), [], [])).candidates.append(candidate)
    for comparison in comparisons.values():
        comparison.candidates.sort(key=lambda candidate: method_order(method(candidate)))
        comparison.controls = [
            candidate
            for candidate in candidates.values()
            if candidate.stage != "rl"
            and start(candidate) is comparison.start
            and any(m.node in compared for m in candidate.members)
        ]
    return sorted(comparisons.values(), key=lambda comparison: -len(comparison.candidates))
