"""Rows as a model will see them: what the page and the terminal show, of which rows, for whom."""

import argparse
import html
import re
from pathlib import Path

import pytest

from steps.core.files import read_json, write_jsonl
from steps.graph import graph as dag
from steps.graph import inspection, recipes, workload
from steps.graph.sections import of_rule
from steps.recipes import inspect
from tests.chats import TEMPLATES
from tests.fuzzed_chats import TOOLS, tokenizer_of
from tests.workloads import PARAMS

SETTINGS = {
    "data": "mine", "recipe": "sft", "stage": "sft", "rows": 12, "looked_at": 100, "seed": 0, "thinking": "kept",
    "completion_only_loss": True, "max_length": 800,
}  # fmt: skip
HOSTILE = '<script>alert("1")</script> \x1b[31m &amp; {{ 7 * 7 }}'


def row(i: int, *turns: tuple, **more) -> dict:
    messages = [{"role": role, "content": content, **(extra[0] if extra else {})} for role, content, *extra in turns]
    return {"id": f"mine:{i}", "file": "mine.jsonl", "line": i + 1, "row": i, "messages": messages} | more


ASKED = ("user", "How many?")
CALLED = {"tool_calls": [{"name": "sum", "arguments": {"terms": [1, 2]}}]}
ROWS = [
    row(0, ("system", "Be brief."), ("user", HOSTILE), ("assistant", "It is 42.", {"thinking": "Hm, 6 * 7."})),
    row(1, ASKED, ("assistant", "zero"), ASKED, ("assistant", "one")),
    row(2, ASKED, ("assistant", "", CALLED), ("tool", "3"), ("assistant", "It is 3."), tools=TOOLS),
    row(3, ASKED, ("assistant", "<think>never closed")),
    row(4, ASKED),
    row(5, ASKED, ("assistant", "pears " * 2000)),
    row(6, ASKED, ("assistant", "Say <|im_end|> now")),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tokenizer_of("qwen3")
    tokenizer.chat_template = TEMPLATES["qwen3"]
    tokenizer.save_pretrained(folder)
    return folder


def made(model: Path, folder: Path, rows: list[dict], **settings) -> tuple[str, str, dict]:
    """The page, the terminal's text, the manifest."""
    write_jsonl(folder / "train.jsonl", rows)
    out = folder / "out"
    inspect.main(argparse.Namespace(settings=SETTINGS | settings, rows=folder / "train.jsonl", model=model, out=out))
    return (out / "rows.html").read_text(), (out / "rows.ansi").read_text(), read_json(out / "manifest.json")


def spans(page: str) -> list[tuple[set[str], str]]:
    """The runs of the texts on a page, each with how it looks."""
    texts = "".join(re.findall(r"<pre>.*?</pre>", page, re.DOTALL))
    found = re.findall(r'<span class="([a-z ]*)">(.*?)</span>', texts, re.DOTALL)
    return [(set(look.split()), html.unescape(text)) for look, text in found]


def test_the_page_shows_what_is_trained_and_what_is_left_out(model, tmp_path):
    page, _, manifest = made(model, tmp_path, ROWS)
    trained = "".join(text for look, text in spans(page) if "trained" in look)
    assert trained.split("<|im_end|>") == [
        "<think>\nHm, 6 * 7.\n</think>\n\nIt is 42.",
        "<think>\n\n</think>\n\nzero",
        "<think>\n\n</think>\n\none",
        '<think>\n\n</think>\n\n<tool_call>\n{"name": "sum", "arguments": {"terms": [1, 2]}}\n</tool_call>',
        "<think>\n\n</think>\n\nIt is 3.",
        "",
    ]
    assert [text for look, text in spans(page) if "thought" in look] == ["Hm, 6 * 7."]
    assert {text for look, text in spans(page) if "mark" in look} >= {"<|im_start|>", "<|im_end|>", "<think>"}
    assert "2 texts, each with the history" in page and '"name": "weather"' in html.unescape(page)
    reasons = {"control_token": 1, "no_response": 1, "thinking_tags": 1, "too_long": 1}
    assert manifest["counts"] == {"in": 7, "kept": 3, "quarantined": reasons}
    for reason in reasons:
        assert f'<td><a href="#{reason}">{reason}</a></td><td>1</td>' in page and f'<article id="{reason}">' in page
    assert "mine.jsonl line 4" in page and "messages[1].content: &lt;think&gt;" in page


def test_what_rows_say_is_text_on_the_page_and_in_the_terminal(model, tmp_path):
    page, text, _ = made(model, tmp_path, ROWS)
    assert "<script" not in page and "7 * 7 }}" in html.unescape(page) and "⟨U+001B⟩[31m" in page
    assert not re.search(r'(src|href)="(?!#)', page), "an asset from outside"
    assert set(re.findall(r"\x1b\[[^m]*m", text)) == {"\x1b[32m", "\x1b[3m", "\x1b[1m", "\x1b[0m"}
    assert "\x1b[32mone\x1b[0m" in text.replace("\x1b[32m\n\n", "\n\n\x1b[32m") and "left out: thinking_tags" in text


def test_without_colours_what_is_trained_stands_in_brackets(model, tmp_path):
    made(model, tmp_path, ROWS)
    text = (tmp_path / "out/rows.txt").read_text()
    assert "\x1b" not in text and "\n[[trained]]  the rest is read only\n" in text
    trained = re.findall(r"\[\[(.*?)\]\]", text.partition("\n\n")[2], re.DOTALL)
    assert [part.split("\n")[-1] for part in trained] == [
        "It is 42.<|im_end|>",
        "zero<|im_end|>",
        "one<|im_end|>",
        "</tool_call><|im_end|>",
        "It is 3.<|im_end|>",
    ]


def test_a_thought_that_is_taken_out_is_said(model, tmp_path):
    page, text, _ = made(model, tmp_path, ROWS[:1], thinking="emptied")
    assert "Hm, 6 * 7." not in page
    assert "cut: messages[2].thinking" in page and "messages[2].thinking is cut" in text


def test_stages_see_rows_as_they_will(model, tmp_path):
    asked, _, manifest = made(model, tmp_path, [ROWS[0], ROWS[4]], stage="rl", max_length=None)
    assert not [text for look, text in spans(asked) if "trained" in look] and "cut:" not in asked
    assert manifest["counts"]["kept"] == 2
    assert "".join(text for _, text in spans(asked)).count("<|im_start|>assistant\n") == 2
    pairs, _, _ = made(model, tmp_path, [ROWS[1] | {"rejected": "two"}], stage="reward")
    thought = "<think>\n\n</think>\n\n"
    trained = "".join(text for look, text in spans(pairs) if "trained" in look)
    assert trained == f"{thought}one<|im_end|>{thought}two<|im_end|>"
    (document,) = [row(0, ("document", "Tarsk is big."))]
    page, _, _ = made(model, tmp_path, [document])
    assert "".join(text for look, text in spans(page) if "trained" in look) == "Tarsk is big.<|endoftext|>"


def test_rows_are_drawn_evenly_and_the_same_each_time(model, tmp_path):
    rows = [row(i, ASKED, ("assistant", str(i))) for i in range(200)]
    page, _, manifest = made(model, tmp_path, rows, looked_at=50)
    again, _, _ = made(model, tmp_path / "again", rows, looked_at=50)
    lines = [int(line) for line in re.findall(r"<h2>mine.jsonl line (\d+)", page)]
    assert page == again and manifest["counts"]["in"] == 50
    assert len(lines) == 12 and lines == sorted(lines) and lines[0] < 60 and lines[-1] > 140


def graph(values: dict) -> dag.Graph:
    return dag.Graph(recipes.complete(workload.lay_over(PARAMS, inspection.named(values))))


def test_a_data_set_is_named_as_one():
    assert inspection.named({"data": "problems", "recipe": "sft"}) == {"inspected": "problems", "recipe": "sft"}
    section = {"data": {"problems": None}}
    assert inspection.named(section) == section


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"data": "problems"}, ("problems", "sft")),
        ({"recipe": "grpo"}, ("exercises", "grpo")),
        ({"data": "lessons", "recipe": "base"}, ("lessons", "base")),
        ({"data": "exercises", "recipe": "sft"}, ("exercises", "sft")),
    ],
)
def test_who_sees_what(values, expected):
    made = graph(values)
    assert inspection.wanted(made) == expected
    node = argparse.Namespace(dataset=expected[0], node=expected[1])
    told = of_rule(made, "inspect_rows", node)
    assert told["data"], told["recipe"] == expected
    assert told["rows"] == PARAMS["inspect"]["rows"] and ("thinking" in told) == (expected[1] != "grpo")
    assert made.describe() == graph({}).describe(), "the report would be made again"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "data: nothing is named; write snakemake inspect --config data="),
        ({"data": "problem"}, "data: no entry `problem`; did you mean `problems`"),
        ({"recipe": "ties"}, "recipe: `ties` is trained on no data set"),
        ({"recipe": "base"}, "add data=<data set>"),
        ({"recipe": "nobody"}, "recipe: no recipe or model `nobody`"),
    ],
)
def test_what_cannot_be_seen_is_one_line(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        inspection.wanted(graph(values))


def test_the_share_of_an_epoch_that_each_source_has_is_shown(model, tmp_path):
    rows = [ROWS[1] | {"id": f"r:{i}", "file": "ab"[i % 3 > 0] + ".jsonl"} for i in range(6)]
    page, text, manifest = made(model, tmp_path, rows, source_weights=[{"a.jsonl": 3.0}])
    assert "a.jsonl: 2 rows, weight 3, 60.0% of an epoch" in text
    assert "<td>b.jsonl</td><td>4</td><td>1</td><td>40.0%</td>" in page
    assert manifest["counts"]["sources"]["b.jsonl"] == {"rows": 4, "weight": 1.0, "share": 0.4}
    page, _, manifest = made(model, tmp_path, rows)
    assert "of an epoch" not in page and "sources" not in manifest["counts"]
