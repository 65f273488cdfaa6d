"""A row that the chat template refuses (Gemma's takes no system turn) is left out by name in every stage, or folded."""

import argparse
import json
from pathlib import Path

import pytest

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.data import bucket
from steps.distillation import generate, opd
from steps.recipes import prepare, sft
from steps.reinforcement import difficulty, gate
from tests import families
from tests.conftest import CHAT_TEMPLATE
from tests.workflow.test_families import ROOT, SYSTEM, rows, settings_of

REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + (
    CHAT_TEMPLATE
)
# One of 24 has a system turn.
REFUSED = "sums:2"


def row_list() -> list[dict]:
    made = rows(24)
    for row in made:
        if row["id"] != REFUSED and row["messages"][0]["role"] == "system":
            row["messages"] = row["messages"][1:]
    assert made[2]["messages"][0] == {"role": "system", "content": SYSTEM}
    return made


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = families.write_checkpoint("qwen2_5", tmp_path_factory.mktemp("refusing") / "base")
    (folder / "chat_template.jinja").write_text(REFUSING)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def step(base, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    write_jsonl(tmp_path / "rows.jsonl", row_list())

    def go(module, name: str, settings: dict, **inputs) -> Path:
        out = tmp_path / name
        module.main(argparse.Namespace(settings=settings, out=out, **inputs))
        return out

    return go


def counts(folder: Path) -> dict:
    return read_json(folder / "manifest.json")["counts"]


def test_a_refused_row_is_named_in_every_stage(step, base, tmp_path, capsys):
    sections, of = settings_of(base, base)
    data = tmp_path / "rows.jsonl"
    made = step(bucket, "bucket", sections["bucket"], input=data, model=base)
    assert counts(made)["excluded"] == {"template_refuses": 1} and counts(made)["in"] == 24
    rated = {row["id"]: row for row in read_jsonl(made / "train.jsonl")}
    assert (rated[REFUSED]["bucket"], rated[REFUSED]["pass_rate"]) == ("unverified", None)
    said = capsys.readouterr().out
    assert "1 of 24 rows are not asked; excluded.jsonl has why (sums.jsonl row 2: " in said

    work = {"work": tmp_path / "work/sft", "logs": None}
    tuned = step(sft, "sft", of["plain"], parent=base, data=made / "train.jsonl", valid=made / "train.jsonl", **work)
    assert counts(tuned)["train"]["quarantined"] == {"template_refuses": 1}
    assert {row["id"] for row in read_jsonl(tuned / "skipped.jsonl")} == {REFUSED}

    found = step(difficulty, "difficulty", sections["difficulty"], input=data, model=base)
    judged = ("rewards", "success", "pass_rate", "max_failures", "method", "max_new_tokens")
    bars = sections["gate"] | {key: of["sdpo"][key] for key in judged} | {"pass_rate": None}
    files = {"data": found / "train.jsonl", "samples": found / "samples.jsonl", "start": base, "reward_model": None}
    passed = step(gate, "gate", bars, **files)
    assert counts(passed)["quarantined"] == {"template_refuses": 1} and counts(passed)["kept"] == 23
    (left,) = read_jsonl(passed / "left_out.jsonl")
    assert left["id"] == REFUSED and "takes no such conversation" in left["hint"]

    asked = sections["generate"] | {"decontaminate": {"ngram_words": 8, "min_overlap": 0.6}}
    written = step(generate, "generate", asked, input=data, eval=[], teacher=base)
    assert counts(written)["excluded"] == {"template_refuses": 1} and counts(written)["prompts"] == 23
    work = {"work": tmp_path / "work/opd", "logs": None}
    settings = of["opd"] | {"off_policy": 0.0}
    student = step(opd, "opd", settings, parent=base, teachers=[base], data=[data], responses=[], **work)
    assert counts(student)["prompts"] == {"exercises": 23} and counts(student)["excluded"] == {"template_refuses": 1}


def test_a_folded_one_is_asked_like_any_other(step, base, tmp_path):
    sections, _ = settings_of(base, base)
    folded = step(prepare, "base", {"name": "base", "fold_system": True}, model=base)
    made = step(bucket, "bucket", sections["bucket"], input=tmp_path / "rows.jsonl", model=folded)
    assert counts(made)["excluded"] == {}
    assert all(row["pass_rate"] is not None for row in read_jsonl(made / "train.jsonl"))
