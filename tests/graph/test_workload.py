"""What a run's settings are: the defaults, overlays in order, values of the command line; which files were read."""

import re
import subprocess
import sys

import pytest
import yaml

from steps.graph import recipes, workload
from tests.workloads import ROOT, params_of

DEFAULTS = {
    "workload": None,
    "models": {},
    "data": {},
    "studies": {},
    "sft": {"epochs": 2, "rate": 1.0e-5, "order": "shuffle"},
}
FABLE = {
    "workload": "fable",
    "models": {"base": {"path": "tiny"}, "large": {"path": "small"}},
    "data": {"problems": {"sources": [1, 2]}, "practice": {"sources": [3]}},
    "world": {"seed": 0},
    "forecast": {"axes": {"practice": "general"}},
    "sft": {"rate": 2.0e-3},
    "studies": {"one": {"recipes": {"sft": {"stage": "sft"}, "lora": {"stage": "sft"}}}, "two": {"recipes": {}}},
}
OWN = {
    "workload": "mine",
    "models": {"base": {"path": "mine"}},
    "data": {"rows": {"sources": [4]}},
    "studies": {"one": {"recipes": {"sft": {"stage": "sft"}}}},
}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "workloads").mkdir()
    files = {"params.yaml": DEFAULTS, "workloads/fable.yaml": FABLE, "workloads/mine.yaml": OWN}
    for name, content in files.items():
        write(tmp_path / name, content)
    return tmp_path


def write(file, content):
    file.write_text(yaml.safe_dump(content))
    return file


def names(root, files):
    return [str(file.relative_to(root)) for file in files]


# --- what is laid over what -----------------------------------------------------------------------


def test_without_an_overlay_the_embedded_workload_runs(root):
    params, files = workload.load(root)
    assert names(root, files) == ["params.yaml", "workloads/fable.yaml"]
    assert params["workload"] == "fable" and params["sft"] == {"epochs": 2, "rate": 2.0e-3, "order": "shuffle"}


def test_an_overlay_of_the_users_own_inherits_nothing_of_it(root):
    params, files = workload.load(root, [root / "workloads/mine.yaml"])
    assert names(root, files) == ["params.yaml", "workloads/mine.yaml"]
    assert params == DEFAULTS | OWN


def test_an_overlay_stands_on_the_one_that_it_names(root):
    full = write(root / "workloads/full.yaml", {"extends": "fable.yaml", "workload": "full", "sft": {"epochs": 3}})
    more = write(root / "more.yaml", {"extends": "workloads/full.yaml", "sft": {"order": "sources"}})
    params, files = workload.load(root, [more])
    assert names(root, files) == ["params.yaml", "workloads/fable.yaml", "workloads/full.yaml", "more.yaml"]
    assert params["sft"] == {"epochs": 3, "rate": 2.0e-3, "order": "sources"} and params["workload"] == "full"
    assert "extends" not in params
    # What two overlays stand on is laid once, below both.
    assert workload.load(root, [full, more])[1] == files


def test_later_overlays_lie_over_earlier_ones_and_the_command_line_over_all(root):
    first = write(root / "first.yaml", OWN | {"sft": {"epochs": 3, "rate": 1.0e-4}})
    second = write(root / "second.yaml", {"sft": {"rate": 5.0e-5}})
    assert workload.load(root, [first, second])[0]["sft"] == {"epochs": 3, "rate": 5.0e-5, "order": "shuffle"}
    values = {"sft": {"rate": 1.0}, "checkpoint": "sft"}
    params, _ = workload.load(root, [first, second], values)
    assert params["sft"] == {"epochs": 3, "rate": 1.0, "order": "shuffle"} and params["checkpoint"] == "sft"


def test_lists_replace_and_nulls_of_settings_stay(root):
    change = {"data": {"problems": {"sources": [9]}}, "sft": {"order": None}}
    params = workload.lay_over(workload.load(root)[0], change)
    assert params["data"]["problems"] == {"sources": [9]} and params["sft"]["order"] is None


def test_null_takes_out_what_has_a_name(root):
    below = workload.load(root)[0]
    change = {
        "models": {"large": None},
        "data": {"problems": None, "absent": None},
        "world": None,
        "studies": {"one": {"recipes": {"lora": None}}, "two": None},
    }
    params = workload.lay_over(below, change)
    assert list(params["models"]) == ["base"] and list(params["data"]) == ["practice"] and "world" not in params
    assert params["studies"] == {"one": {"recipes": {"sft": {"stage": "sft"}}}}
    assert below["world"] == {"seed": 0}, "what lies below stays as it is"


def test_a_data_set_that_is_taken_out_takes_its_axis_along(root):
    assert workload.lay_over(workload.load(root)[0], {"data": {"practice": None}})["forecast"] == {"axes": {}}
    change = {"data": {"practice": None}, "studies": {"distillation": None}}
    for overlays in ([], [ROOT / "workloads/example.yaml"]):
        params = recipes.complete(workload.lay_over(params_of(*overlays), change))
        assert params["forecast"]["axes"] == {}


def test_numbers_of_the_command_line_are_numbers(root):
    values = workload.values_of(["sft={rate: 1.0e-3, order: x}", "seeds=[0, 1]", "checkpoint=sft-rate=0.1", "world="])
    expected = {"sft": {"rate": 1.0e-3, "order": "x"}, "seeds": [0, 1], "checkpoint": "sft-rate=0.1", "world": None}
    assert values == expected
    params, _ = workload.load(root, values=values)
    assert params["sft"] == {"epochs": 2, "rate": 1.0e-3, "order": "x"} and "world" not in params


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", ["models", "data", "studies"])
def test_a_workload_without_models_data_or_studies_is_one_line(root, section):
    file = write(root / "mine.yaml", {key: value for key, value in OWN.items() if key != section})
    with pytest.raises(ValueError, match=f"^{section}: there are none; name an overlay that has some: --configfile"):
        workload.load(root, [file])


@pytest.mark.parametrize(
    "content, message",
    [
        ("extends: gone.yaml", "extends: there is no file .*gone.yaml, which .*mine.yaml stands on"),
        ("extends: [a, b]", r"extends: \['a', 'b'\] in .*mine.yaml is no path"),
        ("extends: mine.yaml", "extends: mine.yaml stands on itself"),
        ("- a list", "mine.yaml has no sections"),
        ("", "mine.yaml has no sections"),
        ("studies: {}\nsft: {}\nstudies: {}", "mine.yaml:3:1: the key 'studies' stands in line 1 already"),
        ("__use_yte__: true", "mine.yaml: __use_yte__ has no place in settings"),
        ("sft: {epochs: 1", "mine.yaml:2:1: is no YAML: .*"),
    ],
)
def test_a_file_that_cannot_be_laid_is_one_line(root, content, message):
    file = root / "mine.yaml"
    file.write_text(content)
    with pytest.raises(ValueError) as caught:
        workload.load(root, [file])
    assert "\n" not in str(caught.value) and re.search(message, str(caught.value))
    with pytest.raises(ValueError, match="there is no file .*nowhere.yaml"):
        workload.load(root, [root / "nowhere.yaml"])


def test_circles_of_overlays_end_in_one_line(root):
    first, second = root / "first.yaml", root / "second.yaml"
    write(first, {"extends": "second.yaml"})
    write(second, {"extends": "first.yaml"})
    with pytest.raises(ValueError, match=r"^extends: first.yaml stands on itself"):
        workload.load(root, [first])


# --- what ships -----------------------------------------------------------------------------------


def test_the_defaults_name_nothing_of_the_embedded_world():
    defaults = workload.read(ROOT / workload.DEFAULTS)
    assert "world" not in defaults and "pretrain" not in defaults
    assert "fable" not in yaml.safe_dump(defaults) and "results/" not in yaml.safe_dump(defaults)
    for stage in ("sft", "cpt", "reward", "distill", "rl", "opd"):
        assert defaults[stage]["learning_rate"] <= 2.0e-5, stage


def test_a_users_overlay_takes_fifteen_lines_and_names_nothing_of_fable():
    text = (ROOT / "workloads/example.yaml").read_text()
    assert len(text.splitlines()) <= 15 and "fable" not in text
    nodes = recipes.resolve(recipes.complete(params_of(ROOT / "workloads/example.yaml")))
    assert [node.name for node in nodes] == ["sft"]


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"studies": {"more": {"recipes": {"path": {"stage": "interpolate", "from": ["base", "sft"]}}}}},
            "path.target:",
        ),
        ({"studies": {"foundation": {"explore": True}}}, "explore.tasks:"),
    ],
)
def test_what_has_no_default_is_asked_for_where_a_recipe_needs_it(change, message):
    params = recipes.complete(params_of(ROOT / "workloads/example.yaml", **change))
    with pytest.raises(ValueError, match=message):
        recipes.resolve(params)


def test_loading_needs_no_torch():
    script = "import sys, steps.graph.workload; assert not {'torch', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
