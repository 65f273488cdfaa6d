"""Teachers: what tells their language from the student's, and which of them are in memory."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from steps.models import checkpoints, teachers
from tests.conftest import SMALL, build_model, build_tokenizer


@pytest.fixture
def pair(small_checkpoint, tmp_path) -> tuple[Path, Path]:
    """A student and a teacher with the same files, to spoil."""
    for name in ("student", "teacher"):
        shutil.copytree(small_checkpoint, tmp_path / name)
    return tmp_path / "student", tmp_path / "teacher"


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refused(pair, *words: str) -> str:
    with pytest.raises(ValueError) as caught:
        teachers.check_same_language(*pair)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message
    return message


def test_the_same_files_speak_the_same_language(pair):
    teachers.check_same_language(*pair)


def test_a_tokenizer_saved_again_is_the_same_language(pair):
    """What a fine-tune writes, with its own settings of padding and length."""
    tokenizer = checkpoints.load_tokenizer(pair[0])
    tokenizer.padding_side, tokenizer.model_max_length = "right", 77
    tokenizer.save_pretrained(pair[1])
    teachers.check_same_language(*pair)


def test_one_token_that_differs_is_named(pair):
    def rename(content):
        vocabulary = content["model"]["vocab"]
        rarest = max(vocabulary, key=vocabulary.get)
        vocabulary["ungelesen"] = vocabulary.pop(rarest)

    edit(pair[1] / "tokenizer.json", rename)
    refused(pair, "vocabular", str(pair[1]))


def test_two_tokens_that_changed_numbers_are_named(pair):
    def swap(content):
        vocabulary = content["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]

    edit(pair[1] / "tokenizer.json", swap)
    refused(pair, "vocabular", "'a'")


def test_an_added_token_of_the_teacher_is_named(pair):
    tokenizer = checkpoints.load_tokenizer(pair[1])
    tokenizer.add_tokens(["<|think|>"], special_tokens=True)
    tokenizer.save_pretrained(pair[1])
    refused(pair, "<|think|>", str(pair[1]))


def test_another_chat_template_is_named(pair):
    tokenizer = checkpoints.load_tokenizer(pair[1])
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_start|>assistant", "<|im_start|>model")
    tokenizer.save_pretrained(pair[1])
    refused(pair, "template", str(pair[1]))


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_tokenizer_is_named(pair, which):
    (pair[which] / "tokenizer.json").unlink()
    refused(pair, str(pair[which] / "tokenizer.json"), "missing")


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_folder_is_named(pair, which):
    shutil.rmtree(pair[which])
    refused(pair, str(pair[which]), "missing")


def test_a_damaged_tokenizer_is_named(pair):
    path = pair[1] / "tokenizer.json"
    path.write_text(path.read_text()[:1000])
    refused(pair, str(path))


# --- models --------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path) -> list[Path]:
    """Three teachers of different weights."""
    tokenizer = build_tokenizer()
    for seed in range(3):
        build_model(tokenizer, seed=seed, architecture=SMALL).save_pretrained(tmp_path / str(seed))
        tokenizer.save_pretrained(tmp_path / str(seed))
    return [tmp_path / str(seed) for seed in range(3)]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[5, 9, 300, 7]]).to(model.device)).logits


@pytest.mark.parametrize("resident", [None, 1, 2])
def test_few_residents_say_what_all_would_say(folders, resident, monkeypatch):
    loaded, load = [], checkpoints.load_model
    monkeypatch.setattr(
        checkpoints, "load_model", lambda folder, *a, **k: loaded.append(folder) or load(folder, *a, **k)
    )
    expected = [logits(load(folder, dtype=torch.float32)) for folder in folders]
    panel = teachers.Teachers(folders, resident)
    for i in (0, 1, 1, 2, 0, 0):
        assert torch.equal(logits(panel.model(i)).cpu(), expected[i])
    assert not torch.equal(expected[0], expected[1])
    # Two of three: the one that was asked longest ago leaves.
    order = {None: [0, 1, 2], 1: [0, 1, 2, 0], 2: [0, 1, 2, 0]}[resident]
    assert loaded == [folders[i] for i in order]


def test_one_resident_is_one_model_in_memory(folders):
    import gc
    import weakref

    panel = teachers.Teachers(folders, 1)
    seen = []
    for i in range(3):
        model = panel.model(i)
        seen.append(weakref.ref(model))
        del model
        gc.collect()
        assert [ref() is not None for ref in seen] == [False] * i + [True]


def test_the_one_asked_last_stays(folders, monkeypatch):
    panel = teachers.Teachers(folders, 2)
    first = panel.model(0)
    panel.model(1)
    panel.model(0)
    panel.model(2)
    assert panel.model(0) is first


def test_a_teacher_is_frozen_and_drops_nothing_out(folders):
    model = teachers.Teachers(folders[:1], None).model(0)
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    assert not logits(model).requires_grad
