"""What the download step asks the hub for, and what it refuses. The network itself is not used."""

import hashlib
from fnmatch import fnmatch

import pytest

from steps import download


def test_a_model_is_asked_for_without_pickled_weights_or_code():
    (request,) = download.wanted({"path": "owner/name", "revision": "0" * 40})
    assert (request["repo_id"], request["repo_type"], request["revision"]) == ("owner/name", "model", "0" * 40)
    for name in ("pytorch_model.bin", "modeling_x.py", "model.pt", "optimizer.pkl"):
        assert not any(fnmatch(name, pattern) for pattern in request["allow_patterns"])
    assert any(fnmatch("model-00001-of-00002.safetensors", p) for p in request["allow_patterns"])


def test_only_hub_sources_are_asked_for():
    sources = [
        {"path": "owner/name/data/a.parquet", "revision": "1" * 40, "format": "messages"},
        {"path": "mine.json", "format": "alpaca"},
    ]
    (request,) = download.wanted({"sources": sources})
    assert (request["repo_id"], request["repo_type"], request["folder"]) == ("owner/name", "dataset", "owner/name")
    assert request["allow_patterns"][0] == "data/a.parquet"


@pytest.mark.parametrize(
    "settings",
    [
        {"path": "just-a-name", "revision": "0" * 40},
        {"sources": [{"path": "owner/name", "revision": "0" * 40, "format": "alpaca"}]},
    ],
)
def test_a_path_of_the_wrong_form_is_one_line(settings):
    with pytest.raises(ValueError, match="write owner/name"):
        download.wanted(settings)


def test_a_short_commit_must_be_the_only_one():
    commits = ["abcdef0" + "0" * 33, "abcdef1" + "0" * 33]
    assert download.full_revision("abcdef1", commits) == commits[1]
    for revision in ("abcdef", "1234567"):
        with pytest.raises(ValueError, match="write it in full"):
            download.full_revision(revision, commits)


def test_a_damaged_or_missing_file_is_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    good = {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}
    download.verify(tmp_path, good)
    with pytest.raises(ValueError, match="model.safetensors arrived damaged"):
        download.verify(tmp_path, {"model.safetensors": "0" * 64})
    with pytest.raises(ValueError, match="other.json did not arrive"):
        download.verify(tmp_path, good | {"other.json": "0" * 64})
