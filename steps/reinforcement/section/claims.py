"""Whether what the papers of GRPO's self-distilled kin found holds here."""

from collections.abc import Iterator
from itertools import permutations

from steps.reinforcement.section.catalogue import CLAIMS
from steps.reinforcement.section.facts import Comparison, Reinforcement, flags, gain, method, same_tokens
from steps.reinforcement.section.wording import say
from steps.report.candidates import Candidate, apart, matched, negated, settings_of
from steps.report.claims import MORE, NO_LESS, Evidence, table_of, verdict, worst
from steps.report.logs import spent
from steps.report.tables import Column, Estimate, Table

# (the method that is said to score above, another)
ABOVE = (
    ("sdpo", "grpo"), ("srpo", "grpo"), ("srpo", "sdpo"), ("rlsd", "grpo"), ("rlsd", "sdpo"), ("rlrt", "grpo"),
    ("rlrt", "rlsd"),
)  # fmt: skip
# RLRT's gain over GRPO, as a share of GRPO's score.
RLRT_GAIN = 0.18


def claims_table(study: Reinforcement) -> Table | None:
    columns = [Column("difference", "difference, points", "points")]
    columns += [Column("ratio", "relative gain %", "percent"), Column("tokens", "difference, tokens", "tenths")]
    evidence = [
        one
        for comparison in study.comparisons
        for found in (_above, _sdpo, _ablations, _reach, _control)
        for one in found(study, comparison)
    ]
    if not study.comparisons:
        return None
    caption = say("claims_caption", target=study.target)
    return table_of("reinforcement_claims", caption, columns, CLAIMS, evidence)


def _sampled(study: Reinforcement, *candidates: Candidate) -> list[tuple[str, Estimate]]:
    """Each with its pass@1 on the target."""
    return [(candidate.name, study.level(candidate, study.target, "pass@1")) for candidate in candidates]


def _higher(
    study: Reinforcement, comparison: Comparison, claim: str, ours: Candidate, theirs: Candidate
) -> Iterator[Evidence]:
    """One candidate has more pass@1 on the target than another."""
    difference = study.change(ours, theirs, "pass@1")
    if difference:
        here = say("above_here", scores=_sampled(study, ours, theirs), difference=difference)
        numbers = {"difference": difference}
        yield Evidence(claim, here, verdict(difference, MORE), [ours, theirs], numbers, among=_from(comparison))


def _from(comparison: Comparison) -> str:
    return say("from", start=comparison.start.name)


def _above(study: Reinforcement, comparison: Comparison) -> Iterator[Evidence]:
    of_method = comparison.of_method
    for better, worse in ABOVE:
        if better in of_method and worse in of_method:
            yield from _higher(study, comparison, f"above_{better}_{worse}", of_method[better], of_method[worse])
    if "rlrt" in of_method and "grpo" in of_method:
        yield from _relative(study, comparison, of_method["rlrt"], of_method["grpo"])


def _relative(study: Reinforcement, comparison: Comparison, ours: Candidate, theirs: Candidate) -> Iterator[Evidence]:
    """By how much of the other's score one is higher: the difference over that score, which is taken as known."""
    difference, level = study.change(ours, theirs, "pass@1"), study.level(theirs, study.target, "pass@1")
    if difference and level and level.value:
        more = Estimate(
            *(
                number / level.value
                for number in (difference.value, difference.low, difference.high, difference.stderr)
            ),
            difference.n,
        )
        here = say("relative_here", scores=_sampled(study, ours, theirs), more=more)
        yield Evidence(
            "rlrt_size", here, verdict(more, RLRT_GAIN), [ours, theirs], {"ratio": more}, among=_from(comparison)
        )


# --- SDPO ----------------------------------------------------------------------------------------


def _sdpo(study: Reinforcement, comparison: Comparison) -> Iterator[Evidence]:
    """Shorter, forgetting no more, and the other paper's: broken down early."""
    of_method = comparison.of_method
    if "sdpo" not in of_method:
        return
    if "grpo" in of_method:
        yield from _shorter(study, comparison, of_method["sdpo"], of_method["grpo"])
        yield from _forgets_no_more(comparison, of_method["sdpo"], of_method["grpo"])
    yield from _breaks_down(study, comparison, of_method["sdpo"])


def _shorter(study: Reinforcement, comparison: Comparison, ours: Candidate, theirs: Candidate) -> Iterator[Evidence]:
    lengths = [study.level(candidate, study.target, "tokens") for candidate in matched(ours, theirs)]
    if not all(lengths):
        return
    fewer = apart(lengths[1], lengths[0])
    here = say("shorter_here", lengths=list(zip((ours.name, theirs.name), lengths, strict=True)), fewer=fewer)
    yield Evidence("shorter", here, verdict(fewer, MORE), [ours, theirs], {"tokens": fewer}, among=_from(comparison))


def _forgets_no_more(comparison: Comparison, ours: Candidate, theirs: Candidate) -> Iterator[Evidence]:
    difference = gain(ours, theirs, "general")
    if not difference:
        return
    levels = {"ours": ours.axis("general"), "name": theirs.name, "theirs": theirs.axis("general")}
    here = say("forgets_no_more_here", **levels, difference=difference, no_less=NO_LESS)
    yield Evidence(
        "forgets_no_more", here, verdict(difference, -NO_LESS), [ours, theirs], {"difference": difference},
        among=_from(comparison),
    )  # fmt: skip


def _breaks_down(study: Reinforcement, comparison: Comparison, ours: Candidate) -> Iterator[Evidence]:
    start = comparison.start
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
    yield Evidence(
        "breaks_down", here, broken(difference, bool(flagged)), [ours, start], {"difference": difference},
        among=_from(comparison),
    )  # fmt: skip


def broken(change: Estimate, flagged: bool) -> str:
    """A run broke down where it ends below its start; it did not where it ends no lower and nothing was flagged."""
    if change.high < 0:
        return "held"
    return "not held" if change.low >= 0 and not flagged else "undecided"


# --- settings of a method ------------------------------------------------------------------------

# (claim, method, its setting, the value that is said to be better, the other)
ABLATIONS = (
    ("entropy_weight", "srpo", "entropy_weight", lambda weight: weight == 1, lambda weight: weight == 0),
    ("sdpo_teacher", "sdpo", "teacher", lambda of: of["kind"] == "ema", lambda of: of["kind"] == "start"),
    ("faded", "rlsd", "until", lambda until: until is not None, lambda until: until is None),
)


def _ablations(study: Reinforcement, comparison: Comparison) -> Iterator[Evidence]:
    """Runs of one method that differ in the one setting that a paper took away."""
    for claim, name, key, better, worse in ABLATIONS:
        runs = [c for c in comparison.candidates if method(c) == name and key in settings_of(c).get(name, {})]
        for ours, theirs in permutations(runs, 2):
            (value, rest), (other, its_rest) = (_without(settings_of(c), name, key) for c in (ours, theirs))
            if rest == its_rest and better(value) and worse(other):
                yield from _higher(study, comparison, claim, ours, theirs)


def _without(settings: dict, section: str, key: str) -> tuple[object, dict]:
    """A setting of a section, and all others."""
    rest = {k: v for k, v in settings[section].items() if k != key}
    return settings[section][key], {k: v for k, v in settings.items() if k != "seed"} | {section: rest}


# --- exploration ---------------------------------------------------------------------------------


def _reach(study: Reinforcement, comparison: Comparison) -> Iterator[Evidence]:
    """More right at once, and less within reach of many samples: both must be so."""
    ours = comparison.of_method.get("grpo")
    many = f"pass@{study.largest}" if study.explored else "pass@1"
    if ours is None or many == "pass@1":
        return
    once, all_of = (study.change(ours, comparison.start, metric) for metric in ("pass@1", many))
    if not once or not all_of:
        return
    readings = [verdict(once, MORE), verdict(negated(all_of), MORE)]
    here = say("reach_here", name=ours.name, start=comparison.start.name, once=once, many=many, all_of=all_of)
    arms = [ours, comparison.start]
    yield Evidence("reach", here, worst(readings), arms, {"difference": all_of}, among=_from(comparison))


# --- the control ---------------------------------------------------------------------------------


def _control(study: Reinforcement, comparison: Comparison) -> Iterator[Evidence]:
    """Whether rewards were worth more than the same tokens of supervised rows."""
    pairs = [
        (candidate, control)
        for control in comparison.controls
        for candidate in comparison.of_method.values()
        if control.stage == "sft" and same_tokens(candidate, control)
    ]
    for ours, control in pairs:
        if more := study.change(ours, control, "pass@1"):
            scores = _sampled(study, ours, control)
            yield _against_control(comparison, "gains_more", ours, control, more, "pass@1", scores)
    for ours, control in pairs:
        if more := gain(ours, control, "general"):
            levels = [(candidate.name, candidate.axis("general")) for candidate in (ours, control)]
            yield _against_control(comparison, "forgets_less", ours, control, more, "general", levels)


def _against_control(
    comparison: Comparison,
    claim: str,
    ours: Candidate,
    control: Candidate,
    more: Estimate,
    what: str,
    scores: list[tuple[str, Estimate]],
) -> Evidence:
    here = say("control_here", what=what, scores=scores, difference=more, tokens=spent(ours), its_tokens=spent(control))
    reading, numbers = verdict(more, MORE), {"difference": more}
    return Evidence(claim, here, reading, [ours, control], numbers, among=_from(comparison))
