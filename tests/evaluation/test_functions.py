"""Tasks of lm-eval from files of the user's: what runs, and what is refused before anything is trained for it."""

from pathlib import Path

import pytest

from steps.core.files import write_jsonl
from steps.engines.transformers import Engine
from steps.evaluation import functions
from steps.evaluation.measure import greedy
from steps.evaluation.questions import check_task
from steps.evaluation.tasks import configuration, find_template, library, load_tasks, task_config, task_files

HELLASWAG = [
    {
        "activity_label": "Cooking",
        "ctx_a": "Mara has pears.",
        "ctx_b": "she",
        "endings": ["eats them.", "sings.", "sleeps.", "runs."],
        "label": str(i % 4),
    }
    for i in range(4)
]
MMLU = [
    {"question": " What is 1 + 1?", "choices": ["1", "2", "3", "4"], "answer": 1, "subject": "sums"},
    {"question": "What is 1 + 2?", "choices": ["1", "2", "3", "4"], "answer": "C", "subject": "sums"},
]


@pytest.fixture(scope="module")
def engine(small_checkpoint) -> Engine:
    return Engine.load(small_checkpoint, 4)


def described(folder: Path, task: str, split: str, rows: list[dict]) -> dict:
    write_jsonl(folder / f"{task}.jsonl", rows)
    return {"stock": task, "data_files": {split: str(folder / f"{task}.jsonl")}}


def asked(engine: Engine, task: str, spec: dict, scratch: Path) -> tuple[dict, list[dict]]:
    check_task(task, spec)
    configs = {task: task_config(task, spec, task_files(task, spec, None))}
    return greedy(engine, load_tasks(configs, scratch), {task: "general"}, None, 8)


def test_a_task_asks_for_no_split_that_it_does_not_ask(engine, tmp_path):
    """hellaswag's template names a train split, and asks none of it."""
    results, samples = asked(engine, "hellaswag", described(tmp_path, "hellaswag", "validation", HELLASWAG), tmp_path)
    assert results["hellaswag"]["n"] == 4 and "truncated" not in results["hellaswag"]
    assert "Cooking: Mara has pears. She" in samples[0]["prompt"]
    with pytest.raises(ValueError, match=r"hellaswag\.yaml asks for the split validation; add `validation: <file>`"):
        check_task("hellaswag", described(tmp_path, "hellaswag", "test", HELLASWAG))
    shots = described(tmp_path, "hellaswag", "validation", HELLASWAG) | {"overrides": {"num_fewshot": 2}}
    with pytest.raises(ValueError, match="asks for the split train"):
        check_task("hellaswag", shots)


def test_what_a_function_of_a_template_reads_of_a_row_is_named(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "ctx_b"} for row in HELLASWAG]
    with pytest.raises(ValueError, match=r"hellaswag\.jsonl, line 1: has no 'ctx_b', which .* reads \(process_docs\)"):
        check_task("hellaswag", described(tmp_path, "hellaswag", "validation", rows))


@pytest.mark.parametrize("answers", [(1, 2), ("B", "C")], ids=["by number", "by letter"])
def test_mmlu_is_asked_by_one_file_of_all_subjects(answers, engine, tmp_path):
    rows = [row | {"answer": answer} for row, answer in zip(MMLU, answers, strict=True)]
    results, samples = asked(engine, "mmlu", described(tmp_path, "mmlu", "test", rows), tmp_path)
    assert (results["mmlu"]["metric"], results["mmlu"]["n"]) == ("acc", 2)
    assert [sample["target"] for sample in samples] == ["B", "C"]
    assert "What is 1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\n" in samples[0]["prompt"]
    # Of the letters, the one that the model finds likeliest.
    likeliest = []
    for sample in samples:
        (ids,) = engine.prompt_ids([sample["prompt"]])
        letters = [engine.tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in "ABCD"]
        rows = [ids + letter for letter in letters]
        nll, _ = engine._nll(rows, [[i >= len(ids) for i in range(len(row))] for row in rows])
        likeliest.append(int(nll.argmin()))
    assert [sample["correct"][0] for sample in samples] == [
        best == right for best, right in zip(likeliest, [1, 2], strict=True)
    ]


def test_a_task_that_runs_what_a_model_writes_is_refused(tmp_path):
    spec = described(tmp_path, "humaneval", "test", [{"prompt": "def f():", "test": "", "entry_point": "f"}])
    with pytest.raises(ValueError, match=r"evaluate\.tasks\.humaneval: runs code that the model writes, which nothing"):
        check_task("humaneval", spec)


def test_a_task_that_fetches_its_own_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"squadv2: is a class of lm-eval's that fetches its own data; choose a task"):
        check_task("squadv2", described(tmp_path, "squadv2", "validation", [{"question": "x"}]))


def test_packages_that_are_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(functions.importlib.util, "find_spec", missing("langdetect", "immutabledict"))
    spec = described(tmp_path, "ifeval", "train", [{"key": 1, "prompt": "x", "instruction_id_list": [], "kwargs": []}])
    with pytest.raises(ValueError) as error:
        check_task("ifeval", spec)
    said = str(error.value)
    assert (
        "evaluate.tasks.ifeval: lm-eval's ifeval needs packages that are not installed: immutabledict, langdetect"
        in said
    )
    assert "\n" not in said


def test_data_that_a_task_would_fetch_are_named(tmp_path, monkeypatch):
    """lm-eval's ifeval downloads it when it is imported, and scores a tenth of the questions wrongly without."""
    monkeypatch.setattr(functions.importlib.util, "find_spec", missing())
    monkeypatch.setattr(functions.Path, "home", lambda: tmp_path)
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "nltk"))
    row = {"key": 1, "prompt": "x", "instruction_id_list": [], "kwargs": []}
    with pytest.raises(ValueError, match="needs data of nltk that are not here: punkt_tab; put them into a folder"):
        check_task("ifeval", described(tmp_path, "ifeval", "train", [row]))
    (tmp_path / "nltk/tokenizers/punkt_tab").mkdir(parents=True)
    check_task("ifeval", described(tmp_path, "ifeval", "train", [row]))
    with pytest.raises(ValueError, match=r"has no 'kwargs', which .*ifeval\.yaml reads \(process_results\)"):
        check_task("ifeval", described(tmp_path, "ifeval", "train", [row | {"kwargs": None}]))


def missing(*packages: str):
    import importlib.util

    real = importlib.util.find_spec
    return lambda name: None if name in packages else real(name) or object()


def test_optional_imports_are_not_asked_for(tmp_path):
    module = tmp_path / "utils.py"
    module.write_text(
        "import json\n"
        "try:\n    import not_there_one\nexcept ImportError:\n    not_there_one = None\n"
        "try:\n    import not_there_two\nexcept ImportError as error:\n    raise ImportError('install it') from error\n"
        "def f(doc):\n    import not_there_three\n    doc['made'] = doc['read'] + doc['made']\n"
        "    return doc['kept'] if 'kept' in doc else doc['read']\n"
    )
    assert functions.missing([module], library()) == (["not_there_two"], [])
    assert functions.fields_read(module, "f") == {"read"}
    assert functions.fields_read(module, "g") == set()


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("gsm8k", set()),
        ("hellaswag", {"process_docs"}),
        ("ifeval", {"process_results", "agg_inst_level_acc"}),
        ("humaneval", {"pass_at_k", "build_predictions"}),
    ],
)
def test_functions_of_the_librarys_templates_are_found(task, names):
    template = find_template("x", task)
    assert {name for _, name in functions.named(configuration(template), template)} == names


def test_the_published_judge_of_math_stands_beside_ours(engine, tmp_path):
    rows = [{"problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(2)]
    spec = described(tmp_path, "math", "test", rows)
    short = {"generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": 8}}
    results, _ = asked(engine, "math", spec | {"overrides": short}, tmp_path)
    assert results["math"]["metric"] == "exact_match"
    assert results["math"]["others"].keys() == {"hendrycks_math,boxed"}
