"""Which engine made which number: what each result says of how it was sampled, as a table and as a warning.

Rows that are compared with each other should be of one engine, device and type of numbers: two of them round
differently, and two engines draw other samples from the same seed, so that a difference between their rows is not the
checkpoints' alone.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from steps.core.files import read_json
from steps.core.promises import MANIFEST
from steps.report.sentences import Sentences
from steps.report.tables import Column, Table

# The steps that sample, by their folders, and whether the report compares their results with each other.
SAMPLED = {
    "evaluation": True,
    "explore": True,
    "detect": True,
    "evidence": True,
    "bucket": False,
    "difficulty": False,
    "generate": False,
}
say = Sentences(Path(__file__).parent)

COLUMNS = [
    Column("step", "step", "code"),
    Column("engine", "engine"),
    Column("device", "device"),
    Column("dtype", "numbers"),
    Column("batch_size", "at a time", "integer"),
    Column("results", "results", "integer"),
]


def read_engines(results: Path, names: set[str], datasets: Iterable[str]) -> dict[str, dict[str, dict]]:
    """Step → whose result it is → its setup, for the checkpoints of these names and the buckets of these data sets."""
    manifests = [
        (step, str(path.parent.relative_to(results / step)), path)
        for step in SAMPLED
        for path in sorted((results / step).rglob(MANIFEST))
        if path.parent.name in names
    ]
    buckets = [("bucket", dataset, results / "data" / dataset / "bucket" / MANIFEST) for dataset in datasets]
    setups: dict[str, dict[str, dict]] = {}
    for step, owner, path in manifests + [bucket for bucket in buckets if bucket[-1].is_file()]:
        if setup := read_json(path).get("setup"):
            setups.setdefault(step, {})[owner] = setup
    return setups


def engine_text(setup: dict) -> str:
    """An engine, with the version of one that is no part of the project's own environment."""
    return f"vllm {setup['vllm']}" if "vllm" in setup else setup["engine"]


def kind_text(setup: dict) -> str:
    """What must be equal of two numbers that are compared: the engine, its device and the type it computes in."""
    return say("engine", kind=engine_text(setup), device=setup["device"], dtype=setup["dtype"])


def engines_table(engines_used: dict[str, dict[str, dict]]) -> Table | None:
    counts = Counter(
        (step, engine_text(setup), setup["device"], setup["dtype"], setup["batch_size"])
        for step, own in engines_used.items()
        for setup in own.values()
    )
    rows = [
        dict(zip((column.key for column in COLUMNS), (*kind, n), strict=True)) for kind, n in sorted(counts.items())
    ]
    caption = "What wrote and scored the responses. `at a time` is the largest number of responses of one batch."
    return Table("engines", caption, COLUMNS, rows) if rows else None


def warnings(engines_used: dict[str, dict[str, dict]]) -> list[str]:
    """One line for each step whose results are compared with each other and of more than one kind, and one for evidence
    of another kind than the detection whose probabilities it is held against."""
    lines = []
    for step, own in engines_used.items():
        kinds = Counter(map(kind_text, own.values()))
        if SAMPLED[step] and len(kinds) > 1:
            (most, n), *others = kinds.most_common()
            named = [(kind, [name for name, setup in own.items() if kind_text(setup) == kind]) for kind, _ in others]
            lines.append(say("engines_differ", step=step, n=n, total=len(own), most=most, others=named))
    detected = engines_used.get("detect", {})
    mixed = [
        (name, kind_text(setup), kind_text(detected[name]))
        for name, setup in engines_used.get("evidence", {}).items()
        if name in detected and kind_text(setup) != kind_text(detected[name])
    ]
    if mixed:
        lines.append(say("evidence_differs", mixed=mixed))
    return lines
