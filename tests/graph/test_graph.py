"""Where files lie, and locks that outlive their run."""

import contextlib
import copy
import fcntl
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from steps.core.step import RUN, alone
from steps.graph import checks, delivery, dvc, recipes, sections
from steps.graph import graph as dag
from steps.graph.runs import join_runs
from steps.graph.sections import of_rule
from tests.workloads import PARAMS

ROOT = Path(__file__).parents[2]


# --- locks ----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_run_of_its_own(monkeypatch):
    monkeypatch.setenv(RUN, "")


@contextlib.contextmanager
def a_run(folder: Path):
    with contextlib.ExitStack() as files:
        for file in join_runs(folder):
            files.enter_context(file)
        yield


def test_locks_of_a_killed_run_are_dropped(tmp_path):
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks/0.output.lock").write_text("results/x")
    with a_run(tmp_path):
        assert not (tmp_path / "locks").exists()


def test_locks_of_a_living_run_stay(tmp_path):
    other = "import sys; from pathlib import Path; from steps.graph import runs\n"
    other += "files = runs.join_runs(Path(sys.argv[1])); print(flush=True); sys.stdin.read()"
    with a_run(tmp_path):
        (tmp_path / "locks").mkdir()
        (tmp_path / "locks/0.output.lock").write_text("results/x")
        subprocess.run([sys.executable, "-c", other, str(tmp_path)], cwd=ROOT, stdin=subprocess.DEVNULL, check=True)
        assert (tmp_path / "locks/0.output.lock").exists()
    with a_run(tmp_path):
        assert not (tmp_path / "locks").exists()


def test_a_step_of_a_dead_run_that_has_not_begun_ends(tmp_path, capsys):
    with a_run(tmp_path), alone(tmp_path / "out"):
        pass
    # The file stays where a run was killed; it is the lock that says that it lives.
    with pytest.raises(SystemExit), alone(tmp_path / "out"):
        pytest.fail("it went on")
    assert "is not made: the run that asked for it was killed" in capsys.readouterr().out
    Path(os.environ[RUN]).unlink()
    with alone(tmp_path / "out"):
        pass


def test_a_checkout_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / ".snakemake").write_text("a file where a folder is asked for")
    with pytest.raises(ValueError, match="work in a folder of your own"):
        join_runs(tmp_path / ".snakemake")


def test_a_step_waits_for_another_that_makes_the_same_output(tmp_path):
    with alone(tmp_path / "out"), open(tmp_path / ".out.lock") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open(tmp_path / ".out.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


# --- files behind the graph -------------------------------------------------------------------------


def model_without_tensors(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"known": 0}}}')
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")


@pytest.fixture
def graph(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = copy.deepcopy(PARAMS)
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
    model_without_tensors(Path("base"))

    def build(change=None):
        params.update(change or {})
        return dag.Graph(recipes.complete(params))

    return build


def test_folders_and_edges(graph):
    made = graph()
    assert made.folder("a") == "results/fable/one/a"
    assert made.folder("hub") == "results/fable/download/models/hub"
    assert made.edges("m") == ["results/fable/two/m/manifest.json"]
    assert made.made("hub") == ["results/fable/download/models/hub/manifest.json"]
    assert made.made("base") == []
    # A model is checked before anything rests on it.
    assert made.edges("hub") == [*made.made("hub"), "results/fable/check_model/hub/manifest.json"]
    assert made.edges("base") == ["results/fable/check_model/base/manifest.json"]
    assert made.edge(made.all_rows("problems")) == "results/fable/data/problems/bucket/manifest.json"
    assert made.edge("results/fable/world/eval/a.jsonl") == "results/fable/world/manifest.json"
    assert made.edge("mine/rows.jsonl") == "mine/rows.jsonl"


def test_a_base_without_a_chat_template(graph):
    made = graph()
    Path("base/chat_template.jinja").unlink()
    line = r"models.base: base has no chat template, .* set models.base.chat_template, or"
    with pytest.raises(ValueError, match=line):
        checks.check_models(made)
    made.params["models"]["base"]["chat_template"] = "mine.jinja"
    checks.check_models(made)


def test_rows_longer_than_the_model_reads(graph):
    made = graph()
    Path("base/config.json").write_text('{"n_positions": 64}')
    line = r"studies.one.recipes.a.max_length: \d+ is above the 64 positions of the model; lower it to 64"
    with pytest.raises(ValueError, match=line):
        checks.check_lengths(made)
    Path("base/config.json").write_text("{}")
    checks.check_lengths(made)


def test_answers_longer_than_the_model_reads(graph):
    """GPT-2 reads 1,024 positions, which are no room for a question before the 1,024 tokens of the defaults."""
    made = graph()
    silent = {"stock": "short", "overrides": {"generation_kwargs": {"until": []}}}
    made.params["evaluate"] |= {"target": ["silent"], "general": ["short"], "harder": [], "dev": []}
    made.params["evaluate"] |= {"tasks": {"silent": silent}, "max_new_tokens": 64}
    made.params["evaluate"]["sampling"] |= {"tasks": []}
    Path("base/config.json").write_text('{"n_positions": 64}')
    with pytest.raises(ValueError, match=r"^evaluate.max_new_tokens: 64 leaves no room .* 64 positions of base; lower"):
        checks.check_rooms(made)
    made.params["evaluate"]["max_new_tokens"] = 63
    checks.check_rooms(made)
    made.params["evaluate"]["tasks"]["short"] = {"overrides": {"generation_kwargs": {"max_gen_toks": 70}}}
    line = r"^evaluate.tasks.short.overrides.generation_kwargs: 70 leaves no room"
    with pytest.raises(ValueError, match=line):
        checks.check_rooms(made)
    Path("base/config.json").write_text("{}")
    checks.check_rooms(made)


def test_a_study_measures_its_nodes_and_the_models_they_descend_from(graph):
    made = graph()
    assert made.measured("one") == ["base", "a", "lora"]
    assert made.measured("two") == ["hub", "base", "m"]
    assert set(made.measured()) == {"base", "hub", "a", "lora", "m"}
    assert made.ancestors("m") == ["m", "hub", "a", "base"]


def test_questions_exclude_the_few_shot_examples_but_depend_on_them(graph):
    params = copy.deepcopy(PARAMS["evaluate"])
    for name in ("train.jsonl", "test.jsonl"):
        Path(name).write_text('{"prompt": "1 + 1?", "answer": "2"}\n')
    files = {"train": "train.jsonl", "test": "test.jsonl"}
    params |= {
        "target": ["real"],
        "harder": [],
        "general": ["fable_facts"],
        "dev": [],
        "tasks": {"real": {"stock": "short", "data_files": files}},
        "sampling": params["sampling"] | {"tasks": ["real"]},
    }
    made = graph({"evaluate": params})
    assert made.evaluation_files() == ["test.jsonl", "results/fable/world/eval/fable_facts.jsonl"]
    assert made.evaluation_edges() == ["test.jsonl", "results/fable/world/manifest.json", "train.jsonl"]
    checks.check_files(made)


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
    answer = {"kind": "answer", "weight": 1.0}
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
        model_without_tensors(Path(folder))
        model = {"vocab": {token: i for i, token in enumerate(tokens)}}
        Path(folder, "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": []}))
        Path(folder, "chat_template.jinja").write_text("{{ messages }}")

    vocabulary("base", ["a", "b"])
    vocabulary("gone", ["a", "c"])
    sft = {"stage": "sft", "from": "base", "data": "problems"}
    other = {"t": sft | {"from": "unused"}}

    def check(**recipe):
        # Of the same model as its student, as a teacher that is not here, and as one that speaks another language.
        lines = {"a": sft, "same": OPD | {"teachers": ["base"]}, "far": OPD | {"teachers": ["hub"]}, **other}
        checks.check_files(graph({"studies": {"one": {"recipes": lines | recipe}}}))

    check(rows=OPD | {"stage": "distill"})
    for wrong in (OPD, OPD | {"stage": "distill", "objective": "forward_kl"}):
        with pytest.raises(
            ValueError, match=r"^studies\.one\.recipes\.s\.teachers: the vocabularies of base"
        ) as caught:
            check(s=wrong)
        assert "\n" not in str(caught.value)
    vocabulary("gone", ["a", "b"])
    check(s=OPD)


@pytest.mark.parametrize(
    "name, data",
    [
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        ("config.json", b'{"auto_map": {"AutoConfig": "code.Config"}}'),
        ("config.json", b'{"quantization_config": {"quant_method": "gptq", "bits": 4}}'),
        ("config.json", b'{"num_hidden_layers": 1000000000}'),
        ("adapter_config.json", b'{"base_model_name_or_path": "base"}'),
    ],
)
def test_a_broken_model_is_one_line_before_any_job(graph, name, data):
    Path("base", name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"^models\.base\.path: base/{re.escape(name)}") as caught:
        checks.check_files(graph())
    assert "\n" not in str(caught.value)


def test_a_model_is_read_once_for_all_recipes(graph, monkeypatch):
    adapter = {"kind": "lora", "r": 4, "alpha": 8}
    recipe = {"stage": "sft", "from": "base", "data": "problems", "adapter": adapter}
    made = graph({"studies": {"one": {"recipes": {f"r{i}": recipe for i in range(50)}}}})
    read = []
    monkeypatch.setattr(checks.checkpoints, "linear_shapes", lambda folder: read.append(folder) or {"q_proj": (8, 8)})
    checks.check_adapters(made)
    assert read == [Path("base")]


def test_a_download_that_was_cut_short_stops_no_plan(graph):
    """The rule that makes it goes on."""
    Path("results/fable/download/models/hub").mkdir(parents=True)
    recipe = {"stage": "sft", "from": "hub", "data": "problems", "adapter": {"kind": "lora", "r": 4, "alpha": 8}}
    checks.check_adapters(graph({"studies": {"one": {"recipes": {"a": recipe}}}}))


LOW = {"kind": "lora", "r": 1, "alpha": 2}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"adapter": {"kind": "full", "freeze": ["block.1"]}}, None),
        ({"adapter": {"kind": "full", "freeze": ["blocks"]}}, "adapter.freeze: blocks is no module"),
        ({"adapter": {"kind": "full", "new_tokens": ["known"]}}, "adapter.new_tokens: the tokenizer has 'known'"),
        ({"adapter": LOW | {"modules_to_save": ["q"]}}, "adapter.modules_to_save: q is no"),
        ({"adapter": LOW | {"modules_to_save": ["lm_head"]}}, None),
        ({"adapter": LOW | {"target_modules": ["wte"]}}, "adapter.target_modules: wte is tied"),
        ({"tracker": "trackio"}, "tracker: trackio is not installed"),
        ({"max_steps": 5, "warmup_steps": 5}, None),
        ({"max_steps": 5, "warmup_steps": 6}, "warmup_steps: 6 steps of warmup and 0 of the fall are more"),
        ({"schedule": "wsd", "max_steps": 10, "warmup_steps": 9}, None),
        ({"schedule": "wsd", "max_steps": 10, "warmup_steps": 10}, "warmup_steps: 10 steps of warmup and 1 of"),
        ({"schedule": "wsd", "decay_ratio": 0.7, "warmup_ratio": 0.4}, "warmup_ratio: 0.4 of warmup and 0.7 of"),
    ],
)  # fmt: skip
def test_what_a_training_would_refuse_is_one_line_before_any_job(graph, monkeypatch, change, line):
    header = b'{"block.1.q_proj.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}'
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    def check():
        made = graph(
            {"studies": {"one": {"recipes": {"a": {"stage": "sft", "from": "base", "data": "problems"} | change}}}}
        )
        Path("base/config.json").write_text('{"tie_word_embeddings": true}')
        Path("base/model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
        checks.check_adapters(made)
        checks.check_trackers(made)

    if line is None:
        check()
        return
    with pytest.raises(ValueError, match=rf"^studies\.one\.recipes\.a\.{line}"):
        check()


def test_files_that_are_no_models_folder_are_one_line(graph):
    made = graph()
    Path("base/tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"^models\.base\.path: base has no tokenizer\.json"):
        checks.check_models(made)
    Path("it.gguf").write_bytes(b"GGUF")
    made.params["models"]["base"]["path"] = "it.gguf"
    line = r"^models\.base\.path: it\.gguf is a GGUF file; .*steps\.models\.from_gguf it\.gguf"
    with pytest.raises(ValueError, match=line):
        checks.check_models(made)


def test_an_adapter_of_another_model_is_one_line_before_any_job(graph):
    """Its base is the one that is named, not that of its config."""
    Path("theirs").mkdir()
    Path("theirs/adapter_config.json").write_text(
        '{"base_model_name_or_path": "some/one", "target_modules": ["c_attn"]}'
    )
    Path("theirs/adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    models = {"base": {"path": "base"}, "theirs": {"path": "theirs", "base": "base"}}
    recipe = {"stage": "sft", "from": "theirs", "data": "problems"}
    made = graph({"models": models, "studies": {"one": {"recipes": {"a": recipe}}}})
    line = (
        r"^models\.theirs\.path: theirs/adapter_config\.json: target_modules has 'c_attn', which is no module of base"
    )
    with pytest.raises(ValueError, match=line):
        checks.check_models(made)


def test_an_adapter_setting_that_the_model_has_no_use_for_is_one_line_before_any_job(graph):
    import torch
    from safetensors.torch import save_file

    save_file({"model.layers.0.self_attn.q_proj.weight": torch.zeros(24, 16)}, "base/model.safetensors")
    adapter = {"kind": "lora", "r": 4, "alpha": 8, "target_modules": ["q_proj", "qproj"]}
    recipe = {"stage": "sft", "from": "base", "data": "problems", "adapter": adapter}
    with pytest.raises(ValueError, match=r"^studies\.one\.recipes\.a\.adapter\.target_modules.*qproj") as caught:
        checks.check_files(graph({"studies": {"one": {"recipes": {"a": recipe}}}}))
    assert "\n" not in str(caught.value)
    recipe["adapter"] = adapter | {"target_modules": ["q_proj"]}
    checks.check_adapters(graph({"studies": {"one": {"recipes": {"a": recipe}}}}))


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
    params = copy.deepcopy(PARAMS)
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
    params = copy.deepcopy(PARAMS)
    assert learning({"data": params["data"] | own}).scored() == []


def test_an_examined_data_set_is_used_even_if_nothing_trains_on_it(graph):
    one = {"detect": "lessons", "recipes": {"a": {"stage": "sft", "from": "base", "data": "problems"}}}
    assert graph({"studies": {"one": one}}).used_data() == ["problems", "lessons"]


def test_documents_must_be_there_for_what_reads_them_only(learning):
    params = copy.deepcopy(PARAMS)
    for section, key in (("mixture", "general"), ("mixture", "library"), ("evidence", "library")):
        change = {section: params[section] | {key: ["mine.jsonl"]}}
        with pytest.raises(ValueError, match=re.escape(f"{section}.{key}: there is no file mine.jsonl")):
            checks.check_files(learning(change))
        plain = {"recipes": {"a": {"stage": "sft", "from": "base", "data": "problems"}}}
        checks.check_files(learning(change | {"studies": {"one": plain}}))
        Path("mine.jsonl").touch()
        checks.check_files(learning(change))
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
        checks.check_files(graph())
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
        checks.check_files(graph(change))


def test_a_missing_data_file_is_one_line(graph):
    made = graph({"data": {"problems": {"sources": [{"path": "mine.json", "format": "alpaca"}]}}})
    with pytest.raises(ValueError, match=re.escape("data.problems.sources[0].path: there is no file mine.json")):
        checks.check_files(made)


def test_a_template_that_says_a_key_twice_is_one_line(tmp_path):
    checks.check_templates(ROOT / "tasks")
    (tmp_path / "mine.yaml").write_text("doc_to_text: !function utils.text\nnum_fewshot: 0\nnum_fewshot: 4\n")
    with pytest.raises(ValueError, match="mine.yaml:3:1: the key 'num_fewshot' stands in line 2 already"):
        checks.check_templates(tmp_path)


def test_a_release_has_a_name_that_the_hub_takes(graph):
    recipe = {"stage": "sft", "from": "base", "data": "problems"}
    made = graph({"workload": "w" * 64, "checkpoint": "s" * 40, "studies": {"one": {"recipes": {"s" * 40: recipe}}}})
    with pytest.raises(ValueError, match="^deliver.name: w*-s* does not match .*; write a name for the release"):
        delivery.delivery(made)


def test_an_engine_that_is_not_installed_is_one_line_before_any_job(graph, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    checks.check_files(graph({"engine": "auto"}))
    with pytest.raises(ValueError, match="engine: vllm: vLLM is not installed here; run `make vllm`"):
        checks.check_files(graph({"engine": "vllm"}))


def test_the_world_must_be_there_for_what_names_it(graph):
    made = graph()
    del made.params["world"]
    with pytest.raises(ValueError, match="embedded world, which this workload has not"):
        checks.check_files(made)


def test_sources_are_listed_where_they_are_many(graph, tmp_path, monkeypatch):
    for name in ("rows/b.csv", "rows/a.csv", "one.csv"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("prompt,response\n")
    paths = ("one.csv", "rows", "rows/*.csv")
    made = graph({"data": {"problems": {"sources": [{"path": path, "ignore": ["image"]} for path in paths]}}})
    files = ["rows/a.csv", "rows/b.csv"]
    assert made.sources("problems") == [
        {"path": "one.csv", "ignore": ["image"]},
        {"path": "rows", "ignore": ["image"], "files": files},
        {"path": "rows/*.csv", "ignore": ["image"], "files": files},
    ]
    assert {"one.csv", "rows"} <= {*dvc.given(made)} and "rows/*.csv" not in dvc.given(made)


def test_cpt_on_a_data_set_needs_no_mixture(graph):
    recipe = {"read": {"stage": "cpt", "from": "base", "data": "books"}}
    data = PARAMS["data"] | {"books": {"sources": [{"path": "docs.txt"}]}}
    made = graph({"data": data, "studies": {"one": {"recipes": recipe}}})
    assert made.documents("read") == "results/fable/data/books/split/train.jsonl"
    assert "books" in made.used_data() and checks.documents_of(made) == ()
    assert delivery.accounts(made, "read") and made.nodes["read"].treatment is None


def test_rows_have_their_difficulty_where_a_recipe_goes_by_it(graph):
    def made(**change):
        cold = {"stage": "distill", "from": "base", "data": "exercises", "teachers": ["hub"]} | change
        scores = {"stage": "reward", "from": "base", "data": "problems"} | change
        return graph({"studies": {"two": {"recipes": {"cold": cold, "scores": scores}}}})

    plain, rated, shared = made(), made(order="easy_to_hard"), made(bucket_shares={"easy": 1.0})
    data = "results/fable/data"
    dataset = "exercises"
    assert plain.taught_rows(dataset) == f"{data}/{dataset}/split/train.jsonl"
    assert plain.pair_rows("scores") == f"{data}/problems/split/train.jsonl"
    for one in (rated, shared):
        assert one.taught_rows(dataset) == f"{data}/{dataset}/bucket/train.jsonl"
        assert one.pair_rows("scores") == f"{data}/problems/bucket/train.jsonl"
        assert {dataset, "problems"} <= {*one.bucketed()}


def test_a_training_is_told_the_weights_of_its_sources(graph):
    """By the names that rows have of their files; a data set without weights says nothing."""
    for name in ("rows/b.csv", "rows/a.csv", "one.csv", "two.csv"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("prompt,response\n")
    mine = [{"path": "one.csv"}, {"path": "rows", "weight": 0.5}, {"path": "two.csv", "weight": 3.0}]
    data = PARAMS["data"] | {"mine": {"sources": mine}, "plain": {"sources": [{"path": "one.csv"}]}}
    recipes_ = {
        "weighted": {"stage": "sft", "from": "base", "data": "mine"},
        "alike": {"stage": "sft", "from": "base", "data": "plain"},
        "taught": {"stage": "distill", "from": "base", "data": ["plain", "mine"], "teachers": ["hub"]},
    }
    made = graph({"data": data, "studies": {"two": {"recipes": recipes_}}})
    told = {name: of_rule(made, made.nodes[name].stage, SimpleNamespace(node=name)) for name in recipes_}
    weights = {"a.csv": 0.5, "b.csv": 0.5, "two.csv": 3.0}
    assert told["weighted"]["source_weights"] == [weights] and "source_weights" not in told["alike"]
    assert told["taught"]["source_weights"] == [{}, weights]
    assert made.nodes["weighted"].settings == {k: v for k, v in told["weighted"].items() if k != "source_weights"}
    looked = of_rule(made, "inspect_rows", SimpleNamespace(node="weighted", dataset="mine"))
    assert looked["source_weights"] == [weights]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"order": "sources"}, "order: sources deals every row as often"), ({"order": "shuffle"}, None)],
)
def test_a_weight_has_no_place_in_an_order_by_source(graph, change, message):
    data = PARAMS["data"] | {"mine": {"sources": [{"path": "one.csv", "weight": 2.0}]}}
    recipe = {"stage": "sft", "from": "base", "data": "mine"} | change
    overlay = {"data": data, "studies": {"two": {"recipes": {"odd": recipe}}}}
    if message is None:
        graph(overlay)
        return
    with pytest.raises(ValueError, match=rf"studies.two.recipes.odd.{message}, and a source of data `mine` has"):
        graph(overlay)


def test_many_rows_are_cleaned_by_several_processes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.jsonl").touch()
    with open(tmp_path / "large.jsonl", "wb") as file:
        file.truncate(dag.LARGE)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/large.jsonl").symlink_to(tmp_path / "large.jsonl")
    data = {
        name: {"sources": [{"path": path}]}
        for name, path in {"small": "small.jsonl", "large": "large.jsonl", "many": "folder"}.items()
    }
    made = dag.Graph(recipes.complete(PARAMS | {"data": PARAMS["data"] | data}))
    found = {name: made.cleaning_processes(name) for name in (*data, "problems")}
    assert found == {"small": 1, "large": dag.CLEANING_PROCESSES, "many": dag.CLEANING_PROCESSES, "problems": 1}


# --- chat templates of models -----------------------------------------------------------------------


def test_a_model_that_says_something_of_its_template_stands_in_a_folder_of_its_own(graph):
    Path("mine.jinja").write_text("{{ messages }}{{ enable_thinking }}")
    told = {"chat_template": "mine.jinja", "template_kwargs": {"enable_thinking": False}}
    revision = {"path": "owner/name", "revision": "0" * 40}
    made = graph({"models": {"base": {"path": "base"} | told, "hub": revision | {"system": "Be brief."}}})
    assert made.folder("base") == "results/fable/prepare/base" and made.source("base") == "base"
    assert made.made("base") == ["results/fable/prepare/base/manifest.json"] and made.downloaded("base") == []
    assert made.folder("hub") == "results/fable/prepare/hub"
    assert made.downloaded("hub") == ["results/fable/download/models/hub/manifest.json"]
    of = SimpleNamespace
    assert of_rule(made, "prepare", of(name="base")) == {"name": "base"} | told
    # What is made of a model once it is there is no reason to fetch it again.
    assert of_rule(made, "download", of(kind="models", name="hub")) == revision
    assert "mine.jinja" in dvc.given(made)
    checks.check_models(made)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"chat_template": "no.jinja"}, r"models\.base\.chat_template: there is no file no\.jinja"),
        ({"chat_template": "{% if %}"}, r"models\.base\.chat_template: is no Jinja"),
        ({"system": "x"}, r"models\.base\.chat_template: base has none"),
        ({"chat_template": "{{ messages }}", "template_kwargs": {"think": 1}}, r"reads no think; it reads none"),
        (
            {"chat_template": "{{ bos_token }}{{ messages }}", "template_kwargs": {"bos_token": ""}},
            r"models\.base\.template_kwargs: bos_token is told to every chat template",
        ),
        (
            {"chat_template": "{{ add_generation_prompt }}", "template_kwargs": {"add_generation_prompt": False}},
            r"models\.base\.template_kwargs: add_generation_prompt is told to every chat template",
        ),
        (
            {"chat_template": "{{ messages }}{{ think }}", "template_kwargs": {"think": "false"}},
            r"models\.base\.template_kwargs\.think: 'false' is text, .* write false without quotes",
        ),
        ({"template_kwargs": {"a b": 1}}, r"models\.base\.template_kwargs"),
        ({"template_kwarg": {}}, r"models\.base\.template_kwarg: unknown key; did you mean `template_kwargs`"),
        ({"fold_system": "yes"}, r"models\.base\.fold_system"),
    ],
)
def test_what_a_model_says_wrongly_of_its_template_is_one_line(graph, told, words):
    Path("base/chat_template.jinja").unlink()
    with pytest.raises(ValueError, match=words) as error:
        checks.check_files(
            graph({"models": {"base": {"path": "base"} | told, "hub": {"path": "o/n", "revision": "0" * 40}}})
        )
    assert "\n" not in str(error.value)


def test_student_and_teacher_are_compared_by_the_templates_that_they_get(tmp_path):
    from steps.models.teachers import check_same_language

    for name in ("student", "teacher"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
        (tmp_path / name / "chat_template.jinja").write_text("{{ messages }}")
    folders = tmp_path / "student", tmp_path / "teacher"
    brief = {"system": "Be brief."}
    check_same_language(*folders, brief, brief)
    with pytest.raises(ValueError, match=r"chat templates .* differ"):
        check_same_language(*folders, brief)


# --- an adapter whose base is named --------------------------------------------------------------


def test_an_adapter_with_a_named_base_is_made_by_the_rule_that_waits_for_it(graph):
    Path("theirs").mkdir()
    models = {
        "base": {"path": "base"},
        "hub": {"path": "owner/name", "revision": "0" * 40},
        "theirs": {"path": "theirs", "base": "hub"},
    }
    recipes = {"a": {"stage": "sft", "from": "theirs", "data": "problems"}}
    made = graph({"models": models, "studies": {"one": {"recipes": recipes}}})
    assert made.folder("theirs") == "results/fable/download/models/theirs"
    assert made.made("theirs") == ["results/fable/download/models/theirs/manifest.json"]
    assert made.adapted("models", "theirs") == ["results/fable/download/models/hub/manifest.json"]
    assert made.adapted("models", "hub") == made.adapted("data", "problems") == []
    assert checks.used_models(made) == ["base", "hub", "theirs"]
    told = sections.of_rule(made, "download", SimpleNamespace(kind="models", name="theirs"))
    assert told == {"path": "theirs", "base": "results/fable/download/models/hub"}
    with pytest.raises(ValueError, match=r"models\.theirs\.base: has no effect, for theirs is no adapter"):
        checks.check_models(made)
    Path("theirs/adapter_config.json").write_text("{}")
    checks.check_models(made)


@pytest.mark.parametrize(
    ("base", "message"),
    [("nowhere", r"models\.theirs\.base: no entry `nowhere`"), ("theirs", r"models\.theirs\.base: leads back to")],
)
def test_a_base_that_is_no_other_model_is_refused(graph, base, message):
    models = {"base": {"path": "base"}, "hub": {"path": "o/n", "revision": "0" * 40}}
    with pytest.raises(ValueError, match=message):
        graph({"models": models | {"theirs": {"path": "theirs", "base": base}}})
