"""Every file of a finished run, damaged: is it noticed before it is used, named, and made again as it was?

One file at a time is cut in half, then has one byte flipped with its time kept; a plan must name it. Then files of
every result are damaged at once and a run repairs them, until each has had its turn.

Run as: python -m benches.damage
"""

import argparse
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benches.common import bench_parser, figure, write_result
from steps.core.asked import Asked, asked
from steps.core.hashes import sha256_file
from steps.core.manifest import LAST, read_manifest
from steps.core.promises import MANIFEST, PROVENANCE
from steps.core.standing import differences
from tests import small


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {"cut": cut, "flipped": flipped}


def results(folder: Path) -> dict[Path, list[Path]]:
    """Every result, and the files that are its own, by paths below the run's folder."""
    tops = (folder / "results", folder / "reports/small")
    manifests = sorted(path.relative_to(folder) for top in tops for path in top.rglob(MANIFEST))
    return {
        path.parent: sorted(
            file.relative_to(folder)
            for file in (folder / path.parent).rglob("*")
            if file.is_file() and file.stat().st_size and file.name not in (LAST, ".snakemake_timestamp")
        )
        for path in manifests
    }


@contextlib.contextmanager
def damaged(file: Path, kind: str) -> Iterator[None]:
    """A file with other bytes and its old time, for as long as it lasts."""
    whole, status = file.read_bytes(), file.stat()
    file.write_bytes(DAMAGES[kind](whole))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    try:
        yield
    finally:
        file.write_bytes(whole)


def noticed(folder: Path) -> dict[str, dict[str, bool]]:
    """File -> kind of damage -> whether the plan of its result names it."""
    found: dict[str, dict[str, bool]] = {}
    with contextlib.chdir(folder):
        for result, files in results(folder).items():
            wanted = asked(read_manifest(result / PROVENANCE)["argv"])
            assert isinstance(wanted, Asked) and not list(differences(result, wanted)), f"{result} does not stand"
            for file in files:
                for kind in DAMAGES:
                    with damaged(file, kind):
                        told = list(differences(result, wanted))
                    found.setdefault(str(file), {})[kind] = any(str(file) in line for line in told)
    return found


def repaired(folder: Path, rounds: int) -> dict[str, dict[str, bool]]:
    """File -> kind of damage -> whether the next run made it again, byte by byte where runs are equal."""
    found: dict[str, dict[str, bool]] = {}
    queues = list(results(folder).values())
    for turn in range(rounds):
        for kind in DAMAGES:
            chosen = [file for queue in queues for file in queue[turn::rounds]]
            before = {file: sha256_file(folder / file) for file in chosen}
            for file in chosen:
                (folder / file).write_bytes(DAMAGES[kind]((folder / file).read_bytes()))
            small.snakemake(folder)
            plan = small.snakemake(folder, "--dry-run")
            for file in chosen:
                same = small.varies(file) or sha256_file(folder / file) == before[file]
                found.setdefault(str(file), {})[kind] = same and "Nothing to be done" in plan
            print(f"repair, round {turn + 1} of {rounds}: {kind}: {len(chosen)} files", flush=True)
    return found


def main(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = small.finished(Path(scratch, "run"), args.run)
        made = {str(result): [str(file) for file in files] for result, files in results(folder).items()}
        seen = noticed(folder)
        mended = repaired(folder, args.rounds)
        shutil.rmtree(folder / ".snakemake")
    shares = {
        "damages that a plan names": [all(kinds.values()) for kinds in seen.values()],
        "damages that the next run repairs": [all(kinds.values()) for kinds in mended.values()],
    }
    figures = [figure(what, [sum(told) / len(told)], least=1.0) for what, told in shares.items()]
    write_result(args.out, __doc__, figures, {"results": made, "noticed": seen, "repaired": mended})


if __name__ == "__main__":
    parser = bench_parser(__doc__, "damage", {"rounds": 1})
    parser.add_argument("--rounds", type=int, default=4, help="in so many the files of each result are damaged")
    parser.add_argument("--run", type=Path, help="a finished run to copy; made without it")
    main(parser.parse_args())
