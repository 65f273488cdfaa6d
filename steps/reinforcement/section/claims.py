"""What the papers of GRPO's self-distilled kin found, and whether it holds here: held, not held or undecided.

Numbers "there" are the papers': SDPO (arXiv:2601.20802, section 1, table 3 and its forgetting experiment), SRPO
(arXiv:2604.02288, main results after 10 hours), RLSD (arXiv:2604.03128) and RLRT (arXiv:2605.10781). Of the last two,
tables were read in secondary notes only, which the text says.
"""

from collections.abc import Iterator

from steps.reinforcement.section.facts import Comparison, Reinforcement, flags, gain, same_tokens
from steps.reinforcement.section.wording import say
from steps.report.candidates import Candidate, apart, matched
from steps.report.claims import MORE, NO_LESS, origin, verdict
from steps.report.logs import spent
from steps.report.tables import Column, Estimate, Table
from steps.settings import methods

# (the method that is said to score above, another, the paper that says so)
ABOVE = (
    ("sdpo", "grpo", "arXiv:2601.20802"),
    ("srpo", "grpo", "arXiv:2604.02288"),
    ("srpo", "sdpo", "arXiv:2604.02288"),
    ("rlsd", "grpo", "arXiv:2604.03128"),
    ("rlrt", "grpo", "arXiv:2605.10781"),
    ("rlrt", "rlsd", "arXiv:2605.10781"),
)


def claims_table(study: Reinforcement) -> Table | None:
    columns = [Column("verdict", "verdict"), Column("claim", "claim"), Column("here", "here")]
    columns += [Column("published", "there"), Column("paper", "paper"), Column("from", "from", "code")]
    columns += [Column("difference", "difference, points", "points"), Column("tokens", "difference, tokens", "tenths")]
    columns += [Column("n", "n", "integer"), Column("seeds", "seeds"), Column("manifest", "manifest", "links")]
    rows = [
        row | {"from": comparison.start.name}
        for comparison in study.comparisons
        for claims in (_above, _sdpo, _control)
        for row in claims(study, comparison)
    ]
    caption = say("claims_caption", target=study.target)
    return Table("reinforcement_claims", caption, columns, rows) if rows else None


def _row(
    claim: str, paper: str, there: str, here: str, held: str, candidates: list[Candidate], **numbers: Estimate
) -> dict:
    n = next(iter(numbers.values())).n
    row = {"claim": claim, "paper": paper, "published": there, "here": here, "verdict": held, "n": n}
    return row | numbers | origin(candidates)


def _sampled(study: Reinforcement, *candidates: Candidate) -> list[tuple[str, Estimate]]:
    """Each with its pass@1 on the target."""
    return [(candidate.name, study.level(candidate, study.target, "pass@1")) for candidate in candidates]


def _above(study: Reinforcement, comparison: Comparison) -> Iterator[dict]:
    of_method = comparison.of_method
    for better, worse, paper in ABOVE:
        if better not in of_method or worse not in of_method:
            continue
        ours, theirs = of_method[better], of_method[worse]
        difference = study.change(ours, theirs, "pass@1")
        if difference:
            claim = say("above_claim", better=methods.label(better), worse=methods.label(worse))
            here = say("above_here", scores=_sampled(study, ours, theirs), difference=difference)
            yield _row(
                claim, paper, say(f"above_{better}_{worse}_there"), here, verdict(difference, MORE), [ours, theirs],
                difference=difference,
            )  # fmt: skip


# --- SDPO ----------------------------------------------------------------------------------------


def _sdpo(study: Reinforcement, comparison: Comparison) -> Iterator[dict]:
    """Shorter, forgetting no more, and the other paper's: broken down early."""
    of_method = comparison.of_method
    if "sdpo" not in of_method:
        return
    if "grpo" in of_method:
        yield from _shorter(study, of_method["sdpo"], of_method["grpo"])
        yield from _forgets_no_more(of_method["sdpo"], of_method["grpo"])
    yield from _breaks_down(study, comparison.start, of_method["sdpo"])


def _shorter(study: Reinforcement, ours: Candidate, theirs: Candidate) -> Iterator[dict]:
    lengths = [study.level(candidate, study.target, "tokens") for candidate in matched(ours, theirs)]
    if not all(lengths):
        return
    fewer = apart(lengths[1], lengths[0])
    named = list(zip((ours.name, theirs.name), lengths, strict=True))
    yield _row(
        say("shorter_claim"), "arXiv:2601.20802", say("shorter_there"), say("shorter_here", lengths=named, fewer=fewer),
        verdict(fewer, MORE), [ours, theirs], tokens=fewer,
    )  # fmt: skip


def _forgets_no_more(ours: Candidate, theirs: Candidate) -> Iterator[dict]:
    difference = gain(ours, theirs, "general")
    if not difference:
        return
    levels = {"ours": ours.axis("general"), "name": theirs.name, "theirs": theirs.axis("general")}
    here = say("forgets_no_more_here", **levels, difference=difference, no_less=NO_LESS)
    yield _row(
        say("forgets_no_more_claim"), "arXiv:2601.20802", say("forgets_no_more_there"), here,
        verdict(difference, -NO_LESS), [ours, theirs], difference=difference,
    )  # fmt: skip


def _breaks_down(study: Reinforcement, start: Candidate, ours: Candidate) -> Iterator[dict]:
    difference = study.change(ours, start, "pass@1")
    if not difference:
        return
    flagged = flags(ours)
    here = say(
        "breaks_down_here",
        scores=_sampled(study, start, ours),
        difference=difference,
        flagged=len({member.node for member, _ in flagged}),
        runs=len(ours.members),
        flags=list(dict.fromkeys(text for _, text in flagged)),
    )
    yield _row(
        say("breaks_down_claim"), "arXiv:2605.10781", say("breaks_down_there"), here,
        broken(difference, bool(flagged)), [ours, start], difference=difference,
    )  # fmt: skip


def broken(change: Estimate, flagged: bool) -> str:
    """A run broke down where it ends below its start; it did not where it ends no lower and nothing was flagged."""
    if change.high < 0:
        return "held"
    return "not held" if change.low >= 0 and not flagged else "undecided"


# --- the control ---------------------------------------------------------------------------------


def _control(study: Reinforcement, comparison: Comparison) -> Iterator[dict]:
    """Whether rewards were worth more than the same tokens of supervised rows."""
    pairs = [
        (candidate, control)
        for control in comparison.controls
        for candidate in comparison.of_method.values()
        if control.stage == "sft" and same_tokens(candidate, control)
    ]
    for ours, control in pairs:
        if more := study.change(ours, control, "pass@1"):
            yield _against_control("gains_more_claim", ours, control, more, "pass@1", _sampled(study, ours, control))
    for ours, control in pairs:
        if more := gain(ours, control, "general"):
            levels = [(candidate.name, candidate.axis("general")) for candidate in (ours, control)]
            yield _against_control("forgets_less_claim", ours, control, more, "general", levels)


def _against_control(
    claim: str, ours: Candidate, control: Candidate, more: Estimate, what: str, scores: list[tuple[str, Estimate]]
) -> dict:
    here = say("control_here", what=what, scores=scores, difference=more, tokens=spent(ours), its_tokens=spent(control))
    return _row(say(claim), "", say("control_there"), here, verdict(more, MORE), [ours, control], difference=more)
