"""Run every bench, one after the other: `python -m benches`, or `python -m benches --smoke` for the smallest sizes.

A bench that fails does not keep the others from running; the exit code says that one did.
"""

import subprocess
import sys
from pathlib import Path

NAMES = sorted(
    path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("__init__", "__main__", "common")
)


def main(options: list[str]) -> int:
    failed = []
    for name in NAMES:
        print(f"--- {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benches.{name}", *options]).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
