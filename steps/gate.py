"""Score known answers before a model is trained by a reward, and choose the rows to train on.

A reward that cannot tell a right answer from a wrong one, or that no answer reaches, costs a training run and says
nothing. So, before any training:

- rows: with `pass_rate`, those whose pass rate (of the difficulty step) lies strictly between `above` and `below`;
  the others give no signal, and go to left_out.jsonl.
- known answers of `rows` of them, drawn by seed. Good: the template `good`, filled with the row's reference
  {response} and {answer}. Bad: the same with a digit of the answer changed, and with another row's answer; for a row
  without an answer its rejected response or, where it has none, another row's response. Malformed: nothing, the good
  one cut in half before the answer, the answer without its marker (`####`, \\boxed, the template's own text), noise.
- the checks, each a line of gate.csv: good above bad and good above malformed (`separates`; without its marker an
  answer may count as much as with it, to a reward that reads leniently); for the self-distilled methods, that
  `success` holds for good and not for bad ones; shares of good ones (`unparsed`) and of the start policy's samples
  (`unparsed_samples`) in which no answer is found; responses on which a reward raised (`max_failures`); groups of the
  start policy's samples whose total reward varies (`spread`).

A check that fails stops the run with the table and two examples each; one that no configured reward can fail is left
out. What another row's answer is worth is taken for nothing: two rows whose answers are equal but for their form
("1/2", "0.5") can cost a row of the share.

In: train.jsonl and samples.jsonl of the difficulty step, the start policy. Out: prompts.jsonl, left_out.jsonl,
gate.csv, cases.jsonl (every known answer with what each reward gives it).

Run as: python -m steps.gate --settings '{"rows": 50, "good": "{response}", "rewards": {"answer": {…}}, …}'
    --data results/fable/difficulty/exercises/sft/train.jsonl
    --samples results/fable/difficulty/exercises/sft/samples.jsonl --start results/fable/foundation/sft
    --out results/fable/gate/grpo
"""

import argparse
import csv
import io
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

from steps import checkpoints
from steps.common import Progress, fresh_folder, read_jsonl, run, step_parser, write_jsonl, write_manifest, write_text
from steps.rewards import Rewards, Scored, check_settings, custom_files
from steps.rows import QUARANTINE, ROWS, Ledger, RowProblem, escaped, prompt_of, read_rows, response_of
from steps.verify import NUMBER, canonical, equal, worked_answer

FIELD = re.compile(r"\{(response|answer)\}")
MARKERS = ("####", "\\boxed")
BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
# Conversations judged at once by a model: its size matters for the kinds `self` and `preference` only.
BATCH = 64
# Responses between two lines of progress.
CHUNK = 512
# Below it two totals are one: a sum of floats depends on the order of its terms.
TIE = 1e-9
EXAMPLES = 2


class Case(NamedTuple):
    """A response whose worth is known without a model: `kind` is good, bad or malformed, `form` how it was made."""

    row: dict
    kind: str
    form: str
    response: str


class Judged(NamedTuple):
    """Responses with what the rewards give them; every list is [responses], known answers before samples."""

    rows: list[dict]
    labels: list[str]
    responses: list[str]
    scored: dict[str, list[Scored]]
    totals: list[float]

    def show(self, i: int) -> str:
        """One response with what each reward gives it, on one line."""
        parts = []
        for name, each in self.scored.items():
            why = each[i].error or each[i].note
            parts.append(f"{name} {each[i].value:.4g}" + (f" ({escaped(why)})" if why else ""))
        told = f"{self.rows[i]['id']}  {self.labels[i]}  total {self.totals[i]:.4g}: {', '.join(parts)}"
        return f'{told}  "{escaped(self.responses[i])}"'


class Check(NamedTuple):
    """One line of the table; `examples` are shown, and `look` said, where it fails."""

    name: str
    n: int
    value: float
    bar: float
    least: bool
    look: str
    examples: list[str]

    @property
    def ok(self) -> bool:
        return self.value >= self.bar if self.least else self.value <= self.bar


# --- rows ----------------------------------------------------------------------------------------


def left_out(row: dict, pass_rate: dict | None) -> RowProblem | None:
    """Why a row is not trained on; None when it is. A row without a pass rate is not known to be out of bounds."""
    rate = row["pass_rate"]
    if pass_rate is None or rate is None or pass_rate["above"] < rate < pass_rate["below"]:
        return None
    if rate <= pass_rate["above"]:
        reason, hint = "seldom_solved", "lower rl.pass_rate.above, or start from a policy that solves it sometimes"
    else:
        reason, hint = "often_solved", "raise rl.pass_rate.below, or add harder rows"
    reason = {0: "never_solved", 1: "always_solved"}.get(rate, reason)
    return RowProblem(reason, "pass_rate", hint, f"pass rate {rate:.4g}")


def distribution(rows: list[dict]) -> str:
    """How many rows have which pass rate: "0: 80 rows, 0.25: 3, without: 2"."""
    counts = Counter(row["pass_rate"] for row in rows)
    rates = sorted(rate for rate in counts if rate is not None)
    parts = [f"{rate:.3g}: {counts[rate]}" for rate in rates] + ([f"without: {counts[None]}"] if counts[None] else [])
    return ", ".join(parts)


def choose(rows: list[dict], pass_rate: dict | None, data: Path) -> list[dict]:
    """The rows that train.

    Raises:
        ValueError: none does; with the distribution of pass rates.
    """
    kept = [row for row in rows if left_out(row, pass_rate) is None]
    if not kept:
        bounds = f" has a pass rate strictly between {pass_rate['above']} and {pass_rate['below']}" if pass_rate else ""
        raise ValueError(
            f"{data}: none of {len(rows)} rows{bounds} (rows by pass rate: {distribution(rows)}); widen rl.pass_rate,"
            " raise difficulty.samples, or take rows that the start policy solves sometimes"
        )
    return kept


# --- known answers -------------------------------------------------------------------------------


def fill(template: str, response: str, answer: str | None) -> str:
    """The template with its fields replaced, once: what a field holds is not read as a template."""
    return FIELD.sub(lambda field: response if field[1] == "response" else answer or "", template)


def places(text: str, answer: str) -> list[tuple[int, int]]:
    """Where an answer stands in a text: as an equal number ("1,234" for 1234), or letter for letter."""
    if NUMBER.fullmatch(answer):
        return [found.span() for found in NUMBER.finditer(text) if equal(found[0], answer)]
    return [found.span() for found in re.finditer(re.escape(answer), text)]


def with_answer(text: str, answer: str, wrong: str) -> str | None:
    """The text with `wrong` for the answer where it is given: after the last marker, else where it stands last.

    None when it does not stand there.
    """
    found = places(text, answer)
    marker = max(text.rfind(marker) for marker in MARKERS)
    given = [place for place in found if place[0] >= marker] if marker >= 0 else found[-1:]
    head, sharps, _ = text.rpartition("####")
    if not given and sharps and equal(worked_answer(text) or "", answer):
        return f"{head}#### {wrong}"
    for begin, end in reversed(given or found[-1:]):
        text = text[:begin] + wrong + text[end:]
    return text if found else None


def moved(answer: str, rng: Random) -> str | None:
    """The answer with the first digit of its last number changed; None without a digit."""
    found = re.search(r"\d+(?=\D*$)", answer)
    if not found:
        return None
    at = found.start()
    return answer[:at] + str((int(answer[at]) + rng.randint(1, 9)) % 10) + answer[at + 1 :]


def wrong_answers(answer: str, answers: dict, rng: Random) -> dict[str, str]:
    """Wrong answers by form; `answers` are those of all rows under their canonical keys."""
    found = {"moved": moved(answer, rng)}
    others = [key for key in answers if key != canonical(answer)]
    if others:
        found["other"] = answers[rng.choice(others)]
    return {form: wrong for form, wrong in found.items() if wrong is not None and not equal(wrong, answer)}


def bad_answers(row: dict, template: str, answers: dict, responses: list[str], rng: Random) -> dict[str, str]:
    """Known-bad responses of a row by form: moved, other, rejected; none where nothing can be made wrong."""
    reference, answer = response_of(row), row["answer"]
    if answer is None:
        if row.get("rejected") is not None:
            return {"rejected": fill(template, row["rejected"], None)}
        others = [response for response in responses if response != reference]
        return {"other": fill(template, rng.choice(others), None)} if others else {}
    found = {}
    for form, wrong in wrong_answers(answer, answers, rng).items():
        text = with_answer(reference, answer, wrong)
        if text is not None or "{answer}" in template:
            found[form] = fill(template, reference if text is None else text, wrong)
    return found


def malformed_answers(row: dict, template: str, rng: Random) -> dict[str, str]:
    """Responses of a row that answer nothing, by form: empty, cut, unmarked, noise."""
    reference, answer = response_of(row), row["answer"]
    good = fill(template, reference, answer)
    # Before the first place: the working of a half must not hold the answer.
    until = min((begin for begin, _ in places(good, answer)), default=len(good)) if answer is not None else len(good)
    found = {"empty": "", "cut": good[: until // 2]}
    if answer is not None:
        bare = "\n".join(fill(field[0], reference, answer) for field in FIELD.finditer(template))
        found["unmarked"] = BOXED.sub(r"\1", bare).replace("####", "").strip()
    letters = "abcdefghijklmnopqrstuvwxyz "
    found["noise"] = "".join(rng.choice(letters) for _ in range(max(20, len(good))))
    return {form: text for form, text in found.items() if text != good and (text or form == "empty")}


def known_answers(rows: list[dict], settings: dict) -> list[Case]:
    """The known answers of `settings["rows"]` of the rows, drawn by seed, in the order of the rows.

    Raises:
        ValueError: no row has what the template asks for, or no answer can be made wrong.
    """
    template, seed = settings["good"], settings["seed"]
    able = [row for row in rows if row["answer"] is not None or "{answer}" not in template]
    if not able:
        raise ValueError(f"gate.good: {template!r} asks for an {{answer}}, and no row that trains has one")
    drawn = Random(seed).sample(range(len(able)), min(settings["rows"], len(able)))
    answers = {canonical(row["answer"]): row["answer"] for row in able if row["answer"] is not None}
    responses = sorted({response_of(row) for row in able})
    cases = []
    for row in (able[i] for i in sorted(drawn)):
        rng = Random(f"{seed}:{row['id']}")
        cases.append(Case(row, "good", "reference", fill(template, response_of(row), row["answer"])))
        bad = bad_answers(row, template, answers, responses, rng)
        cases += [Case(row, "bad", form, text) for form, text in bad.items()]
        cases += [Case(row, "malformed", form, text) for form, text in malformed_answers(row, template, rng).items()]
    if not any(case.kind == "bad" for case in cases):
        row = cases[0].row
        raise ValueError(
            f"{row['file']}, row {row['row']} (and {len(drawn) - 1} others): no wrong answer can be made of its"
            " response: it does not hold the row's answer, or no other row answers otherwise; set gate.good to a"
            " template with {answer}, or add rows"
        )
    return cases


# --- checks --------------------------------------------------------------------------------------


def judge(rewards: Rewards, rows: list[dict], labels: list[str], responses: list[str], tokens: list[int]) -> Judged:
    """Every reward on every response; all lists are [responses]."""
    progress = Progress("gate: rewards", len(responses), "responses")
    scored: dict[str, list[Scored]] = {name: [] for name in rewards.names}
    for begin in range(0, len(responses), CHUNK):
        part = slice(begin, begin + CHUNK)
        for name in rewards.names:
            scored[name] += rewards.score(name, rows[part], responses[part], tokens[part])
        progress.update(min(begin + CHUNK, len(responses)))
    totals = rewards.totals({name: [one.value for one in each] for name, each in scored.items()})
    assert all(len(each) == len(totals) == len(responses) for each in scored.values())
    return Judged(rows, labels, responses, scored, totals)


def at_least(name: str, hits: list[bool], bar: float, look: str, examples: list[str]) -> Check:
    return Check(f"{name}, share, at least", len(hits), sum(hits) / len(hits), bar, True, look, examples)


def at_most(name: str, hits: list[bool], bar: float, look: str, examples: list[str]) -> Check:
    return Check(f"{name}, share, at most", len(hits), sum(hits) / len(hits), bar, False, look, examples)


def failure_check(judged: Judged, most: float) -> Check:
    """Responses on which a reward raised or returned no finite number."""
    raised = {i: name for name, each in judged.scored.items() for i, one in enumerate(each) if one.error is not None}
    examples = [judged.show(i) for i in sorted(raised)[:EXAMPLES]]
    look = f"rewards.{raised[min(raised)]}, which raised on {examples[0]}" if raised else ""
    hits = [i in raised for i in range(len(judged.totals))]
    return at_most("responses on which a reward raised", hits, most, look, examples)


def unparsed_check(name: str, judged: Judged, among: list[int], readers: list[str], most: float, look: str) -> Check:
    """Responses in which one of the rewards `readers` finds no answer."""
    hits = [any(judged.scored[reader][i].note == "unparsed" for reader in readers) for i in among]
    examples = [judged.show(i) for i, hit in zip(among, hits, strict=True) if hit][:EXAMPLES]
    return at_most(f"{name} without a readable answer", hits, most, look, examples)


def compare(
    name: str, cases: list[Case], judged: Judged, kind: str, fails: Callable[[int, int], bool], least: float, look: str
) -> list[Check]:
    """Rows whose good answer stands the comparison with all of theirs of a kind; nothing where no row has one.

    Args:
        fails: whether the good answer (the index of it) fails against the other.
    """
    groups: dict[str, list[int]] = {}
    for i, case in enumerate(cases):
        if case.kind in ("good", kind):
            groups.setdefault(case.row["id"], []).append(i)
    # A row's good answer is its first case.
    failing = [(good, next((i for i in others if fails(good, i)), None)) for good, *others in groups.values() if others]
    shown = [pair for pair in failing if pair[1] is not None][:EXAMPLES]
    examples = [judged.show(i) for pair in shown for i in pair]
    return [at_least(name, [other is None for _, other in failing], least, look, examples)] if failing else []


def order_checks(cases: list[Case], judged: Judged, settings: dict) -> list[Check]:
    """Do the known-good answers score above the others and, where the method asks, do they alone count as correct?"""
    least, totals = settings["separates"], judged.totals

    def not_above(good: int, other: int) -> bool:
        lead = totals[good] - totals[other]
        return lead < -TIE if cases[other].form == "unmarked" else lead <= TIE

    look = (
        "what the rewards return, the signs of their weights, and gate.good: is a right answer to be written like that?"
    )
    checks = compare("known-good above known-bad", cases, judged, "bad", not_above, least, look)
    checks += compare("known-good above malformed", cases, judged, "malformed", not_above, least, look)
    if settings["method"] != "grpo":
        # GRPO only logs what counts as correct; the others route their signal by it.
        values, correct = judged.scored[settings["success"]["reward"]], settings["success"]["least"]
        checks += compare(
            "known-good correct, known-bad not",
            cases,
            judged,
            "bad",
            lambda good, other: values[good].value < correct or values[other].value >= correct,
            least,
            "rl.success: its reward, and the value from which an answer counts as correct",
        )
    return checks


def spread_check(judged: Judged, first: int, size: int, least: float) -> Check:
    """Groups of `size` consecutive samples, from index `first` on, whose total reward varies."""
    groups = [range(i, i + size) for i in range(first, len(judged.totals), size)]
    varies = [max(judged.totals[i] for i in group) - min(judged.totals[i] for i in group) > TIE for group in groups]
    flat = [group for group, hit in zip(groups, varies, strict=True) if not hit][:EXAMPLES]
    return at_least(
        "groups of the start policy whose reward varies",
        varies,
        least,
        "what the rewards give the start policy's samples: a group whose samples score alike teaches nothing; choose"
        " rows of middling difficulty (rl.pass_rate), or rewards of more than one value",
        [judged.show(i) for group in flat for i in group[:2]],
    )


def all_checks(cases: list[Case], judged: Judged, size: int, settings: dict) -> list[Check]:
    """Every check that applies, those that explain others first.

    Args:
        judged: the cases, then the start policy's samples, in groups of `size`.
    """
    checks = [failure_check(judged, settings["max_failures"])]
    readers = [name for name, reward in settings["rewards"].items() if reward["kind"] == "answer"]
    if readers:
        good = [i for i, case in enumerate(cases) if case.kind == "good"]
        look = "gate.good: known-good answers are not written as the reward reads them"
        checks.append(unparsed_check("known-good answers", judged, good, readers, settings["unparsed"], look))
    checks += order_checks(cases, judged, settings)
    sampled = list(range(len(cases), len(judged.totals)))
    if sampled and readers:
        look = (
            "the start policy's samples: it writes no answer as the reward reads it, or reaches"
            " difficulty.max_new_tokens before; teach it the form first (stage sft)"
        )
        bar = settings["unparsed_samples"]
        checks.append(unparsed_check("samples of the start policy", judged, sampled, readers, bar, look))
    if sampled:
        checks.append(spread_check(judged, len(cases), size, settings["spread"]))
    return checks


def aligned(checks: list[Check]) -> str:
    """The table as text."""
    lines = [("check", "n", "value", "bar", "verdict")]
    lines += [(c.name, f"{c.n}", f"{c.value:.4g}", f"{c.bar:.4g}", "ok" if c.ok else "stopped") for c in checks]
    width = [max(len(line[i]) for line in lines) for i in range(5)]
    return "\n".join(
        "  ".join([line[0].ljust(width[0]), *(line[i].rjust(width[i]) for i in range(1, 5))]) for line in lines
    )


def stop(checks: list[Check]) -> None:
    """Print the table; raise when a check failed.

    Raises:
        ValueError: which checks failed, and what to look at.
    """
    print(aligned(checks), flush=True)
    failed = [check for check in checks if not check.ok]
    if not failed:
        return
    for check in failed:
        print(f"\n{check.name} {check.bar:.4g}, found {check.value:.4g}:")
        print("\n".join(f"  {line}" for line in check.examples), flush=True)
    found = "; ".join(f"{check.name} {check.bar:.4g}, found {check.value:.4g}" for check in failed)
    raise ValueError(f"the reward gate stopped the run: {found}. Look at {failed[0].look}")


# --- the step ------------------------------------------------------------------------------------


def check_gate(settings: dict) -> None:
    """What the schema cannot say."""
    check_settings(settings["rewards"])
    if not FIELD.search(settings["good"]):
        raise ValueError(f"gate.good: {settings['good']!r} has neither {{response}} nor {{answer}}; add one")
    if settings["success"]["reward"] not in settings["rewards"]:
        raise ValueError(
            f"rl.success.reward: {settings['success']['reward']!r} is no reward of the recipe;"
            f" choose one of {', '.join(settings['rewards'])}"
        )


def check_rows(rows: list[dict], rewards: Rewards, method: str) -> None:
    """Raises ValueError for a row that lacks what a reward or the method needs, with its place."""
    progress = Progress("gate: rows", len(rows), "rows")
    for done, row in enumerate(rows, 1):
        rewards.check_row(row)
        progress.update(done)
        if method == "rlsd" and row["answer"] is None:
            raise ValueError(
                f"{row['file']}, line {row['line']}, row {row['row']}: no answer, and rlsd shows every row's to its"
                " teacher; give the row one, or choose another rl.method"
            )


def read_samples(path: Path, rows: list[dict]) -> dict[str, dict]:
    """The start policy's samples of the rows, by id.

    Raises:
        ValueError: a row with an answer has none, so they are not of these rows.
    """
    found = {record["id"]: record for record in read_jsonl(path)}
    for row in rows:
        if row["answer"] is not None and row["id"] not in found:
            raise ValueError(f"{path}: no samples of {row['id']}; delete {path.parent} and run again")
    return {row["id"]: found[row["id"]] for row in rows if row["id"] in found}


def judge_all(
    rewards: Rewards, cases: list[Case], kept: list[dict], samples: dict[str, dict], count: Callable
) -> tuple[Judged, int]:
    """The cases and the start policy's samples, judged; and how many samples a row has (0 where none has any)."""
    sampled = [samples[row["id"]] for row in kept if row["id"] in samples]
    size = len(sampled[0]["responses"]) if sampled else 0
    known = [case.response for case in cases]
    rows = [case.row for case in cases] + [row for row in kept if row["id"] in samples for _ in range(size)]
    labels = [f"{case.kind}, {case.form}" for case in cases] + [f"sample {j}" for _ in sampled for j in range(size)]
    responses = known + [text for record in sampled for text in record["responses"]]
    tokens = count(known) + [n for record in sampled for n in record["tokens"]]
    assert len(rows) == len(labels) == len(responses) == len(tokens)
    return judge(rewards, rows, labels, responses, tokens), size


def case_rows(cases: list[Case], judged: Judged) -> list[dict]:
    """The rows of cases.jsonl."""
    return [
        {
            "id": case.row["id"],
            "kind": case.kind,
            "form": case.form,
            "response": case.response,
            "total": judged.totals[i],
            "rewards": {name: each[i].value for name, each in judged.scored.items()},
            "notes": {name: each[i].note for name, each in judged.scored.items() if each[i].note is not None},
            "errors": {name: each[i].error for name, each in judged.scored.items() if each[i].error is not None},
        }
        for i, case in enumerate(cases)
    ]


def write_table(path: Path, checks: list[Check]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["check", "n", "value", "bar", "verdict"])
    writer.writerows((c.name, c.n, round(c.value, 6), c.bar, "ok" if c.ok else "stopped") for c in checks)
    write_text(path, text.getvalue())


def main(args: argparse.Namespace) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    started = time.time()
    settings = args.settings
    check_gate(settings)
    inputs = [args.data, args.samples, *checkpoints.check(args.start), *custom_files(settings["rewards"])]
    if args.reward_model is not None:
        inputs += checkpoints.check(args.reward_model)
    tokenizer = checkpoints.load_tokenizer(args.start)

    def count(texts: list[str]) -> list[int]:
        # The end token counts, as it does in what a model writes.
        return [len(ids) + 1 for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]

    believes = None
    if any(reward["kind"] == "self" for reward in settings["rewards"].values()):
        from steps.engine import Engine

        believes = Engine.load(args.start, BATCH).choose

    rows = list(read_rows(args.data))
    with Rewards(settings["rewards"], believes=believes, reward_model=args.reward_model) as rewards:
        check_rows(rows, rewards, settings["method"])
        kept = choose(rows, settings["pass_rate"], args.data)
        cases = known_answers(kept, settings)
        samples = read_samples(args.samples, kept)
        judged, size = judge_all(rewards, cases, kept, samples, count)
    checks = all_checks(cases, judged, size, settings)
    stop(checks)

    out = fresh_folder(args.out)
    ledger = Ledger(out, "gate")
    for row in rows:
        ledger.enter(row["file"])
        problem = left_out(row, settings["pass_rate"])
        if problem is None:
            ledger.keep(row)
        else:
            ledger.quarantine(row, problem, prompt_of(row))
    counts = ledger.close()
    assert counts["kept"] == len(kept) and counts["in"] == len(rows)
    (out / ROWS).replace(out / "prompts.jsonl")
    (out / QUARANTINE).replace(out / "left_out.jsonl")
    write_jsonl(out / "cases.jsonl", case_rows(cases, judged))
    write_table(out / "gate.csv", checks)
    counts["cases"] = dict(sorted(Counter(case.kind for case in cases).items()))
    counts["samples"] = sum(len(record["responses"]) for record in samples.values())
    write_manifest(
        out, step="gate", settings=settings, inputs=inputs, counts=counts, seed=settings["seed"], started=started
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="train.jsonl of the difficulty step")
    parser.add_argument("--samples", type=Path, required=True, help="its samples.jsonl")
    parser.add_argument("--start", type=Path, required=True, help="the policy that training starts from")
    parser.add_argument("--reward-model", type=Path, help="checkpoint of a reward recipe, for the kind preference")
    run(main, parser)
