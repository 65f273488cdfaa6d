"""What the papers of GRPO's self-distilled kin found, and whether it holds here: held, not held or undecided.

Numbers "there" are the papers': SDPO (arXiv:2601.20802, section 1, table 3 and its forgetting experiment), SRPO
(arXiv:2604.02288, main results after 10 hours), RLSD (arXiv:2604.03128) and RLRT (arXiv:2605.10781). Of the last two,
tables were read in secondary notes only, which the text says.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from steps.arms import Arm, apart
from steps.claims import MORE, NO_LESS, origin, percent, points, verdict
from steps.reinforcement import METHODS, Comparison, Reinforcement, flags, gain, matched, same_tokens, spent
from steps.tables import Column, Estimate, Table, cell_text, number_text

SECONDARY = "as secondary notes report it"


@dataclass(frozen=True)
class Above:
    """One method is said to score above another."""

    better: str
    worse: str
    paper: str
    there: str

    @property
    def claim(self) -> str:
        return f"{METHODS[self.better]} scores above {METHODS[self.worse]}."


AIME = "Qwen3-4B-Base, AIME 24 / 25 / 26:"
ABOVE = (
    Above("sdpo", "grpo", "arXiv:2601.20802", "70.2 against 66.6 %, all tasks without feedback."),
    Above("srpo", "grpo", "arXiv:2604.02288", "77.4 against 74.0 %, Qwen3-8B, mean of five tasks after 10 hours."),
    Above("srpo", "sdpo", "arXiv:2604.02288", "77.4 against 71.1 %, the same."),
    Above("rlsd", "grpo", "arXiv:2604.03128", f"56.18 against 53.86 %, mean of five benchmarks, {SECONDARY}."),
    Above(
        "rlrt", "grpo", "arXiv:2605.10781", f"{AIME} 22.5 / 18.5 / 19.8 against 15.0 / 14.4 / 12.3 %, {SECONDARY}."
    ),
    Above("rlrt", "rlsd", "arXiv:2605.10781", f"{AIME} 22.5 / 18.5 / 19.8 against 13.3 / 11.2 / 9.0 %, {SECONDARY}."),
)  # fmt: skip


def claims_table(found: Reinforcement) -> Table | None:
    columns = [Column("verdict", "verdict"), Column("claim", "claim"), Column("here", "here")]
    columns += [Column("published", "there"), Column("paper", "paper"), Column("from", "from", "code")]
    columns += [Column("difference", "difference, points", "points"), Column("tokens", "difference, tokens", "tenths")]
    columns += [Column("n", "n", "integer"), Column("seeds", "seeds"), Column("manifest", "manifest", "links")]
    rows = []
    for comparison in found.comparisons:
        made = [*_above(found, comparison), *_sdpo(found, comparison), *_control(found, comparison)]
        rows += [row | {"from": comparison.start.name} for row in made]
    scored = f" Scores are pass@1 on {found.target}, sampled." if found.target else ""
    caption = (
        "Held: the whole 95 % interval says so; not held: the whole interval says otherwise; undecided: it straddles."
        f"{scored} Differences are paired by item and seed, of lengths by seed. Compared are arms with equal rewards,"
        " rows and budget; of several of one method the one with most seeds."
    )
    return Table("reinforcement_claims", caption, columns, rows) if rows else None


def _row(claim: str, paper: str, there: str, here: str, told: str, arms: list[Arm], **numbers: Estimate) -> dict:
    n = next(iter(numbers.values())).n
    row = {"claim": claim, "paper": paper, "published": there, "here": here, "verdict": told, "n": n}
    return row | numbers | origin(arms)


def _scores(found: Reinforcement, *arms: Arm) -> str:
    levels = (f"{arm.name} {percent(found.level(arm, found.target, 'pass@1'))}" for arm in arms)
    return f"pass@1 {', '.join(levels)}"


def _above(found: Reinforcement, comparison: Comparison) -> Iterator[dict]:
    arms = comparison.of_method
    for said in ABOVE:
        if said.better not in arms or said.worse not in arms:
            continue
        ours, theirs = arms[said.better], arms[said.worse]
        more = found.change(ours, theirs, "pass@1")
        if more:
            here = f"{_scores(found, ours, theirs)}: {points(more)}."
            yield _row(said.claim, said.paper, said.there, here, verdict(more, MORE), [ours, theirs], difference=more)


# --- SDPO ----------------------------------------------------------------------------------------


def _sdpo(found: Reinforcement, comparison: Comparison) -> Iterator[dict]:
    """Shorter, forgetting no more, and the other paper's: broken down early."""
    arms = comparison.of_method
    if "sdpo" not in arms:
        return
    ours = arms["sdpo"]
    if "grpo" in arms:
        yield from _shorter(found, ours, arms["grpo"])
        kept = gain(ours, arms["grpo"], "general")
        if kept:
            here = (
                f"general {percent(ours.axis('general'))}, {arms['grpo'].name} {percent(arms['grpo'].axis('general'))}:"
                f" {points(kept)}; no more is at most {100 * NO_LESS:.0f} lost."
            )
            yield _row(
                "SDPO forgets no more than GRPO.", "arXiv:2601.20802",
                "IFEval 83.9 → 83.2 %, GRPO 82.2 %; mean of held-out tasks 43.5 → 42.4 %, GRPO 41.8 %.",
                here, verdict(kept, -NO_LESS), [ours, arms["grpo"]], difference=kept,
            )  # fmt: skip
    more = found.change(ours, comparison.start, "pass@1")
    if more:
        yield _row(
            "SDPO breaks down.", "arXiv:2605.10781",
            f"The SDPO baseline collapsed within some 20 steps, {SECONDARY}.",
            f"{_scores(found, comparison.start, ours)}: {points(more)}; broken down is an end below the start."
            f" {_flagged(ours)}.",
            broken(more, bool(flags(ours))), [ours, comparison.start], difference=more,
        )  # fmt: skip


def broken(more: Estimate, flagged: bool) -> str:
    """A run broke down where it ends below its start; it did not where it ends no lower and nothing was flagged."""
    if more.high < 0:
        return "held"
    return "not held" if more.low >= 0 and not flagged else "undecided"


def _flagged(arm: Arm) -> str:
    """Which of an arm's runs were flagged."""
    found = flags(arm)
    if not found:
        return "No run was flagged"
    runs = len({member.node for member, _ in found})
    return f"Flagged in {runs} of {len(arm.members)} runs: {'; '.join(dict.fromkeys(text for _, text in found))}"


def _shorter(found: Reinforcement, ours: Arm, theirs: Arm) -> Iterator[dict]:
    lengths = [found.level(arm, found.target, "tokens") for arm in matched(ours, theirs)]
    if not all(lengths):
        return
    less = apart(lengths[1], lengths[0])
    both = " and ".join(
        f"{arm.name} {number_text('tenths', e.value)}" for arm, e in zip((ours, theirs), lengths, strict=True)
    )
    yield _row(
        "SDPO answers in fewer tokens than GRPO.", "arXiv:2601.20802", "255.8 against 820.8 tokens, 3.2 times fewer.",
        f"{both} tokens: fewer by {cell_text('tenths', less)}.", verdict(less, MORE), [ours, theirs], tokens=less,
    )  # fmt: skip


# --- the control ---------------------------------------------------------------------------------


def _control(found: Reinforcement, comparison: Comparison) -> Iterator[dict]:
    """Whether rewards were worth more than the same tokens of supervised rows."""
    pairs = [
        (arm, control)
        for control in comparison.controls
        for arm in comparison.of_method.values()
        if control.stage == "sft" and same_tokens(arm, control)
    ]
    gains = [(arm, control, found.change(arm, control, "pass@1")) for arm, control in pairs]
    kept = [(arm, control, gain(arm, control, "general")) for arm, control in pairs]
    for claim, each in (
        ("RL gains more on the target than SFT with the same tokens.", gains),
        ("RL forgets less than SFT with the same tokens.", kept),
    ):
        for arm, control, more in each:
            if more is None:
                continue
            if each is gains:
                levels = _scores(found, arm, control)
            else:
                levels = f"general {arm.name} {percent(arm.axis('general'))}, {control.name} "
                levels += percent(control.axis("general"))
            here = f"{levels}: {points(more)}; {spent(arm):,} and {spent(control):,} tokens."
            yield _row(
                claim, "", "none; the question that the control asks.", here, verdict(more, MORE), [arm, control],
                difference=more,
            )  # fmt: skip
