"""DVC's stages of a workload: what the rules make for each of its studies and for its report, and what they make it of.

Run as: python -m steps.graph.dvc [--configfile workloads/mine.yaml …]

Those of the embedded workload stand in dvc.yaml, of another in pipelines/<workload>/dvc.yaml. Snakemake says which
rules are behind a target and what they make, `sections.SECTIONS` which settings they read. An output has one stage: a
study stores its checkpoints, the report all that studies share.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import yaml

from steps.core.files import write_text
from steps.core.step import ERROR_PREFIX, USER_ERROR
from steps.data.sources import folder_of, is_many
from steps.graph import checks, recipes, workload
from steps.graph.graph import Graph
from steps.graph.sections import sections

FILE = "dvc.yaml"
# Columns of a line, which the brackets of a list may pass.
WIDTH = 110
CODE = ("Snakefile", "rules", "schemas", "steps", "tasks")
# The stage that says whether the others are still those of the settings; no study has a name like it. They rest on its
# file: stages that do not rest on each other run in any order.
CHECK = "check-stages"
HEAD = """\
# Made by `{command}`: one stage per study, and the report over all.
# Snakemake decides what runs; DVC knows, stores and compares what came out. `persist` leaves the outputs in place
# before a run, so that Snakemake redoes only what changed.
"""


def file_of(overlays: list[Path], name: str) -> Path:
    """Where the stages of a workload stand.

    Raises:
        ValueError: it has the embedded workload's name, under which that one's results lie.
    """
    embedded = Path(workload.EMBEDDED)
    if name != workload.read(embedded)["workload"]:
        return Path("pipelines") / name / FILE
    if overlays and [*map(Path.resolve, overlays)] != [embedded.resolve()]:
        raise ValueError(f"workload: {name} is {embedded}, whose stages are in {FILE}; name {overlays[-1]} otherwise")
    return Path(FILE)


def snakemake(*arguments: str) -> str:
    """What Snakemake prints of a plan.

    Raises:
        CalledProcessError: it could not plan, and has said why.
    """
    command = [sys.executable, "-m", "snakemake", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def rules_behind(targets: list[str], options: list[str]) -> dict[str, set[str]]:
    """Target of the Snakefile -> the rules of all jobs that it rests on, done or not."""
    graph = snakemake(*targets, "--dag", "dot", *options)
    rules = dict(re.findall(r'^\s*(\d+)\[label = "(\w+)', graph, re.MULTILINE))
    needs: dict[str, list[str]] = {}
    for needed, job in re.findall(r"^\s*(\d+) -> (\d+)", graph, re.MULTILINE):
        needs.setdefault(job, []).append(needed)
    behind = {}
    for target in targets:
        jobs = [job for job, rule in rules.items() if rule == target]
        for job in jobs:
            jobs += [needed for needed in needs.get(job, []) if needed not in jobs]
        behind[target] = {rules[job] for job in jobs} - {*targets}
    return behind


def made(options: list[str]) -> list[str]:
    """The folders of results and the files of the report that a workload's jobs make, done or not."""
    lines = snakemake("all", "--summary", *options).splitlines()[1:]
    return sorted({"/".join(line.split("\t")[0].split("/")[:3]) for line in lines})


def given(graph: Graph) -> list[str]:
    """What a workload is made of: its folders of models and its files, without what lies in those folders."""
    models = graph.params["models"]
    folders = [models[name]["path"] for name in checks.used_models(graph) if "revision" not in models[name]]
    files = [file for _, file in checks.named_files(graph)]
    # DVC tracks the folder of what may have another file tomorrow.
    paths = [source["path"] for _, source in checks.own_sources(graph)]
    files += [str(folder_of(path)) if is_many(path) else path for path in paths]
    files = [file for file in files if not file.startswith(f"{graph.results}/")]
    return sorted({*folders, *(file for file in files if not any(map(Path(file).is_relative_to, folders)))})


def rests_on(graph: Graph) -> dict[str, list[str]]:
    """Study -> the other studies whose checkpoints it starts or learns from, whatever lies between.

    Of two that need each other only the second does: DVC has no circles, and Snakemake makes what the first needs.
    """
    order = list(dict.fromkeys(node.study for node in graph.nodes.values()))
    needs: dict[str, set[str]] = {study: set() for study in order}
    for node in graph.nodes.values():
        others = [*node.parents, *node.teachers, *filter(None, [node.judge])]
        others += [node.treatment["diagnosis"]] if node.treatment else []
        needs[node.study] |= {graph.nodes[other].study for other in others if other in graph.nodes}
    for between in order:
        for study in order:
            needs[study] |= needs[between] if between in needs[study] else set()

    def rests(study: str, other: str) -> bool:
        circle = study in needs[other]
        return other in needs[study] and (not circle or order.index(other) < order.index(study))

    return {study: [other for other in order if rests(study, other)] for study in order}


def in_git(folder: str) -> bool:
    """Whether Git has files of a folder; outside of Git it has none."""
    listed = subprocess.run(["git", "ls-files", folder], capture_output=True, text=True)
    return listed.returncode == 0 and bool(listed.stdout)


def stored(path: str, cache: bool = True) -> dict:
    """An output as a stage names it."""
    return {path: {"persist": True} | ({} if cache else {"cache": False})}


def options_of(overlays: list[Path]) -> list[str]:
    """Overlays as Snakemake, and this module, are told them."""
    return ["--configfile", *map(os.path.relpath, overlays)] if overlays else []


def command_of(overlays: list[Path]) -> str:
    """What makes the stages of some overlays."""
    return shlex.join(["python", "-m", "steps.graph.dvc", *options_of(overlays)])


def stages_of(overlays: list[Path]) -> tuple[Path, str]:
    """The file of a workload's stages, and its text.

    Args:
        overlays: as after Snakemake's `--configfile`; none means the embedded workload.

    Raises:
        ValueError: its settings are wrong, or its name is taken.
        CalledProcessError: Snakemake could not plan it, and has said why.
    """
    params, paths = workload.load(Path(), overlays)
    graph = Graph(recipes.complete(params))
    name = graph.params["workload"]
    file = file_of(overlays, name)
    if file == Path(FILE):
        overlays = []
    root = os.path.relpath(".", file.parent)
    read = {os.path.relpath(path): workload.read(path) for path in paths}
    options = options_of(overlays)
    folders = {study: f"{graph.results}/{study}" for study in rests_on(graph)}
    behind = rules_behind([*folders, "all"], options)
    own, report, checked = given(graph), f"reports/{name}", f"{graph.results}/stages.txt"

    def stage(target: str, needs: Iterable[str], makes: list[dict]) -> dict:
        listed = {path: sections(behind[target], content) for path, content in read.items()}
        return {
            "cmd": shlex.join(["snakemake", "--cores", "all", target, *options]),
            "wdir": root,
            "deps": [checked, *CODE, *own, *needs],
            "params": [{path: names} for path, names in listed.items() if names],
            "outs": makes,
        }

    stages = {
        CHECK: {
            "cmd": f"{command_of(overlays)} --check {checked}",
            "wdir": root,
            "deps": ["Snakefile", "rules", "steps", *read],
            "outs": [stored(checked)],
        }
    }
    for study, others in rests_on(graph).items():
        stages[study] = stage(study, (folders[other] for other in others), [stored(folders[study])])
    shared = [path for path in made(options) if path.startswith("results/") and path not in folders.values()]
    last = [*map(stored, [*shared, f"benchmarks/{name}"]), stored(report, cache=not in_git(report))]
    stages["report"] = stage("all", folders.values(), last)
    content = {
        "stages": stages,
        "metrics": [os.path.normpath(f"{root}/{report}/headline.json")],
        # Pictures, which DVC shows as they are: where it draws itself, its page fetches a library from the network.
        "plots": [os.path.normpath(f"{root}/{report}/figures")],
    }
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=WIDTH)
    return file, HEAD.format(command=command_of(overlays)) + text


def main(args: argparse.Namespace) -> None:
    file, text = stages_of(args.configfile)
    if args.check and (not file.is_file() or file.read_text(encoding="utf-8") != text):
        again = command_of(args.configfile)
        raise ValueError(f"{file}: its stages are not those of these settings; make them again: {again}")
    write_text(args.check or file, text)
    print(args.check or file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configfile", type=Path, nargs="+", default=[], help="as of Snakemake; none: fable")
    parser.add_argument(
        "--check", type=Path, help="a copy to write if the file is as it would be made; else exit code 2"
    )
    arguments = parser.parse_args()
    try:
        main(arguments)
    except ValueError as error:
        print(f"{ERROR_PREFIX}{error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except subprocess.CalledProcessError as error:
        # Snakemake has said why.
        sys.exit(error.returncode)
