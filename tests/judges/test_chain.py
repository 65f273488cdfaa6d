"""One verdict for each response, whoever asks: reward, pass rate, detection, generation and the task that measures.

The responses are written as small models write them: right in many forms, wrong, cut, repeated, without a mark, boxed
in place of marked, thought and not said.
"""

import shutil
from types import SimpleNamespace

import pytest

from steps.data.pass_rates import pass_rates
from steps.diagnosis import detect
from steps.distillation import generate
from steps.engines import transformers
from steps.engines.interface import Sample
from steps.evaluation import measure
from steps.judges import rows as judged_rows
from steps.judges import tasks
from steps.judges.judge import Judge
from steps.judges.mathematics import Checker
from steps.judges.rows import RowJudge
from steps.reinforcement.rewards import Rewards
from steps.reinforcement.scored_samples import ScoredSamples
from tests.chats import TEMPLATES

FORMS = (
    "We add. {}\n#### {}",
    "#### {}\n#### {}",
    "The answer is $\\boxed{{{}}}$.",
    "**Answer**\n#### **{}**.",
    "<think>Maybe 7? #### 7</think>\nSo it is\n#### {}",
    "<think>so #### {}",
    "It is {}",
    "#### {} or 3",
    "We get \\boxed{{{}",
    "First \\boxed{{3}}, hence \\boxed{{{}}}.",
)
# Gold, answers to it, of which some are right.
NUMBERS = [
    ("18", ["18", "$18", "18 dollars", "19", "-18"]), ("1,200", ["1200", "1.2e3", "1200.0", "12"]),
    ("5 miles", ["5", "five miles", "5 eggs", "6 miles"]),
]  # fmt: skip
FORMULAS = [
    (r"\frac{1}{2}", [r"\dfrac{1}{2}", "0.5", r"\frac{2}{1}", "half"]), ("2\\pi", [r"\pi \cdot 2", "6.28"]),
    ("(1, 2)", ["(1,2)", "[1,2]"]), ("x^2+2x+1", ["(x+1)^2", "x^2"]),
]  # fmt: skip


class Kept(Checker):
    """Whoever leaves it leaves it running: starting one takes seconds, and everyone starts one."""

    def __exit__(self, *_) -> None:
        pass


@pytest.fixture
def one_checker(monkeypatch):
    checker = Kept(20.0)
    monkeypatch.setattr(judged_rows, "Checker", lambda *_: checker)
    monkeypatch.setattr(tasks, "_judge", lambda kind: Judge(kind, checker))
    yield
    Checker.__exit__(checker)


def responses(golds: list[tuple[str, list[str]]]) -> list[tuple[str, str]]:
    return [(gold, form.format(*[given] * form.count("{}"))) for gold, all_given in golds for given in all_given
            for form in FORMS]  # fmt: skip


@pytest.mark.parametrize(("kind", "golds", "score"), [
    ("number", NUMBERS, tasks.score_number), ("math", FORMULAS, tasks.score_math)
])  # fmt: skip
def test_everyone_who_asks_is_told_the_same(one_checker, kind, golds, score):
    pairs = responses(golds)
    assert len(pairs) >= 100
    turns = [{"role": "user", "content": "How much?"}, {"role": "assistant", "content": "no matter"}]
    rows = [
        {"id": f"a:{i}", "messages": turns, "answer": gold, "judge": kind, "file": "a", "line": i, "row": i}
        for i, (gold, _) in enumerate(pairs)
    ]
    texts = [text for _, text in pairs]
    with Rewards({"answer": {"kind": "answer", "weight": 1.0}}) as rewards:
        rewarded = [one.value == 1.0 for one in rewards.score("answer", rows, texts, [1] * len(rows))]
    each = [[text] for text in texts]
    rates, _ = pass_rates(rows, each)
    with RowJudge() as judge:
        verdicts = judge.verdicts(rows, each)
    detected = [
        detect.judge(own, [Sample(text, -1.0, 2)])["correct"][0] for own, text in zip(verdicts, texts, strict=True)
    ]
    generated, _ = generate.judge(rows, each, {"short_answer_words": 5})
    found = tasks.filter_marked(each, rows)
    measured = [score(row, answers)["exact_match"] for row, answers in zip(rows, found, strict=True)]
    told = [rewarded, [rate == 1.0 for rate in rates], detected, [own[0] for own in generated],
            [value == 1.0 for value in measured]]  # fmt: skip
    for row, text, *verdicts in zip(rows, texts, *told, strict=True):
        assert len({*verdicts}) == 1, (row["answer"], text, verdicts)
    assert 0.2 < sum(rewarded) / len(rewarded) < 0.6


# What a model writes behind a prompt that ends in <think>, whether that is all of it, and whether it answers 42.
WITHIN = [
    ("so #### 42", False, False),
    ("so \\boxed{42}", False, False),
    ("#### 42\nand then", False, False),
    ("so #### 7</think>\n\n#### 42", True, True),
    ("so #### 42</think>\n\n#### 7", True, False),
    ("so #### 42</think>\n\n", False, False),
]


@pytest.mark.parametrize(("written", "ends", "right"), WITHIN)
def test_an_answer_in_a_thought_that_the_template_opened_is_none(
    written, ends, right, small_checkpoint, tmp_path, monkeypatch
):
    import torch

    folder = shutil.copytree(small_checkpoint, tmp_path / "thinks")
    (folder / "chat_template.jinja").write_text(TEMPLATES["qwen3_5"])
    engine = transformers.Engine.load(folder, 4)
    assert engine.render([{"role": "user", "content": "How much?"}]).endswith("<think>\n")
    ids = engine.tokenizer(written)["input_ids"] + [engine.tokenizer.convert_tokens_to_ids("<|im_end|>")] * ends
    left = [*ids]
    monkeypatch.setattr(transformers, "_choose", lambda logits, *_: torch.tensor([left.pop(0)] * len(logits)))
    turns = [{"role": "user", "content": "How much?"}, {"role": "assistant", "content": "no matter"}]
    row = {"id": "a:0", "messages": turns, "answer": "42", "judge": "number", "file": "a", "line": 1, "row": 0}
    ((sample,),) = engine.sample([turns[:1]], temperature=0.0, max_new_tokens=len(ids))
    assert sample.text == (written if "</think>" in written else f"<think>\n{written}")

    (rates, ((verdict,),)) = pass_rates([row], [[sample.text]])
    ((generated,),), _ = generate.judge([row], [[sample.text]], {"short_answer_words": 5})
    left = [*ids]
    asked = SimpleNamespace(args=(engine.render(turns[:1]), {"max_gen_toks": len(ids)}), task_name="a", doc_id=0)
    (measured,) = measure.language_model(engine, len(ids)).generate_until([asked])
    ((answer,),) = tasks.filter_marked([[measured]], [row])
    with Rewards({"answer": {"kind": "answer", "weight": 1.0}}) as rewards:
        training = SimpleNamespace(
            written=[sample], rewards=rewards, batch=[row], ahead=None, settings={"generations": 1},
            account=lambda *_: None,
        )  # fmt: skip
        (rewarded,) = ScoredSamples.score(training, "answer", [ids])
    told = [rates == [1.0], verdict.right, generated, tasks.score_number(row, [answer])["exact_match"] == 1.0]
    assert [*told, rewarded == 1.0] == [right] * 5


def test_a_response_begun_for_the_model_is_not_within_a_thought(small_checkpoint, tmp_path):
    """`direct` of explore: what was begun stands before what the model adds."""
    folder = shutil.copytree(small_checkpoint, tmp_path / "thinks")
    (folder / "chat_template.jinja").write_text(TEMPLATES["qwen3_5"])
    engine = transformers.Engine.load(folder, 4)
    asked = engine.render([{"role": "user", "content": "How much?"}])
    begun, whole = (own.text for (own,) in engine.sample([asked + "#### ", asked], temperature=0.0, max_new_tokens=3))
    assert whole.startswith("<think>") and not begun.startswith("<think>")
