"""What is known of a file's bytes is forgotten when it may have others."""

import hashlib
import os

import pytest

from steps.core import hashes
from steps.core.hashes import sha256_file
from tests.core.toy import flip


@pytest.fixture
def settled(tmp_path, monkeypatch):
    """A file whose bytes are remembered, and what reads it."""
    monkeypatch.setattr(hashes, "SETTLED_NS", 0)
    file = tmp_path / "file"
    file.write_text("abc")
    read = []
    digest = hashes.hashlib.file_digest
    monkeypatch.setattr(hashes.hashlib, "file_digest", lambda *given: (read.append(1), digest(*given))[1])
    sha256_file(file)
    return file, read


def test_a_file_that_rests_is_read_once(settled):
    file, read = settled
    expected = hashlib.sha256(b"abc").hexdigest()
    assert [sha256_file(file), sha256_file(file), len(read)] == [expected, expected, 1]
    hashes._known.clear()
    assert sha256_file(file) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda file, other: flip(file),
        lambda file, other: (other.write_text("abd"), os.utime(other, (0, 0)), other.replace(file)),
        lambda file, other: (file.write_text("abd"), os.utime(file, (2**33, 2**33))),
    ],
    ids=["a byte, its time kept", "another with an older time", "a time to come"],
)
def test_a_change_is_seen_whatever_its_time(settled, change):
    file, _ = settled
    before = sha256_file(file)
    change(file, file.with_name("other"))
    assert sha256_file(file) != before


def test_what_was_written_just_now_is_not_remembered(settled, monkeypatch):
    """Two writes within one tick of the kernel's clock have one time; so has what a clock that jumps back writes."""
    file, read = settled
    monkeypatch.setattr(hashes, "SETTLED_NS", 10**9)
    hashes._known.clear()
    sha256_file(file)
    sha256_file(file)
    assert len(read) == 3
    written = file.stat().st_ctime_ns
    for now, reads in ((written + 10**9, 5), (written + 10**9 + 1, 6)):
        monkeypatch.setattr(hashes.time, "time_ns", lambda now=now: now)
        sha256_file(file)
        sha256_file(file)
        assert len(read) == reads


def test_hashes_are_kept_for_the_next_run(settled, tmp_path, monkeypatch):
    """Those of files that have rested for a while: a mapped page is written back late."""
    file, read = settled
    for more, kept in ((0, False), (1, True)):
        monkeypatch.setattr(hashes, "_began", file.stat().st_ctime_ns + hashes.KEPT_NS + more)
        hashes.keep(tmp_path / "hashes.json", tmp_path)
        assert ('"file"' in (tmp_path / "hashes.json").read_text()) == kept
    hashes._known.clear()
    hashes.recall(tmp_path / "hashes.json", tmp_path)
    sha256_file(file)
    assert len(read) == 1
    whole = (tmp_path / "hashes.json").read_text()
    for broken in ("", "[]", '{"file": 1}', "[" * 100_000, whole[:-9] + chr(ord(whole[-9]) ^ 1) + whole[-8:]):
        hashes._known.clear()
        (tmp_path / "hashes.json").write_text(broken)
        hashes.recall(tmp_path / "hashes.json", tmp_path)
        assert not hashes._known
