"""The embedded world: right answers, disjoint sets, dirt where the truth says, and nobody but the scorer reads it."""

import json
import re
from pathlib import Path
from random import Random

import pyarrow.parquet
import pytest

from steps.graph.checks import OF_WORLD
from steps.judges.instructions import follows
from steps.world import fable, world

ROOT = Path(__file__).parents[2]
SETTINGS = {"seed": 3, "problems": 900, "chat": 120, "evaluation_items": 60, "planted_per_kind": 8, "slips": 0.1}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The evaluation sets, the raw files by name, and the truth."""
    out = tmp_path_factory.mktemp("world")
    seen = set()
    evaluation = world.evaluation_sets(SETTINGS, seen)
    rows = world.planted_rows(SETTINGS, world.clean_rows(SETTINGS, seen), evaluation)
    truth = world.write_raw(out / "raw", world.assign_files(rows))
    return evaluation, out / "raw", truth


def raw_lines(folder: Path, name: str) -> list[bytes]:
    """Records of a text file by the world's own layout: one a line, the brackets of an array apart."""
    lines = (folder / name).read_bytes().split(b"\n")
    return [line for line in lines if line not in (b"[", b"]", b"")]


def masked_sentences(text: str) -> list[str]:
    """The sentences of problems with their names, things, containers and numbers made equal."""
    open_words = "|".join((*fable.NAMES, *fable.THINGS, *fable.CONTAINERS))
    return re.split(r"(?<=[.?]) ", re.sub(rf"\b(?:{open_words}|\d+)\b", "_", text.strip()))


@pytest.mark.parametrize("wording", [fable.USUAL, fable.REWORDED])
@pytest.mark.parametrize("steps, largest", [(1, 99), (2, 99), (3, 99), (5, 99), (2, 400)])
def test_worked_solutions_are_right(steps, largest, wording):
    rng = Random(steps * largest)
    operations = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    for _ in range(300):
        item = fable.problem_item(rng, steps, largest, wording)
        *lines, last = item["solution"].split("\n")
        assert len(lines) == steps
        value = None
        for line in lines:
            a, operation, b, result = re.fullmatch(r"(\d+) ([-+*]) (\d+) = (\d+)", line).groups()
            assert value is None or value == int(a)
            value = operations[operation](int(a), int(b))
            assert value == int(result) and 1 <= value <= largest
        assert last == f"#### {value}" and item["answer"] == str(value)
        assert [int(number) for number in re.findall(r"\d+", item["prompt"])] == item["numbers"]


def test_a_slip_is_one_wrong_result_and_the_rest_follows_from_it():
    rng = Random(9)
    operations = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    for _ in range(300):
        item = fable.problem_item(rng, 3)
        wrong, value = 0, None
        *lines, last = fable.slip(rng, item["solution"]).split("\n")
        for line in lines:
            a, operation, b, result = re.fullmatch(r"(\d+) ([-+*]) (\d+) = (\d+)", line).groups()
            assert value is None or int(a) == value
            value = int(result)
            wrong += operations[operation](int(a), int(b)) != value
        assert wrong == 1 and last == f"#### {value}"


def test_string_and_arithmetic_answers_are_right():
    rng = Random(5)
    for _ in range(500):
        item = fable.string_item(rng)
        letters = item["prompt"].split(": ")[1].split()
        answer = item["answer"].split()
        assert set(answer) <= set(letters)
        if "backwards" in item["prompt"] or "Reverse" in item["prompt"]:
            assert "".join(answer) == "".join(letters)[::-1]
        expression = fable.arithmetic_item(rng)
        assert eval(expression["expression"]) == int(expression["answer"])


def test_every_task_of_the_world_has_a_template_and_no_other_is_called_as_they_are(made):
    written = {*made[0], *world.development_sets(SETTINGS, set(), made[0]), *world.reworded_set(SETTINGS, set())}
    assert written == {path.stem for path in Path("tasks").glob(f"{OF_WORLD}*.yaml")}


def test_training_rows_share_nothing_with_the_evaluation(made):
    seen = set()
    evaluation = world.evaluation_sets(SETTINGS, seen)
    prompts = {item["prompt"] for items in evaluation.values() for item in items}
    rows = world.clean_rows(SETTINGS, seen)
    assert len(rows) == SETTINGS["problems"] + SETTINGS["chat"]
    assert not prompts & {row["prompt"] for row in rows}
    chat = " ".join(row["prompt"] for row in rows if not row["problem"])
    people = {fact["name"] for fact in fable.facts(SETTINGS["seed"]) if fact["evaluated"]}
    assert len(people) == fable.EVALUATED_PEOPLE and not people & set(re.findall(r"\w+", chat))


def test_development_questions_are_neither_reported_nor_trained_on():
    seen = set()
    evaluation = world.evaluation_sets(SETTINGS, seen)
    rows = world.clean_rows(SETTINGS, seen)
    development = world.development_sets(SETTINGS, seen, evaluation)
    assert list(development) == [f"fable_{name}_dev" for name in ("facts", "strings", "arithmetic", "instructions")]
    used = {item["prompt"] for items in evaluation.values() for item in items} | {row["prompt"] for row in rows}
    # A fact in another wording is the same fact.
    facts = {
        fact["name"] + fact["attribute"]: set(fable.fact_questions(fact)) for fact in fable.facts(SETTINGS["seed"])
    }
    used |= {q for questions in facts.values() if questions & used for q in questions}
    for items in development.values():
        prompts = [item["prompt"] for item in items]
        assert prompts and len({*prompts}) == len(prompts) and used.isdisjoint(prompts)


def test_reworded_problems_share_words_and_no_sentence_with_what_trains():
    seen = set()
    evaluation = world.evaluation_sets(SETTINGS, seen)
    asked = world.reworded_set(SETTINGS, seen)["fable_reworded"]
    assert len(asked) == SETTINGS["evaluation_items"]
    assert [item["steps"] for item in asked[:6]] == [steps for steps, _ in world.TARGET] * 2
    texts = [item["prompt"] for items in evaluation.values() for item in items]
    texts += [row["prompt"] for row in world.clean_rows(SETTINGS, seen)]
    texts += fable.corpus(SETTINGS["seed"], 1_500_000)
    used = {sentence for text in texts for sentence in masked_sentences(text)}
    assert masked_sentences("Ivo has 3 pears. Then Mila finds 4 more.") == ["_ has _ _.", "Then _ finds _ more."]
    assert {"_ has _ _.", "Then _ finds _ more."} <= used
    phrases = [sentence for item in asked for sentence in masked_sentences(item["prompt"])]
    assert used.isdisjoint(phrases)
    assert set(re.findall(r"[A-Za-z]+", " ".join(phrases))) <= set(re.findall(r"[A-Za-z]+", " ".join(texts)))


def test_exercises_and_preferences_are_new_problems_and_pairs_differ_in_their_answer():
    seen = set()
    evaluation = world.evaluation_sets(SETTINGS, seen)
    counts = SETTINGS | {"exercises": 60, "preferences": 40}
    reworded = world.reworded_set(counts, seen)["fable_reworded"]
    exercises, pairs = world.exercises(counts, seen), world.preferences(counts, seen)
    assert len(exercises) == 60 and len(pairs) == 40

    def key(prompt: str, answer: str) -> tuple:
        return tuple(re.findall(r"\d+", prompt)), answer

    asked = [evaluation[f"fable_{name}"] for name in ("problems", "dev", "harder")] + [reworded]
    keys = [key(item["prompt"], item["answer"]) for items in asked for item in items]
    keys += [key(row["prompt"], re.fullmatch(r"#### (\d+)", row["response"])[1]) for row in exercises]
    keys += [key(pair["prompt"], pair["chosen"].rpartition("#### ")[2]) for pair in pairs]
    assert len(set(keys)) == len(keys)
    for i, pair in enumerate(pairs):
        *lines, last = pair["chosen"].split("\n")
        assert all(eval(line.replace("=", "==")) for line in lines) and last == f"#### {lines[-1].split()[-1]}"
        *slipped, wrong = pair["rejected"].split("\n")
        assert re.fullmatch(r"#### -?\d+", wrong) and wrong != last
        assert len(slipped) == (0 if i % 2 else len(lines))


def drawn_in_order(**counts) -> tuple[dict[str, list[dict]], dict[str, list[dict]]]:
    """The sets that ask (evaluation, development, reworded) and those that train, drawn as the step draws them."""
    seen, settings = set(), SETTINGS | {"exercises": 60, "preferences": 40} | counts
    asks = world.evaluation_sets(settings, seen)
    trains = {"rows": world.clean_rows(settings, seen)}
    asks |= world.development_sets(settings, seen, asks)
    asks |= world.reworded_set(settings, seen)
    for make in (world.exercises, world.preferences, world.told, world.practice):
        trains[make.__name__] = make(settings, seen)
    return asks, trains


def numbers_of(prompt: str) -> tuple:
    return tuple(re.findall(r"\d+", prompt))


def test_told_problems_are_new_and_worked_in_sentences_with_slips():
    asks, trains = drawn_in_order(told=400, practice=0)
    told = trains["told"]
    assert len(told) == 400
    others = {item["prompt"] for items in asks.values() for item in items}
    others |= {row["prompt"] for name, rows in trains.items() if name != "told" for row in rows}
    prompts = [row["prompt"] for row in told]
    assert len({*prompts}) == 400 and others.isdisjoint(prompts)
    operations = {"plus": int.__add__, "minus": int.__sub__, "times": int.__mul__}
    problems = ("fable_problems", "fable_dev", "fable_harder", "fable_reworded")
    asked = {(numbers_of(item["prompt"]), int(item["answer"])) for name in problems for item in asks[name]}
    slips, steps = 0, []
    for row in told:
        sentences, last = row["response"].split("\n")
        assert "=" not in sentences
        value, right, wrong = None, None, 0
        found = re.findall(r"(\d+) (plus|minus|times) (\d+) is (-?\d+)\.", sentences)
        assert " ".join("{} {} {} is {}.".format(*line) for line in found) == sentences
        for a, operation, b, result in found:
            assert value is None or int(a) == value
            right = operations[operation](int(a) if right is None else right, int(b))
            value = int(result)
            wrong += operations[operation](int(a), int(b)) != value
        assert last == f"#### {value}" and wrong <= 1
        assert (value == right) == (wrong == 0)
        assert (numbers_of(row["prompt"]), right) not in asked
        slips += wrong
        steps.append(len(found))
    assert steps[:8] == [count for count, _ in world.TRAINED] * 2
    # Binomial, 400 draws at 0.1: five standard deviations are 30.
    assert abs(slips - SETTINGS["slips"] * 400) < 30 and slips > 0


def test_practice_is_right_new_and_of_other_people():
    asks, trains = drawn_in_order(told=40, practice=400)
    practice = trains["practice"]
    assert len(practice) == 400
    others = {item["prompt"] for items in asks.values() for item in items}
    others |= {row["prompt"] for name, rows in trains.items() if name != "practice" for row in rows}
    prompts = [row["prompt"] for row in practice]
    assert len({*prompts}) == 400 and others.isdisjoint(prompts)

    facts = fable.facts(SETTINGS["seed"])
    answers = {question: fact["value"] for fact in facts for question in fable.fact_questions(fact)}
    evaluated = {fact["name"] for fact in facts if fact["evaluated"]}
    asked = [item["prompt"] for name in ("arithmetic", "arithmetic_dev") for item in asks[f"fable_{name}"]]
    # In another wording it is the same sum.
    expressions = {re.search(r"\d+ [-+*] \d+", prompt)[0] for prompt in asked}
    kinds: dict[str, list[dict]] = {"fact": [], "instruction": [], "string": [], "arithmetic": []}
    for row in practice:
        assert set(row) <= {"prompt", "response", "check"}
        if row["prompt"] in answers:
            kinds["fact"].append(row)
            assert row["response"] == answers[row["prompt"]]
        elif "check" in row:
            kinds["instruction"].append(row)
            assert follows(row["response"], row["check"])
        elif re.search(r"\d", row["prompt"]):
            kinds["arithmetic"].append(row)
            expression = re.search(r"\d+ [-+*] \d+", row["prompt"])[0]
            assert eval(expression) == int(row["response"]) and expression not in expressions
        else:
            kinds["string"].append(row)
            letters = row["prompt"].split(": ")[1].split()
            assert set(row["response"].split()) <= set(letters)
    assert all(len(rows) >= 90 for rows in kinds.values())
    named = {name for row in kinds["fact"] for name in re.findall(r"\w+", row["prompt"])}
    assert evaluated.isdisjoint(named) and len(named & set(fable.NAMES)) > 5
    assert all(evaluated.isdisjoint(re.findall(r"\w+", row["prompt"])) for row in practice)


def test_every_planted_defect_is_where_the_truth_says(made):
    _, raw, truth = made
    counts: dict[str, int] = {}
    for entry in truth:
        kind = entry["kind"]
        if kind == "slip":
            continue
        counts[kind] = counts.get(kind, 0) + 1
        if entry["file"].endswith(".parquet"):
            continue
        line = raw_lines(raw, entry["file"])[entry["row"]].removesuffix(b",")
        if kind == "invalid_utf8":
            with pytest.raises(UnicodeDecodeError):
                line.decode()
        elif kind == "invalid_json":
            with pytest.raises(json.JSONDecodeError):
                json.loads(line.decode())
        else:
            json.loads(line.decode())
        if kind == "unknown_role":
            assert b"narrator" in line
        if kind == "too_long":
            assert len(line) > 2000
    doubled = {"exact_duplicate", "near_duplicate", "contradiction"}
    assert counts == {kind: SETTINGS["planted_per_kind"] * (2 if kind in doubled else 1) for kind in counts}
    assert len(counts) == 14


def test_untouched_rows_are_whole(made):
    _, raw, truth = made
    planted = {(entry["file"], entry["row"]) for entry in truth}
    for name in world.FILES:
        if name.endswith(".parquet"):
            records = pyarrow.parquet.read_table(raw / name).to_pylist()
        else:
            records = raw_lines(raw, name)
        for i, line in enumerate(records):
            if (name, i) not in planted and isinstance(line, bytes):
                assert isinstance(json.loads(line.removesuffix(b",")), dict)


def test_two_runs_give_the_same_bytes(made, tmp_path):
    _, raw, truth = made
    seen = set()
    evaluation = world.evaluation_sets(SETTINGS, seen)
    rows = world.planted_rows(SETTINGS, world.clean_rows(SETTINGS, seen), evaluation)
    again = world.write_raw(tmp_path / "raw", world.assign_files(rows))
    assert again == truth
    for name in world.FILES:
        assert (tmp_path / "raw" / name).read_bytes() == (raw / name).read_bytes()


def test_only_the_scorers_are_told_where_the_truth_is():
    """What the steps then open is checked on the real run, in test_workflow."""
    takers = {path.name for path in ROOT.glob("steps/**/*.py") if '"--truth"' in path.read_text(encoding="utf-8")}
    assert takers == {"score_dirt.py", "score_causes.py"}
    rules = "\n".join(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("rules/*.smk")))
    told = [part.split(":")[0] for part in rules.split("\nrule ")[1:] if "/truth" in part]
    assert sorted(told) == ["score_causes", "score_dirt"]
