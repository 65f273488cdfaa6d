"""environment.yaml, for conda users and for the record that Snakemake keeps of each rule's software.

Run as: python -m steps.graph.environment
"""

from pathlib import Path

FILE, PINS = "environment.yaml", "requirements.txt"
HEAD = """\
# For conda users, and the record that Snakemake keeps of each rule's software. The pins are those of requirements.txt:
# python -m steps.graph.environment
channels: [conda-forge, nodefaults]
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def environment(requirements: str) -> str:
    """The text of environment.yaml for that of requirements.txt."""
    pins = [line.strip() for line in requirements.splitlines() if line.strip() and not line.startswith("#")]
    return HEAD + "".join(f"      - {pin}\n" for pin in pins)


def main() -> None:
    Path(FILE).write_text(environment(Path(PINS).read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
