"""Run the benches, one after the other: `python -m benches`, or `python -m benches --smoke` for the smallest sizes.

Those that disturb finished runs or change the code measure no speed and take hours: each is started by its own name,
`python -m benches.kills`. A bench that fails does not keep the others from running; the exit code says that one did.
"""

import subprocess
import sys
from pathlib import Path

DISTURBING = ("damage", "kills", "mutation")
NOT_ONE = ("__init__", "__main__", "common")
NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in NOT_ONE + DISTURBING)


def main(options: list[str]) -> int:
    failed = []
    for number, name in enumerate(NAMES, 1):
        print(f"--- {name} ({number} of {len(NAMES)})", flush=True)
        if subprocess.run([sys.executable, "-m", f"benches.{name}", *options]).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
