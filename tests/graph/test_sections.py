"""Which sections of params.yaml each rule reads: the table says all that the rules do."""

import re
from types import SimpleNamespace

import pytest

from steps.graph import graph as dag
from steps.graph import recipes
from steps.graph.sections import GRAPH, SECTIONS, of_rule, sections
from tests.graph.test_recipes import PARAMS, ROOT

TEXTS = {path.name: path.read_text() for path in sorted((ROOT / "rules").glob("*.smk"))}
# Rule -> its text.
RULES = {
    match[1]: match[0]
    for text in TEXTS.values()
    for match in re.finditer(r"^ *rule (\w+):\n.*?(?=^ *rule \w+:|\Z)", text, re.DOTALL | re.MULTILINE)
}
# What the rules call -> its text.
HELPERS = {
    match[1]: match[0]
    for match in re.finditer(r"^def (\w+)\(.*?(?=^\S|\Z)", TEXTS["common.smk"], re.DOTALL | re.MULTILINE)
}
# What only asks for others, and what reads nearly all.
TARGETS, ALL = {"pretrain", "check_models", "preflight", "inspect"}, {"report"}


def graph(**change) -> dag.Graph:
    return dag.Graph(recipes.complete(PARAMS | change))


def test_every_rule_says_what_it_reads():
    assert SECTIONS.keys() == RULES.keys() - TARGETS - ALL
    assert {section for read in SECTIONS.values() for section in read} <= PARAMS.keys()
    unread = PARAMS.keys() - {section for read in SECTIONS.values() for section in (*read, *GRAPH)}
    assert unread == {"launch", "report"}, "the one is a resource, the other of the report's alone"


@pytest.mark.parametrize("rule", SECTIONS)
def test_a_rule_is_handed_its_own_settings(rule):
    handed = re.findall(r'settings=settings\("(\w+)"\)', RULES[rule])
    assert handed == [rule] or rule == "deliver"


@pytest.mark.parametrize("rule", SECTIONS)
def test_a_rule_reads_no_section_that_the_table_does_not_name(rule):
    texts = [RULES[rule], *(text for name, text in HELPERS.items() if re.search(rf"\b{name}\b", RULES[rule]))]
    read = {section for text in texts for section in re.findall(r"""GRAPH\.params\[["'](\w+)["']\]""", text)}
    assert read <= {*SECTIONS[rule], *GRAPH}


def test_a_step_is_told_of_the_sections_that_its_rule_names_alone(monkeypatch):
    made = graph()
    told = of_rule(made, "evaluate", SimpleNamespace(name="sft"))
    assert told == PARAMS["evaluate"] | {"engine": "auto"}
    monkeypatch.setitem(SECTIONS, "evaluate", ("evaluate",))
    with pytest.raises(KeyError, match="engine"):
        of_rule(made, "evaluate", SimpleNamespace(name="sft"))


def test_dedup_is_told_what_single_sources_are_not_compared_for():
    mine = [
        {"path": "data/a.jsonl", "format": "messages", "near_duplicates": False, "contradictions": True},
        {"path": "data/b.jsonl", "format": "messages", "contradictions": False},
        {"path": "data/c.jsonl", "format": "messages"},
    ]
    made = graph(data=PARAMS["data"] | {"mine": {"sources": mine}})
    told = of_rule(made, "dedup", SimpleNamespace(dataset="mine"))
    own = {"a.jsonl": {"near_duplicates": False, "contradictions": True}, "b.jsonl": {"contradictions": False}}
    assert told == PARAMS["dedup"] | {"sources": own}
    assert made.sources("mine") == [{"path": source["path"], "format": "messages"} for source in mine]
    assert of_rule(made, "dedup", SimpleNamespace(dataset="problems")) == PARAMS["dedup"]


def test_decontaminate_is_told_where_questions_are_and_evaluate_is_not():
    quiz = {"data_files": {"test": "data/quiz.json"}, "question": "stem"}
    quiz |= {"overrides": {"dataset_kwargs": {"field": "examples"}}}
    evaluate = PARAMS["evaluate"] | {"general": [*PARAMS["evaluate"]["general"], "quiz"], "tasks": {"quiz": quiz}}
    made = graph(evaluate=evaluate)
    told = of_rule(made, "decontaminate", SimpleNamespace(dataset="problems"))
    where = {"data/quiz.json": {"column": "stem", "field": "examples"}}
    assert told == PARAMS["decontaminate"] | {"questions": where}
    # What a teacher writes is held against the same questions.
    written = of_rule(made, "generate", SimpleNamespace(dataset="exercises", name="grpo"))
    assert written == PARAMS["generate"] | {"engine": PARAMS["engine"], "decontaminate": told}
    assert "data/quiz.json" in made.evaluation_files()
    without = {key: value for key, value in quiz.items() if key != "question"}
    assert of_rule(made, "evaluate", SimpleNamespace(name="sft"))["tasks"] == {"quiz": without}


def test_distributions_are_of_the_tokens_that_distill_trains_on():
    made = graph(distill=PARAMS["distill"] | {"thinking": "emptied"})
    told = of_rule(made, "logprobs", SimpleNamespace(dataset="problems", name="base"))
    assert told == PARAMS["logprobs"] | {"thinking": "emptied"}


def test_what_is_sampled_depends_on_the_engine():
    sampled = [rule for rule in SECTIONS if "engine" in SECTIONS[rule]]
    assert sampled == ["bucket", "difficulty", "explore", "generate", "evaluate", "detect", "evidence"]
    for rule in sampled:
        wanted = SimpleNamespace(name="sft", node="sft")
        assert of_rule(graph(engine="transformers"), rule, wanted)["engine"] == "transformers"


def test_the_sections_of_several_rules_come_in_the_order_of_the_file():
    read = ["workload", "seeds", "models", "data", "ingest", "sft", "preflight", "studies"]
    assert sections(["sft", "ingest"], PARAMS) == read
    assert sections(["report"], PARAMS) == [section for section in PARAMS if section not in ("inspect", "deliver")]


def test_what_a_source_says_of_a_rule_is_handed_to_it_by_the_name_of_its_file():
    sources = [
        {"path": "mine/a.jsonl", "format": "messages", "language": ["en", "zh"], "cap": 5},
        {"path": "mine/b.jsonl", "format": "messages"},
    ]
    made = graph(data=PARAMS["data"] | {"mine": {"sources": sources}})
    wildcards = SimpleNamespace(dataset="mine")
    own = {"a.jsonl": {"language": ["en", "zh"]}}
    assert of_rule(made, "filter", wildcards) == PARAMS["filter"] | {"sources": own}
    assert of_rule(made, "split", wildcards) == PARAMS["split"] | {
        "sources": {"a.jsonl": {"cap": 5, "source": "mine/a.jsonl"}}
    }
    assert of_rule(made, "filter", SimpleNamespace(dataset="problems")) == PARAMS["filter"]
