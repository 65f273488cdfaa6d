"""What a step found, in a line for who waits: read from its result, so that one which stood all the while says it too.

A step that takes rows out says so itself (`steps.data.rows.Ledger`) and has no entry here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from steps.core.files import read_csv, read_json
from steps.core.manifest import read_manifest
from steps.core.promises import MANIFEST
from steps.settings.axes import REPORTED
from steps.settings.stages import TRAINED

# Columns of a training's log, of which the first and last value are told.
LEARNED = ("loss", "valid_loss", "reward", "valid_correct")
GIB = 2**30


def outcome(folder: Path) -> str:
    """The line of the result in a folder; nothing where its step has none to tell, or it cannot be read."""
    try:
        manifest = read_manifest(folder / MANIFEST)
        return OUTCOMES[manifest["step"]](folder, manifest["counts"]) if manifest["step"] in OUTCOMES else ""
    # A line for the screen must not end a run, whatever version wrote the result.
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def parts(counts: dict[str, int]) -> str:
    """Some counts that are not 0, the largest first: "301 exact_duplicate, 97 near_duplicate"."""
    largest_first = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:,} {name}" for name, count in largest_first if count)


def points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


# --- one for each step, of its folder and the counts of its manifest ---------------------------------------------


def evaluated(folder: Path, counts: dict) -> str:
    """The plain mean of the tasks of each axis, as the report has it."""
    tasks = read_json(folder / "results.json")["tasks"].values()
    of_axis = {axis: [task["value"] for task in tasks if task["axis"] == axis] for axis in REPORTED}
    return "  ".join(f"{axis} {points(sum(values) / len(values))}" for axis, values in of_axis.items() if values)


def trained(folder: Path, counts: dict) -> str:
    log = read_csv(folder / "training_log.csv")
    told = [f"{len(log):,} steps"]
    for column in LEARNED:
        values = [float(row[column]) for row in log if row.get(column)]
        if values:
            way = "" if len(values) == 1 else f"{values[0]:.3g} → "
            told.append(f"{column.replace('_', ' ')} {way}{values[-1]:.3g}")
    if (folder / "reward.json").is_file():
        ranked = read_json(folder / "reward.json")["accuracy"]
        told.append(f"{points(ranked['value'])} % of {ranked['n']:,} held-out pairs ranked right")
    return "  ".join(told)


def explored(folder: Path, counts: dict) -> str:
    told = []
    for task, modes in read_json(folder / "explore.json")["tasks"].items():
        found = next(iter(modes.values()))
        shown = [name for name in found if name.startswith("pass@")]
        told.append(" ".join([task, *(f"{name} {points(found[name]['value'])}" for name in (shown[0], shown[-1]))]))
    return "  ".join(told)


def passed(folder: Path, counts: dict) -> str:
    checks = len(read_csv(folder / "gate.csv"))
    return f"passed {checks} checks; {counts['kept']:,} of {counts['in']:,} prompts are trained on"


def forecast(folder: Path, counts: dict) -> str:
    found = read_json(folder / "forecast.json")
    word = "is expected to help" if found["helps"] else "is not expected to help"
    student, teacher = (points(found[f"{who}_pass"]["value"]) for who in ("student", "teacher"))
    return f"{word}: the student is right in {student} % of {counts['prompts']:,} prompts, the teacher in {teacher} %"


def rehearsed(folder: Path, counts: dict) -> str:
    found = read_json(folder / "preflight.json")
    memory = f"{found['estimate']['total'] / GIB:.2g} of {found['usable'] / GIB:.2g} GiB"
    long = f"  about {clock(3600 * found['hours'])} of training" if "hours" in found else ""
    return f"{found['verdict']}: {memory}  {found['seconds_per_step']:.2g} s a step{long}"


def model_checked(folder: Path, counts: dict) -> str:
    treated = ", ".join(counts["treated"])
    return f"{counts['properties']} properties" + (f"; treated: {treated}" if treated else "; nothing to treat")


def dirt_found(folder: Path, counts: dict) -> str:
    found = read_json(folder / "dirt.json")
    planted, hits = (sum(kind[key] for kind in found["kinds"]) for key in ("planted", "found"))
    return f"{hits:,} of {planted:,} planted mistakes found; {found['clean']['quarantined']:,} clean rows taken out"


def causes_found(folder: Path, counts: dict) -> str:
    found = read_json(folder / "score.json")
    told = [("unlearned rows", found["detection"]["f1"])]
    told += [("causes", found["attribution"]["macro_f1"])] if "attribution" in found else []
    return "  ".join(f"F1 of {name} {'–' if value is None else f'{value:.2f}'}" for name, value in told)


def attributed(folder: Path, counts: dict) -> str:
    return f"{counts['in']:,} unlearned rows" + (f": {found}" if (found := parts(counts["causes"])) else "")


def by_difficulty(folder: Path, counts: dict) -> str:
    levels = {name: counts[name] for name in ("easy", "medium", "hard", "unverified")}
    return f"{counts['in']:,} rows: {parts(levels)}"


def clock(seconds: float) -> str:
    """m:ss, and h:mm:ss from an hour on."""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def counted(count: int, what: str) -> str:
    """ "1 job", "1,000 jobs"."""
    return f"{count:,} {what}{'s' * (count != 1)}"


OUTCOMES: dict[str, Callable[[Path, dict[str, Any]], str]] = {
    **dict.fromkeys((*TRAINED, "pretrain"), trained),
    "download": lambda folder, counts: f"{counts['files']:,} files, {counts['bytes'] / 1e9:.2f} GB",
    "world": lambda folder, counts: f"{counts['rows']:,} rows, {counts['planted']:,} mistakes planted in them",
    "prepare": lambda folder, counts: f"a chat template of {counts['template_characters']:,} characters",
    "check_model": model_checked,
    "preflight": rehearsed,
    "split": lambda folder, counts: f"{counts['train']:,} rows to train on, {counts['valid']:,} held out",
    "bucket": by_difficulty,
    "difficulty": by_difficulty,
    "score_dirt": dirt_found,
    "score_causes": causes_found,
    "merge": lambda folder, counts: f"{counts['parents']} parents, {counts['tensors']:,} tensors",
    "interpolate": lambda folder, counts: f"{counts['chosen']:g} of the way is the best of {counts['points']} points",
    "gate": passed,
    "explore": explored,
    "evaluate": evaluated,
    "geometry": lambda folder, counts: f"{counts['moved']} of {counts['modules']} layers moved",
    "detect": lambda folder, counts: f"unlearned {counts['unlearned']:,} of {counts['examined']:,} rows",
    "evidence": lambda folder, counts: f"{counts['unlearned']:,} unlearned rows, {counts['rivals']:,} with a rival",
    "attribute": attributed,
    "mixture": lambda folder, counts: (
        f"{counts['knowledge_documents']:,} documents for {counts['gaps']:,} gaps,"
        f" {counts['general_documents']:,} general ones"
    ),
    "treat": lambda folder, counts: (
        f"{counts['written']:,} rows from {counts['in']:,}: {counts['quarantined']['wrong_side']:,} taken out,"
        f" {counts['repeated']:,} repeated"
    ),
    "logprobs": lambda folder, counts: (
        f"{counts['kept']:,} responses, {counts['tokens']:,} tokens, {counts['bytes'] / 1e6:.1f} MB"
    ),
    "forecast": forecast,
    "inspect": lambda folder, counts: f"{counts['kept']:,} of {counts['in']:,} rows",
    "deliver": lambda folder, counts: (
        f"{counts['checked_prompts']:,} prompts answered as before, {counts['checked_tokens']:,} tokens"
    ),
    "report": lambda folder, counts: str(folder / "index.html"),
}
