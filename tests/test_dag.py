"""Where files lie, which files are a step's code, and locks that outlive their run."""

import ast
import fcntl
import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml

from steps import dag, recipes

ROOT = Path(__file__).parent.parent


# --- code -----------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path):
    files = {
        "__init__.py": "",
        "a.py": "from steps.b import thing\nimport json, steps.c\n",
        "b.py": "def thing():\n    from steps import d\n",
        "c.py": "from steps.a import x\n",
        "d.py": "import os\n",
        "alone.py": "import torch\n",
    }
    (tmp_path / "steps").mkdir()
    for name, text in files.items():
        (tmp_path / "steps" / name).write_text(text)
    return tmp_path


def test_code_is_the_module_and_all_it_imports_even_in_functions_and_circles(package):
    expected = [f"steps/{name}.py" for name in ("__init__", "a", "b", "c", "d")]
    assert dag.code_files("steps.a", package) == expected
    assert dag.code_files("steps.alone", package) == ["steps/__init__.py", "steps/alone.py"]


def test_every_import_of_the_package_is_found():
    """Against Python's own parser: the imports are read without it, for speed."""
    for file in sorted(ROOT.glob("steps/*.py")):
        text, named = file.read_text(), set()
        for statement in ast.walk(ast.parse(text)):
            if isinstance(statement, ast.Import):
                named |= {alias.name for alias in statement.names}
            if isinstance(statement, ast.ImportFrom):
                named |= {statement.module, *(f"{statement.module}.{alias.name}" for alias in statement.names)}
        assert {name for name in named if name.split(".")[0] == "steps"} <= set(dag._imports(file, text)), file


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import json, steps.c as c", {"steps.c"}),
        ("from steps.a import (\n    b,  # why\n    c as d,\n)", {"steps.a", "steps.a.b", "steps.a.c"}),
        ("def f():\n    from steps import a", {"steps", "steps.a"}),
        ("from stepsister import steps\nimport stepsister", set()),
    ],
)
def test_forms_of_an_import(text, names):
    found = dag._imports(Path("x.py"), text)
    assert names <= set(found) and all(name.split(".")[0] == "steps" for name in found)
    assert names or not found


def test_a_relative_import_is_refused():
    with pytest.raises(AssertionError, match="x.py: write imports of steps in full"):
        dag._imports(Path("x.py"), "from .a import b")


def test_a_step_that_is_not_there_is_not_a_step_without_code(package):
    with pytest.raises(AssertionError, match="steps.gone: there is no such step"):
        dag.code_files("steps.gone", package)


def test_code_of_a_real_step_is_what_python_loads(tmp_path):
    """Against the interpreter itself: import the module and see which of the package it has loaded."""
    import subprocess
    import sys

    for module in ("steps.ingest", "steps.report", "steps.evaluate"):
        script = f"import sys, {module}; print(*sorted(m for m in sys.modules if m.split('.')[0] == 'steps'))"
        loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        listed = {
            file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
            for file in dag.code_files(module, ROOT)
        }
        assert set(loaded.stdout.split()) <= listed


# --- locks ----------------------------------------------------------------------------------------


def test_locks_of_a_killed_run_are_dropped(tmp_path):
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks/0.output.lock").write_text("results/x")
    with dag.join_runs(tmp_path):
        assert not (tmp_path / "locks").exists()


def test_locks_of_a_living_run_stay(tmp_path):
    with dag.join_runs(tmp_path):
        (tmp_path / "locks").mkdir()
        (tmp_path / "locks/0.output.lock").write_text("results/x")
        with dag.join_runs(tmp_path):
            assert (tmp_path / "locks/0.output.lock").exists()
    with dag.join_runs(tmp_path):
        assert not (tmp_path / "locks").exists()


def test_a_step_waits_for_another_that_makes_the_same_output(tmp_path):
    from steps.common import alone

    with alone(tmp_path / "out"), open(tmp_path / ".out.lock") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open(tmp_path / ".out.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


# --- files behind the graph -------------------------------------------------------------------------


@pytest.fixture
def graph(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    schema = yaml.safe_load((ROOT / "schemas/params.schema.yaml").read_text())
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["models"] = {
        "base": {"path": "base"},
        "hub": {"path": "owner/name", "revision": "0" * 40},
        "unused": {"path": "gone"},
    }
    params["studies"] = {
        "one": {
            "recipes": {
                "a": {"stage": "sft", "from": "base", "data": "problems"},
                "lora": {"stage": "sft", "from": "a", "data": "problems"},
            }
        },
        "two": {"recipes": {"m": {"stage": "merge", "from": ["hub", "a"]}}},
    }
    params["forecast"]["axes"] = {}
    Path("base").mkdir()
    Path("base/config.json").touch()
    Path("base/model.safetensors").touch()

    def build(change=None):
        for section, value in (change or {}).items():
            params[section] = value
        return dag.Graph(recipes.complete(params, schema), schema)

    return build


def test_folders_and_edges(graph):
    made = graph()
    assert made.folder("a") == "results/fable/one/a"
    assert made.folder("hub") == "results/fable/download/models/hub"
    assert made.edges("m") == ["results/fable/two/m/manifest.json"]
    assert made.edges("hub") == ["results/fable/download/models/hub/manifest.json"]
    assert made.edges("base") == ["base/config.json", "base/model.safetensors"]
    Path("base/manifest.json").touch()
    assert made.edges("base") == ["base/manifest.json"]


def test_a_study_measures_its_nodes_and_the_models_they_descend_from(graph):
    made = graph()
    assert made.measured("one") == ["base", "a", "lora"]
    assert made.measured("two") == ["hub", "base", "m"]
    assert set(made.measured()) == {"base", "hub", "a", "lora", "m"}
    assert made.ancestors("m") == ["m", "hub", "a", "base"]


def test_questions_exclude_the_few_shot_examples_but_depend_on_them(graph):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())["evaluate"]
    Path("train.jsonl").touch()
    Path("test.jsonl").touch()
    files = {"train": "train.jsonl", "test": "test.jsonl"}
    params |= {
        "target": ["real"],
        "harder": [],
        "general": ["fable_facts"],
        "dev": [],
        "tasks": {"real": {"data_files": files}},
        "sampling": params["sampling"] | {"tasks": ["real"]},
    }
    made = graph({"evaluate": params})
    assert made.evaluation_files() == ["test.jsonl", "results/fable/world/eval/fable_facts.jsonl"]
    assert made.evaluation_edges() == ["test.jsonl", "results/fable/world/manifest.json", "train.jsonl"]
    made.check_files()


def test_what_a_path_is_chosen_on_is_kept_out_of_the_training_rows(graph):
    paths = {
        "p": {"stage": "interpolate", "from": ["base", "hub"], "target": ["mine_dev"], "general": ["fable_facts_dev"]}
    }
    before, made = graph(), graph({"studies": {"two": {"recipes": paths}}})
    new = ["results/fable/world/eval/mine_dev.jsonl", "results/fable/world/eval/fable_facts_dev.jsonl"]
    assert made.evaluation_files() == before.evaluation_files() + new


def test_geometry_is_of_the_studies_that_ask_for_it(graph):
    recipe = {"stage": "sft", "from": "base", "data": "problems"}
    studies = {"one": {"geometry": True, "recipes": {"a": recipe}}, "two": {"recipes": {"b": recipe}}}
    made = graph({"studies": studies})
    assert (made.moved(), made.moved("one"), made.moved("two")) == (["a"], ["a"], [])
    assert made.describe()["graph"]["geometry"] == ["a"]


def test_what_is_practised_is_gated_and_explored_with_its_start(graph):
    mine = {"kind": "custom", "weight": 1.0, "file": "mine.py", "function": "reward"}
    answer = {"kind": "answer", "weight": 1.0, "equivalence": "numeric"}
    preferred = {"kind": "preference", "weight": 0.1, "model": "judge"}
    Path("mine.py").touch()
    made = graph(
        {
            "studies": {
                "one": {"recipes": {"a": {"stage": "sft", "from": "base", "data": "problems"}}},
                "two": {
                    "explore": True,
                    "recipes": {
                        # Declared before what it needs.
                        "practised": {
                            "stage": "rl",
                            "from": "a",
                            "data": "exercises",
                            "rewards": {"answer": answer, "mine": mine, "preferred": preferred},
                        },
                        "judge": {"stage": "reward", "from": "base", "data": "preferences"},
                    },
                },
            }
        }
    )
    assert list(made.nodes) == ["a", "judge", "practised"]
    assert made.nodes["practised"].judge == "judge"
    assert made.explored() == made.explored("two") == ["a", "practised"]
    assert made.explored("one") == []
    assert made.gated() == ["practised"] and made.gated("one") == []
    assert made.difficulty("practised") == "results/fable/difficulty/exercises/a"
    assert made.custom_rewards("practised") == ["mine.py"]
    assert made.measured("two") == ["base", "practised"], "a reward model writes nothing that could be measured"
    assert made.bucketed() == ["problems"]
    assert "results/fable/world/eval/fable_reworded.jsonl" in made.evaluation_files()


OPD = {"stage": "opd", "from": "a", "data": "exercises", "teachers": ["t"]}
BOTH = {"data": ["exercises", "practice"], "teachers": {"exercises": "t", "practice": "hub"}}


@pytest.fixture
def taught(graph):
    """A study of students, with what they start and learn from in another."""

    def build(*left_out, **more):
        sft = {"stage": "sft", "from": "base", "data": "problems"}
        students = {
            "cold": OPD | {"stage": "distill", "from": "base"},
            "plain": OPD,
            "again": OPD,
            "both": OPD | BOTH,
            "mixed": OPD | {"data": BOTH["data"], "teachers": ["t", "hub"]},
            "half": OPD | BOTH | {"off_policy": 0.5},
            "joint": OPD | BOTH | {"stage": "distill", "objective": "forward_kl"},
            "ordered": OPD | BOTH | {"curriculum": "easy_to_hard"},
            "chosen": OPD | {"pass_rate": {"above": 0.0, "below": 1.0}},
        }
        students = {name: recipe for name, recipe in (students | more).items() if name not in left_out}
        one = {"recipes": {"a": sft, "t": {"stage": "rl", "from": "a", "data": "exercises"}}}
        return graph({"studies": {"one": one, "two": {"recipes": students}}})

    return build


def test_students_are_measured_with_the_models_that_teach_them(taught):
    assert taught().measured("two")[:2] == ["base", "hub"]
    assert "hub" not in taught("both", "mixed", "half", "joint", "ordered").measured()
    assert taught().ancestors("both") == ["both", "a", "base"], "a checkpoint needs no teacher to be read"


def test_what_teachers_write_for_whom(taught):
    made = taught()
    assert made.pairs("mixed") == [("exercises", "t"), ("exercises", "hub"), ("practice", "t"), ("practice", "hub")]
    assert made.pairs("a") == []
    written = [("exercises", "t"), ("practice", "hub")]
    assert made.generations() == made.generations("half") == made.generations("joint") == written
    assert made.generations("cold") == [("exercises", "t")]
    assert made.generations("both") == made.generations("a") == []
    assert made.cached() == made.cached("joint") == written
    assert made.cached("cold") == made.cached("half") == []
    assert taught("joint").cached() == []
    assert taught("cold", "joint", "half").generations() == []
    assert made.generation("practice", "hub") == "results/fable/generate/practice/hub"
    assert made.logprobs("practice", "hub") == "results/fable/logprobs/practice/hub"


def test_each_pair_of_student_and_teacher_is_told_of_once(taught):
    made = taught("mixed", more=OPD | {"from": "cold"})
    expected = [("exercises", "a", "t"), ("practice", "a", "hub"), ("exercises", "cold", "t")]
    assert made.forecasts() == made.forecasts("two") == expected
    assert made.forecasts("one") == []
    told = made.describe()["graph"]
    assert told["forecasts"][2] == {
        "data": "exercises", "student": "cold", "teacher": "t", "folder": "results/fable/forecast/exercises/cold/t",
    }  # fmt: skip
    assert told["generations"] == [
        {"data": "exercises", "teacher": "t", "folder": "results/fable/generate/exercises/t"},
        {"data": "practice", "teacher": "hub", "folder": "results/fable/generate/practice/hub"},
    ]
    both = next(node for node in told["nodes"] if node["name"] == "both")
    assert (both["teachers"], both["data"]) == (["t", "hub"], "exercises")
    assert both["sources"][1] == {"data": "practice", "share": 0.5, "teachers": [1]}
    assert json.loads(json.dumps(told)) == told, "as the report is told it"


def test_prompts_have_pass_rates_where_a_recipe_asks_for_them(taught):
    made = taught()
    plain, rated = "results/fable/data/{}/split/train.jsonl", "results/fable/difficulty/{}/a/train.jsonl"
    assert made.prompt_rows("both") == [plain.format("exercises"), plain.format("practice")]
    assert made.prompt_rows("ordered") == [rated.format("exercises"), rated.format("practice")]
    assert made.prompt_rows("chosen") == [rated.format("exercises")]
    assert made.used_data() == ["problems", "exercises", "practice"]
    assert made.bucketed() == ["problems"], "what a teacher answers has no difficulty for the base"


def test_a_teacher_of_another_language_is_one_line_before_any_job(graph):
    def vocabulary(folder, tokens):
        Path(folder).mkdir(exist_ok=True)
        model = {"vocab": {token: i for i, token in enumerate(tokens)}}
        Path(folder, "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": []}))
        Path(folder, "chat_template.jinja").write_text("{{ messages }}")
        for name in ("config.json", "model.safetensors"):
            Path(folder, name).touch()

    vocabulary("base", ["a", "b"])
    vocabulary("gone", ["a", "c"])
    sft = {"stage": "sft", "from": "base", "data": "problems"}
    other = {"t": sft | {"from": "unused"}}

    def check(**recipe):
        # Of the same model as its student, as a teacher that is not here, and as one that speaks another language.
        lines = {"a": sft, "same": OPD | {"teachers": ["base"]}, "far": OPD | {"teachers": ["hub"]}, **other}
        graph({"studies": {"one": {"recipes": lines | recipe}}}).check_files()

    check(rows=OPD | {"stage": "distill"})
    for wrong in (OPD, OPD | {"stage": "distill", "objective": "forward_kl"}):
        with pytest.raises(
            ValueError, match=r"^studies\.one\.recipes\.s\.teachers: the vocabularies of base"
        ) as caught:
            check(s=wrong)
        assert "\n" not in str(caught.value)
    vocabulary("gone", ["a", "b"])
    check(s=OPD)


def test_an_adapter_setting_that_the_model_has_no_use_for_is_one_line_before_any_job(graph):
    import torch
    from safetensors.torch import save_file

    save_file({"model.layers.0.self_attn.q_proj.weight": torch.zeros(24, 16)}, "base/model.safetensors")
    adapter = {"kind": "lora", "r": 4, "alpha": 8, "target_modules": ["q_proj", "qproj"]}
    recipe = {"stage": "sft", "from": "base", "data": "problems", "adapter": adapter}
    with pytest.raises(ValueError, match=r"^studies\.one\.recipes\.a\.adapter\.target_modules.*qproj") as caught:
        graph({"studies": {"one": {"recipes": {"a": recipe}}}}).check_files()
    assert "\n" not in str(caught.value)
    recipe["adapter"] = adapter | {"target_modules": ["q_proj"]}
    graph({"studies": {"one": {"recipes": {"a": recipe}}}}).check_adapters()


def test_sources_lie_where_the_download_puts_them(graph):
    made = graph({
        "data": {
            "problems": {"sources": [
                {"path": "o/n/data/x.parquet", "revision": "0" * 40, "sha256": "0" * 64, "format": "messages"}
            ]},
        }
    })  # fmt: skip
    assert made.sources("problems") == [
        {"path": "results/fable/download/data/problems/o/n/data/x.parquet", "format": "messages"}
    ]
    assert made.source_edges("problems") == ["results/fable/download/data/problems/manifest.json"]
    assert not made.from_world("problems", "")


LESSON = {"stage": "sft", "data": "lessons"}
TREATED = {"diagnosis": "plain", "treats": ["data_conflict"]}


@pytest.fixture
def learning(graph):
    """A study that examines rows, with every way of passing treated rows on."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    recipes_of_the_study = {
        "plain": LESSON | {"from": "base", "trajectory": 4},
        "cure": {"stage": "cpt", "from": "plain", "diagnosis": "plain", "treats": ["missing_knowledge"]},
        "fresh": LESSON | {"from": "cure"},
        "cleaned": LESSON | TREATED | {"from": "cure"},
        "longer": LESSON | {"from": "cleaned"},
        "few": LESSON | {"from": "longer", "diagnosis": "plain", "treats": ["insufficient_optimisation"]},
        "other": {"stage": "sft", "from": "few", "data": "problems"},
        "mixed": {"stage": "merge", "from": ["few", "plain"]},
    }
    foundation = {"recipes": {"sft": {"stage": "sft", "from": "base", "data": "problems"}}}

    def build(change=None):
        studies = {"foundation": foundation, "learning": {"detect": "lessons", "recipes": recipes_of_the_study}}
        return graph({"world": params["world"], "studies": studies, **(change or {})})

    return build


def test_treated_rows_are_passed_on_to_children_on_the_same_data(learning):
    made = learning()
    lessons, problems = (f"results/fable/data/{name}/bucket/train.jsonl" for name in ("lessons", "problems"))
    cleaned, few = (f"results/fable/treat/{name}/train.jsonl" for name in ("cleaned", "few"))
    rows = {name: made.train_rows(name) for name in made.detected()}
    assert rows == {
        "plain": lessons, "fresh": lessons, "cleaned": cleaned, "longer": cleaned, "few": few, "other": problems,
    }  # fmt: skip
    assert [made.input_rows(name) for name in ("cleaned", "longer", "few")] == [lessons, cleaned, cleaned]
    relabelled = {name for name in made.nodes if made.relabelled(name)}
    assert relabelled == {"cleaned", "longer", "few", "other", "mixed"}
    assert {made.relabelled(name) for name in relabelled} == {"results/fable/treat/cleaned/relabelled.jsonl"}


def test_what_is_examined_and_why_it_was_not_learned(learning):
    made = learning()
    examined = ["plain", "fresh", "cleaned", "longer", "few", "other"]
    assert (made.detected(), made.detected("foundation"), made.detected("learning")) == (examined, [], examined)
    assert (made.diagnosed(), made.scored()) == (["plain"], examined)
    assert {made.examined(name) for name in examined} == {"lessons"}
    assert {made.root(name) for name in [*made.nodes, "base"]} == {"base"}
    assert made.used_data() == ["problems", "lessons"]
    told = made.describe()["graph"]
    assert (told["detect"], told["detected"], told["diagnosed"]) == ({"learning": "lessons"}, examined, ["plain"])
    own = {"lessons": {"sources": [{"path": "mine.json", "format": "alpaca"}]}}
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert learning({"data": params["data"] | own}).scored() == []


def test_an_examined_data_set_is_used_even_if_nothing_trains_on_it(graph):
    one = {"detect": "lessons", "recipes": {"a": {"stage": "sft", "from": "base", "data": "problems"}}}
    assert graph({"studies": {"one": one}}).used_data() == ["problems", "lessons"]


def test_documents_must_be_there_for_what_reads_them_only(learning):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, key in (("mixture", "general"), ("mixture", "library"), ("evidence", "library")):
        change = {section: params[section] | {key: ["mine.jsonl"]}}
        with pytest.raises(ValueError, match=re.escape(f"{section}.{key}: there is no file mine.jsonl")):
            learning(change).check_files()
        plain = {"recipes": {"a": {"stage": "sft", "from": "base", "data": "problems"}}}
        learning(change | {"studies": {"one": plain}}).check_files()
        Path("mine.jsonl").touch()
        learning(change).check_files()
        Path("mine.jsonl").unlink()


@pytest.mark.parametrize(
    "break_it, parts",
    [
        (lambda: Path("base/model.safetensors").unlink(), ["models.base.path", "base", "safetensors"]),
        (lambda: Path("base").rename("elsewhere"), ["models.base.path", "no folder base", "revision"]),
    ],
)
def test_a_missing_model_is_one_line(graph, break_it, parts):
    break_it()
    with pytest.raises(ValueError) as caught:
        graph().check_files()
    assert all(part in str(caught.value) for part in parts) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"models": {"base": {"path": "base"}, "hub": {"path": "name", "revision": "0" * 40}}},
            "models.hub.path: name is no hub id; write owner/name",
        ),
        (
            {"data": {"problems": {"sources": [{"path": "o/n", "revision": "0" * 40, "format": "alpaca"}]}}},
            "data.problems.sources[0].path: o/n names no file; write owner/name/file",
        ),
    ],
)
def test_a_path_that_the_hub_cannot_have_is_one_line(graph, change, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        graph(change).check_files()


def test_a_missing_data_file_is_one_line(graph):
    made = graph({"data": {"problems": {"sources": [{"path": "mine.json", "format": "alpaca"}]}}})
    with pytest.raises(ValueError, match=re.escape("data.problems.sources[0].path: there is no file mine.json")):
        made.check_files()


def test_an_engine_that_is_not_installed_is_one_line_before_any_job(graph, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    graph({"engine": "auto"}).check_files()
    with pytest.raises(ValueError, match="engine: vllm: vLLM is not installed here; run `make vllm`"):
        graph({"engine": "vllm"}).check_files()


def test_the_world_must_be_there_for_what_names_it(graph):
    made = graph({"world": None})
    with pytest.raises(ValueError, match="embedded world, which this workload has not"):
        made.check_files()
