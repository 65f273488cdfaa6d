"""The first hour at the command line: an overlay from a file of rows, the tables of a finished run in the terminal, and
what a shell completes.

Snakemake plans, runs and delivers what the overlay asks; nothing here has a rule or a setting of its own.

Run as: python -m steps.cli init mine data/mine/rows.jsonl --test data/mine/test.jsonl --model models/my-base
    python -m steps.cli show mine checkpoints tasks
    source <(python -m steps.cli completion bash)
"""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from steps.core import plain_yaml
from steps.core.files import write_text
from steps.core.manifest import verify_manifest
from steps.core.progress import SAID
from steps.core.promises import MANIFEST
from steps.core.step import ERROR_PREFIX, USER_ERROR, told
from steps.core.text import visible
from steps.data.ingest import checked, ingest_source, tell
from steps.data.labels import Labelled
from steps.data.rows import QUARANTINE, REFUSED, Ledger
from steps.graph import checks, completion, recipes, workload
from steps.graph.graph import Graph
from steps.settings.errors import meant

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "workloads/example.yaml"
# Of links to manifests, which lead nowhere in a terminal.
LINKS = "manifest"
OVERLAY = """\
# yaml-language-server: $schema=../schemas/params.schema.json
# {rows}
# snakemake -n --configfile {file}: what would run. docs/first_run.md goes on from there.
workload: {name}
models:
  base: {model}
data:
  problems: {{sources: [{source}]}}
# Rows in other languages are taken out; null takes every language.
filter: {{language: en}}
evaluate:
  # What training is for, by questions that no row repeats; and what the model could do before, by questions that ship.
  target: [own]
  general: [bbh]
  tasks:
    # short: the response is the answer; worked: it follows "####"; others: docs/evaluation.md.
    own: {task}
    bbh: {{data_files: {{train: data/bbh/train.jsonl, test: data/bbh/test.jsonl}}}}
studies:
  first:
    recipes:
      # Another line is another checkpoint: docs/recipes.md.
      sft_lora:
        stage: sft
        from: base
        data: problems
        learning_rate: 2.0e-4
        adapter: {{kind: lora, r: 16, alpha: 32}}
"""


def read(source: dict[str, Any]) -> tuple[str, set[str]]:
    """Read the rows of a source as the rule `ingest` does, and say what became of them.

    Returns:
        a line of how many there are, and the formats of the files.

    Raises:
        ValueError: no format has the fields of the file, or no row can be read.
    """
    files, out = checked([source])[0], Path(tempfile.mkdtemp(prefix="temper-"))
    ledger = Ledger(out, "ingest")
    try:
        with contextlib.closing(Labelled(out)) as labelled:
            limit = workload.read(ROOT / workload.DEFAULTS)["ingest"]["max_record_bytes"]
            found = ingest_source(source, limit, ledger, files, labelled)
            labelled.settle(ledger)
        tell(found, [name for name, rows in ledger.entered.items() if not rows])
        fix = f"of the first, {found.first.column}: {found.first.hint}" if found.first else "good responses are missing"
        counts = ledger.close(source["path"], fix, what="records")
    finally:
        # Rows that were not taken stay, to be looked at.
        if not any((out / name).is_file() and (out / name).stat().st_size for name in (QUARANTINE, REFUSED)):
            shutil.rmtree(out)
    if not counts["in"]:
        raise ValueError(f"{source['path']}: there is no record in it; correct the path, or write rows")
    formats = {*found.formats.values()}
    said = f"{counts['kept']:,} of {counts['in']:,} rows of {source['path']} can be read"
    return f"{said}, as {', '.join(sorted(formats))}", formats


def flow(value: dict[str, Any]) -> str:
    """A mapping on one line of YAML."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=2**20).strip()


def overlay(args: argparse.Namespace, file: Path, source: dict[str, Any], rows: str) -> str:
    """The text of workloads/<name>.yaml."""
    path, _, revision = (args.model or "").partition("@")
    model = {"path": path} | ({"revision": revision} if revision else {})
    return OVERLAY.format(
        rows=rows,
        file=file,
        name=args.name,
        model=flow(model if path else workload.read(EXAMPLE)["models"]["base"]),
        source=flow(source),
        task=flow({"stock": args.stock, "data_files": {"test": args.test}}),
    )


def checked_overlay(text: str) -> list[str]:
    """What the checks before the first job remark of an overlay.

    Raises:
        ValueError: they refuse it.
    """
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder, "draft.yaml")
        write_text(draft, text)
        return checks.check_files(Graph(recipes.complete(workload.load(ROOT, [draft])[0])))


def init(args: argparse.Namespace) -> None:
    """Write workloads/<name>.yaml, once it has passed the checks that come before the first job."""
    file = Path("workloads", f"{args.name}.yaml")
    if file.exists():
        raise ValueError(f"{file} is there already; take another name, or remove it")
    source = {"path": args.rows} | ({"columns": args.columns} if args.columns else {})
    # Rows may be millions: what else is wrong is said before they are read.
    remarks = checked_overlay(overlay(args, file, source, ""))
    rows, formats = read(source)
    if len(formats) == 1:
        source |= {"format": min(formats)}
    write_text(file, overlay(args, file, source, rows))
    for remark in remarks:
        print(f"{SAID}{remark}", file=sys.stderr)
    print(f"{file}: {rows}\nsnakemake -n --configfile {file}")


def cells(line: str) -> list[str]:
    """Those of a line of a table in Markdown, as `steps.report.tables` writes it."""
    return [visible(cell.replace("\\|", "|").replace("\\\\", "\\")) for cell in line[2:-2].split(" | ")]


def table(text: str, width: int) -> str:
    """A table in Markdown for a terminal of so many columns; what does not fit stands below, by the same names."""
    import pandas

    lines = text.splitlines()
    head, _, *rows = (cells(line) for line in lines if line.startswith("| "))
    frame = pandas.DataFrame(rows, columns=head).drop(columns=LINKS, errors="ignore").set_index(head[0])
    caption = visible(" ".join(line for line in lines if not line.startswith("| ")).strip())
    return f"{frame.rename_axis(index=None, columns=head[0]).to_string(line_width=width)}\n{caption}"


def show(args: argparse.Namespace) -> None:
    """Print what a run found, and tables of its report."""
    folder = Path("reports", args.workload)
    if not (folder / "summary.txt").is_file():
        made = sorted(file.parent.name for file in Path("reports").glob("*/summary.txt"))
        raise ValueError(f"{folder}: there is no report{meant(args.workload, made)}; a run ends with one")
    if (folder / MANIFEST).is_file():
        verify_manifest(folder)
    names = sorted(file.stem for file in (folder / "tables").glob("*.md"))
    for name in args.tables:
        if name not in names:
            raise ValueError(f"{folder / 'tables'}: there is no table {name}{meant(name, names)}")
    if not args.tables:
        print((folder / "summary.txt").read_text(encoding="utf-8"))
    width = shutil.get_terminal_size().columns
    for name in args.tables or ["checkpoints"]:
        print(table((folder / f"tables/{name}.md").read_text(encoding="utf-8"), width), end="\n\n")
    if not args.tables:
        print(f"Other tables: {', '.join(names)}\nThe whole report: {folder / 'index.html'}")


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = whole.add_subparsers(required=True)
    of = commands.add_parser("init", help="write an overlay for a file of rows")
    of.add_argument("name", help="of the workload: workloads/<name>.yaml, results/<name>, reports/<name>")
    of.add_argument("rows", help="a file, a folder or a pattern of files to train on")
    of.add_argument(
        "--test", required=True, help='questions that ask for what is trained: rows with "prompt" and "answer"'
    )
    of.add_argument("--stock", default="short", help="how they are asked: a file of tasks/ or a task of lm-eval")
    of.add_argument("--model", help="a folder, or a hub id and its commit: owner/name@commit; else that of the example")
    of.add_argument(
        "--columns",
        type=lambda text: plain_yaml.parse(text, "--columns"),
        help='fields by other names, as "{prompt: q, response: a}"',
    )
    of.set_defaults(act=init)
    of = commands.add_parser("show", help="print what a finished run found")
    of.add_argument("workload", help="a folder of reports/")
    of.add_argument("tables", nargs="*", help="tables of its report; by default what it found, and its checkpoints")
    of.set_defaults(act=show)
    of = commands.add_parser("completion", help="print what a shell needs to complete a line of snakemake")
    of.add_argument("shell", choices=[*completion.SHELLS])
    of.set_defaults(act=lambda args: print(completion.script(args.shell), end=""))
    of = commands.add_parser("words", help="print what may stand at the end of such a line: what the shell asks")
    of.add_argument("line", nargs="*")
    of.set_defaults(act=lambda args: print("\n".join(completion.words(args.line))))
    return whole


def main(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    try:
        args.act(args)
    except Exception as error:
        line = told(error)
        if line is None or os.environ.get("TEMPER_TRACEBACK"):
            raise
        print(f"{ERROR_PREFIX}{line}", file=sys.stderr)
        sys.exit(USER_ERROR)


if __name__ == "__main__":
    main()
