"""The figures of incomplete learning: checkpoints by causes, truth by attribution, causes beside the paper's."""

from textwrap import fill

from steps.diagnosis.causes import NUMERALS
from steps.diagnosis.section.facts import ATTRIBUTED, GROUP_LABELS, LEARNED, TRUE, Study, bases
from steps.diagnosis.section.statistics import groups, rate
from steps.diagnosis.section.tables import PAPER_SHARES, cause_shares
from steps.diagnosis.section.truth import confusion
from steps.report.figures import LIGHT, new_axes, to_svg
from steps.report.maps import share_map

LABEL_CHARS = 13


def _label(name: str) -> str:
    text = fill(GROUP_LABELS[name], LABEL_CHARS)
    return f"{NUMERALS[name]}\n{text}" if name in NUMERALS else text


def by_cause_map(study: Study, by_truth: bool) -> str:
    """Candidates by groups of rows: percent unlearned; the causes that a candidate treats are framed."""
    names = groups(study, by_truth)
    cells, framed = {}, set()
    for i, candidate in enumerate(study.candidates):
        for j, name in enumerate(names):
            if share := rate(study, candidate, study.group(name, by_truth)):
                cells[i, j] = (share.value, f"{100 * share.value:.0f}")
            if candidate.treatment and name in candidate.treats:
                framed.add((i, j))
    n = [rate(study, study.plain, study.group(name, by_truth)).n for name in names]
    columns = [f"{_label(name)}\nn = {count:,}" for name, count in zip(names, n, strict=True)]
    name = f"{study.name}_by_{'truth' if by_truth else 'cause'}"
    title = "Percent of rows unlearned, by checkpoint and " + ("planted cause" if by_truth else "attributed cause")
    return share_map(name, title, [candidate.name for candidate in study.candidates], columns, cells, framed)


def confusion_map(study: Study) -> str:
    """Planted against attributed cause; tints are shares of a line, numbers are rows."""
    given = (*ATTRIBUTED, LEARNED)
    counts = confusion(study)
    cells, framed = {}, set()
    for i, truth in enumerate(TRUE):
        total = sum(counts[truth, name] for name in given)
        for j, name in enumerate(given):
            count = counts[truth, name]
            cells[i, j] = (count / total if total else 0.0, f"{count:,.0f}")
            if name == truth or (i, name) == (len(TRUE) - 1, LEARNED):
                framed.add((i, j))
    rows = [" ".join(_label(name).split()) for name in TRUE]
    columns = ["learned" if name == LEARNED else _label(name) for name in given]
    return share_map(f"{study.name}_confusion", "Planted against attributed cause", rows, columns, cells, framed)


def shares_bars(study: Study) -> str:
    """Share of each cause among the unlearned rows: bars with intervals here, diamonds in the paper."""
    shares = cause_shares(study)
    figure, axes = new_axes(560, 50 + 36 * len(shares))
    for i, (cause, share) in enumerate(shares.items()):
        value, low, high = (100 * x for x in (share.value, share.low, share.high))
        axes.barh(i, value, height=0.56, color=LIGHT["blue"], alpha=0.75, lw=0)
        axes.plot([low, high], [i, i], color=LIGHT["ink"], lw=1.1)
        axes.plot(100 * PAPER_SHARES[cause], i, "D", ms=8, mfc=LIGHT["surface"], mec=LIGHT["orange"], mew=1.8)
    axes.set_yticks(range(len(shares)), [" ".join(_label(cause).split()) for cause in shares], color=LIGHT["ink"])
    axes.set(ylim=(len(shares) - 0.5, -0.5), xlim=(0, None), xlabel="% of the unlearned rows")
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    return to_svg(figure, f"{study.name}_causes", "Causes of the unlearned rows, here and in the paper")


def learning_figures(studies: list[Study]) -> dict[str, str]:
    return {name: svg for study in studies for name, svg in study_figures(study).items()}


def study_figures(study: Study) -> dict[str, str]:
    if not study.unlearned:
        return {}
    drawn = {f"{study.name}_by_{'truth' if t else 'cause'}": by_cause_map(study, t) for t in bases(study)}
    drawn[f"{study.name}_causes"] = shares_bars(study)
    if study.truth is not None:
        drawn[f"{study.name}_confusion"] = confusion_map(study)
    return drawn
