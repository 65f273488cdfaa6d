"""The figures of reinforcement learning: curves of the runs, pass@k and majority@k, changes, target against general."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from steps.arms import Arm
from steps.figures import LIGHT, new_axes, scatter, to_svg
from steps.reinforcement import MODES, Comparison, Reinforcement, logged, method, settings_of
from steps.reinforcement_tables import MODE_LABELS
from steps.tables import Estimate

# Color and marker of each method; other arms of a method are dashed, the start dotted, controls dashed.
LOOKS = {
    "grpo": ("blue", "^"),
    "sdpo": ("orange", "o"),
    "srpo": ("magenta", "s"),
    "rlsd": ("teal", "D"),
    "rlrt": ("wine", "v"),
}
START, CONTROL = ("neutral", "s"), ("neutral", "X")
SOLID, DASHED, DOTTED = "-", (0, (5, 2.5)), (0, (1, 2))
# Column of the training log → what its axis says, factor.
QUANTITIES = {
    "correct": ("correct samples, %", 100),
    "length": ("response, tokens", 1),
    "entropy": ("entropy, nats per token", 1),
    "kl": ("KL to the start, nats per token", 1),
    "no_signal": ("groups without signal, %", 100),
    "reward": ("reward, mean", 1),
    "clipped": ("clipped tokens, %", 100),
    "distilled": ("distilled samples, %", 100),
    "truncated": ("responses cut off, %", 100),
}
PANEL = 330, 230
# A curve is a running mean over this share of its steps.
SMOOTH = 0.1
# Least distance of two labels beside a line, in pixels.
LABEL_GAP = 12.5


def look(arm: Arm, found: Reinforcement) -> tuple[str, str]:
    """(color token, marker)."""
    if arm.stage == "rl":
        return LOOKS.get(method(arm), ("muted", "o"))
    return START if any(arm is comparison.start for comparison in found.comparisons) else CONTROL


def dash(arm: Arm, found: Reinforcement):
    if arm.stage != "rl":
        return DOTTED if look(arm, found) == START else DASHED
    first = next(other for other in found.arms if method(other) == method(arm))
    return SOLID if arm is first else DASHED


def end_labels(axes, labels: Iterable[tuple[str, float, float, str]]) -> None:
    """Names at the right ends of lines, in their colors, moved apart where they would lie on each other.

    Args:
        labels: (name, x, y, color) in data coordinates; the limits of the axes must be set.
    """
    axes.figure.get_layout_engine().execute(axes.figure)  # which gives the axes their height
    labels = sorted(labels, key=lambda label: (label[2], label[0]))
    low, high = axes.get_ylim()
    scale = axes.bbox.height / (high - low)
    heights = spread([(y - low) * scale for *_, y, _ in labels], LABEL_GAP, axes.bbox.height)
    for (name, x, y, color), height in zip(labels, heights, strict=True):
        shift = height - (y - low) * scale
        axes.annotate(
            name, (x, y), (7, shift), textcoords="offset points", va="center", fontsize=9.5, color=color,
            annotation_clip=False,
        )  # fmt: skip


def spread(heights: Sequence[float], gap: float, top: float) -> list[float]:
    """Sorted heights at least `gap` apart, each as near to its own as its neighbors allow, from 0 to `top` if there is
    room."""
    groups: list[tuple[float, int]] = []  # (mean of what its members want, members)
    for height in heights:
        groups.append((height, 1))
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < gap * (groups[-1][1] + groups[-2][1]) / 2:
            (a, n), (b, m) = groups[-2:]
            groups[-2:] = [((a * n + b * m) / (n + m), n + m)]
    placed = [mean + gap * (i - (n - 1) / 2) for mean, n in groups for i in range(n)]
    placed = [min(height, top - gap * (len(placed) - 1 - i)) for i, height in enumerate(placed)]
    return [max(height, gap * below) for below, height in enumerate(placed)]


# --- curves of training --------------------------------------------------------------------------


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and its neighbors, `window` in all, fewer at the ends."""
    half = window // 2
    return [fmean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def over_runs(runs: list[tuple[list[float], list[float]]]) -> tuple[list, list, list, list]:
    """(steps, mean, lowest, highest) of smoothed curves, over the steps that all runs have."""
    window = max(1, round(SMOOTH * max(len(steps) for steps, _ in runs)))
    series = [dict(zip(steps, smoothed(values, window), strict=True)) for steps, values in runs]
    common = sorted(set.intersection(*(set(of_run) for of_run in series)))
    at = [[of_run[step] for of_run in series] for step in common]
    return common, [fmean(v) for v in at], [min(v) for v in at], [max(v) for v in at]


def curve(name: str, label: str, lines: list[tuple[Arm, list[tuple[list, list]]]], found: Reinforcement) -> str:
    """One quantity against the step: a line per arm, a band from the lowest to the highest seed."""
    figure, axes = new_axes(*PANEL)
    labels = []
    for arm, runs in lines:
        steps, mean, low, high = over_runs(runs)
        color = LIGHT[look(arm, found)[0]]
        if len(runs) > 1:
            axes.fill_between(steps, low, high, color=color, alpha=0.14, lw=0)
        axes.plot(steps, mean, color=color, lw=1.6, ls=dash(arm, found))
        labels.append((found.short_name(arm), steps[-1], mean[-1], color))
    axes.set(xlabel="step", ylabel=label)
    axes.set_xlim(0, None)
    least, most = axes.get_ylim()
    if most - least < 1e-9:  # a flat line, such as no clipping at all
        axes.set_ylim(least - 0.5, most + 0.5)
    elif least < 0 <= min(min(low) for low in (over_runs(runs)[2] for _, runs in lines)):
        axes.set_ylim(0, most)
    end_labels(axes, labels)
    return to_svg(figure, name, f"{label} against the step")


def curve_name(quantity: str) -> str:
    return f"reinforcement_curve_{quantity}"


def curve_figures(found: Reinforcement) -> dict[str, str]:
    """The curves of all runs; the parts of the reward where there are several. What is 0 throughout is left out, and
    the reward where it is 1 for correct samples and 0 for others."""
    rewards = dict.fromkeys(name for arm in found.arms for name in settings_of(arm)["rewards"])
    parts = {f"reward_{name}": (f"reward {name}, mean", 1) for name in rewards} if len(rewards) > 1 else {}
    plain = all(logged(arm, "reward") == logged(arm, "correct") for arm in found.arms)
    made = {}
    for quantity, (label, factor) in (QUANTITIES | parts).items():
        if quantity == "reward" and plain:
            continue
        lines = []
        for arm in found.arms:
            runs = [(steps, [factor * v for v in values]) for steps, values in logged(arm, quantity)]
            if runs:
                lines.append((arm, runs))
        if any(v for _, runs in lines for _, values in runs for v in values):
            made[curve_name(quantity)] = curve(curve_name(quantity), label, lines, found)
    return made


def timing_figure(found: Reinforcement) -> str | None:
    lines = []
    for arm in found.arms:
        speeds = [m.provenance["speed"] for m in arm.members if m.provenance and m.provenance.get("speed")]
        if speeds:
            lines.append((arm, [(list(range(1, len(of) + 1)), of) for of in speeds]))
    return curve("timing_reinforcement", "tokens per second", lines, found) if lines else None


# --- exploration ---------------------------------------------------------------------------------


def samples_figure(
    name: str, title: str, label: str, lines: list[tuple[Arm, dict[int, Estimate]]], found: Reinforcement, bands: bool
) -> str:
    """An estimate against k on a log axis, with bands of its 95 % intervals where asked."""
    figure, axes = new_axes(*PANEL)
    labels = []
    for arm, at in lines:
        ks = list(at)
        edges = ((100 * e.value, 100 * e.low, 100 * e.high) for e in at.values())
        values, low, high = zip(*edges, strict=True)
        color, marker = LIGHT[look(arm, found)[0]], look(arm, found)[1]
        if bands:
            axes.fill_between(ks, low, high, color=color, alpha=0.1, lw=0)
        axes.plot(ks, values, color=color, lw=1.5, ls=dash(arm, found), marker=marker, ms=3.5)
        labels.append((found.short_name(arm), ks[-1], values[-1], color))
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
    return to_svg(figure, name, f"{label} against k: {title}")


def _along(found: Reinforcement, task: str, metric: str, mode: str) -> list[tuple[Arm, dict[int, Estimate]]]:
    """Levels at every k, of the arms that have them."""
    lines = []
    for arm in found.shown:
        at = {k: found.level(arm, task, f"{metric}@{k}", mode) for k in found.ks}
        at = {k: estimate for k, estimate in at.items() if estimate}
        if at:
            lines.append((arm, at))
    return lines


def _gained(found: Reinforcement, task: str) -> list[tuple[Arm, dict[int, Estimate]]]:
    """pass@k less the start's at every k, paired by item and seed."""
    lines = []
    for comparison in found.comparisons:
        for arm in (*comparison.arms, *comparison.controls):
            at = {k: found.change(arm, comparison.start, f"pass@{k}", task) for k in found.ks}
            if all(at.values()):
                lines.append((arm, at))
    return lines


def pass_name(task: str) -> str:
    return f"reinforcement_pass_{task}"


def gain_name(task: str) -> str:
    return f"reinforcement_gain_{task}"


def majority_name(mode: str) -> str:
    return f"reinforcement_majority_{mode}"


def exploration_figures(found: Reinforcement) -> dict[str, str]:
    made = {}
    for task in found.tasks:
        if lines := _along(found, task, "pass", "cot"):
            made[pass_name(task)] = samples_figure(pass_name(task), task, "pass@k, %", lines, found, bands=False)
        if lines := _gained(found, task):
            label = "pass@k less the start's, points"
            made[gain_name(task)] = samples_figure(gain_name(task), task, label, lines, found, bands=True)
    for mode in MODES:
        lines = _along(found, found.target, "majority", mode)
        if any(len(at) > 1 for _, at in lines):
            name, title = majority_name(mode), f"{found.target}, {MODE_LABELS[mode]}"
            made[name] = samples_figure(name, title, "majority@k, %", lines, found, bands=False)
    return made


# --- all -----------------------------------------------------------------------------------------


def trade_name(index: int) -> str:
    return "reinforcement_trade" if index == 0 else f"reinforcement_trade_{index + 1}"


def trade_figure(found: Reinforcement, comparison: Comparison, name: str) -> str | None:
    arms = [arm for arm in comparison.shown if arm.axis("target") and arm.axis("general")]
    if len(arms) < 2:
        return None
    looks = {arm.name: look(arm, found) for arm in arms}
    title = f"Target against general capability of what was made from {comparison.start.name}"
    return scatter(arms, {comparison.start.name}, name, title, looks, size=(420, 380))


def reinforcement_figures(found: Reinforcement) -> dict[str, str]:
    made = curve_figures(found)
    if found.explored:
        made |= exploration_figures(found)
    for i, comparison in enumerate(found.comparisons):
        if trade := trade_figure(found, comparison, trade_name(i)):
            made[trade_name(i)] = trade
    if speed := timing_figure(found):
        made["timing_reinforcement"] = speed
    return made
