"""Each reward against cases by hand, rewards that misbehave, and those of workloads/qwen3_4b_openmath_rewards.py."""

import math
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from steps.reinforcement.reward_kinds import Scored, fill, guarded
from steps.reinforcement.rewards import Rewards, custom_files
from steps.settings import rewards as reward_settings
from tests.bounds import within

ANSWER = {"kind": "answer", "weight": 1.0}
LENGTH = {"kind": "length", "weight": 1.0, "start": 1, "end": 2}
RECIPE = "workloads/qwen3_4b_openmath_rewards.py"


def make_row(answer: str | None = "42", **more) -> dict:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 6 * 7?"}]
    turns.append({"role": "assistant", "content": "#### 42"})
    return {"id": "rows:3", "messages": turns, "answer": answer, "file": "rows.jsonl", "line": 4, "row": 3, **more}


def values(rewards: Rewards, name: str, responses: list[str], row: dict | None = None) -> list[float]:
    tokens = [len(response.split()) for response in responses]
    scored = rewards.score(name, [row or make_row()] * len(responses), responses, tokens)
    assert all(one.error is None for one in scored)
    return [one.value for one in scored]


# --- kinds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "response", "value", "note"),
    [
        ("1234", "#### 1,234", 1.0, None),
        ("1,234", "#### 1234.", 1.0, None),
        ("5", "so #### $5.", 1.0, None),
        ("42", "#### 42.0", 1.0, None),
        ("42", "#### 42\n#### 42", 1.0, None),
        ("42", "#### 41\n#### 42", 0.0, "ambiguous"),
        ("42", "#### 42 or 41", 0.0, "ambiguous"),
        ("42", "#### 42 pears", 1.0, None),
        ("42 miles", "#### 42 pears", 0.0, None),
        ("42", "42", 0.0, "unparsed"),
        ("42", "####", 0.0, "unparsed"),
        ("Tarsk", "#### tarsk", 1.0, None),
        ("-0.5", "#### -.5", 1.0, None),
    ],
)
def test_numeric_answers(answer, response, value, note):
    rewards = Rewards({"answer": ANSWER})
    assert rewards.score("answer", [make_row(answer)], [response], [1]) == [Scored(value, note=note)]


def test_mathematical_answers_in_order_with_what_came_of_them():
    responses = [r"\boxed{\frac{84}{2}}", "#### 42", r"\boxed{41}", "nothing"]
    with Rewards({"answer": ANSWER}) as rewards:
        scored = rewards.score("answer", [make_row(judge="math")] * 4, responses, [1] * 4)
    assert scored == [Scored(1.0), Scored(1.0), Scored(0.0), Scored(0.0, note="unparsed")]


def test_a_timeout_is_a_note_and_costs_its_sample_only():
    with Rewards({"answer": ANSWER}) as rewards:
        responses = [r"\boxed{\binom{1000000000}{500000000}}", "#### 42"]
        scored = rewards.score("answer", [make_row(judge="math")] * 2, responses, [1, 1])
    assert scored == [Scored(0.0, note="timeout"), Scored(1.0)]


def test_format():
    rewards = Rewards({"format": {"kind": "format", "weight": 1.0, "pattern": r"^\S.*#### \S+$"}})
    assert values(rewards, "format", ["a\nb\n#### 42", "#### 42", "a #### 42 or so"]) == [1.0, 0.0, 0.0]


def test_length_falls_from_start_to_end():
    rewards = Rewards({"length": {"kind": "length", "weight": 1.0, "start": 10, "end": 20}})
    scored = rewards.score("length", [make_row()] * 5, [""] * 5, [0, 10, 15, 20, 500])
    assert [one.value for one in scored] == [0.0, 0.0, -0.5, -1.0, -1.0]


def test_instruction():
    rewards = Rewards({"check": {"kind": "instruction", "weight": 1.0}})
    row = make_row(None, check={"kind": "repeat", "word": "river", "times": 2})
    assert values(rewards, "check", ["river river.", "river"], row) == [1.0, 0.0]


def test_self_asks_for_yes_against_no_and_fills_each_field_once():
    asked = []

    def believes(prompts, options):
        asked.extend(zip(prompts, options, strict=True))
        return [np.array([0.9, 0.1]), np.array([0.2, 0.8]), np.array([np.nan, np.nan])]

    one = {"kind": "self", "weight": 1.0, "prompt": "Q: {prompt} A: {response} {no}", "right": "Yes", "wrong": "No"}
    rewards = Rewards({"self": one}, believes=believes)
    scored = rewards.score("self", [make_row()] * 3, ["42", "{prompt} {0}", "x"], [1] * 3)
    assert [one.value for one in scored] == [0.9, 0.2, 0.0]
    assert [one.error is None for one in scored] == [True, True, False]
    assert asked[1] == (
        [{"role": "user", "content": "Q: What is 6 * 7? A: {prompt} {0} {no}"}],
        ["Yes", "No"],
    )
    assert fill("{response}{prompt}", "{response}", "{prompt}") == "{prompt}{response}"


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory) -> Path:
    import torch
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    from tests.conftest import build_tokenizer

    folder = tmp_path_factory.mktemp("reward") / "model"
    build_tokenizer().save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=768,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=256,
        num_labels=1,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen3ForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_preference_reads_each_conversation_as_it_would_alone(reward_model):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    responses = ["42", "Mara has 12 pears and buys 30 more pears.", "", "#### 42"]
    rewards = Rewards({"human": {"kind": "preference", "weight": 1.0, "model": "judge"}}, reward_model=reward_model)
    found = values(rewards, "human", responses)

    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    model = AutoModelForSequenceClassification.from_pretrained(reward_model).eval()
    for response, value in zip(responses, found, strict=True):
        text = tokenizer.apply_chat_template(
            [*make_row()["messages"][:-1], {"role": "assistant", "content": response}], tokenize=False
        )
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            hidden = model.model(ids).last_hidden_state[0, -1].numpy()
        assert value == pytest.approx(float(hidden @ model.score.weight.detach().numpy()[0]), abs=1e-5)
    assert len(set(found)) == 4


def test_a_reward_model_with_two_labels_is_refused(reward_model, tiny_checkpoint):
    settings = {"human": {"kind": "preference", "weight": 1.0, "model": "judge"}}
    with pytest.raises(ValueError, match="has one label, and this one has 2"):
        Rewards(settings, reward_model=tiny_checkpoint)
    with pytest.raises(ValueError, match="give --reward-model"):
        Rewards(settings)


# --- rewards that misbehave ----------------------------------------------------------------------


def custom(path: Path, source: str, function: str = "reward") -> dict:
    path.write_text(source)
    return {"kind": "custom", "weight": 1.0, "file": str(path), "function": function}


def test_a_custom_reward_that_raises_harms_no_other_sample(tmp_path):
    source = """
def reward(prompt, response, answer):
    assert prompt == "What is 6 * 7?"
    return {"none": None, "text": "1.0", "nan": float("nan"), "inf": float("inf"), "huge": 10**400,
            "true": True, "int": 3}[response]
"""
    rewards = Rewards({"mine": custom(tmp_path / "mine.py", source)})
    responses = ["int", "none", "text", "nan", "inf", "huge", "missing\nkey", "true"]
    scored = rewards.score("mine", [make_row()] * 8, responses, [1] * 8)
    assert [one.value for one in scored] == [3.0, 0, 0, 0, 0, 0, 0, 1.0]
    failed = [response for response, one in zip(responses, scored, strict=True) if one.error]
    assert failed == ["text", "nan", "inf", "huge", "missing\nkey"]
    assert scored[1] == Scored(0.0, note="silent")
    assert scored[2].error == "TypeError: returned '1.0', which is no finite number of float32"
    assert scored[6].error.startswith("KeyError") and "\n" not in scored[6].error


def test_numpy_numbers_are_numbers():
    assert guarded(lambda: np.float32(0.5)) == Scored(0.5)
    assert guarded(lambda: np.int64(2)) == Scored(2.0)


def test_a_file_of_rewards_runs_once(tmp_path):
    path = tmp_path / "two rewards.py"
    source = (
        "from pathlib import Path\n"
        f"with open({str(tmp_path / 'ran')!r}, 'a') as file:\n    file.write('x')\n"
        "def one(prompt, response, answer):\n    return 1\n"
        "def two(prompt, response, answer):\n    return answer is None\n"
    )
    settings = {name: custom(path, source, name) for name in ("one", "two")}
    rewards = Rewards(settings)
    assert values(rewards, "two", ["x"], make_row(None)) == [1.0]
    assert (tmp_path / "ran").read_text() == "x"
    assert custom_files(settings | {"answer": ANSWER}) == [path]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def other(prompt, response, answer): return 0", r"has no function 'reward'.*there is none"),
        ("reward = 1", "has no function 'reward'"),
        ("def reward(response): return 0", r"that takes \(prompt, response, answer\) or.* \(TypeError: too many"),
        ("def reward(prompt, response, answer, row, extra): return 0", "missing a required argument"),
        ("def reward(", "does not run"),
        ("raise RuntimeError('no')", r"does not run \(RuntimeError: no\)"),
        ("import sys; sys.exit(3)", r"does not run \(SystemExit: 3\)"),
        ("import os; os._exit(3)", r"does not run \(its process ended with exit code 3\)"),
    ],
)
def test_a_custom_file_that_cannot_be_used_is_one_line(tmp_path, source, message):
    with pytest.raises(ValueError, match=message) as error:
        Rewards({"mine": custom(tmp_path / "mine.py", source)})
    assert str(error.value).startswith("rewards.mine.f")


def test_a_custom_file_may_have_dataclasses_helpers_the_row_and_numbers_of_numpy(tmp_path):
    (tmp_path / "half.py").write_text("import quarter\n\ndef half(x):\n    return 2 * quarter.PART * x\n")
    (tmp_path / "quarter.py").write_text("PART = 0.25\n")
    source = """
from dataclasses import dataclass
import numpy as np
import sys
from half import half

@dataclass
class Part:
    worth: float

def reward(prompt, response, answer, row):
    if response == "exit":
        sys.exit(1)
    return {"bool": np.True_, "array": np.array([half(3)]), "two": np.zeros(2), "column": row["level"],
            "part": Part(0.5).worth}[response]
"""
    settings = {"mine": custom(tmp_path / "mine.py", source)}
    responses = ["bool", "array", "two", "column", "part", "exit", "part"]
    with Rewards(settings) as rewards:
        scored = rewards.score("mine", [make_row(level=7)] * 7, responses, [1] * 7)
    assert [one.value for one in scored] == [1.0, 1.5, 0.0, 7.0, 0.5, 0.0, 0.5]
    assert [bool(one.error) for one in scored] == [False, False, True, False, False, True, False]
    assert scored[5].error == "SystemExit: 1"
    assert custom_files(settings) == [tmp_path / "half.py", tmp_path / "mine.py", tmp_path / "quarter.py"]


def test_a_parameter_with_a_default_is_the_functions_own(tmp_path):
    source = """
def own(prompt, response, answer, tolerance=0.25): return tolerance
def row(prompt, response, answer, row=None): return row["level"]
def verl(data_source, solution_str, ground_truth, extra_info=None): return extra_info["level"]
def more(prompt, response, answer, row, scale=2.0): return scale * row["level"]
"""
    given = {}
    for name in ("own", "row", "verl", "more"):
        with Rewards({"mine": custom(tmp_path / "mine.py", source) | {"function": name}}) as rewards:
            given[name] = rewards.score("mine", [make_row(level=7)], ["a"], [1])[0].value
    assert given == {"own": 0.25, "row": 7.0, "verl": 7.0, "more": 14.0}


@pytest.mark.parametrize(
    ("per", "takes", "returns", "expected"),
    [
        ("response", "*, level", "level", [7, 7, 8]),
        ("response", "level", "level", [7, 7, 8]),
        ("response", "level=1", "level", [7, 7, 8]),
        ("response", "**columns", "columns['level']", [7, 7, 8]),
        ("response", "row, *, level", "level - row['extra']['level']", [0, 0, 0]),
        ("response", "row, **columns", "sorted(columns) == ['level', 'tests']", [1, 1, 1]),
        ("group", "*, tests", "[len(tests)] * len(b)", [1, 1, 0]),
        ("batch", "**columns", "columns['level']", [7, 7, 8]),
        ("batch", "rows, *, tests", "[len(own) + len(rows) for own in tests]", [4, 4, 3]),
        ("batch", "rows", "[answer == response for answer, response in zip(c, b)]", [1, 0, 0]),
    ],
)
def test_a_custom_reward_is_given_what_the_source_keeps(per, takes, returns, expected, tmp_path):
    function = f"def reward(a, b, c, {takes}): return {returns}"
    one, other = make_row("1", extra={"level": 7, "tests": ["x"]}), make_row("1", extra={"level": 8, "tests": []})
    with Rewards({"mine": custom(tmp_path / "mine.py", function) | {"per": per}}) as rewards:
        assert rewards.problem(one) is None and rewards.problem(other) is None
        scored = rewards.score("mine", [one, one, other], ["1", "2", "3"], [1] * 3)
    assert [value.error for value in scored] == [None] * 3
    assert [value.value for value in scored] == expected


def test_a_column_may_be_spelled_as_no_parameter_is(tmp_path):
    source = "def reward(prompt, response, answer, *, \u00f6l, **more): return more['class'] + \u00f6l"
    with Rewards({"mine": custom(tmp_path / "mine.py", source)}) as rewards:
        row = make_row(extra={"o\u0308l": 1, "class": 2})
        assert rewards.problem(row) is None
        assert rewards.score("mine", [row], ["a"], [1])[0].value == 3.0


def test_a_row_without_a_column_that_a_reward_asks_for_is_named(tmp_path):
    source = "def reward(prompt, response, answer, *, tests): return 1"
    with Rewards({"mine": custom(tmp_path / "mine.py", source)}) as rewards:
        problem = rewards.problem(make_row(extra={"level": 1}))
        assert rewards.problem(make_row(extra={"tests": None})) is None
    assert (problem.reason, problem.column) == ("unjudgeable", "extra") and "keep:" in problem.hint
    assert "'tests'" in problem.detail


def test_numbers_of_a_large_batch_all_come_back(tmp_path):
    source = "def reward(prompts, responses, answers): return [1 / 3 + i for i in range(len(responses))]"
    with Rewards({"mine": custom(tmp_path / "mine.py", source) | {"per": "batch"}}) as rewards:
        scored = rewards.score("mine", [make_row()] * 5000, ["a"] * 5000, [1] * 5000)
    assert scored[-1] == Scored(1 / 3 + 4999)


HOSTILE = {
    "raises": ("raise KeyError('no\\nsuch')", "KeyError: 'no"),
    "exits": ("import sys; sys.exit('enough')", "SystemExit: enough"),
    "ends its process": ("import os; os._exit(7)", "its process ended with exit code 7"),
    "is killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "its process ended by SIGKILL"),
    "loops": ("while True: pass", "TimeoutError: no result after 1 s"),
    "loops and is deaf": (
        "import signal; [signal.signal(n, signal.SIG_IGN) for n in (signal.SIGALRM, signal.SIGTERM)]\n"
        "        while True: pass",
        "TimeoutError: no result after 1 s",
    ),
    "waits": ("import threading; threading.Event().wait()", "TimeoutError: no result after 1 s"),
    "waits in async": ("import asyncio; return asyncio.sleep(60)", "TimeoutError: no result after 1 s"),
    "prints without end": ("while True: print('x' * 10**6)", "TimeoutError: no result after 1 s"),
    "fills the disk": (
        "import tempfile\n        with tempfile.TemporaryFile() as file:\n            file.truncate(1 << 40)",
        "OSError",
    ),
    "eats memory": ("return len(bytearray(8 << 30))", "MemoryError"),
    "recurses": ("return reward(prompt, response, answer)", "RecursionError"),
    "closes its files": ("import os; os.closerange(0, 256)", "its process ended"),
    "forges replies": (
        "import os\n        for fd in range(3, 64):\n            try: os.write(fd, b'[1, [1.0], null]\\n' * 2)\n"
        "            except OSError: pass",
        "it wrote into the socket",
    ),
    "returns nan": ("return float('nan')", "TypeError: returned nan, which is no finite number"),
    "returns text": ("return '1.0'", "TypeError: returned '1.0'"),
    "returns an array": ("import numpy; return numpy.ones(3)", "ValueError"),
    "returns a list": ("return [1.0]", "TypeError: returned [1.0]"),
    "returns itself": ("return reward", "TypeError: returned <function"),
    "says what hangs": (
        "class Endless(Exception):\n            def __str__(self):\n                while True: pass\n"
        "        raise Endless",
        "TimeoutError: no result after 1 s",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_reward_costs_its_sample_at_most_its_limit(case, tmp_path, capfd):
    does, error = HOSTILE[case]
    source = f"def reward(prompt, response, answer):\n    if response == 'bad':\n        {does}\n    return 0.5\n"
    with Rewards({"mine": custom(tmp_path / "mine.py", source) | {"seconds": 1.0}}) as rewards:
        began = time.monotonic()
        scored = rewards.score("mine", [make_row()] * 3, ["a", "bad", "b"], [1] * 3)
        assert time.monotonic() - began < 15  # the limit, and the start of another process
    assert [one.value for one in scored] == [0.5, 0.0, 0.5] and scored[0].error is scored[2].error is None
    assert scored[1].error.startswith(error) and "\n" not in scored[1].error and len(scored[1].error) < 500
    printed = capfd.readouterr()
    assert len(printed.out) + len(printed.err) < 2 << 20


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        ("[float(x) for x in responses]", [Scored(1.0), Scored(3.0)]),
        ("(None, True)", [Scored(0.0, note="silent"), Scored(1.0)]),
        ("numpy.array([0.5, 2])", [Scored(0.5), Scored(2.0)]),
        ("[numpy.float32(0.5), 2]", [Scored(0.5), Scored(2.0)]),
        ("[row['level'], len(responses)]", [Scored(7.0), Scored(2.0)]),
        ("later(responses)", [Scored(1.0), Scored(2.0)]),
        ("[1.0]", "ValueError: returned 1 numbers for 2 responses"),
        ("[1.0, 2.0, 3.0]", "ValueError: returned 3 numbers for 2 responses"),
        ("[1.0] * 100_000", "ValueError: returned 100000 numbers for 2 responses"),
        ("1.0", "TypeError: returned 1.0, which is no list of numbers"),
        ("None", "TypeError: returned None, which is no list of numbers"),
        ("[1.0, float('nan')]", "TypeError: returned nan, which is no finite number"),
        ("numpy.ones((2, 1))", "TypeError: returned [1.0], which is no finite number"),
    ],
)
def test_a_reward_of_whole_groups(returns, expected, tmp_path):
    source = f"""
import numpy

async def later(responses):
    return [1.0, 2.0]

def reward(prompt, responses, answer, row):
    return [9.0] if len(responses) == 1 else {returns}
"""
    rows = [make_row(level=7)] * 2 + [make_row(level=7)]
    with Rewards({"mine": custom(tmp_path / "mine.py", source) | {"per": "group"}}) as rewards:
        scored = rewards.score("mine", rows, ["1", "3", "5"], [1] * 3)
        assert rewards.score("mine", rows[:2] * 2, [*"1313"], [1] * 4, groups=[2, 2]) == scored[:2] * 2
    assert scored[2] == Scored(9.0)
    if isinstance(expected, list):
        assert scored[:2] == expected
    else:
        assert all(one.value == 0.0 and expected in one.error for one in scored[:2])


def test_an_async_reward_is_waited_for(tmp_path):
    source = "import asyncio\nasync def reward(prompt, response, answer):\n    await asyncio.sleep(0)\n    return 2"
    with Rewards({"mine": custom(tmp_path / "mine.py", source)}) as rewards:
        assert values(rewards, "mine", ["a", "b"]) == [2.0, 2.0]


def test_what_a_reward_imports_from_its_folder_is_an_input(tmp_path):
    files = {
        "mine.py": "import json, half as h\nfrom parts import third\ntry:\n    import parts.deep.fifth\n"
        "except ImportError:\n    pass\ndef reward(*a):\n    from late import value",
        "half.py": "if True:\n    import quarter",
        "quarter.py": "import half",
        "late.py": "value = 1",
        "parts/__init__.py": "from .fourth import *\nfrom . import sixth",
        "parts/third.py": "",
        "parts/fourth.py": "from .deep import fifth",
        "parts/sixth.py": "from ..half import x",
        "parts/deep/__init__.py": "",
        "parts/deep/fifth.py": "from ..seventh import x\nimport broken",
        "parts/seventh.py": "",
        "broken.py": "def (",
        "json/notes.txt": "",
        "other.py": "",
        "parts/other.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    settings = {"mine": {"kind": "custom", "weight": 1.0, "file": str(tmp_path / "mine.py"), "function": "reward"}}
    expected = sorted(tmp_path / name for name in files if not name.endswith(("other.py", ".txt")))
    assert custom_files(settings) == expected


@pytest.mark.parametrize(("pattern", "response"), [(r"^(a+)+$", "a" * 50_000 + "!"), (r"(.*?,){25}P", "1," * 5_000)])
def test_a_pattern_that_backtracks_without_end_costs_its_sample_only(pattern, response):
    rewards = Rewards({"format": {"kind": "format", "weight": 1.0, "pattern": pattern}})
    with within(5):
        scored = rewards.score("format", [make_row()] * 2, [response, "a" if "a" in pattern else "1,P"], [1] * 2)
    assert scored[0].error.startswith("TimeoutError: the pattern backtracks for more than 1 s") and not scored[1].error


@pytest.mark.parametrize(("failed", "earlier", "stops"), [(4, 0, False), (5, 0, True), (2, 4, False), (3, 4, True)])
def test_a_training_stops_where_more_scores_failed_than_max_failures_allows(failed, earlier, stops):
    """Of 2 rewards on 2 x 5 samples a rollout: 4 of 20 are the fifth that may fail, 6 of 40 the 15 % that may."""
    from steps.reinforcement.scored_samples import ScoredSamples

    one = {"reward": "mine", "file": "rows.jsonl", "row": 3, "error": "TimeoutError", "response": "x"}
    training = SimpleNamespace(
        state=SimpleNamespace(log_history=[{"loss": 1.0}, *([{"failures": float(earlier)}] if earlier else [])]),
        settings={"prompts": 2, "generations": 5, "max_failures": 0.2 if not earlier else 0.15},
        plan=SimpleNamespace(names=["mine", "other"]),
        rollout=1 if earlier else 0,
        failed=[one] * failed,
        drawn=0,
    )
    if stops:
        with pytest.raises(ValueError, match=rf"^reward mine: {failed + earlier} scores failed so far"):
            ScoredSamples.check_failures(training, failed)
    else:
        ScoredSamples.check_failures(training, failed)


@pytest.mark.parametrize(("most", "ok"), [(0.25, True), (0.24, False), (0.0, False)])
def test_the_gate_stops_where_more_responses_failed_than_max_failures_allows(most, ok):
    from steps.reinforcement.gate_checks import Judged, failure_check

    scored = [Scored(1.0), Scored(0.0, error="TimeoutError: no result after 10 s"), Scored(1.0), Scored(0.0)]
    judged = Judged([make_row()] * 4, ["good"] * 4, ["x"] * 4, {"mine": scored}, [one.value for one in scored])
    assert failure_check(judged, most).ok is ok


# --- settings and rows ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "there is none"),
        ({"a": ANSWER | {"weight": 0.0}}, "every weight is 0"),
        ({"f": {"kind": "format", "weight": 1.0, "pattern": "(a"}}, r"rewards\.f\.pattern: '\(a'"),
        ({"l": {"kind": "length", "weight": 1.0, "start": 9, "end": 9}}, "start 9 must be below end 9"),
        (
            {"s": {"kind": "self", "weight": 1, "prompt": "{prompt}", "right": "a", "wrong": "b"}},
            r"not show \{response\}",
        ),
        (
            {"s": {"kind": "self", "weight": 1.0, "prompt": "{prompt}{response}", "right": "a", "wrong": "a"}},
            "two different answers",
        ),
        ({"c": {"kind": "custom", "weight": 1.0, "file": "no.py", "function": "f"}}, "no.py is missing"),
    ],
)
def test_settings_that_contradict_themselves(settings, message):
    with pytest.raises(ValueError, match=message):
        reward_settings.fit(settings)


@pytest.mark.parametrize("answer", [None, "", "  "])
def test_a_row_without_an_answer_is_named(answer):
    with pytest.raises(ValueError, match="rows.jsonl, line 4, row 3, column answer"):
        Rewards({"answer": ANSWER}).check_row(make_row(answer))


@pytest.mark.parametrize("check", [None, {"kind": "rhyme"}, {"kind": "repeat", "word": "a"}])
def test_a_row_without_a_check_that_can_be_used_is_named(check):
    more = {} if check is None else {"check": check}
    with pytest.raises(ValueError, match="rows.jsonl, line 4, row 3, column check"):
        Rewards({"check": {"kind": "instruction", "weight": 1.0}}).check_row(make_row(None, **more))


def test_a_row_whose_answer_no_response_could_give_is_named():
    with Rewards({"answer": ANSWER}) as rewards:
        rewards.check_row(make_row(r"\frac{84}{2}"))
        with pytest.raises(ValueError, match="row 3, column answer: it has no letter and no digit; the reward"):
            rewards.check_row(make_row("####"))
        with pytest.raises(ValueError, match=r"row 3, column answer: to compare it takes too long"):
            rewards.check_row(make_row(r"\binom{1000000000}{500000000}", judge="math"))


def test_totals_are_weighted_sums():
    rewards = Rewards({"answer": ANSWER | {"weight": 2.0}, "length": LENGTH | {"weight": 0.5}})
    assert (rewards.names, rewards.weights) == (["answer", "length"], [2.0, 0.5])
    assert rewards.totals({"length": [-1.0, 0.0], "answer": [1.0, 0.0]}) == [1.5, 0.0]


# --- the recipe for OpenMathReasoning-mini ---------------------------------------------------------

GOOD = "6 times 7<end_working_out><SOLUTION>{}</SOLUTION>"


@pytest.mark.parametrize(
    ("answer", "response", "expected"),
    [
        # exactly, approximately, answer, numbers
        ("42", GOOD.format("42"), (3.0, 1.5, 5.0, 3.5)),
        ("42", GOOD.format("\n42 ") + "\n", (3.0, 1.5, 3.5, 3.5)),
        ("42", GOOD.format("40"), (3.0, 1.5, 2.0, -1.5)),
        ("42", GOOD.format("50"), (3.0, 1.5, 1.5, -1.5)),
        ("42", GOOD.format("-42"), (3.0, 1.5, -2.5, -1.5)),
        ("1234", GOOD.format("about 1,234 pears"), (3.0, 1.5, -4.5, 3.5)),
        ("0", GOOD.format("0.0"), (3.0, 1.5, -4.5, 3.5)),
        ("x", GOOD.format("1"), (3.0, 1.5, -4.5, 0.0)),
        ("42", GOOD.format("many"), (3.0, 1.5, -4.5, -2.5)),
        ("42", GOOD.format(".,."), (3.0, 1.5, -4.5, 0.0)),
        ("42", "42", (0.0, -3.0, -2.0, -2.5)),
        ("42", GOOD.format("42") + " yes", (0.0, 1.5, -2.0, 3.5)),
        ("42", "<SOLUTION>" + GOOD.format("42"), (3.0, 0.0, 5.0, -1.5)),
    ],
)
def test_the_recipe_of_openmath(answer, response, expected):
    names = ["match_format_exactly", "match_format_approximately", "check_answer", "check_numbers"]
    settings = {name: {"kind": "custom", "weight": 1.0, "file": RECIPE, "function": name} for name in names}
    rewards = Rewards(settings)
    found = {name: values(rewards, name, [response], make_row(answer)) for name in names}
    assert tuple(found[name][0] for name in names) == expected
    assert rewards.totals(found) == [math.fsum(expected)]


def test_the_recipe_needs_an_answer():
    rewards = Rewards({"mine": {"kind": "custom", "weight": 1.0, "file": RECIPE, "function": "check_answer"}})
    (scored,) = rewards.score("mine", [make_row(None)], [GOOD.format("1")], [1])
    assert scored == Scored(0.0, error="TypeError: the row has no answer to compare with")
