"""Files are whole or absent, and say what they were given; tables, also as a spreadsheet opens them."""

import csv
import hashlib
import io

import pytest

from steps.core import files
from steps.core.files import csv_text, read_csv, write_text
from steps.core.hashes import sha256_file


def test_a_file_that_was_not_finished_leaves_the_old_one(tmp_path):
    path = tmp_path / "new/deep/b.jsonl"
    assert files.write_jsonl(path, [{"a": "é"}, {"a": 2}]) == 2
    old = path.read_bytes()

    def rows():
        yield {"a": 3}
        raise KeyError("broken off")

    with pytest.raises(KeyError):
        files.write_jsonl(path, rows())
    assert path.read_bytes() == old == '{"a": "é"}\n{"a": 2}\n'.encode()
    assert list(files.read_jsonl(path)) == [{"a": "é"}, {"a": 2}]
    assert sha256_file(path) == hashlib.sha256(old).hexdigest()


def test_json_has_sorted_keys_and_no_number_that_is_none(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": "é",\n  "b": 1\n}\n'
    assert files.read_json(tmp_path / "a.json") == {"a": "é", "b": 1}
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert files.read_json(tmp_path / "a.json") == {"a": "é", "b": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_table_has_its_columns_and_no_other(tmp_path):
    text = files.csv_text(["a", "b"], [{"b": "x,\ny", "a": 1}, {"a": 2}])
    assert text == 'a,b\n1,"x,\ny"\n2,\n'
    files.write_text(tmp_path / "new/deep/a.csv", text)
    assert files.read_csv(tmp_path / "new/deep/a.csv") == [{"a": "1", "b": "x,\ny"}, {"a": "2", "b": ""}]
    files.write_text(tmp_path / "a.tsv", "a\tb\n1\t2\n")
    assert files.read_csv(tmp_path / "a.tsv", delimiter="\t") == [{"a": "1", "b": "2"}]
    with pytest.raises(ValueError, match="c"):
        files.csv_text(["a"], [{"c": 1}])


def test_nothing_of_an_older_run_survives(tmp_path):
    (tmp_path / "out/deep").mkdir(parents=True)
    for _ in range(2):
        assert files.fresh_folder(tmp_path / "out") == tmp_path / "out"
        assert not list((tmp_path / "out").iterdir())
    assert files.fresh_folder(tmp_path / "new/out").is_dir()


# --- cells ---

FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\tx", "\r=1", '=HYPERLINK("http://x","y")', "-", "＝1+1", "'=1", "''@"]
TEXTS = ["", "a=b", "x\r=1+1", "1-2", "'quoted'", "a,b\nc", "−0.5", "日本"]
NUMBERS = ["-0.5", "+3", "-1e-05", "-inf", "0.25", "-.5"]


@pytest.mark.parametrize("cell", FORMULAS)
def test_a_formula_is_text(cell, tmp_path):
    text = csv_text(["id", cell], [{"id": cell, cell: "x"}])
    for row in csv.reader(io.StringIO(text, newline="")):
        assert not any(shown.startswith(("=", "+", "-", "@", "\t", "\r", "＝")) for shown in row)
    write_text(tmp_path / "a.csv", text)
    assert read_csv(tmp_path / "a.csv") == [{"id": cell, cell: "x"}]


@pytest.mark.parametrize("cell", [*TEXTS, *NUMBERS])
def test_what_is_no_formula_is_as_it_was(cell, tmp_path):
    text = csv_text(["a", "b"], [{"a": cell, "b": -0.5}])
    assert [*csv.reader(io.StringIO(text, newline=""))][1] == [cell, "-0.5"]
    write_text(tmp_path / "a.csv", text)
    assert read_csv(tmp_path / "a.csv") == [{"a": cell, "b": "-0.5"}]
