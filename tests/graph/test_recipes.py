"""The recipe graph: what params.yaml resolves to, and the one line each mistake gets."""

import re

import pytest

from steps.graph import recipes
from steps.graph.node import Node
from tests.workloads import PARAMS, ROOT, params_of
from tests.workloads import lay_over as overlaid


def resolve(change: dict | None = None, recipe_lines: dict | None = None) -> dict[str, Node]:
    """The nodes of the embedded workload with `change` laid over it, its recipes replaced where some are given."""
    params = overlaid(PARAMS, change or {})
    if recipe_lines is not None:
        detect = {"detect": "problems"} if any("diagnosis" in recipe for recipe in recipe_lines.values()) else {}
        params["studies"] = {"foundation": {"recipes": recipe_lines, **detect}}
    params = recipes.complete(params)
    return {node.name: node for node in recipes.resolve(params)}


def mistake(change: dict | None = None, recipe_lines: dict | None = None) -> str:
    with pytest.raises(ValueError) as caught:
        resolve(change, recipe_lines)
    line = str(caught.value)
    assert "\n" not in line
    return line


SFT = {"stage": "sft", "from": "base", "data": "problems"}
PLAIN = SFT | {"trajectory": 4}
CPT = {"stage": "cpt", "from": "base", "diagnosis": "plain", "treats": ["base_conflict"]}
MERGE = {"stage": "merge", "from": ["base", "large"]}
PATH = {"stage": "interpolate", "from": ["base", "large"]}
RL = {"stage": "rl", "from": "base", "data": "exercises"}
JUDGE = {"stage": "reward", "from": "base", "data": "preferences"}
JUDGED = {
    "answer": {"kind": "answer", "weight": 1.0},
    "preferred": {"kind": "preference", "weight": 0.1, "model": "judge"},
}
OPD = {"stage": "opd", "from": "base", "data": "exercises", "teachers": ["large"]}
DISTILL = OPD | {"stage": "distill"}
TWO = {"data": ["exercises", "practice"]}
OFT = {"kind": "oft", "block_size": 32}
CONFLICT = SFT | {"diagnosis": "plain", "treats": ["data_conflict"]}


# --- resolution -----------------------------------------------------------------------------------


def test_a_recipe_is_its_stage_defaults_with_its_own_keys_on_top():
    node = resolve(recipe_lines={"a": SFT | {"learning_rate": 5.0e-4}})["a"]
    assert node.settings == PARAMS["sft"] | {"learning_rate": 5.0e-4, "seed": 0}
    assert (node.study, node.stage, node.parents, node.data) == ("foundation", "sft", ("base",), "problems")


def test_a_nested_default_is_replaced_whole():
    node = resolve(
        {"sft": {"adapter": {"kind": "lora", "r": 4, "alpha": 8}}}, {"a": SFT | {"adapter": {"kind": "full"}}}
    )
    assert node["a"].settings["adapter"] == {"kind": "full"}


def test_workload_stands_in_paths():
    params = recipes.complete(overlaid(PARAMS, {"workload": "mine"}))
    assert params["data"]["problems"]["sources"][0]["path"].startswith("results/mine/world/")


def test_a_change_of_one_recipe_touches_no_other():
    before = resolve()
    after = resolve({"studies": {"foundation": {"recipes": {"sft_lora": {"learning_rate": 1.0e-4}}}}})
    assert [name for name in before if before[name] != after[name]] == ["sft_lora"]


def test_null_in_an_overlay_takes_an_entry_out():
    names = resolve({"studies": {"foundation": {"recipes": {"blend": None}}}, "models": {"large": None}})
    assert "blend" not in names and "sft" in names


def test_parents_come_before_children_whatever_the_order():
    lines = {"c": SFT | {"from": "b"}, "b": SFT | {"from": "a"}, "a": SFT}
    assert list(resolve(recipe_lines=lines)) == ["a", "b", "c"]


def test_a_grid_makes_a_node_per_point():
    lines = {
        "g": SFT
        | {
            "grid": {"learning_rate": [1.0e-3, 2.0e-5], "adapter.r": [4, 8]},
            "adapter": {"kind": "lora", "alpha": 8, "r": 1},
        }
    }
    lines["g"]["adapter"].pop("r")
    nodes = resolve(recipe_lines=lines)
    assert list(nodes) == [
        "g-learning_rate=0.001-adapter.r=4",
        "g-learning_rate=0.001-adapter.r=8",
        "g-learning_rate=2e-05-adapter.r=4",
        "g-learning_rate=2e-05-adapter.r=8",
    ]
    second = nodes["g-learning_rate=0.001-adapter.r=8"]
    assert second.point == {"learning_rate": 0.001, "adapter.r": 8}
    assert second.settings["adapter"] == {"kind": "lora", "alpha": 8, "r": 8}
    assert nodes["g-learning_rate=0.001-adapter.r=4"].settings["adapter"]["r"] == 4


def test_seeds_repeat_a_recipe_and_children_pair_by_seed():
    lines = {"a": SFT, "b": SFT | {"from": "a"}, "m": {"stage": "merge", "from": ["base", "b"]}}
    nodes = resolve({"seeds": [0, 7]}, lines)
    assert list(nodes) == ["a-s0", "a-s7", "b-s0", "b-s7", "m-s0", "m-s7"]
    assert nodes["b-s7"].parents == ("a-s7",) and nodes["b-s7"].settings["seed"] == 7
    assert nodes["m-s7"].parents == ("base", "b-s7")
    assert "seed" not in nodes["m-s7"].settings


def test_a_parent_with_one_seed_serves_every_seed_of_its_child():
    nodes = resolve({"seeds": [0, 1]}, {"a": SFT | {"seeds": [5]}, "b": SFT | {"from": "a"}})
    assert nodes["b-s0"].parents == nodes["b-s1"].parents == ("a",)


def test_settings_that_do_not_act_are_not_told():
    lines = {"a": SFT, "b": SFT, "m": MERGE, "s": MERGE | {"method": "slerp"}}
    lines |= {"t": MERGE | {"from": ["a", "b"], "method": "ties", "density": 0.2}, "p": PATH}
    lines |= {"o": SFT | {"adapter": OFT}, "c": PATH | {"from": ["base", "o"], "path": "cayley", "generator": "linear"}}
    nodes = resolve(recipe_lines=lines)
    always = {"dtype": "stored", "tokenizer": "same"}
    even = {"weights": [0.5, 0.5], "normalize": None}
    assert nodes["m"].settings == {"method": "linear"} | even | always
    assert nodes["s"].settings == {"method": "slerp", "t": 0.5} | always
    assert nodes["t"].settings == {"method": "ties", "density": 0.2, "scale": 1.0} | even | always
    assert "generator" not in nodes["p"].settings and nodes["c"].settings["generator"] == "linear"


def test_a_grid_over_lists_has_names_without_brackets():
    lines = {"m": MERGE | {"grid": {"weights": [[0.25, 0.75], [0.5, 0.5]]}}}
    nodes = resolve(recipe_lines=lines)
    assert list(nodes) == ["m-weights=0.25+0.75", "m-weights=0.5+0.5"]
    assert nodes["m-weights=0.25+0.75"].settings["weights"] == [0.25, 0.75]


def test_a_path_of_rotations_pairs_by_seed():
    lines = {"o": SFT | {"adapter": OFT}, "c": PATH | {"from": ["base", "o"], "path": "cayley"}}
    nodes = resolve({"seeds": [0, 1]}, lines)
    assert nodes["c-s1"].parents == ("base", "o-s1")


def test_a_described_task_may_serve_a_path_alone():
    change = {"evaluate": {"tasks": {"mine": {"data_files": {"test": "mine.jsonl"}}}}}
    assert resolve(change, {"p": PATH | {"target": ["mine"]}})["p"].settings["target"] == ["mine"]


def test_a_merge_of_models_has_no_seed():
    nodes = resolve({"seeds": [0, 1]}, {"m": {"stage": "merge", "from": ["base", "large"]}})
    assert list(nodes) == ["m"] and nodes["m"].seed is None


def test_a_child_may_name_one_point_of_a_grid():
    lines = {"g": SFT | {"grid": {"epochs": [1, 2]}}, "b": SFT | {"from": "g-epochs=2"}}
    assert resolve({"seeds": [0, 1]}, lines)["b-s1"].parents == ("g-epochs=2-s1",)


def test_a_treatment_names_the_diagnosis_of_its_own_seed():
    lines = {"cure": CPT | {"at_random": True}, "more": CONFLICT | {"from": "cure"}, "plain": PLAIN}
    nodes = resolve({"seeds": [0, 7]}, lines)
    assert list(nodes) == ["plain-s0", "plain-s7", "cure-s0", "cure-s7", "more-s0", "more-s7"]
    assert nodes["cure-s7"].treatment == {"diagnosis": "plain-s7", "causes": ["base_conflict"], "at_random": True}
    assert nodes["more-s0"].treatment == {"diagnosis": "plain-s0", "causes": ["data_conflict"], "at_random": False}
    assert nodes["more-s0"].to_dict()["treatment"] == nodes["more-s0"].treatment
    assert nodes["plain-s0"].treatment is None
    assert (nodes["cure-s7"].parents, nodes["more-s7"].parents) == (("base",), ("cure-s7",))


def test_a_diagnosis_of_one_seed_or_grid_point_serves_every_seed():
    lines = {"plain": PLAIN | {"seeds": [5]}, "a": CONFLICT}
    assert resolve({"seeds": [0, 1]}, lines)["a-s1"].treatment["diagnosis"] == "plain"
    lines = {"plain": PLAIN | {"grid": {"epochs": [1, 2]}}, "a": CONFLICT | {"diagnosis": "plain-epochs=2"}}
    assert resolve({"seeds": [0, 1]}, lines)["a-s1"].treatment["diagnosis"] == "plain-epochs=2-s1"


def test_graph_keys_are_no_settings():
    nodes = resolve(recipe_lines={"plain": PLAIN, "cure": CPT, "a": CONFLICT | {"buckets": {"every": 5}}})
    assert nodes["cure"].settings == PARAMS["cpt"] | {"seed": 0}
    assert nodes["a"].settings == PARAMS["sft"] | {"buckets": {"every": 5}, "seed": 0}


def test_who_is_taught_pairs_with_teachers_of_its_seed():
    lines = {"s": OPD | {"from": "a", "teachers": ["t"]}, "t": RL | {"from": "a"}, "a": SFT}
    nodes = resolve({"seeds": [0, 7]}, lines)
    assert list(nodes) == ["a-s0", "a-s7", "t-s0", "t-s7", "s-s0", "s-s7"]
    assert (nodes["s-s7"].parents, nodes["s-s7"].teachers) == (("a-s7",), ("t-s7",))
    assert nodes["a-s0"].teachers == nodes["a-s0"].sources == ()
    lines["t"] |= {"seeds": [1]}
    assert {resolve({"seeds": [0, 1]}, lines)[name].teachers for name in ("s-s0", "s-s1")} == {("t",)}
    lines["t"] |= {"grid": {"steps": [10, 20]}}
    lines["s"] |= {"teachers": ["t-steps=20"]}
    assert resolve({"seeds": [0, 1]}, lines)["s-s1"].teachers == ("t-steps=20",)


def test_one_teacher_of_one_data_set():
    node = resolve(recipe_lines={"s": OPD})["s"]
    assert (node.data, node.teachers) == ("exercises", ("large",))
    assert node.sources == ({"data": "exercises", "share": 1.0, "teachers": [0]},)
    told = {key: value for key, value in PARAMS["opd"].items() if key not in ("shares", "weights")}
    assert node.settings == told | {"seed": 0, "sources": [*node.sources], "weights": [1.0]}
    assert node.to_dict()["teachers"] == ["large"] and node.to_dict()["sources"] == [*node.sources]


def test_every_data_set_may_have_its_own_teacher():
    lines = {"a": SFT, "s": OPD | TWO | {"teachers": {"practice": "large", "exercises": "a"}}}
    node = resolve(recipe_lines=lines)["s"]
    assert (node.data, node.teachers) == ("exercises", ("a", "large")), "in the order of the data sets"
    assert [(source["data"], source["teachers"]) for source in node.sources] == [("exercises", [0]), ("practice", [1])]
    assert node.settings["sources"] == [*node.sources]
    shared = resolve(recipe_lines={"s": OPD | TWO | {"teachers": {"practice": "large", "exercises": "large"}}})["s"]
    assert shared.teachers == ("large",) and [source["teachers"] for source in shared.sources] == [[0], [0]]


def test_a_list_of_teachers_is_a_mixture_on_all_prompts():
    lines = {"a": SFT, "s": OPD | TWO | {"teachers": ["a", "large"], "shares": [0.8, 0.2], "weights": [0.667, 0.334]}}
    node = resolve(recipe_lines=lines)["s"]
    assert [source["teachers"] for source in node.sources] == [[0, 1], [0, 1]]
    assert [source["share"] for source in node.sources] == [0.8, 0.2]
    assert node.settings["weights"] == pytest.approx([0.667 / 1.001, 0.334 / 1.001], abs=1e-12)
    assert "shares" not in node.settings
    lines["s"] |= {"shares": None, "weights": None}
    node = resolve(recipe_lines=lines)["s"]
    assert [source["share"] for source in node.sources] == node.settings["weights"] == [0.5, 0.5]


def test_what_a_teacher_writes_has_no_shares():
    lines = {"a": SFT, "d": DISTILL | TWO | {"teachers": {"exercises": "a", "practice": "large"}}}
    node = resolve(recipe_lines=lines)["d"]
    assert node.sources == (
        {"data": "exercises", "share": None, "teachers": [0]},
        {"data": "practice", "share": None, "teachers": [1]},
    )
    assert node.settings == PARAMS["distill"] | {"seed": 0}
    assert [source["teachers"] for source in resolve(recipe_lines={"d": DISTILL | TWO})["d"].sources] == [[0], [0]]


def test_a_student_may_teach_another_node_of_its_recipe():
    lines = {"g": OPD | {"grid": {"steps": [5, 10]}}, "s": OPD | {"from": "g-steps=5", "teachers": ["g-steps=10"]}}
    assert resolve(recipe_lines=lines)["s"].teachers == ("g-steps=10",)


# --- mistakes: (overlay, recipes, what the line must say) --------------------------------------------

AT = "studies.foundation.recipes.a"
MISTAKES = {
    "unknown key": (None, {"a": SFT | {"learning_rat": 1.0e-3}}, [f"{AT}.learning_rat", "unknown", "learning_rate"]),
    "text for number": (None, {"a": SFT | {"learning_rate": "2e-4"}}, [f"{AT}.learning_rate", "'2e-4'", "2.0e-4"]),
    "text in a default": ({"sft": {"learning_rate": "1e-3"}}, None, ["sft.learning_rate", "1.0e-3"]),
    "number out of range": (None, {"a": SFT | {"learning_rate": -1.0}}, [f"{AT}.learning_rate", "-1.0"]),
    "float for integer": (None, {"a": SFT | {"batch_size": 1.5}}, [f"{AT}.batch_size", "integer"]),
    "missing parent": (None, {"a": SFT | {"from": "bse"}}, [f"{AT}.from", "`bse`", "did you mean `base`"]),
    "cycle": (None, {"a": SFT | {"from": "b"}, "b": SFT | {"from": "a"}}, [".from", "a -> b -> a"]),
    "its own parent": (None, {"a": SFT | {"from": "a"}}, [f"{AT}.from", "a -> a"]),
    "missing data set": (None, {"a": SFT | {"data": "problem"}}, [f"{AT}.data", "did you mean `problems`"]),
    "no data set": (None, {"a": {"stage": "sft", "from": "base"}}, [AT, "needs `data`", "problems"]),
    "unknown stage": (None, {"a": SFT | {"stage": "sfft"}}, [f"{AT}.stage", "'sfft'", "sft, cpt, rl, reward, merge"]),
    "no stage": (None, {"a": {"from": "base"}}, [AT, "`stage` is missing"]),
    "adapter.r without an adapter": (
        None,
        {"a": SFT | {"adapter": {"kind": "full", "r": 8}}},
        [f"{AT}.adapter.r", "no effect", "kind full"],
    ),
    "unknown adapter": (
        None,
        {"a": SFT | {"adapter": {"kind": "lorra", "r": 8}}},
        [f"{AT}.adapter.kind", "lorra", "full, hra, ia3, lora"],
    ),
    "adapter without rank": (
        None,
        {"a": SFT | {"adapter": {"kind": "lora", "alpha": 8}}},
        [f"{AT}.adapter", "`r` is missing"],
    ),
    "sft key on a merge": (
        None,
        {"a": {"stage": "merge", "from": ["base", "large"], "learning_rate": 1.0e-3}},
        [f"{AT}.learning_rate", "no effect on stage merge", "remove"],
    ),
    "data on a merge": (
        None,
        {"a": {"stage": "merge", "from": ["base", "large"], "data": "problems"}},
        [f"{AT}.data", "no effect"],
    ),
    "seeds on a merge": (
        None,
        {"a": {"stage": "merge", "from": ["base", "large"], "seeds": [1]}},
        [f"{AT}.seeds", "no effect"],
    ),
    "one parent for a merge": (None, {"a": {"stage": "merge", "from": "base"}}, [f"{AT}.from", "at least 2"]),
    "two parents for sft": (None, {"a": SFT | {"from": ["base", "large"]}}, [f"{AT}.from", "1 parent"]),
    "weights that do not fit": (
        None,
        {"a": {"stage": "merge", "from": ["base", "large"], "weights": [0.2, 0.3, 0.5]}},
        [f"{AT}.weights", "3 weights for 2 parents"],
    ),
    "density without trimming": (
        None,
        {"a": MERGE | {"density": 0.2}},
        [f"{AT}.density", "no effect with method linear", "remove", "ties, dare_linear, dare_ties"],
    ),
    "a grid over a key that does not act": (
        None,
        {"a": MERGE | {"method": "slerp", "grid": {"scale": [0.5, 1.0]}}},
        [f"{AT}.scale", "no effect with method slerp"],
    ),
    "layers of nobody": (
        None,
        {"a": MERGE | {"method": "passthrough"}},
        [f"{AT}.slices", "passthrough needs it"],
    ),
    "layers of a parent that is not there": (
        None,
        {"a": MERGE | {"method": "passthrough", "slices": [{"parent": 2, "layers": [0, 1]}]}},
        [f"{AT}.slices", "parent 2 is none of the 2"],
    ),
    "an adapter that is rounded": (
        None,
        {"a": SFT | {"adapter": {"kind": "lora", "r": 8, "alpha": 8}, "save_dtype": "bfloat16"}},
        [f"{AT}.save_dtype", "bfloat16 rounds what adapter kind full trains", "write float32"],
    ),
    "a type that weights have not": (
        None,
        {"a": SFT | {"save_dtype": "int8"}},
        [f"{AT}.save_dtype", "int8", "float32"],
    ),
    "slerp of three": (
        None,
        {"a": SFT, "m": MERGE | {"from": ["base", "large", "a"], "method": "slerp"}},
        ["recipes.m.from", "slerp takes 2 parents, not 3"],
    ),
    "changes of two models": (
        None,
        {"a": SFT, "b": SFT | {"from": "large"}, "m": MERGE | {"from": ["a", "b"], "method": "ties"}},
        ["recipes.m.from", "`a` descends from base, `b` from large", "ties"],
    ),
    "the changes of a model itself": (
        None,
        {"a": SFT, "m": MERGE | {"from": ["a", "base"], "method": "task_arithmetic"}},
        ["recipes.m.from", "`base`", "take it out"],
    ),
    "a path over three": (None, {"a": PATH | {"from": ["base"]}}, [f"{AT}.from", "2 parents"]),
    "a path that stops short": (None, {"a": PATH | {"alphas": [0.0, 0.5]}}, [f"{AT}.alphas", "rise from 0 to 1"]),
    "an alpha beyond the end": (None, {"a": PATH | {"alphas": [0.0, 1.5]}}, [f"{AT}.alphas[1]", "1.5"]),
    "a generator on a line": (
        None,
        {"a": PATH | {"generator": "sqrt"}},
        [f"{AT}.generator", "no effect with path additive"],
    ),
    "choosing on what is reported": (
        None,
        {"a": PATH | {"target": ["fable_problems"]}},
        [f"{AT}.target", "fable_problems", "evaluate.target", "other questions"],
    ),
    "rotating a LoRA": (
        None,
        {
            "l": SFT | {"adapter": {"kind": "lora", "r": 8, "alpha": 8}},
            "p": PATH | {"from": ["base", "l"], "path": "cayley"},
        },
        ["recipes.p.path", "oft adapter", "`l` is not"],
    ),
    "rotating from another start": (
        None,
        {"o": SFT | {"adapter": OFT}, "b": SFT, "p": PATH | {"from": ["b", "o"], "path": "cayley"}},
        ["recipes.p.path", "trained on `b`", "`o` is not"],
    ),
    "a setting of another method": (
        None,
        {"a": RL | {"rlrt": {"context": "sibling", "teacher": {"kind": "live"}, "mix": 0.5, "clip": 1.0}}},
        [f"{AT}.rlrt", "no effect with method grpo", "remove", "rlrt"],
    ),
    "a teacher that does not move": (
        None,
        {"a": RL | {"method": "sdpo", "grid": {"sdpo.teacher": ["ema"]}}},
        [f"{AT}.sdpo.teacher", "ema"],
    ),
    "samples that do not fit": (
        None,
        {"a": RL | {"prompts": 3}},
        [f"{AT}.batch_size", "128", "24 samples"],
    ),
    "steps that end within a batch of rollouts": (
        None,
        {"a": RL | {"steps": 5, "iterations": 2}},
        [f"{AT}.steps", "no multiple of iterations 2"],
    ),
    "success by a reward that is not there": (
        None,
        {"a": RL | {"rewards": {"right": {"kind": "answer", "weight": 1.0}}}},
        [f"{AT}.success.reward", "answer", "right"],
    ),
    "a context that is not written": (
        None,
        {"a": RL | {"method": "rlsd", "contexts": {"sibling": "{prompt}"}}},
        [f"{AT}.rlsd.context", "truth", "sibling"],
    ),
    "a context with a field of its own": (
        None,
        {"a": RL | {"method": "srpo", "contexts": {"sibling": "{question}"}}},
        [f"{AT}.contexts.sibling", "'question'", "{prompt}"],
    ),
    "weights of a part": (
        None,
        {"a": RL | {"method": "srpo", "iterations": 2, "batch_size": 64}},
        [f"{AT}.batch_size", "srpo", "128 samples", "iterations to 1"],
    ),
    "a solution for who is shown the answer": (
        None,
        {"a": RL | {"method": "rlsd", "contexts": {"truth": "{solution} {prompt}"}}},
        [f"{AT}.contexts.truth", "{solution}"],
    ),
    "two denominators": (
        None,
        {"a": RL | {"method": "srpo", "loss_type": "grpo"}},
        [f"{AT}.loss_type", "srpo", "dapo"],
    ),
    "a limit for what takes no time": (
        None,
        {"a": RL | {"rewards": {"answer": {"kind": "answer", "weight": 1.0, "timeout": 2.0}}}},
        [f"{AT}.rewards.answer.timeout", "no effect with kind answer"],
    ),
    "a divergence whose weight does not change": (
        None,
        {"a": RL | {"kl": {"kind": "linear", "from": 0.1, "to": 0.1, "until": 4}}},
        [f"{AT}.kl", "both 0.1", "write kl: 0.1"],
    ),
    "a divergence whose last weight is not reached": (
        None,
        {"a": RL | {"steps": 4, "kl": {"kind": "cosine", "from": 0.1, "to": 0.0, "until": 5}}},
        [f"{AT}.kl.until", "5 is beyond the 4 steps"],
    ),
    "a divergence that is steered from 0": (
        None,
        {"a": RL | {"kl": {"kind": "adaptive", "from": 0.0, "target": 0.1, "gain": 0.1}}},
        [f"{AT}.kl.from", "above 0"],
    ),
    "a divergence that is steered to 0": (
        None,
        {"a": RL | {"kl": {"kind": "adaptive", "from": 0.1, "target": 0.0, "gain": 0.1}}},
        [f"{AT}.kl.target", "above 0"],
    ),
    "a schedule of the divergence with a key of another": (
        None,
        {"a": RL | {"kl": {"kind": "linear", "from": 0.1, "to": 0.0, "until": 4, "target": 0.1}}},
        [f"{AT}.kl.target", "has no effect with kind linear"],
    ),
    "a judge that is not there": (None, {"a": RL | {"rewards": JUDGED}}, [f"{AT}.rewards", "`judge`"]),
    "a judge that writes": (
        None,
        {"judge": SFT, "a": RL | {"rewards": JUDGED}},
        [f"{AT}.rewards", "`judge`", "stage reward"],
    ),
    "two judges": (
        None,
        {"judge": JUDGE, "a": RL | {"rewards": JUDGED | {"again": JUDGED["preferred"]}}},
        [f"{AT}.rewards", "more than one"],
    ),
    "starting from a reward model": (
        None,
        {"judge": JUDGE, "a": RL | {"from": "judge"}},
        [f"{AT}.from", "`judge`", "writes none"],
    ),
    "an option of another adapter": (
        None,
        {"a": SFT | {"adapter": OFT | {"alpha": 16}}},
        [f"{AT}.adapter.alpha", "no effect with kind oft"],
    ),
    "a task on two axes": (
        {"evaluate": {"harder": ["fable_problems"]}},
        None,
        ["evaluate.harder", "fable_problems", "already stands under target"],
    ),
    "a sampled task that is not measured": (
        {"evaluate": {"sampling": {"tasks": ["gsm8k"]}}},
        None,
        ["evaluate.sampling.tasks", "gsm8k", "stands on no axis"],
    ),
    "a described task that nothing uses": (
        {"evaluate": {"tasks": {"mine": {"data_files": {"test": "mine.jsonl"}}}}},
        None,
        ["evaluate.tasks", "mine", "stands on no axis"],
    ),
    "a model's name": (None, {"base": SFT}, ["recipes.base", "models", "rename"]),
    "a reserved study": ({"studies": {"data": {"recipes": {"b": SFT}}}}, None, ["studies.data", "rename"]),
    "one name in two studies": (
        {"studies": {"more": {"recipes": {"sft": SFT}}}},
        None,
        ["recipes.sft", "`foundation`"],
    ),
    "a grid as parent": (
        None,
        {"g": SFT | {"grid": {"epochs": [1, 2]}}, "a": SFT | {"from": "g"}},
        [f"{AT}.from", "grid", "`g-epochs=1`"],
    ),
    "no such grid point": (
        None,
        {"g": SFT | {"grid": {"epochs": [1, 2]}}, "a": SFT | {"from": "g-epochs=3"}},
        [f"{AT}.from", "`g-epochs=1`"],
    ),
    "a key twice": (
        None,
        {"a": SFT | {"epochs": 1, "grid": {"epochs": [1, 2]}}},
        [f"{AT}.epochs", "no effect", "grid"],
    ),
    "a grid over nothing": (None, {"a": SFT | {"grid": {"adapter.r": [4]}}}, [f"{AT}.adapter.r", "no effect"]),
    "seeds that do not pair": (
        None,
        {"p": SFT | {"seeds": [0, 1]}, "a": SFT | {"from": "p", "seeds": [2]}},
        [f"{AT}.seeds", "seed 2", "[0, 1]"],
    ),
    "a section unknown": ({"sftt": {}}, None, ["sftt", "did you mean `sft`"]),
    "a section missing": ({"split": None}, None, ["split"]),
    "a branch for a commit": (
        {"models": {"base": {"revision": "main"}}},
        None,
        ["models.base.revision", "'main'", "commit"],
    ),
    "a hash that is none": (
        {"models": {"base": {"revision": "0" * 40, "sha256": {"model.safetensors": "0" * 40}}}},
        None,
        ["models.base.sha256.model.safetensors", "'" + "0" * 40 + "'"],
    ),
    "a hash of a local folder": (
        {"models": {"base": {"sha256": {"model.safetensors": "0" * 64}}}},
        None,
        ["models.base.sha256", "no effect without `revision`"],
    ),
    "no such model to sample": ({"bucket": {"model": "bass"}}, None, ["bucket.model", "did you mean `base`"]),
    "no such data set to examine": (
        {"studies": {"foundation": {"detect": "problem"}}},
        None,
        ["studies.foundation.detect", "did you mean `problems`"],
    ),
    "treats without diagnosis": (
        None,
        {"plain": PLAIN, "a": SFT | {"treats": ["data_conflict"]}},
        [f"{AT}.treats", "no effect without `diagnosis`", "add"],
    ),
    "diagnosis without treats": (
        None,
        {"plain": PLAIN, "a": SFT | {"diagnosis": "plain"}},
        [f"{AT}.diagnosis", "no effect without `treats`", "add"],
    ),
    "at_random without treats": (None, {"a": SFT | {"at_random": True}}, [f"{AT}.at_random", "`treats`", "remove"]),
    "cpt without a diagnosis": (
        None,
        {"a": {"stage": "cpt", "from": "base"}},
        [AT, "stage cpt needs `data`, a set of documents, or `diagnosis` and `treats`"],
    ),
    "conversations for cpt": (
        None,
        {"a": {"stage": "cpt", "from": "base", "data": "problems"}},
        [f"{AT}.data", "`problems` has rows of format alpaca", "stage cpt takes documents: name a set of format text"],
    ),
    "documents for sft": (
        {"data": {"books": {"sources": [{"path": "books", "format": "text"}]}}},
        {"a": SFT | {"data": "books"}},
        [f"{AT}.data", "`books` has rows of format text", "stage sft takes conversations"],
    ),
    "data beside treats": (
        None,
        {"plain": PLAIN, "a": CPT | {"data": "problems"}},
        [f"{AT}.data", "no effect beside `treats`", "remove one"],
    ),
    "two parents for cpt": (None, {"plain": PLAIN, "a": CPT | {"from": ["base", "large"]}}, [f"{AT}.from", "1 parent"]),
    "an sft key on cpt": (None, {"plain": PLAIN, "a": CPT | {"order": "sources"}}, [f"{AT}.order", "no effect", "sft"]),
    "treats on a merge": (
        None,
        {"plain": PLAIN, "a": CPT | {"stage": "merge", "from": ["base", "large"]}},
        [f"{AT}.treats", "no effect on stage merge", "remove"],
    ),
    "no such cause": (None, {"plain": PLAIN, "a": CPT | {"treats": ["base"]}}, [f"{AT}.treats[0]", "base_conflict"]),
    "a cause of the other stage": (
        None,
        {"plain": PLAIN, "a": SFT | {"diagnosis": "plain", "treats": ["base_conflict"]}},
        [f"{AT}.treats", "does not treat base_conflict", "stage cpt"],
    ),
    "a cause that no treatment of rows treats": (
        None,
        {"plain": PLAIN, "a": CPT | {"treats": ["left_side_forgetting"]}},
        [f"{AT}.treats", "`order: shuffle` and `resample`"],
    ),
    "a model as diagnosis": (
        None,
        {"plain": PLAIN, "a": CONFLICT | {"diagnosis": "base"}},
        [f"{AT}.diagnosis", "`base`", "`trajectory` above 0"],
    ),
    "a diagnosis without trajectory": (
        None,
        {"plain": SFT, "a": CONFLICT},
        [f"{AT}.diagnosis", "`plain`", "`trajectory` above 0"],
    ),
    "a diagnosis that is no sft": (
        None,
        {"plain": PLAIN, "m": {"stage": "merge", "from": ["base", "plain"]}, "a": CONFLICT | {"diagnosis": "m"}},
        [f"{AT}.diagnosis", "`m` is no sft recipe"],
    ),
    "no such diagnosis": (
        None,
        {"plain": PLAIN, "a": CONFLICT | {"diagnosis": "plan"}},
        [f"{AT}.diagnosis", "did you mean `plain`"],
    ),
    "a grid as diagnosis": (
        None,
        {"plain": PLAIN | {"grid": {"epochs": [1, 2]}}, "a": CONFLICT},
        [f"{AT}.diagnosis", "grid", "`plain-epochs=1`"],
    ),
    "its own diagnosis": (None, {"a": CONFLICT | {"diagnosis": "a"}}, [f"{AT}.diagnosis", "a -> a", "name a recipe"]),
    "a cycle through a diagnosis": (
        None,
        {"plain": PLAIN | {"from": "a"}, "a": CONFLICT},
        [f"{AT}.diagnosis", "plain -> a -> plain"],
    ),
    "diagnosis seeds that do not pair": (
        None,
        {"plain": PLAIN | {"seeds": [0, 1]}, "a": CONFLICT | {"seeds": [2]}},
        [f"{AT}.seeds", "seed 2 has no diagnosis", "[0, 1]"],
    ),
    "a diagnosis in a study that examines nothing": (
        {"studies": {"more": {"recipes": {"plain_problems": PLAIN, "a": CONFLICT | {"diagnosis": "plain_problems"}}}}},
        None,
        ["studies.more.recipes.a.diagnosis", "not examined", "studies.more.detect: problems"],
    ),
    "other rows than those diagnosed": (
        None,
        {"plain": PLAIN, "a": CONFLICT | {"data": "lessons"}},
        [f"{AT}.data", "`problems`", "write data: problems"],
    ),
    "buckets without conflict groups": (
        None,
        {"a": SFT | {"buckets": {"every": 5}}},
        [f"{AT}.buckets", "`treats: [data_conflict]`"],
    ),
    "buckets without a number of steps": (
        None,
        {"plain": PLAIN, "a": CONFLICT | {"buckets": {}}},
        [f"{AT}.buckets", "`every` is missing"],
    ),
    "no teachers": (
        None,
        {"a": {"stage": "opd", "from": "base", "data": "exercises"}},
        [AT, "stage opd needs `teachers`", "add it"],
    ),
    "teachers for sft": (None, {"a": SFT | {"teachers": ["large"]}}, [f"{AT}.teachers", "no effect on stage sft"]),
    "a teacher by name alone": (None, {"a": OPD | {"teachers": "large"}}, [f"{AT}.teachers", "'large'"]),
    "no such teacher": (None, {"a": OPD | {"teachers": ["larg"]}}, [f"{AT}.teachers", "did you mean `large`"]),
    "no such teacher of a data set": (
        None,
        {"a": OPD | {"teachers": {"exercises": "larg"}}},
        [f"{AT}.teachers", "did you mean `large`"],
    ),
    "its own teacher": (None, {"a": OPD | {"teachers": ["base"]}}, [f"{AT}.teachers", "`base` teaches itself"]),
    "taught by itself": (None, {"a": OPD | {"teachers": ["a"]}}, [f"{AT}.teachers", "a -> a", "name a recipe"]),
    "a cycle through a teacher": (
        None,
        {"b": SFT | {"from": "a"}, "a": OPD | {"teachers": {"exercises": "b"}}},
        [".teachers", "b -> a -> b"],
    ),
    "a grid as teacher": (
        None,
        {"g": SFT | {"grid": {"epochs": [1, 2]}}, "a": OPD | {"teachers": ["g"]}},
        [f"{AT}.teachers", "grid", "`g-epochs=1`"],
    ),
    "a teacher that writes nothing": (
        None,
        {"judge": JUDGE, "a": OPD | {"teachers": ["judge"]}},
        [f"{AT}.teachers", "`judge`", "writes none"],
    ),
    "teacher seeds that do not pair": (
        None,
        {"t": SFT | {"seeds": [0, 1]}, "a": OPD | {"teachers": ["t"], "seeds": [2]}},
        [f"{AT}.seeds", "seed 2 has no teacher", "[0, 1]"],
    ),
    "a teacher of another data set": (
        None,
        {"a": OPD | {"teachers": {"exercises": "large", "practise": "large"}}},
        [f"{AT}.teachers.practise", "no such data set", "exercises"],
    ),
    "a data set without a teacher": (
        None,
        {"a": OPD | TWO | {"teachers": {"exercises": "large"}}},
        [f"{AT}.teachers", "`practice` has no teacher", "practice: <teacher>"],
    ),
    "rows of a mixture": (
        None,
        {"b": SFT, "a": DISTILL | {"teachers": ["b", "large"]}},
        [f"{AT}.teachers", "stage distill", "{exercises: <teacher>}"],
    ),
    "two data sets for sft": (None, {"a": SFT | TWO}, [f"{AT}.data", "takes one data set", "data: exercises"]),
    "one of two data sets is missing": (
        None,
        {"a": OPD | {"data": ["exercises", "practise"]}},
        [f"{AT}.data", "`practise`", "did you mean `practice`"],
    ),
    "a data set twice": (None, {"a": OPD | {"data": ["exercises", "exercises"]}}, [f"{AT}.data", "exercises"]),
    "shares of one": (None, {"a": OPD | {"shares": [0.5, 0.5]}}, [f"{AT}.shares", "no effect with one data set"]),
    "shares that do not fit": (
        None,
        {"a": OPD | TWO | {"shares": [0.2, 0.3, 0.5]}},
        [f"{AT}.shares", "3 numbers for 2 data sets"],
    ),
    "shares beyond the whole": (
        None,
        {"a": OPD | TWO | {"shares": [0.5, 0.6]}},
        [f"{AT}.shares", "sum to 1.1", "must sum to 1"],
    ),
    "a data set without a share": (None, {"a": OPD | TWO | {"shares": [1.0, 0.0]}}, [f"{AT}.shares[1]", "0.0"]),
    "weights of one teacher": (
        None,
        {"a": OPD | {"weights": [0.5, 0.5]}},
        [f"{AT}.weights", "no effect without a list of several teachers"],
    ),
    "weights of teachers with prompts of their own": (
        None,
        {"b": SFT, "a": OPD | TWO | {"teachers": {"exercises": "b", "practice": "large"}, "weights": [0.5, 0.5]}},
        [f"{AT}.weights", "no effect"],
    ),
    "weights that do not fit the teachers": (
        None,
        {"b": SFT, "a": OPD | {"teachers": ["b", "large"], "weights": [0.2, 0.3, 0.5]}},
        [f"{AT}.weights", "3 numbers for 2 teachers"],
    ),
    "responses of a mixture": (
        None,
        {"b": SFT, "a": OPD | {"teachers": ["b", "large"], "off_policy": 0.5}},
        [f"{AT}.off_policy", "mixture", "set it to 0"],
    ),
    "a loss that is always 0": (
        None,
        {"a": OPD | {"support": {"kind": "top_k", "of": "student", "k": 1, "rest": "renormalised"}}},
        [f"{AT}.support", "tail"],
    ),
    "samples of a step that do not fit": (None, {"a": OPD | {"prompts": 3}}, [f"{AT}.batch_size", "64", "6 samples"]),
    "no such divergence": (
        None,
        {"a": OPD | {"divergence": {"kind": "kl"}}},
        [f"{AT}.divergence.kind", "'kl'", "forward_kl, jsd, reverse_kl"],
    ),
    "a key of another support": (
        None,
        {"a": OPD | {"support": {"kind": "full", "k": 16}}},
        [f"{AT}.support.k", "no effect with kind full"],
    ),
    "a horizon that grows until nowhere": (
        None,
        {"a": OPD | {"horizon": {"tokens": 32, "from": 8}}},
        [f"{AT}.horizon", "from", "until"],
    ),
    "an opd key on distill": (
        None,
        {"a": DISTILL | {"divergence": {"kind": "reverse_kl"}}},
        [f"{AT}.divergence", "no effect on stage distill", "setting of opd"],
    ),
    "shares of rows that a teacher writes": (
        None,
        {"a": DISTILL | TWO | {"shares": [0.5, 0.5]}},
        [f"{AT}.shares", "no effect on stage distill"],
    ),
    "an axis of no data set": (
        {"forecast": {"axes": {"practise": "general"}}},
        None,
        ["forecast.axes", "did you mean `practice`"],
    ),
    "no such axis": ({"forecast": {"axes": {"practice": "genral"}}}, None, ["forecast.axes.practice", "'genral'"]),
    "a study named as a folder of teachers' rows": (
        {"studies": {"generate": {"recipes": {"b": SFT}}}},
        None,
        ["studies.generate", "rename"],
    ),
    "edges that fall": ({"difficulty": {"edges": [0.75, 0.25]}}, None, ["difficulty.edges", "rise"]),
    "more kept than written": ({"generate": {"keep": 3}}, None, ["generate.keep", "3 of 2", "lower it"]),
    "true for a number": (None, {"a": SFT | {"batch_size": True}}, [f"{AT}.batch_size", "integer", "true"]),
    "a number that is none": (None, {"a": SFT | {"learning_rate": float("nan")}}, [f"{AT}.learning_rate", "finite"]),
    "no such valid set": ({"evaluate": {"valid": "nothing"}}, None, ["evaluate.valid", "problems"]),
}


@pytest.mark.parametrize("change, lines, parts", MISTAKES.values(), ids=MISTAKES)
def test_every_mistake_gets_one_line_with_its_place_and_the_fix(change, lines, parts):
    line = mistake(change, lines)
    for part in parts:
        assert part in line


@pytest.mark.parametrize("overlay", sorted((ROOT / "workloads").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_workloads_resolve(overlay):
    params = recipes.complete(params_of(overlay))
    assert params["workload"] == overlay.stem
    nodes = recipes.resolve(params)
    assert nodes
    assert any(node.stage == "opd" for node in nodes) == ("distillation" in params["studies"])


# --- names ----------------------------------------------------------------------------------------

RL = {"stage": "rl", "from": "sft", "data": "exercises"}
REWARDS = {
    "answer": {"kind": "answer", "weight": 1.0},
    "form": {"kind": "format", "weight": 0.1, "pattern": "x"},
}


def of_patterns(*patterns: str) -> dict:
    rewards = REWARDS | {"form": {"kind": "format", "weight": 0.1}}
    return {"sft": SFT, "grid": RL | {"rewards": rewards, "grid": {"rewards.form.pattern": [*patterns]}}}


def test_text_of_a_grid_makes_no_path_and_no_command():
    patterns = ["####", "$(touch x)", "/../../x", "a|b c", "a\nb", "é" * 300, "é" * 299 + "e"]
    nodes = [node for node in resolve(None, of_patterns(*patterns)).values() if node.recipe == "grid"]
    names = {node.settings["rewards"]["form"]["pattern"]: node.name for node in nodes}
    assert [*names] == patterns and len({*names.values()}) == len(patterns)
    for name in names.values():
        assert set(name) <= {*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-="} and len(name) < 80


@pytest.mark.parametrize(
    "recipe_lines, message",
    [
        ({"a": SFT | {"grid": {"epochs": [1, 1.0]}}}, "recipes.a.grid.epochs: .* twice; write it once"),
        ({"a": SFT | {"grid": {"weight_decay": [0.0, -0.0]}}}, "recipes.a.grid.weight_decay: .* twice"),
        (of_patterns("Ab", "aB"), "recipes.grid: `grid-.*=aB` and `grid-.*=Ab` are one file where case does not count"),
        ({"a": SFT | {"grid": {f"k{i}": [1.0, 2.0] for i in range(14)}}}, "recipes.a.grid: 16,384 points; 10,000 are"),
        ({"a": SFT, "A": SFT}, "recipes.A: `A` and `a` are one file where case does not count"),
        ({"Base": SFT}, "recipes.Base: `Base` and `base` are one file"),
        ({"preflight": SFT}, "recipes.preflight: preflight is another folder of work/; rename the recipe"),
        ({"manifest.json": SFT}, "recipes.manifest.json: 'manifest.json' does not match"),
        ({"x" * 65: SFT}, "does not match"),
        ({"a\nb": SFT}, "recipes.a b: 'a.nb' does not match"),
    ],
)  # fmt: skip
def test_names_that_cannot_be_are_refused(recipe_lines, message):
    assert re.search(message, mistake(None, recipe_lines))


def test_a_point_of_many_settings_has_no_name():
    keys = ["learning_rate", "gradient_accumulation", "gradient_checkpointing", "completion_only_loss", "max_grad_norm"]
    keys += ["warmup_ratio", "weight_decay", "batch_size", "max_length", "trajectory", "packing", "epochs", "saves"]
    grid = {key: [PARAMS["sft"][key]] for key in keys}
    assert "grid: " in (line := mistake(None, {"a": SFT | {"grid": grid}})) and "a point at most 200" in line


@pytest.mark.parametrize(
    "study", ["all", "report", "sft", "evaluate", "preflight", "deliver", "data", "pretrain_model"]
)
def test_a_study_is_no_rule_and_no_results_folder(study):
    line = mistake({"studies": {study: {"recipes": {"mine": SFT}}}})
    assert line == f"studies.{study}: a results folder or rule has that name; rename the study"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"workload": "a;b"}, "workload: 'a;b' does not match"),
        ({"workload": "bench"}, "workload: reports/bench is taken"),
        ({"studies": {"Foundation": {"recipes": {"mine": SFT}}}}, "studies.Foundation: .* and `foundation` are"),
        ({"evaluate": {"target": ["../x"]}}, r"evaluate.target\[0\]: '../x' does not match"),
        ({"evaluate": {"tasks": {"a/b": {"data_files": {"test": "x"}}}}}, "evaluate.tasks.a/b: 'a/b' does not match"),
        ({"evaluate": {"tasks": {"a": {"data_files": {"a b": "x"}}}}}, "data_files.a b: 'a b' does not match"),
        ({"evaluate": {"tasks": {"a": {"data_files": {"a": "x"}, "stock": "../x"}}}}, "stock: '../x' does not match"),
        ({"models": {"base": {"path": "a\0"}}}, r"models.base.path: 'a\\x00' has the character '\\x00'"),
        ({"models": {"base": {"path": "a\nb"}}}, r"models.base.path: 'a\\nb' has the character '\\n'"),
        ({"models": {"base": {"path": "--out"}}}, "models.base.path: '--out' looks like an option .* write ./--out"),
        ({"models": {"base": {"path": "x" * 256}}}, "models.base.path: 'x*'… is longer than a file's name may be"),
        ({"models": {"base": {"path": "a/..", "revision": "abcdef0"}}}, "base.path: 'a/..' is no path of the hub"),
        ({"sft": {"batch_size": True}}, "sft.batch_size: needs an integer, not true"),
        ({"sft": {"learning_rate": "x" * 5000}}, "sft.learning_rate: needs a number, not 'xx*.{3}x*'$"),
    ],
)  # fmt: skip
def test_what_becomes_a_path_is_checked(change, message):
    line = mistake(change)
    assert re.search(message, line) and len(line) <= 1000, line
