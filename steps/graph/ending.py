"""What a run says when it has ended: where the report is and its five lines, or else what was made."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steps.core.promises import MANIFEST

PAGE, SUMMARY = "index.html", "summary.txt"
SHOWN = 4


def tell(workflow: Any) -> None:
    """To Snakemake's logger, and so to whatever shows the run."""
    from snakemake.logging import logger

    for line in lines(workflow.dag.targetjobs):
        logger.info(line)


def lines(targets: Iterable[Any]) -> list[str]:
    """Of the jobs that were asked for; one that makes nothing itself stands for what it waits for."""
    files = [Path(str(file)) for job in targets for file in (job.output or job.input)]
    pages = sorted({file for file in files if file.name == PAGE})
    told = []
    for page in pages:
        told.append(str(page))
        if (summary := page.parent / SUMMARY).is_file():
            told += summary.read_text(encoding="utf-8").splitlines()
    of_pages = {page.parent for page in pages}
    made = {file.parent if file.name == MANIFEST else file for file in files}
    if others := sorted(path for path in made if not of_pages & {path, *path.parents}):
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        told.append(f"made: {', '.join(map(str, others[:SHOWN]))}{more}")
    return told
