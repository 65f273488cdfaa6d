"""The mistakes of a first hour: each gets one line that says what is wrong, where, and what is allowed or near.

What settings say is read as Snakemake's process reads it, without starting one; the last tests start it.
"""

import errno
import json
import os
import re
import shutil
import types
from pathlib import Path

import pytest
from snakemake.io import regex_from_filepattern

from steps.core.files import write_jsonl
from steps.core.step import told
from steps.evaluation.questions import known_to
from steps.graph import checks, command_line, display, recipes, targets, workload
from steps.graph.graph import Graph
from steps.settings.errors import ELSEWHERE
from steps.settings.names import SPELLED
from steps.settings.params import Params
from steps.stats.intervals import wilson
from tests import small
from tests.workloads import ROOT

SFT = {"stage": "sft", "from": "base", "data": "problems"}
LORA = {"kind": "lora", "r": 4, "alpha": 8}
SOURCE = small.SMALL["data"]["problems"]["sources"][0]


def recipe(**changes) -> dict:
    return {"studies": {"foundation": {"recipes": changes}}}


def source(**changes) -> dict:
    return {"data": {"problems": {"sources": [SOURCE | changes]}}}


def study(name: str) -> dict:
    return {"studies": {name: {"recipes": {"other": SFT}}}}


def task(**changes) -> dict:
    return {"evaluate": {"tasks": {"exam": changes}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a user's folder has: settings, rows, questions, and models in which something is amiss."""
    folder = small.write(tmp_path_factory.mktemp("mistakes"))
    for name in ("tasks", "data", "params.yaml", "workloads"):
        (folder / name).symlink_to(ROOT / name)
    for name, without in {"no_template": "chat_template.jinja", "no_config": "config.json"}.items():
        shutil.copytree(
            ROOT / "data/fable/base", folder / name, ignore=shutil.ignore_patterns("manifest.json", without)
        )
    write_jsonl(folder / "rows/fields.jsonl", [{"question": "1 + 2", "solution": "3"}] * 3)
    (folder / "twice.yaml").write_text("workload: twice\nsft: {epochs: 1}\nsft: {epochs: 2}\n")
    return folder


def line(folder: Path, change: dict, monkeypatch) -> str:
    """What is said of the small workload with a change."""
    monkeypatch.chdir(folder)
    small.write_settings(folder, change)
    with pytest.raises(ValueError) as caught:
        params, _ = workload.load(folder, [Path(small.OVERLAY)])
        checks.check_files(Graph(recipes.complete(params)))
    return " ".join(str(caught.value).split())


def test_without_a_mistake_nothing_is_said(folder, monkeypatch):
    monkeypatch.chdir(folder)
    small.write_settings(folder)
    params, _ = workload.load(folder, [Path(small.OVERLAY)])
    checks.check_files(Graph(recipes.complete(params)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sft": {"learning_rte": 1.0e-3}}, "sft.learning_rte: unknown key; did you mean `learning_rate`?"),
        ({"sftt": {"epochs": 1}}, "sftt: unknown key; did you mean `sft`?"),
        (recipe(sft={"epoch": 1}), "studies.foundation.recipes.sft.epoch: unknown key; did you mean `epochs`?"),
        (
            {"sft": {"learning_rate": "2e-4"}},
            "sft.learning_rate: needs a number, not '2e-4'; YAML reads that as text, write 2.0e-4",
        ),
        ({"sft": {"packing": "yes please"}}, "sft.packing: needs true or false, not 'yes please'"),
        ({"sft": {"packing": "True"}}, "sft.packing: needs true or false, not 'True'; write true without quotes"),
        ({"evaluate": {"target": "exam"}}, "evaluate.target: needs a list, not 'exam'; write [exam]"),
        (
            {"data": {"problems": {"sources": ["rows/sums.jsonl"]}}},
            "data.problems.sources[0]: needs a mapping, not 'rows/sums.jsonl'; write {<key>: <value>}",
        ),
        (
            {"studies": {"mine": SFT}},
            "studies.mine.stage: unknown key; known keys: geometry, explore, detect, recipes",
        ),
        (recipe(sft={"lr": 1.0e-3}), "studies.foundation.recipes.sft.lr: unknown key; did you mean `learning_rate`?"),
        ({"sft": {"cutoff_len": 512}}, "sft.cutoff_len: unknown key; did you mean `max_length`?"),
        (
            recipe(lora={"adapter": {"kind": "lora", "lora_rank": 8, "alpha": 16}}),
            "studies.foundation.recipes.lora.adapter.lora_rank: unknown key; did you mean `r`?",
        ),
        (
            recipe(rl={"stage": "opd", "from": "base", "data": "problems"}),
            "studies.foundation.recipes.rl: stage opd needs `teachers`, the recipes or models it learns from; add it",
        ),
        (
            recipe(more={"from": "base", "data": "problems"}),
            "studies.foundation.recipes.more: the key `stage` is missing",
        ),
        ({"sft": {"epochs": None}}, "sft.epochs: needs a number, not null"),
        ({"sft": {"learning_rate": -1.0e-3}}, "sft.learning_rate: -0.001 must be above 0"),
        ({"split": {"valid_share": 1.5}}, "split.valid_share: 1.5 must be below 1"),
        ({"seeds": []}, "seeds: has 0 entries and needs at least 1; add what is missing"),
        (study("evaluate"), "studies.evaluate: a results folder or rule has that name; rename the study"),
        (study("all"), "studies.all: a results folder or rule has that name; rename the study"),
        (
            study("my-study"),
            "studies.my-study: 'my-study' does not match what is allowed: letters, digits and _, at most 64, the"
            " first no _",
        ),
        (
            {"workload": "My runs"},
            "workload: 'My runs' does not match what is allowed: small letters, digits, _, . and -, at most 64,"
            " the first"
            " a letter or digit",
        ),
        (
            {"models": {"base": {"path": "Qwen/Qwen3-0.6B", "revision": "main"}}},
            "models.base.revision: 'main' does not match what is allowed: a commit, 7 to 40 hex digits; copy it"
            " from the"
            " repository's history",
        ),
        (
            recipe(sft={"from": "bas"}),
            "studies.foundation.recipes.sft.from: no recipe or model `bas`; did you mean `base`?",
        ),
        (
            recipe(sft={"from": "lora"}, lora={"from": "sft"}),
            "studies.foundation.recipes.lora.from: the recipes form a cycle, sft -> lora -> sft; start one of"
            " them from a"
            " model",
        ),
        (
            recipe(sft={"data": "problem"}),
            "studies.foundation.recipes.sft.data: no entry `problem` in data; did you mean `problems`?",
        ),
        (recipe(sft={"stage": "stf"}), "studies.foundation.recipes.sft.stage: 'stf' is none of: sft, cpt, rl, "),
        (
            recipe(lora={"adapter": LORA | {"kind": "lroa"}}),
            "studies.foundation.recipes.lora.adapter.kind: 'lroa' is none of: adalora, boft, ",
        ),
        (
            recipe(lora={"adapter": LORA | {"target_modules": ["q_prj"]}}),
            "studies.foundation.recipes.lora.adapter.target_modules: q_prj is no linear layer of the model's"
            " blocks, which"
            " are down_proj, ",
        ),
        (
            recipe(both={"method": "liner"}),
            "studies.foundation.recipes.both.method: 'liner' is none of: linear, slerp, ",
        ),
        (
            recipe(rl={"stage": "rl", "from": "base", "data": "problems", "method": "gpro"}),
            "studies.foundation.recipes.rl.method: 'gpro' is none of: grpo, ",
        ),
        (
            {"models": {"base": {"path": "Qwen/Qwen3-0.6B"}}},
            "models.base.path: there is no folder Qwen/Qwen3-0.6B; a hub id needs `revision:` beside it, a commit",
        ),
        ({"models": {"base": {"path": "no_config"}}}, "models.base.path: no_config/config.json is missing: "),
        (
            {"models": {"base": {"path": "no_template"}}},
            "models.base: no_template has no chat template, by which rows become text; set"
            " models.base.chat_template, or"
            " give the folder a chat_template.jinja",
        ),
        (
            source(path="rows/sum.jsonl"),
            "data.problems.sources[0].path: there is no file rows/sum.jsonl; did you mean rows/sums.jsonl?",
        ),
        (
            source(path="~/rows.jsonl"),
            "data.problems.sources[0].path: '~/rows.jsonl' begins with ~, which only a shell reads; write the folder",
        ),
        (source(path="gone.jsonl"), "data.problems.sources[0].path: there is no file gone.jsonl; correct the path"),
        (
            source(format="promptresponse"),
            "data.problems.sources[0].format: 'promptresponse' is none of: auto, messages, ",
        ),
        (
            source(columns={"promt": "q"}),
            "data.problems.sources[0].columns: format prompt_response has no field 'promt'; did you mean `prompt`?",
        ),
        (
            source(columns={"level": "level"}),
            "data.problems.sources[0].columns: format prompt_response has no field 'level'; did you mean `label`? (a"
            " field that rewards read stands under `keep`)",
        ),
        (
            recipe(rl={"stage": "rl", "from": "base", "data": "problems", "rewards": ["answer"]}),
            "studies.foundation.recipes.rl.rewards: needs a mapping, not ['answer']",
        ),
        ({"rl": {"max_steps": 9}}, "rl.max_steps: unknown key; did you mean `steps`?"),
        ({"rl": {"kl_loss_coef": 0.1}}, "rl.kl_loss_coef: unknown key; did you mean `kl`?"),
        ({"evaluate": {"target": ["exm"]}}, "evaluate.target: no task `exm` is described; did you mean `exam`?"),
        (
            {"evaluate": {"general": ["quiz", "exams"]}},
            "evaluate.tasks.exams: has no rows; did you mean `exam`?",
        ),
        (
            {"evaluate": {"general": ["quiz", "bbh"]}},
            "evaluate.tasks.bbh: has no rows; describe it with data_files: {test: <file>}",
        ),
        (
            task(stock="wrked"),
            "evaluate.tasks.exam.stock: 'wrked' names 0 files of tasks/ and of lm-eval's tasks; did you",
        ),
        (
            task(data_files={"test": "rows/exams.jsonl"}),
            "evaluate.tasks.exam.data_files.test: there is no file rows/exams.jsonl; did you mean rows/exam.jsonl?",
        ),
        (
            task(data_files={"test": "rows/fields.jsonl"}),
            "rows/fields.jsonl, line 1: has no 'prompt', which evaluate.tasks.exam: tasks/worked.yaml reads"
            " (doc_to_text);"
            " it has question, solution; add the field, rename another one, or name it by `overrides`",
        ),
        ({"extends": "gone.yaml"}, "extends: there is no file "),
        (
            {"sft": {"max_length": 99999}},
            "studies.foundation.recipes.sft.max_length: 99999 is above the 1024 positions of the model; lower it"
            " to 1024",
        ),
    ],
)
def test_a_wrong_setting_is_one_line(folder, monkeypatch, change, words):
    said = line(folder, change, monkeypatch)
    assert said.startswith(words), said
    assert "^" not in said and len(said) < 600


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def rewrad(a, b, c): return 1", "reward.function: mine.py has no function reward; did you mean `rewrad`?"),
        ("class Mine:\n    def reward(self, a, b, c): return 1", "reward.function: mine.py has no function reward"),
        ("def reward(a, b, c) return 1", "reward.file: mine.py is no Python (line 1: "),
        ("def reward(a, b, c, *, lvl): return 1", "reward.function: reward of mine.py cannot be called (missing a"),
        (
            "def reward(completions, **kwargs): return 1",
            "reward.function: reward of mine.py cannot be called (too many",
        ),
        ("def reward(a, b, c, *, level, more=1): return 1", None),
        ("def reward(data_source, solution_str, ground_truth, extra_info=None): return 1", None),
        ("from other import *", None),
        ("reward = lambda a, b, c: 1", None),
        ("try:\n    import x\nexcept ImportError:\n    def reward(a, b, c): return 1", None),
    ],
)
def test_a_reward_that_cannot_be_called(folder, monkeypatch, source, words):
    (folder / "mine.py").write_text(source)
    custom = {"kind": "custom", "weight": 1.0, "file": "mine.py", "function": "reward"}
    rl = {"stage": "rl", "from": "base", "data": "problems", "rewards": {"reward": custom}}
    change = recipe(rl=rl | {"success": {"reward": "reward", "least": 0.5}})
    change |= {"data": {"problems": {"sources": [SOURCE | {"keep": ["level"]}]}}}
    # What is said next.
    change |= {"evaluate": {"tasks": {"exam": {"stock": "wrked"}}}}
    said = line(folder, change, monkeypatch)
    expected = f"studies.foundation.recipes.rl.rewards.{words}" if words else "evaluate.tasks.exam.stock"
    assert said.startswith(expected), said


def test_a_key_that_stands_twice(folder):
    with pytest.raises(ValueError, match=r"twice.yaml:3:1: the key 'sft' stands in line 2 already"):
        workload.load(folder, [folder / "twice.yaml"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "small.yaml has no sections; write `<section>: {<key>: <value>}`"),
        ("- a\n- b\n", "small.yaml has no sections; write `<section>: {<key>: <value>}`"),
        ("workload: x\ndata:\n\tproblems: 3\n", "small.yaml:3:1: a tab is no indentation in YAML; write spaces"),
        ("workload: x\ndata: {a: [1, 2\n", "small.yaml:3:1: is no YAML: did not find expected ',' or ']'"),
    ],
)
def test_a_file_that_is_no_overlay(folder, monkeypatch, text, words):
    monkeypatch.chdir(folder)
    Path(small.OVERLAY).write_text(text)
    with pytest.raises(ValueError) as caught:
        workload.load(folder, [Path(small.OVERLAY)])
    assert str(caught.value).startswith(words), caught.value


def test_every_word_of_elsewhere_leads_to_a_key_that_there_is():
    schema = json.dumps(Params.model_json_schema())
    assert all(f'"{key}": {{' in schema for keys in ELSEWHERE.values() for key in keys)


def test_every_pattern_of_a_setting_has_words():
    found = re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', json.dumps(Params.model_json_schema()))
    assert len(found) > 5 and {*map(json.loads, found)} <= SPELLED.keys()


# --- the command line -----------------------------------------------------------------------------


def refused(capsys, check, *arguments) -> str:
    with pytest.raises(SystemExit) as caught:
        check(*arguments)
    assert caught.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    return said.removeprefix("temper: error: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--configfile", "small.yaml", "foundation"],
            "--configfile: foundation is a target and no file of settings, as all that follows the option must"
            " be; write"
            " snakemake foundation --configfile small.yaml",
        ),
        (["--configfile", "smal.yaml"], "--configfile: there is no file smal.yaml; did you mean small.yaml?"),
        (["--configfile", "gone/other.yaml"], "--configfile: there is no file gone/other.yaml; correct the path"),
        (
            ["--config", "sft.adapter.r=8"],
            "--config: sft.adapter.r is no section or key of the settings; write 'sft={adapter: {r: 8}}'",
        ),
        (["--config", "workload=mine", "foundation"], "--config: foundation is no <key>=<value>, as all that follows "),
    ],
)
def test_what_follows_an_option_and_is_none_of_it(folder, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(folder)
    small.write_settings(folder)
    assert refused(capsys, command_line.check, arguments).startswith(words)


class Made(str):
    """A pattern of a rule's results, as Snakemake matches it."""

    def match(self, file: str) -> re.Match | None:
        return re.fullmatch(regex_from_filepattern(self), file)


def rule(name: str, *patterns: str) -> types.SimpleNamespace:
    made = [Made(pattern) for pattern in patterns]
    many = any("{" in pattern for pattern in patterns)
    return types.SimpleNamespace(name=name, has_wildcards=lambda: many, products=lambda: made)


RULES = [
    *(rule(name) for name in ("all", "foundation", "preflight")),
    rule("sft", "results/{workload}/{study}/{node,sft|lora}/manifest.json"),
    rule("evaluate", "results/{workload}/evaluation/{name}/manifest.json"),
    rule("download", "results/{workload}/download/{kind}/{name}/manifest.json"),
    rule("report", "reports/{workload}/index.html", "reports/{workload}/tables"),
]


@pytest.fixture
def graph(folder, monkeypatch):
    monkeypatch.chdir(folder)
    small.write_settings(folder)
    return Graph(recipes.complete(workload.load(folder, [Path(small.OVERLAY)])[0]))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("foundaton", "foundaton: is no target; did you mean `foundation`?"),
        ("preflght", "preflght: is no target; did you mean `preflight`?"),
        ("xyz", "xyz: is no target; it has: all, foundation, preflight"),
        (
            "small.yaml",
            "small.yaml: is a file of settings and no target; write --configfile small.yaml, after the targets",
        ),
        (
            "evaluate",
            "evaluate: is a rule that makes many results; name a study, another target or one file; it has: all,",
        ),
        (
            "lora",
            "lora: is a recipe; name its study, or its checkpoint: results/small/foundation/lora/manifest.json",
        ),
        (
            "results/small/fondation/sft/manifest.json",
            "results/small/fondation/sft/manifest.json: is no target; did you mean"
            " `results/small/foundation/sft/manifest.json`?",
        ),
        ("results/smal/foundation/sft", "results/smal/foundation/sft: is no target; did you mean `results/small/"),
        ("results/small/evaluation/lara/manifest.json", "results/small/evaluation/lara/manifest.json: is no target;"),
        ("reports/smal/index.html", "reports/smal/index.html: is no target; did you mean `reports/small/index.html`?"),
        (
            "rows/sums.jsonl",
            "rows/sums.jsonl: is no target; results are named as results/small/<study>/<recipe>/manifest.json and"
            " reports/small/index.html, of the studies foundation",
        ),
        (
            "arena",
            "arena: is no target of the workload small; it is one of workloads/fable.yaml: write snakemake arena"
            " --configfile workloads/fable.yaml",
        ),
        (
            "results/gsm8k/base/sft",
            "results/gsm8k/base/sft: is no target of the workload small; it is one of workloads/gsm8k.yaml",
        ),
    ],
)
def test_what_is_no_target(graph, target, words):
    with pytest.raises(ValueError) as caught:
        targets.check_target(target, RULES, graph)
    assert str(caught.value).startswith(words), caught.value


@pytest.mark.parametrize(
    "target",
    [
        "all",
        "foundation",
        "results/small/foundation/sft/manifest.json",
        "results/small/evaluation/base/manifest.json",
        "results/small/download/models/base/manifest.json",
        "reports/small/tables",
    ],
)
def test_what_is_a_target_passes(graph, target):
    targets.check_target(target, RULES, graph)


def test_a_name_that_an_option_takes(graph, capsys):
    def asked(**named) -> types.SimpleNamespace:
        return types.SimpleNamespace(**{"targets": [], "forcerun": None, "until": None, "omit_from": []} | named)

    workflow = types.SimpleNamespace(rules=RULES)
    for named, words in (
        ({"forcerun": ["evalute"]}, "--forcerun: evalute is no rule; did you mean `evaluate`?"),
        ({"until": ["foundaton"]}, "--until: foundaton is no rule; did you mean `foundation`?"),
        ({"targets": ["al"]}, "al: is no target; did you mean `all`?"),
    ):
        assert refused(capsys, targets.check, workflow, graph, asked(**named)).startswith(words)
    targets.check(workflow, graph, asked(targets=["all"], forcerun=["evaluate"], until=["sft"]))


# --- too few --------------------------------------------------------------------------------------


def test_few_questions_are_said_before_the_first_job(folder, monkeypatch):
    monkeypatch.chdir(folder)
    small.write_settings(folder, {"evaluate": {"limit": None}})
    params, _ = workload.load(folder, [Path(small.OVERLAY)])
    (target, general) = checks.check_files(Graph(recipes.complete(params)))
    assert target.startswith("evaluate.target: 6 questions are few: a score of 50 % may be off by 31 points; ")
    assert general.startswith("evaluate.general: 6 questions")
    # Files that are not here yet, and an axis that nobody asks, are not judged.
    graph = Graph(recipes.complete(params))
    assert checks.remarks(graph, {"quiz": 100}) == []
    (line,) = checks.remarks(graph, {"exam": 99, "quiz": 100})
    graph.params["evaluate"]["limit"] = 10
    assert "10 questions (evaluate.limit)" in checks.remarks(graph, {"exam": 99})[0]


@pytest.mark.parametrize("questions", [1, 6, 100, 400])
def test_what_a_score_is_known_to_is_half_of_wilsons_interval(questions):
    low, high = wilson(0.5, questions)
    assert known_to(questions) == pytest.approx(100 * (high - low) / 2, rel=1e-4)


# --- while it runs --------------------------------------------------------------------------------


def test_a_full_disk():
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "results/w/sft/model.safetensors")
    assert told(error).endswith("'results/w/sft/model.safetensors'; the disk is full: make room and run again")


def test_ctrl_c(tmp_path):
    log = tmp_path / "sft.log"
    log.write_text("told to end: the state after step 69 of 188 is saved; start again to go on\n")
    said = display.failure("sft sft", [log], [])
    assert said == ["sft sft: the state after step 69 of 188 is saved; the same command goes on"]
