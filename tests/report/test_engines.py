"""Which engine made which number, and the warning where compared numbers are of two."""

from steps.report.overview.engines import engines_table, read_engines, warnings
from tests.manifests import seal

CPU = {"engine": "transformers", "device": "cpu", "dtype": "float32", "batch_size": 64, "attention": "sdpa"}
GPU = {"engine": "vllm", "device": "cuda", "dtype": "bfloat16", "batch_size": 256, "vllm": "0.30.0"}


def test_setups_are_those_of_the_graph_and_a_mix_is_warned_about(tmp_path):
    for folder, setup in {
        "evaluation/base": CPU,
        "evaluation/sft": CPU,
        "evaluation/rl": GPU,
        "evaluation/of_another_day": GPU,
        "difficulty/exercises/sft": GPU,
        "difficulty/told/sft": CPU,
        "explore/rl": GPU,
        "detect/sft": None,
    }.items():
        seal(tmp_path / folder / "manifest.json", {"counts": {}} | ({"setup": setup} if setup else {}))
    for dataset in ("problems", "of_another_day"):
        seal(tmp_path / f"data/{dataset}/bucket/manifest.json", {"counts": {}, "setup": CPU})
    found = read_engines(tmp_path, {"base", "sft", "rl"}, ["problems", "documents"])
    assert {step: list(own) for step, own in found.items()} == {
        "evaluation": ["base", "rl", "sft"],
        "explore": ["rl"],
        "difficulty": ["exercises/sft", "told/sft"],
        "bucket": ["problems"],
    }
    rows = [(row["step"], row["engine"], row["results"]) for row in engines_table(found).rows]
    assert rows == [
        ("bucket", "transformers", 1),
        ("difficulty", "transformers", 1),
        ("difficulty", "vllm 0.30.0", 1),
        ("evaluation", "transformers", 2),
        ("evaluation", "vllm 0.30.0", 1),
        ("explore", "vllm 0.30.0", 1),
    ]
    # Data sets of different pass rates are not compared; checkpoints are.
    (line,) = warnings(found)
    assert line.startswith(
        "evaluation: 2 of 3 results are of transformers on cpu in float32, others are not"
        " (vllm 0.30.0 on cuda in bfloat16: rl)."
    )
    assert "\n" not in line and "`engine: transformers`" in line


def test_one_engine_is_no_reason_to_warn():
    assert warnings({"evaluation": {"base": CPU, "sft": CPU | {"batch_size": 8}}}) == []
    assert engines_table({}) is None


def test_one_engine_on_two_devices_is_a_mix():
    (line,) = warnings({"evaluation": {"base": CPU, "sft": CPU | {"device": "cuda", "dtype": "bfloat16"}}})
    assert "(transformers on cuda in bfloat16: sft)" in line and "one kind of device" in line


def test_evidence_is_held_against_a_detection_of_its_kind():
    (line,) = warnings({"detect": {"sft": CPU}, "evidence": {"sft": GPU}})
    assert line.startswith("evidence: ") and "sft: vllm 0.30.0 on cuda in bfloat16 against transformers on cpu" in line
    assert warnings({"detect": {"sft": CPU}, "evidence": {"sft": CPU, "rl": CPU}}) == []
