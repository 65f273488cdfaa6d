"""A model with another chat template: the folder that everything starts from, and what descends from it."""

import argparse
from pathlib import Path

import pytest

from steps.core.files import read_json
from steps.core.manifest import verify_manifest
from steps.models import checkpoints
from steps.models.chat import Chat
from steps.recipes import prepare
from tests.chats import TEMPLATES

WITHOUT_END = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
ASKED = [{"role": "user", "content": "How many?"}]


def made(model: Path, out: Path, **settings) -> Path:
    prepare.main(argparse.Namespace(settings={"name": "base"} | settings, model=model, out=out))
    return out


def test_the_files_are_the_models_and_the_template_the_settings(small_checkpoint, tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text(WITHOUT_END)
    out = made(
        small_checkpoint, tmp_path / "out", chat_template=str(file), end_of_turn="<|im_end|>", system="Be brief."
    )
    checkpoints.check(out)
    weights = "model.safetensors"
    assert (out / weights).samefile(small_checkpoint / weights), "weights are not written twice"
    assert "chat_template" not in read_json(out / "tokenizer_config.json")
    chat = Chat(checkpoints.load_tokenizer(out))
    assert chat.opened(ASKED) == "system: Be brief.\nuser: How many?\nassistant: " and chat.end == "<|im_end|>"
    manifest = verify_manifest(out)
    assert manifest["settings"]["end_of_turn"] == "<|im_end|>" and str(file) in manifest["inputs"]
    # A checkpoint that descends from it saves the tokenizer that it was trained with.
    chat.tokenizer.save_pretrained(tmp_path / "child")
    child = Chat(checkpoints.load_tokenizer(tmp_path / "child"))
    assert child.tokenizer.chat_template == chat.tokenizer.chat_template
    assert child.opened(ASKED) == chat.opened(ASKED) and child.end == chat.end


def test_a_file_that_cannot_be_linked_is_copied(small_checkpoint, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("another file system")

    monkeypatch.setattr(prepare.os, "link", refuse)
    out = made(small_checkpoint, tmp_path / "out", system="Be brief.")
    weights = "model.safetensors"
    assert not (out / weights).samefile(small_checkpoint / weights)
    assert (out / weights).read_bytes() == (small_checkpoint / weights).read_bytes()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"end_of_turn": "<|im_end|>"},
            r"models\.base\.end_of_turn: the chat template ends an answer with <\|im_end\|>",
        ),
        (
            {"chat_template": WITHOUT_END, "end_of_turn": "</turn>"},
            r"end_of_turn: '</turn>' is no token .* <\|im_end\|>",
        ),
        ({"chat_template": WITHOUT_END}, r"set models\.<name>\.end_of_turn"),
        (
            {"chat_template": TEMPLATES["gemma"], "system": "Be brief."},
            r"takes no system turn .* write fold_system: true",
        ),
        (
            {"chat_template": "{% for m in messages if m.role != 'system' %}{{ m.content + eos_token }}{% endfor %}"}
            | {"system": "Be brief."},
            r"leaves a system turn out; write fold_system: true",
        ),
        ({"template_kwargs": {"thinking": True}}, r"the chat template reads no thinking; it reads"),
        ({"chat_template": "{% for x in range(10**9) %}{% endfor %}"}, r"its chat template"),
    ],
)
def test_what_cannot_be_is_one_line(small_checkpoint, tmp_path, settings, words):
    with pytest.raises(ValueError, match=words) as error:
        made(small_checkpoint, tmp_path / "out", **settings)
    assert "\n" not in str(error.value)
