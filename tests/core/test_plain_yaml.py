"""YAML as people write it: what is lost or misread without a word elsewhere is one line with file, line and column."""

import re

import pytest
import yaml

from steps.core import plain_yaml
from tests.workloads import ROOT

NEST = 100_000
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)


def line(text: str) -> str:
    with pytest.raises(ValueError) as caught:
        plain_yaml.parse(text, "f.yaml")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    return str(caught.value)


@pytest.mark.parametrize(
    "text, message",
    [
        # equal keys, at any depth
        ("studies: {a: 1}\nsft: 2\nstudies: {b: 1}", "f.yaml:3:1: the key 'studies' stands in line 1 already; join"),
        ("a:\n  b:\n  - c: 1\n    'c': 2", "f.yaml:4:5: the key 'c' stands in line 3 already"),
        ("a: {x: 1, x: 1}", "f.yaml:1:11: the key 'x' stands in line 1 already"),
        ("a: &a {x: 1}\nb: {<<: *a, <<: *a}", "f.yaml:2:13: the key '<<' stands in line 2 already"),
        ("a: &a {x: 1}\nb: &b {x: 2}\nc: {<<: [*a, *b]}", "f.yaml:3:9: two of the merged mappings have the key 'x'"),
        # syntax
        ("a: 1\nb: [1, 2\nc: 3", "f.yaml:3:2: is no YAML: did not find expected ',' or ']' .*of line 2"),
        ("a: b: c", "f.yaml:1:5: is no YAML: mapping values are not allowed"),
        ("a:\n\tb: 1", "f.yaml:2:1: a tab is no indentation in YAML; write spaces"),
        ("a: 1\nb: \x07", r"f.yaml:2: YAML has no character U\+0007"),
        ("a: \udc80", r"f.yaml:1: YAML has no character U\+DC80"),
        ('a: "x\\0"', r"f.yaml:1:4: has the control character U\+0000"),
        ("a: 1\n---\nb: 2", "f.yaml:2:1: another document begins; write one"),
        # keys that are no text
        ("on: 1", "f.yaml:1:1: the key on is true or false to YAML; quote it"),
        ("a: {1: x}", "f.yaml:1:5: the key 1 is a number to YAML; quote it"),
        ("a: {? : 1}", "f.yaml:1:7: a key is missing before the colon"),
        ("null: 1", "f.yaml:1:1: the key null is null to YAML; quote it"),
        ("? [a]\n: 1", "f.yaml:1:3: a key must be text"),
        ("a: &x b\n*x : 1", "f.yaml:2:1: a key must be text"),
        # values that nobody meant
        ("a: no", "f.yaml:1:4: no is false to YAML; write false, or quote it"),
        ("a: 2026-01-01", "f.yaml:1:4: 2026-01-01 is a date to YAML; quote it"),
        ("a: 010", "f.yaml:1:4: 010 is 8 to YAML; write 8, or quote it"),
        ("a: 1:30", "f.yaml:1:4: 1:30 is 90 to YAML"),
        ("a: 1:30.5", "f.yaml:1:4: 1:30.5 is 90.5 to YAML"),
        ("a: .nan", "f.yaml:1:4: .nan is no finite number"),
        ("a: 1.0e+999", "f.yaml:1:4: 1.0e.999 is no finite number"),
        (f"a: {'9' * 5000}", "f.yaml:1:4: 99999999999999999999… is wider than 64 bits"),
        ("a: 9223372036854775808", "f.yaml:1:4: 9223372036854775808 is wider than 64 bits"),
        ("a: =", "f.yaml:1:4: = is no text to YAML; quote it"),
        # tags and aliases
        ("a: !!python/object/apply:os.system [ls]", "f.yaml:1:4: the tag tag:yaml.org,2002:python/.* is not read"),
        ("a: !function x.y", "f.yaml:1:4: the tag !function is not read"),
        ("a: *b", "f.yaml:1:4: no value before has the anchor &b"),
        ("a: &a [*a]", "f.yaml:1:8: no value before has the anchor &a"),
        ("a: &x 1\nb: &x 2", "f.yaml:2:4: the anchor &x stands twice"),
        # bounds: none of these may end the process
        ("a: " + "[" * NEST, "f.yaml:1:54: more than 50 mappings and lists in each other"),
        ("- " * NEST + "x", "f.yaml:1:103: more than 50"),
        ("{a: " * NEST, "f.yaml:1:205: more than 50"),
        ("? " * NEST + "a", "f.yaml:1:3: a key must be text"),
        (f"a: &a {'[' * 40}{']' * 40}\nb: {'[' * 20}*a{']' * 20}", "f.yaml:2:24: more than 50"),
        (LAUGHS, "f.yaml:7:.* more than 1,000,000 values, those of aliases included"),
    ],
)  # fmt: skip
def test_what_would_be_lost_or_misread_is_one_line(text, message):
    assert re.match(message, line(text)), line(text)


@pytest.mark.parametrize(
    "text, value",
    [
        ("\ufeffa: 1\r\nb: [x, 'y', \"z\\n\"]\r\n", {"a": 1, "b": ["x", "y", "z\n"]}),
        ("a: [true, False, ~, null, , 0x1F, 0b11, 1_000, -3, 2.0e-4, 1., 2e-4]".replace(" ,", ""),
         {"a": [True, False, None, None, 31, 3, 1000, -3, 2.0e-4, 1.0, "2e-4"]}),
        ("'on': {'1': '010', '': 'no'}", {"on": {"1": "010", "": "no"}}),
        ("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}),
        ("%YAML 1.1\n---\na: |\n  x\n...\n", {"a": "x\n"}),
        ("a: {b: ~, c: {}}", {"a": {"b": None, "c": {}}}),
        ("# nothing", None),
        ("", None),
    ],
)  # fmt: skip
def test_what_is_plain_is_read_as_it_stands(text, value):
    assert plain_yaml.parse(text, "f.yaml") == value


def test_zero_has_one_spelling():
    assert str(plain_yaml.parse("-0.0", "x")) == "0.0"


def test_what_ships_is_plain_and_read_as_before():
    files = [ROOT / "params.yaml", ROOT / "dvc.yaml", *(ROOT / "workloads").rglob("*.yaml")]
    for file in files:
        assert plain_yaml.read(file) == yaml.safe_load(file.read_text(encoding="utf-8")), file


def test_a_tag_that_is_named_is_text(tmp_path):
    (tmp_path / "task.yaml").write_text("doc: !function 010.f\nother: 1")
    assert plain_yaml.read(tmp_path / "task.yaml", ["!function"]) == {"doc": "010.f", "other": 1}


def test_files_have_bounds(tmp_path, monkeypatch):
    file = tmp_path / "f.yaml"
    file.write_bytes(b"a: 1\nb: \xff")
    with pytest.raises(ValueError, match=r"f.yaml:2: is not UTF-8; save the file as UTF-8"):
        plain_yaml.read(file)
    file.write_bytes("a: 1".encode("utf-16"))
    with pytest.raises(ValueError, match=r"f.yaml:1: is not UTF-8"):
        plain_yaml.read(file)
    file.write_bytes(b"\n\xff")
    with pytest.raises(ValueError, match=r"f.yaml:2: is not UTF-8"):
        plain_yaml.read(file)
    file.write_text("a: 1")
    monkeypatch.setattr(plain_yaml, "LARGEST_FILE", 4)
    assert plain_yaml.read(file) == {"a": 1}
    monkeypatch.setattr(plain_yaml, "LARGEST_FILE", 3)
    with pytest.raises(ValueError, match=r"f.yaml has more than 3 bytes"):
        plain_yaml.read(file)
    for none in (tmp_path, tmp_path / "nowhere.yaml"):
        with pytest.raises(ValueError, match="there is no file"):
            plain_yaml.read(none)


def test_as_many_and_as_deep_values_as_are_allowed_are_read(monkeypatch):
    monkeypatch.setattr(plain_yaml, "MOST_VALUES", 4)
    monkeypatch.setattr(plain_yaml, "DEEPEST", 2)
    assert plain_yaml.parse("[1, [2]]", "f") == [1, [2]]
    with pytest.raises(ValueError, match="f:1:"):
        plain_yaml.parse("[1, 2, 3, 4]", "f")
    with pytest.raises(ValueError, match="f:1:"):
        plain_yaml.parse("[[[1]]]", "f")


def test_the_longest_spelling_of_64_bits_is_a_number():
    assert plain_yaml.parse("-0b" + "0" * 2 + "1" * 63, "f") == -(2**63 - 1)
    with pytest.raises(ValueError, match="wider than 64 bits"):
        plain_yaml.parse("-0b" + "0" * 4 + "1" * 63, "f")
