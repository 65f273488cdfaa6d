"""The schema for editors: made from the classes, and true of the files that it is named in."""

import json

import jsonschema
import pytest
import yaml

from steps.settings import schema
from tests.graph.test_recipes import PARAMS, ROOT, overlaid

OVERLAYS = sorted((ROOT / "workloads").rglob("*.yaml"))
SCHEMA = json.loads(schema.FILE.read_text(encoding="utf-8"))


def errors(params: dict) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(params)]


def test_the_committed_schema_is_what_the_classes_say():
    assert schema.FILE.read_text(encoding="utf-8") == schema.text(), "run python -m steps.settings.schema"


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *OVERLAYS], ids=lambda path: path.stem)
def test_the_files_that_it_is_for_follow_it(path):
    assert errors(yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize(
    "change",
    [
        {"sft": {"learning_rate": "2e-4"}},
        {"sft": {"learning_rat": 2e-4}},
        {"sft": {"adapter": {"kind": "lora", "r": 8, "alpha": 16, "block_size": 4}}},
        {"sftt": {}},
        {"studies": {"foundation": {"recipes": {"sft": {"learning_rate": "2e-4"}}}}},
        {"rl": {"sdpo": {"teacher": {"kind": "ema", "every": 3}}}},
        {"models": {"base": {"revision": "main"}}},
    ],
)
def test_an_editor_sees_a_mistake(change):
    assert errors(overlaid(PARAMS, change))
    assert errors(PARAMS) == []
