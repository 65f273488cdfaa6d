"""The run on a time line: every step from when all that it rests on was there, as long as it took."""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from steps.core.manifest import is_manifest, read_manifest
from steps.core.promises import MANIFEST, PROVENANCE
from steps.report.figures import LIGHT, stage_color
from steps.report.gather import Gathered
from steps.report.language import tr
from steps.report.overview.svg import canvas, clip, draw_text

DATA = "data"
LINE, LEFT, WIDTH, NAME = 24, 190, 620, 26


@dataclass
class Step:
    """A step that was run.

    Attributes:
        row: the line that it stands on: a recipe, a data set, or the name of the step itself.
        what: the step, and of which checkpoint or data set.
        stage: of a recipe's own step; None of what measures, prepares or looks.
        seconds: from its provenance.
        begin: seconds after the run's beginning, had each step begun as soon as it could.
        longest: on the chain of steps that ends last.
    """

    row: str
    what: str
    stage: str | None
    seconds: float
    rests_on: list[Path]
    begin: float = 0.0
    longest: bool = False

    @property
    def end(self) -> float:
        return self.begin + self.seconds


def read_steps(gathered: Gathered) -> list[Step]:
    """The steps of which a provenance lies under the results, in the order in which they could begin."""
    members = {member.node: member for candidate in gathered.candidates.values() for member in candidate.members}
    nodes = {Path(node["folder"]): node for node in gathered.graph["nodes"]}
    found = {path.parent for path in gathered.results.rglob(PROVENANCE)} | {*nodes}
    found = {folder for folder in found if (folder / PROVENANCE).is_file() and is_manifest(folder / MANIFEST)}
    steps: dict[Path, Step] = {}
    for folder in sorted(found):
        inputs = {Path(name) for name in read_manifest(folder / MANIFEST).get("inputs", {})}
        node = nodes.get(folder)
        starts = (*node["parents"], *node.get("teachers", [])) if node else ()
        inputs |= {own for own, other in nodes.items() if other["name"] in starts}
        named = Path(folder.name) if node else folder.relative_to(gathered.results)
        member = members.get(folder.name)
        row = member.recipe if member else named.parts[1] if named.parts[0] == DATA else named.parts[0]
        seconds = read_manifest(folder / PROVENANCE)["seconds"]
        rests_on = sorted({own for name in inputs for own in (name, *name.parents) if own in found} - {folder})
        steps[folder] = Step(row, " ".join(named.parts), node and node["stage"], seconds, rests_on)
    return _placed(steps)


def _placed(steps: dict[Path, Step]) -> list[Step]:
    """Each step begins when the last of those that it rests on ends."""

    placed: set[Path] = set()

    def place(folder: Path) -> float:
        step = steps[folder]
        if folder not in placed:
            placed.add(folder)
            step.begin = max((place(one) for one in step.rests_on), default=0.0)
        return step.end

    for folder in steps:
        place(folder)
    last = max(steps.values(), key=lambda step: step.end, default=None)
    while last:
        last.longest = True
        before = [steps[folder] for folder in last.rests_on]
        last = max((one for one in before if not one.longest), key=lambda step: step.end, default=None)
    return sorted(steps.values(), key=lambda step: (step.begin, step.end, step.what))


def timeline(steps: list[Step]) -> str:
    """A line per recipe and data set; bars in the colors of stages, grey what measures and prepares, and framed the
    steps that no other may shorten the run without."""
    rows = list(dict.fromkeys(step.row for step in steps))
    total = max(step.end for step in steps) or 1.0
    unit, name = next((u, n) for u, n, least in UNITS if total >= least)
    top, body = 46, []
    for i, text in enumerate(rows):
        body.append(draw_text(LEFT - 10, top + LINE * i + 15, clip(text, NAME), text_anchor="end"))
    tall = top + LINE * len(rows)
    step_of = next(s for s in TICKS if total / unit / s <= 8)
    for k in range(int(total / unit / step_of) + 1):
        x = LEFT + WIDTH * k * step_of * unit / total
        body.append(f'<path d="M{x:.1f} {top - 4}V{tall}" style="stroke: {LIGHT["line"]}; stroke-width: 0.8"/>')
        body.append(draw_text(x, tall + 15, f"{k * step_of:g}", "muted", text_anchor="middle"))
    body.append(draw_text(LEFT + WIDTH / 2, tall + 32, name, "muted", text_anchor="middle"))
    for step in sorted(steps, key=lambda step: step.longest):
        y, x, width = (
            top + LINE * rows.index(step.row) + 3,
            LEFT + WIDTH * step.begin / total,
            WIDTH * step.seconds / total,
        )
        fill, opacity = (stage_color(step.stage), 0.75) if step.stage else (LIGHT["muted"], 0.35)
        frame = f"; stroke: {LIGHT['ink']}; stroke-width: 1.6" if step.longest else ""
        body.append(
            f'<g class="mark"><title>{escape(step.what)}: {duration(step.seconds)}</title>'
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1.5):.1f}" height="{LINE - 8}"'
            f' style="fill: {fill}; fill-opacity: {opacity}{frame}"/></g>'
        )
    return canvas(LEFT + WIDTH + 30, tall + 42, "The run on a time line", _legend(steps) + body)


# Seconds, what they are called, and from which length of a run on they are the unit.
UNITS = ((86400, "days", 4 * 86400), (3600, "hours", 2 * 3600), (60, "minutes", 120), (1, "seconds", 0))
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def duration(seconds: float) -> str:
    """Such as "2 h 05 min", "3 min 20 s", "31.0 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {seconds % 60:02.0f} s"
    return f"{int(seconds // 3600)} h {seconds % 3600 // 60:02.0f} min"


def _legend(steps: Iterable[Step]) -> list[str]:
    stages: dict[str, list[str]] = {}
    for stage in dict.fromkeys(step.stage for step in steps if step.stage):
        stages.setdefault(stage_color(stage), []).append(stage)
    entries = [(", ".join(names), color, 0.75, False) for color, names in stages.items()]
    entries += [("measures, prepares", LIGHT["muted"], 0.35, False), ("longest chain", "none", 1, True)]
    x, drawn = float(LEFT), []
    for text, fill, opacity, framed in entries:
        frame = f"; stroke: {LIGHT['ink']}; stroke-width: 1.6" if framed else ""
        box = f'<rect x="{x:.1f}" y="8" width="16" height="12" style="fill: {fill}; fill-opacity: {opacity}{frame}"/>'
        drawn += [box, draw_text(x + 22, 18, text)]
        x += 46 + 6.8 * len(text)
    return drawn


def said(steps: list[Step]) -> dict[str, str]:
    """How long the longest chain is, and all steps one after the other."""
    chain, every = max(step.end for step in steps), sum(step.seconds for step in steps)
    return {"chain": tr(duration(chain)), "all": tr(duration(every))}
