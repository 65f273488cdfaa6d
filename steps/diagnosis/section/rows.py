"""Single unlearned rows with all their evidence: worked examples, and the page that lists them."""

import os
from collections import Counter
from pathlib import Path

from steps.core.manifest import read_manifest
from steps.core.promises import MANIFEST, check_promise
from steps.core.text import shorten
from steps.diagnosis.causes import DESCRIPTIONS, LABELS
from steps.diagnosis.section.facts import ATTRIBUTED, TRUE, Study, read_columns, read_study
from steps.report.gather import Gathered
from steps.report.tables import Link

# Rows on the page that lists them: the most severe; the paper keeps 1,000 for its analysis.
ROWS_SHOWN = 1000
EXAMPLES = 2
PROMPT_CHARS, RESPONSE_CHARS, OPTION_CHARS = 600, 500, 120
EVIDENCE = (
    "id", "domain", "base_pass", "base_answer", "base_agreement", "options", "base_options", "tuned_options", "js",
    "rival", "rival_similarity", "rival_answer", "support", "rival_support", "trajectory", "domain_peak",
    "domain_final", "loss", "loss_slope", "rarity",
)  # fmt: skip
FILES = (("detect", "unlearned.parquet"), ("evidence", "evidence.parquet"), ("attribute", "attribution.parquet"))


def first_rows(path: Path, columns: list[str], most: int) -> list[dict]:
    """The first rows of a Parquet file, read in batches."""
    import pyarrow.parquet as pq

    rows: list[dict] = []
    check_promise(path)
    for batch in pq.ParquetFile(path).iter_batches(columns=columns):
        rows += batch.to_pylist()[: most - len(rows)]
        if len(rows) == most:
            break
    return rows


def read_studies(gathered: Gathered) -> list[Study] | None:
    """The studies that diagnose, as far as they are done, with the rows that their pages show."""
    candidates, results = gathered.candidates, gathered.results
    studies = [read_study(name, gathered.graph, candidates, results) for name in gathered.graph["detect"]]
    studies = [study for study in studies if study]
    for study in studies:
        study.rows = unlearned_rows(study, results)
        study.links = file_links(study, results, gathered.out)
    return studies or None


def unlearned_rows(study: Study, results: Path) -> list[dict]:
    """The most severe unlearned rows of the first diagnosed checkpoint, each as its pages show it."""
    node = study.diagnosed[0]
    columns = ["id", "file", "line", "prompt", "response", "answer", "answers", "pass_n", "severity"]
    rows = first_rows(results / "detect" / node / "unlearned.parquet", columns, ROWS_SHOWN)
    ids = [row["id"] for row in rows]
    evidence, given = (
        {row["id"]: row for row in read_columns(path, columns, ids)}
        for path, columns in (
            (results / "evidence" / node / "evidence.parquet", list(EVIDENCE)),
            (results / "attribute" / node / "attribution.parquet", ["id", "cause", "reason", "tests"]),
        )
    )
    rivals = sorted({row["rival"] for row in evidence.values() if row["rival"]})
    prompts = {
        row["id"]: row["prompt"]
        for row in read_columns(results / "detect" / node / "detected.parquet", ["id", "prompt"], rivals)
    }
    truth = {}
    if study.truth is not None:
        truth = {i: TRUE[study.truth[place]] for place, i in enumerate(study.ids) if study.truth[place] >= 0}
    return [_shown(row, evidence[row["id"]], given[row["id"]], prompts, truth.get(row["id"])) for row in rows]


def _shown(row: dict, evidence: dict, given: dict, prompts: dict[str, str], truth: str | None) -> dict:
    wrong = Counter(answer for answer in row["answers"] if answer)
    answer, times = wrong.most_common(1)[0] if wrong else ("", len(row["answers"]))
    options = zip(evidence["options"], evidence["base_options"], evidence["tuned_options"], strict=True)
    return {
        **{key: evidence[key] for key in EVIDENCE if key not in ("options", "base_options", "tuned_options")},
        "id": row["id"],
        "file": row["file"].rsplit("/", 1)[-1],
        "line": row["line"],
        "cause": given["cause"],
        "label": LABELS[given["cause"]],
        "truth": truth,
        "truth_label": LABELS.get(truth, truth),
        "prompt": shorten(row["prompt"], PROMPT_CHARS),
        "response": shorten(row["response"], RESPONSE_CHARS),
        "expected": row["answer"],
        "answer": shorten(answer, OPTION_CHARS),
        "times": times,
        "runs": len(row["answers"]),
        "right": round(row["pass_n"] * len(row["answers"])),
        "options": [{"text": shorten(o, OPTION_CHARS), "base": b, "tuned": t} for o, b, t in options],
        "rival_prompt": shorten(prompts.get(evidence["rival"], ""), PROMPT_CHARS),
        "path": "".join("✓" if right else "✗" for right in evidence["trajectory"] or ()),
        "reason": given["reason"],
        "tests": given["tests"],
    }


def examples(rows: list[dict]) -> list[dict]:
    """For each cause its most severe rows: {cause, label, description, rows}."""
    groups = []
    for cause in ATTRIBUTED:
        chosen = [row for row in rows if row["cause"] == cause][:EXAMPLES]
        if chosen:
            groups.append({"label": LABELS[cause], "description": DESCRIPTIONS[cause], "rows": chosen})
    return groups


def file_links(study: Study, results: Path, out: Path) -> list[tuple[str, Link]]:
    """(checkpoint, link) of the files with all unlearned rows; their sha256 are those of the manifests."""
    links = []
    for node in study.diagnosed:
        for step, name in FILES:
            folder = results / step / node
            digest = read_manifest(folder / MANIFEST)["outputs"][name]
            links.append((node, Link(name, os.path.relpath(folder / name, out), digest)))
    return links
