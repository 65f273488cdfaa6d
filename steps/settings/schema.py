"""The JSON schema of params.yaml and of what is laid over it, for editors: made from the classes of settings.

An overlay says a part of what params.yaml says, so nothing is required here but what tells kinds apart. What Snakemake
checks are the classes themselves.

Run as: python -m steps.settings.schema
"""

import json
from pathlib import Path

from steps.settings.params import EXTENDS, Params
from steps.settings.stages import STAGES

FILE = Path(__file__).parents[2] / "schemas" / "params.schema.json"
# What an overlay may set to null: the name of its own, what only fable has, and entries that it takes out.
NULLABLE, OF_ENTRIES = ("workload", "world", "pretrain"), ("models", "data", "studies")


def schema() -> dict:
    """Draft 2020-12."""
    whole = Params.model_json_schema()
    parts, sections = whole["$defs"], whole["properties"]
    for part in (whole, *parts.values()):
        part.pop("title", None)
        for key in part.get("properties", {}).values():
            key.pop("title", None)
        # The rest of a mapping may come from what it is laid over, or from a grid.
        part["required"] = [key for key in part.get("required", ()) if key in ("kind", "mode")]
    for name in NULLABLE:
        sections[name] = _or_null(sections[name])
    sections[EXTENDS] = {
        "type": "string",
        "description": "The overlay that it stands on: a path from its folder",
    }
    for name in OF_ENTRIES:
        del sections[name]["minProperties"]
    for entries in (*(sections[name] for name in OF_ENTRIES), parts["Study"]["properties"]["recipes"]):
        (pattern, entry), *_ = entries["patternProperties"].items()
        entries["patternProperties"][pattern] = _or_null(entry)
    parts["Recipe"]["allOf"] = [_settings_of(stage, sections[stage]["$ref"], parts) for stage in STAGES]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole}


def _settings_of(stage: str, section: str, parts: dict) -> dict:
    """The keys of a stage, in the recipes of that stage."""
    keys = parts[section.rpartition("/")[2]]["properties"]
    return {
        "if": {"properties": {"stage": {"const": stage}}, "required": ["stage"]},
        "then": {"properties": {key: {"$ref": f"{section}/properties/{key}"} for key in keys}},
    }


def _or_null(of: dict) -> dict:
    return of if {"type": "null"} in of.get("anyOf", []) else {"anyOf": [of, {"type": "null"}]}


def text() -> str:
    """The content of the file."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    FILE.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
