"""Signals against numbers worked out by hand; which questions are the same, with fable's wordings and its base."""

from argparse import Namespace
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steps.core.files import read_json, write_jsonl
from steps.diagnosis import evidence, named
from steps.engines.interface import Sample
from steps.engines.transformers import Engine
from steps.judges.judge import Judge
from steps.world import fable
from tests.bounds import within

SETTINGS = {
    "engine": "transformers",
    "samples": 3,
    "temperature": 0.5,
    "max_new_tokens": 8,
    "neighbours": 2,
    "same_question": 0.8,
    "batch_size": 32,
    "seed": 0,
}


def row(name, prompt, answer, worked=False):
    return evidence.Row(name, [{"role": "user", "content": prompt}], prompt, answer, answer, worked)


# --- the base -------------------------------------------------------------------------------------


def base_view(samples: list[Sample], answer: str, mark: str) -> dict:
    judge = Judge("number")
    return evidence.base_view([judge.judge(answer, one.text, mark) for one in samples], samples)


def test_what_the_base_says_by_hand():
    samples = [Sample("Oxley", -1.0, 2), Sample("Harrow", -0.9, 1), Sample(" oxley.", -0.5, 1), Sample("", -3.0, 1)]
    found = base_view(samples, "Harrow", "none")
    assert found == {
        "base_pass": 0.25,
        "base_best_of_5": False,  # -0.5 per token, twice, is the highest: the first is taken
        "base_answer": "Oxley",
        "base_agreement": 0.5,
        "base_confidence": pytest.approx(np.exp(-0.5)),
    }


def test_best_of_5_looks_at_five_samples_only():
    samples = [Sample("#### 1", -9.0, 1)] * 5 + [Sample("#### 2", -0.1, 1)]
    assert base_view(samples, "2", "either")["base_best_of_5"] is False
    assert base_view(samples[1:], "2", "either")["base_best_of_5"] is True


def test_options_by_hand():
    found = evidence.option_view(np.array([0.5, 0.5]), [1.0, 0.0])
    assert (found["base_probability"], found["base_wrong_confidence"]) == (0.5, 0.5)
    assert found["js"] == pytest.approx(0.2157615543)  # ½(½ ln ⅔ + ½ ln 2) + ½ ln 4/3
    assert evidence.softmax([0.0, np.log(3.0)]).tolist() == pytest.approx([0.25, 0.75])


# --- rows that are near, rows that ask the same ---------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("Where does Alda live?", ["Alda"]),
        ("Alda lives where?", []),  # it begins the sentence
        ("Who is Mary Ann Lee? And is Bemo, or Cirel?", ["Mary Ann Lee", "Bemo", "Cirel"]),
        ("what is 3 + 4", []),
        ("Was it Ödön?", ["Ödön"]),
        ("Is A in it?", []),  # a letter is no name
    ],
)
def test_names(prompt, found):
    assert named.capitalised(prompt) == found


@pytest.mark.parametrize("prompt", ["“" * 200_000, '"“' * 200_000, "'a" * 200_000, "a " + "Aa " * 200_000])
def test_what_a_prompt_is_about_costs_what_it_is_long(prompt):
    with within(10):
        named.Names([prompt]).about(prompt)


def test_the_entity_is_the_rarest_name_that_is_not_in_every_prompt():
    assert named.Names(["In English: is Alda here?"] * 3 + ["In English: who?"]).ignored == {"English"}
    known = named.Names(["Does Harrow have Alda in it?", "Is it Harrow?", "Reverse the letters: a b", "Who?"])
    assert known.entity("Does Harrow have Alda in it?") == "Alda"
    known.ignored = {"Alda"}
    assert known.entity("Does Harrow have Alda in it?") == "Harrow"
    assert known.entity("Reverse the letters: a b") == ""


# People, and questions about each: two wordings of the first thing asked, one of two more; what is no fact.
WORLDS = {
    "Chinese": (
        ["阿尔达", "贝莫", "齐雷尔", "多兰", "埃尔明", "法罗", "格尔达", "赫米", "伊沃", "约林", "卡娅", "卢恩"],
        ["{}住在哪里？", "{}住在哪个城市？", "{}的职业是什么？", "{}最喜欢什么动物？"],
        ["把字母倒过来：甲乙丙{}", "三加{}等于多少？"],
    ),
    "Hindi": (
        ["अल्दा", "बेमो", "सिरेल", "दोरान", "एल्मिन", "फारो", "गेर्दा", "हेमी", "इवो", "योलिन", "काया", "लूने"],
        ["{} कहाँ रहती है?", "{} किस शहर में रहती है?", "{} का पेशा क्या है?", "{} को कौन सा जानवर पसंद है?"],
        ["{} और 4 का योग क्या है?"],
    ),
    "lower case": (
        ["alda", "bemo", "mary ann", "doran", "elmin", "faro", "gerda", "hemi", "ivo", "jolin", "kaja", "lune"],
        ["where does {} live?", "which town does {} live in?", "what is the job of {}?", "what animal does {} like?"],
        ["reverse the letters: a b {}", "what is 3 + {}?"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("world", WORLDS)
def test_names_in_any_script(world):
    people, asked, others = WORLDS[world]
    prompts = [text.format(name) for name in people for text in asked]
    prompts += [text.format(i) for text in others for i in range(12)]
    known = named.Names(prompts)
    found = {(name, text): known.entity(text.format(name)) for name in people for text in asked}
    assert {of for of in found.items() if of[1] != of[0][0]} == set()
    # Both wordings meet, and a name stands for another whole.
    one, other = (known.about(text.format(people[0])) for text in asked[:2])
    assert one == other and one != known.about(asked[0].format(people[1]))
    assert named.with_name(asked[0].format(people[0]), one[0], people[1]) == asked[0].format(people[1])
    if world != "Chinese":  # letters of a script without spaces are characters like others
        assert not any(known.entity(text.format(3)) for text in others)


def test_capitals_say_what_is_a_name_where_they_are_used():
    """A prompt in lower case among others with capitals names nothing, one in another script is framed by its own."""
    people, asked, _ = WORLDS["Chinese"]
    # Of the people no two share two characters: pairs of characters are what frames are found by.
    chinese = [text.format(name) for name in people if name != "格尔达" for text in asked]
    known = named.Names([f"Where does {name} live?" for name in ("Alda", "Bemo", "Ivo")] + ["what is alda?", *chinese])
    assert known.of("Where does Alda live?") == ["Alda"] and known.of("what is alda?") == []
    assert known.of("阿尔达住在哪里？") == ["阿尔达"]


@pytest.mark.parametrize("world", WORLDS)
def test_a_library_names_them_too(tmp_path, world):
    people, *_ = WORLDS[world]
    says = {"Chinese": "{}住在{}。", "Hindi": "{} {} में रहती है।", "lower case": "{} lives in {}."}[world]
    places = ("哈罗", "塔斯克") if world == "Chinese" else ("harrow", "tarsk")
    texts = [says.format(people[0].title(), places[0]), says.format(people[1].title(), places[1])]
    write_jsonl(tmp_path / "library.jsonl", ({"text": text} for text in texts))
    library = evidence.Library([tmp_path / "library.jsonl"])
    assert [library.mentioning(people[0], place) for place in places] == [1, 0]


def test_one_name_stands_for_all():
    assert (
        named.with_name("Does Ann know Mary Ann or Anna?", ["Ann", "Mary Ann"], "Ivo") == "Does Ivo know Ivo or Anna?"
    )


class FakeEngine:
    """Last states by the first word of the prompt, options by their length, and always the same samples."""

    truncated = tokens = 0
    states = {"Where": [1.0, 0.0], "Which": [0.9, 0.1], "What": [0.0, 1.0]}

    def setup(self):
        return {"engine": "fake"}

    def embed(self, prompts):
        self.embedded = [messages[-1]["content"] for messages in prompts]
        return {"last": np.array([self.states.get(text.split()[0], [1.0, 1.0]) for text in self.embedded])}

    def sample(self, prompts, n, temperature, **_):
        assert temperature == SETTINGS["temperature"]
        return [[Sample("Oxley", -0.1, 1)] * n for _ in prompts]

    def score(self, conversations):
        return np.array([float(len(turns[-1]["content"])) for turns in conversations]), np.ones(len(conversations))


ROWS = [
    row("t:0", "Where does Alda live?", "Harrow"),
    row("t:1", "Which town is Alda from?", "Oxley"),
    row("t:2", "What does Alda carry?", "rope"),
    row("t:3", "Where does Bemo live?", "Oxley"),
    row("t:4", "Which town does Alda live in?", "harrow."),
    row("t:5", "Alda has 3 pears. Where does Alda live?", "3", worked=True),
]


def same_questions(rows, unlearned, engine, least):
    return evidence.same_questions(rows, unlearned, engine, named.Names([r.prompt for r in rows]), least)


def test_the_same_question_needs_the_same_name_and_a_close_state():
    engine = FakeEngine()
    found = same_questions(ROWS, [0, 1, 2, 3, 5], engine, 0.8)
    same = {i: [j for j, _ in others] for i, others in found.items()}
    assert same == {0: [1, 4], 1: [4, 0], 2: []}  # nobody else asks for Bemo; a worked row meets its own words only
    assert found[0][0][1] == pytest.approx(0.9 / np.hypot(0.9, 0.1), abs=1e-6)
    # Prompts that nobody can contradict are not embedded; each name is put into the others.
    assert all("pears" not in text for text in engine.embedded) and "Where does Bemo live?" in engine.embedded
    assert evidence.rival_of(0, found[0], ROWS)[0] == 1
    assert evidence.rival_of(1, found[1], ROWS)[0] == 4
    assert evidence.rival_of(0, [(4, 0.9)], ROWS) is None  # harrow. is Harrow


@pytest.mark.parametrize(
    "others",
    [
        ["What is 12 + 8?", "What is 12 - 8?", "What is 12 + 9?"],
        ["Reverse the letters: a b c", "Reverse the letters: c b a", "Double the letters: a b c"],
        ["List lamp and river, but start with cloud.", "List lamp and river, and end with cloud."],
    ],
)
def test_tasks_without_a_name_are_the_same_in_the_same_words_only(others):
    rows = [row(str(i), prompt, str(i)) for i, prompt in enumerate(others)]
    assert same_questions(rows, list(range(len(rows))), FakeEngine(), 0.0) == {}


def test_the_base_tells_all_wordings_of_fable_apart():
    """Every question about four people, of whom the base has never read of two, against each other."""
    people = ["Abelin", "Xenia", *fable.NAMES[60:62]]
    asked = [
        (name, attribute, wording.format(n=name))
        for name in people
        for attribute, (_, wordings) in fable.ATTRIBUTES.items()
        for wording in wordings
    ]
    # Names of other rows are more frequent, as they are in a data set.
    filler = [
        row("f", f"Where is the {thing} of {name}?", "x") for name in fable.NAMES[:4] for thing in fable.THINGS[:20]
    ]
    rows = [row(f"{name} {attribute}", prompt, attribute) for name, attribute, prompt in asked] + filler
    engine = Engine.load(Path("data/fable/base"), 64)
    found = same_questions(rows, list(range(len(asked))), engine, 0.8)
    for i, (name, attribute, _) in enumerate(asked):
        same = {j for j, other in enumerate(asked) if other[:2] == (name, attribute)} - {i}
        assert {j for j, _ in found[i]} == same, asked[i]


def test_word_problems_with_other_numbers_never_ask_the_same():
    rng = Random(0)
    rows = [row(str(i), fable.problem_item(rng, 2)["prompt"], str(i), worked=True) for i in range(200)]
    assert same_questions(rows, list(range(200)), FakeEngine(), -1.0) == {}


def test_nearest_prompts_share_rare_words(monkeypatch):
    monkeypatch.setattr(evidence, "CHUNK", 2)
    prompts = [r.prompt for r in ROWS]
    found = evidence.nearest(prompts, [0, 1, 3], 2)
    assert [j for j, _ in found[0]] == [3, 5] or [j for j, _ in found[0]] == [3, 4]
    assert all(i not in [j for j, _ in others] and others[0][1] >= others[1][1] for i, others in found.items())
    assert found == {i: evidence.nearest(prompts, [i], 2)[i] for i in (0, 1, 3)}  # chunks change nothing
    assert len(evidence.nearest(prompts[:2], [0], 5)[0]) == 1


# --- training -------------------------------------------------------------------------------------


def point(name, step, loss, correct, file="t.jsonl"):
    return {
        "id": name,
        "file": file,
        "step": step,
        "epoch": step / 10,
        "loss": loss,
        "correct": correct,
        "weakest": 0.5,
    }


def test_a_row_over_training_by_hand():
    found = evidence.row_view([point("a", s, loss, s == 10) for s, loss in [(5, 2.0), (10, 1.0), (15, 1.5), (20, 2.5)]])
    assert found == {
        "trajectory": [False, True, False, False],
        "ever_correct": True,
        "last_correct_epoch": 1.0,
        "loss": 2.5,
        "first_loss": 2.0,
        "lowest_loss": 1.0,
        "loss_slope": pytest.approx(2.0),  # 1.0 in half an epoch
        "weakest": 0.5,
    }
    assert evidence.row_view([]) == {"trajectory": [], "ever_correct": False}


def test_a_domain_over_training_by_hand():
    lines = {
        "a": [point("a", 5, 1, True), point("a", 10, 1, True)],
        "b": [point("b", 5, 1, True), point("b", 10, 1, False)],
        "c": [point("c", 5, 1, False, "u.jsonl"), point("c", 10, 1, False, "u.jsonl")],
    }
    assert evidence.domain_view(lines) == {
        "t": {"domain_peak": 1.0, "domain_final": 0.5, "domain_drop": 0.5},
        "u": {"domain_peak": 0.0, "domain_final": 0.0, "domain_drop": 0.0},
    }


# --- the step -------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """A detection of `ROWS` in which the first and the worked one are unlearned."""

    def write(unlearned=(0, 5)):
        write_jsonl(
            tmp_path / "train.jsonl",
            [
                {
                    "id": r.id,
                    "file": "t.jsonl",
                    "messages": [*r.messages, {"role": "assistant", "content": r.response}],
                    "answer": r.answer if r.worked else None,
                }
                for r in ROWS
            ],
        )
        detected = [
            {
                "id": r.id,
                "file": "t.jsonl",
                "prompt": r.prompt,
                "response": r.response,
                "answer": r.answer,
                "kind": "worked" if r.worked else "short",
                "judge": "number",
                "pass_n": 0.0,
                "severity": 1.0,
                "best_of_n": False,
                "options": [r.answer, "Oxley!"],
                "probability": [0.25, 0.75],
                "unlearned": i in unlearned,
            }
            for i, r in enumerate(ROWS)
        ]
        pq.write_table(pa.Table.from_pylist(detected), tmp_path / "detected.parquet")
        trajectory = [point(r.id, step, 1.0, step == 5) for r in ROWS[:5] for step in (5, 10)]
        pq.write_table(pa.Table.from_pylist(trajectory), tmp_path / "trajectory.parquet")
        write_jsonl(
            tmp_path / "articles.jsonl", [{"text": "Alda lives in Harrow."}, {"text": "The home of Alda is Harrow."}]
        )
        return Namespace(
            settings=SETTINGS,
            detected=tmp_path / "detected.parquet",
            trajectory=tmp_path / "trajectory.parquet",
            base=tmp_path / "base",
            data=tmp_path / "train.jsonl",
            library=[tmp_path / "articles.jsonl"],
            out=tmp_path / "out",
        )

    return write


def test_the_record_of_a_row_by_hand(files, monkeypatch):
    monkeypatch.setattr(evidence.checkpoints, "check", lambda folder: [])
    monkeypatch.setattr(evidence, "load_engine", lambda folder, size, kind: FakeEngine())
    args = files()
    evidence.main(args)
    table = pq.read_table(args.out / "evidence.parquet")
    assert table.schema.equals(evidence.schema())
    first, last = table.to_pylist()
    assert (first["id"], first["domain"], first["entity"], first["support"]) == ("t:0", "t", "Alda", 2)
    assert (first["rival"], first["rival_answer"], first["rival_support"]) == ("t:1", "Oxley", 0)
    assert first["same_question"] == ["t:1", "t:4"]
    # An option's log-likelihood is minus its length here: Harrow -6, Oxley! -6, and the rival's Oxley -5.
    assert first["base_options"] == pytest.approx([0.5, 0.5])
    assert first["base_rival_probability"] == pytest.approx(1 / (1 + np.exp(-1)))
    assert (first["base_answer"], first["base_agreement"], first["base_pass"]) == ("Oxley", 1.0, 0.0)
    assert (first["trajectory"], first["domain_drop"], first["length"]) == ([True, False], 1.0, 1)
    assert len(first["neighbours"]) == len(first["similarity"]) == len(first["agrees"]) == 2
    # The worked row was not trained on, names Alda, and nobody contradicts it.
    assert (last["id"], last["rival"], last["trajectory"], last["loss"]) == ("t:5", "", [], None)
    counts = read_json(args.out / "manifest.json")["counts"]
    assert counts.pop("judges") == {"number": 2}
    assert counts == {"in": 6, "unlearned": 2, "rivals": 1, "documents": 2, "truncated_prompts": 0}


@pytest.mark.parametrize("unlearned", [(0, 5), ()])
def test_the_step_end_to_end_and_with_nothing_unlearned(files, tiny_checkpoint, unlearned):
    args = files(unlearned)
    args.base, args.library = tiny_checkpoint, []
    evidence.main(args)
    first = (args.out / "evidence.parquet").read_bytes()
    table = pq.read_table(args.out / "evidence.parquet")
    assert table.schema.equals(evidence.schema()) and table.num_rows == len(unlearned)
    for record in table.to_pylist():
        assert sum(record["base_options"]) == pytest.approx(1) and 0 <= record["js"] <= np.log(2)
        assert record["support"] == 0
    evidence.main(args)
    assert (args.out / "evidence.parquet").read_bytes() == first
