"""The registries: every entry is documented, drawn and rehearsed."""

import re
from itertools import combinations
from typing import get_args

import pytest

from steps.preflight.rehearse import REHEARSALS
from steps.reinforcement.methods import method_of
from steps.reinforcement.methods.interface import Distilled, SelfTaught
from steps.report.figures import LIGHT
from steps.settings import adapters, methods, stages
from steps.settings.base import Settings
from steps.settings.diagnosis import CAUSES
from steps.settings.distill import OBJECTIVES
from steps.settings.interpolation import CHOICES, PATHS
from steps.settings.merging import MERGES
from steps.settings.opd import DIVERGENCES, SIDES, SUPPORTS
from steps.settings.params import GRAPH_KEYS, Params
from steps.settings.rewards import REWARDS
from steps.settings.training import LAUNCHES, OPTIMIZERS, PRECISIONS
from steps.training import memory
from tests.graph.test_recipes import PARAMS, ROOT
from tests.models import test_adapters

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
RULES = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "rules").glob("*.smk"))
REGISTRIES = {
    "stage": stages.STAGES,
    "adapter": adapters.ADAPTERS,
    "method": methods.METHODS,
    "self-teacher": methods.SELF_TEACHERS,
    "path": PATHS,
    "choice": CHOICES,
    "reward": REWARDS,
    "divergence": DIVERGENCES,
    "support": SUPPORTS,
    "side": SIDES,
    "objective": OBJECTIVES,
    "cause": CAUSES,
    "launch": LAUNCHES,
    "optimizer": OPTIMIZERS,
    "precision": PRECISIONS,
}
DRAWN = {
    "stage": stages.ORIGINS | {name: stage.look for name, stage in stages.STAGES.items()},
    "adapter": {name: kind.look for name, kind in adapters.ADAPTERS.items()},
    "method": {name: method.look for name, method in methods.METHODS.items()},
}


@pytest.mark.parametrize("registry", REGISTRIES)
def test_every_entry_is_documented(registry):
    assert [name for name in REGISTRIES[registry] if not re.search(rf"\b{name}\b", TEXT)] == []


def test_every_merge_method_says_what_it_gives():
    """docs/recipes.md shows it; params.yaml points there."""
    assert all(method.what for method in MERGES.values())


@pytest.mark.parametrize("registry", DRAWN)
def test_every_entry_is_drawn_and_no_two_alike(registry):
    looks = DRAWN[registry]
    assert all(token in LIGHT for token, _ in looks.values())
    assert [(a, b) for a, b in combinations(looks, 2) if looks[a] == looks[b]] == []


@pytest.mark.parametrize("registry", [stages, adapters, methods])
def test_what_has_no_entry_is_drawn_too(registry):
    assert registry.look("of-tomorrow")[0] in LIGHT


def test_every_training_is_rehearsed():
    assert set(REHEARSALS) == set(stages.TRAINED)
    assert test_adapters.KINDS.keys() == adapters.ADAPTERS.keys() - {"full"}
    shape = memory.read_shape(ROOT / "data/fable/base")
    assert all(memory.trained(shape, adapter) > 0 for adapter in test_adapters.KINDS.values())


def test_every_stage_has_a_section_and_a_rule():
    for stage, entry in stages.STAGES.items():
        assert Params.model_fields[stage].annotation is entry.settings and stage in PARAMS
        assert f"rule {stage}:" in RULES
        assert not {*entry.settings.keys()} & {*GRAPH_KEYS}, "a recipe's key would be two things"


def test_every_method_has_a_module_that_is_what_its_entry_says():
    for name, entry in methods.METHODS.items():
        method = method_of({"method": name, "clip": {"low": 0.2, "high": 0.2}})
        assert isinstance(method, SelfTaught) == (entry.settings is not None)
        assert isinstance(method, Distilled) == entry.distils


def test_what_a_choice_makes_act_is_a_key_and_no_key_acts_under_none():
    for entry in stages.STAGES.values():
        if entry.choice:
            key, keys_of = entry.choice
            assert {key, *(name for names in keys_of.values() for name in names)} <= {*entry.settings.keys()}


def test_every_setting_says_what_it_means():
    todo, seen, silent = [Params], set(), []
    while todo:
        part = todo.pop()
        seen.add(part)
        for name, info in part.model_fields.items():
            inner = classes_in(info.annotation)
            todo += [one for one in inner if one not in seen]
            # The kind of a mapping is its class, whose docstring says it.
            silent += (
                [f"{part.__name__}.{name}"]
                if not info.description and not inner and name not in ("kind", "mode")
                else []
            )
        silent += [] if part.__doc__ else [part.__name__]
    assert not silent
    assert len(seen) > 40


def classes_in(annotation: object) -> list[type[Settings]]:
    inner = [one for part in get_args(annotation) for one in classes_in(part)]
    return [annotation, *inner] if isinstance(annotation, type) and issubclass(annotation, Settings) else inner


def test_what_an_entry_promises_is_there():
    from steps.reinforcement.reward_kinds import KINDS as REWARD_KINDS

    assert REWARD_KINDS.keys() == REWARDS.keys()
