"""The figures of reinforcement learning: curves of the runs, pass@k and majority@k, changes, target against general."""

from steps.reinforcement.section.facts import MODES, Comparison, Reinforcement, curve_of, method
from steps.reinforcement.section.roles import MODE_LABELS
from steps.reinforcement.section.wording import say
from steps.report.candidates import Candidate, settings_of
from steps.report.figures import LIGHT, Mark, new_axes, to_svg
from steps.report.lines import DASHED, DOTTED, SOLID, draw_line, end_labels, over_runs
from steps.report.logs import logged
from steps.report.scatter import scatter
from steps.report.tables import Estimate
from steps.settings import methods

# Color and marker; other candidates of a method are dashed, the start dotted, controls dashed.
START, CONTROL = ("neutral", "s"), ("neutral", "X")
# Column of the training log → what its axis says, factor.
QUANTITIES = {
    "correct": ("correct samples, %", 100),
    "valid_correct": ("held-out questions right, %", 100),
    "strict_gap": ("correct, but not strictly, points", 100),
    "length": ("response, tokens", 1),
    "entropy": ("entropy, nats per token", 1),
    "kl": ("KL to the start, nats per token", 1),
    "no_signal": ("groups without signal, %", 100),
    "reward": ("reward, mean", 1),
    "clipped": ("clipped tokens, %", 100),
    "distilled": ("distilled samples, %", 100),
    "truncated": ("responses cut off, %", 100),
    "strict": ("right by the stricter judge, %", 100),
}
PANEL = 330, 230


def look(candidate: Candidate, study: Reinforcement) -> tuple[str, str]:
    """(color token, marker)."""
    if candidate.stage == "rl":
        return methods.look(method(candidate))
    return START if study.is_start(candidate) else CONTROL


def dash(candidate: Candidate, study: Reinforcement):
    if candidate.stage != "rl":
        return DOTTED if look(candidate, study) == START else DASHED
    first = next(other for other in study.candidates if method(other) == method(candidate))
    return SOLID if candidate is first else DASHED


# --- curves of training --------------------------------------------------------------------------


def curve(name: str, label: str, lines: list[tuple[Candidate, list[tuple[list, list]]]], study: Reinforcement) -> str:
    """One quantity against the step: a line per candidate, a band from the lowest to the highest seed."""
    figure, axes = new_axes(*PANEL)
    marks: list[Mark] = []
    labels = []
    for candidate, runs in lines:
        steps, mean, low, high = over_runs(runs)
        color = LIGHT[look(candidate, study)[0]]
        if len(runs) > 1:
            axes.fill_between(steps, low, high, color=color, alpha=0.14, lw=0)
        draw_line(axes, marks, study.short_name(candidate), steps, mean, color=color, lw=1.6, ls=dash(candidate, study))
        labels.append((study.short_name(candidate), steps[-1], mean[-1], color))
    axes.set(xlabel="step", ylabel=label)
    axes.set_xlim(0, None)
    least, most = axes.get_ylim()
    if most - least < 1e-9:  # a flat line, such as no clipping at all
        axes.set_ylim(least - 0.5, most + 0.5)
    elif least < 0 <= min(min(low) for low in (over_runs(runs)[2] for _, runs in lines)):
        axes.set_ylim(0, most)
    end_labels(axes, labels)
    return to_svg(figure, name, say("curve_title", label=label), marks)


def curve_name(quantity: str) -> str:
    return f"reinforcement_curve_{quantity}"


def curve_figures(study: Reinforcement) -> dict[str, str]:
    """The curves of all runs; the parts of the reward where there are several. What is 0 throughout is left out, and
    the reward where it is 1 for correct samples and 0 for others."""
    rewards = dict.fromkeys(name for candidate in study.candidates for name in settings_of(candidate)["rewards"])
    parts = {f"reward_{name}": (f"reward {name}, mean", 1) for name in rewards} if len(rewards) > 1 else {}
    plain = all(logged(candidate, "reward") == logged(candidate, "correct") for candidate in study.candidates)
    figures = {}
    for quantity, (label, factor) in (QUANTITIES | parts).items():
        if quantity == "reward" and plain:
            continue
        lines = []
        for candidate in study.candidates:
            runs = [(steps, [factor * v for v in values]) for steps, values in curve_of(candidate, quantity)]
            if runs:
                lines.append((candidate, runs))
        if any(v for _, runs in lines for _, values in runs for v in values):
            figures[curve_name(quantity)] = curve(curve_name(quantity), label, lines, study)
    return figures


def timing_figure(study: Reinforcement) -> str | None:
    lines = []
    for candidate in study.candidates:
        speeds = [m.provenance["speed"] for m in candidate.members if m.provenance and m.provenance.get("speed")]
        if speeds:
            lines.append((candidate, [(list(range(1, len(of) + 1)), of) for of in speeds]))
    return curve("timing_reinforcement", "tokens per second", lines, study) if lines else None


# --- exploration ---------------------------------------------------------------------------------


def samples_figure(
    name: str,
    title: str,
    label: str,
    lines: list[tuple[Candidate, dict[int, Estimate]]],
    study: Reinforcement,
    bands: bool,
) -> str:
    """An estimate against k on a log axis, with bands of its 95 % intervals where asked."""
    figure, axes = new_axes(*PANEL)
    marks: list[Mark] = []
    labels = []
    for candidate, at in lines:
        ks = list(at)
        edges = ((100 * e.value, 100 * e.low, 100 * e.high) for e in at.values())
        values, low, high = zip(*edges, strict=True)
        color, marker = LIGHT[look(candidate, study)[0]], look(candidate, study)[1]
        if bands:
            axes.fill_between(ks, low, high, color=color, alpha=0.1, lw=0)
        style = {"color": color, "lw": 1.5, "ls": dash(candidate, study), "marker": marker, "ms": 3.5}
        draw_line(axes, marks, study.short_name(candidate), ks, values, **style)
        labels.append((study.short_name(candidate), ks[-1], values[-1], color))
    axes.set_xscale("log", base=2)
    ks = sorted({k for _, at in lines for k in at})
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    axes.set(xlabel="k samples", ylabel=label)
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold")
    if bands:
        axes.axhline(0, color=LIGHT["muted"], lw=0.9, zorder=1)
    axes.set_ylim(*axes.get_ylim())
    end_labels(axes, labels)
    return to_svg(figure, name, say("samples_title", label=label, title=title), marks)


def _along(study: Reinforcement, task: str, metric: str, mode: str) -> list[tuple[Candidate, dict[int, Estimate]]]:
    """Levels at every k, of the candidates that have them."""
    lines = []
    for candidate in study.shown:
        at = {k: study.level(candidate, task, f"{metric}@{k}", mode) for k in study.ks}
        at = {k: estimate for k, estimate in at.items() if estimate}
        if at:
            lines.append((candidate, at))
    return lines


def _gained(study: Reinforcement, task: str) -> list[tuple[Candidate, dict[int, Estimate]]]:
    """pass@k less the start's at every k, paired by item and seed."""
    lines = []
    for comparison in study.comparisons:
        for candidate in (*comparison.candidates, *comparison.controls):
            at = {k: study.change(candidate, comparison.start, f"pass@{k}", task) for k in study.ks}
            if all(at.values()):
                lines.append((candidate, at))
    return lines


def pass_name(task: str) -> str:
    return f"reinforcement_pass_{task}"


def gain_name(task: str) -> str:
    return f"reinforcement_gain_{task}"


def majority_name(mode: str) -> str:
    return f"reinforcement_majority_{mode}"


def exploration_figures(study: Reinforcement) -> dict[str, str]:
    figures = {}
    for task in study.tasks:
        if lines := _along(study, task, "pass", "cot"):
            figures[pass_name(task)] = samples_figure(pass_name(task), task, "pass@k, %", lines, study, bands=False)
        if lines := _gained(study, task):
            label = "pass@k less the start's, points"
            figures[gain_name(task)] = samples_figure(gain_name(task), task, label, lines, study, bands=True)
    for mode in MODES:
        lines = _along(study, study.target, "majority", mode)
        if any(len(at) > 1 for _, at in lines):
            name, title = majority_name(mode), f"{study.target}, {MODE_LABELS[mode]}"
            figures[name] = samples_figure(name, title, "majority@k, %", lines, study, bands=False)
    return figures


# --- all -----------------------------------------------------------------------------------------


def trade_name(index: int) -> str:
    return "reinforcement_trade" if index == 0 else f"reinforcement_trade_{index + 1}"


def trade_figure(study: Reinforcement, comparison: Comparison, name: str) -> str | None:
    candidates = [candidate for candidate in comparison.shown if candidate.axis("target") and candidate.axis("general")]
    if len(candidates) < 2:
        return None
    looks = {candidate.name: look(candidate, study) for candidate in candidates}
    title = say("trade_title", start=comparison.start.name)
    return scatter(candidates, {comparison.start.name}, name, title, looks, size=(420, 380))


def reinforcement_figures(study: Reinforcement) -> dict[str, str]:
    figures = curve_figures(study)
    if study.explored:
        figures |= exploration_figures(study)
    for i, comparison in enumerate(study.comparisons):
        if trade := trade_figure(study, comparison, trade_name(i)):
            figures[trade_name(i)] = trade
    if speed := timing_figure(study):
        figures["timing_reinforcement"] = speed
    return figures
