"""What every bench shares: its options, a smallest size that the tests run, the clock, and the file it writes.

A bench is `python -m benches.<name>`; `python -m benches` runs them all. Each writes reports/bench/<name>.json: what
was measured, on which machine, with which versions. docs/results.md is made from those files.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from steps.core.files import write_json
from steps.core.versions import VERSIONED_PACKAGES, version

OUT = Path("reports/bench")


def bench_parser(module_doc: str, name: str, smoke: dict[str, Any]) -> argparse.ArgumentParser:
    """The parser every bench starts from: its docstring as help, `--out`, `--smoke`.

    Args:
        smoke: option (as an attribute) to its value at the smallest size, which shows that the bench runs, not how
        fast.
    """

    class Smoke(argparse.Action):
        def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
            for key, value in {**smoke, "smoke": True, "out": Path(tempfile.gettempdir(), f"{name}.json")}.items():
                setattr(namespace, key, value)

    parser = argparse.ArgumentParser(description=module_doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT / f"{name}.json", help="JSON file to write")
    parser.add_argument(
        "--smoke", action=Smoke, nargs=0, default=False,
        help="the smallest size: does it run? Its result is no measurement and goes to the temporary folder."
             " Options after it count",
    )  # fmt: skip
    return parser


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range of the rounds."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(values: Sequence[float], yardstick: Sequence[float]) -> list[float]:
    """One ratio for each round: both sides of it met the same minute of the machine."""
    return [one / other for one, other in zip(values, yardstick, strict=True)]


def in_turn(names: Sequence[str], rounds: int) -> Iterator[tuple[int, list[str]]]:
    """For each round its number and the order of the candidates, which changes: a slow minute meets them all."""
    for index in range(rounds):
        first = index % len(names)
        yield index, [*names[first:], *names[:first]]


def figure(
    what: str, values: Sequence[float], unit: str = "", least: float | None = None, most: float | None = None
) -> dict:
    """A figure of a table: its median and range over the rounds, and the bar it is held to, at least or at most."""
    entry = {"what": what, "unit": unit, "rounds": len(values)} | spread(values)
    bar = {"least": least, "most": most}
    return entry | {key: value for key, value in bar.items() if value is not None}


def write_result(out: Path, module_doc: str, figures: list[dict], detail: dict) -> None:
    """Print the figures and write them, with all else that was measured, the machine and the versions."""
    for row in figures:
        bar = "".join(f", at {key} {row[key]:g}" for key in ("least", "most") if key in row)
        print(f"{row['what']}: {row['median']:,.4g} {row['unit']} ({row['min']:,.4g} – {row['max']:,.4g}{bar})")
    write_json(
        out,
        {
            "title": module_doc.strip().splitlines()[0],
            "figures": figures,
            "machine": machine(),
            "versions": {name: found for name in VERSIONED_PACKAGES if (found := version(name))},
            "detail": detail,
        },
    )


def machine() -> dict:
    """What the figures were measured on; `load` is of the minute in which they are written down."""
    model = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass  # no Linux: the architecture must do
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory),
        "load": round(os.getloadavg()[0], 1),
    }
    import torch

    return found | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def now() -> float:
    """Seconds: on a CPU those of this process, so that others on the machine do not count; on a GPU those of the
    clock."""
    import torch

    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def clock() -> Any:
    """A trainer callback whose `seconds` and `tokens` run from the end of the first step to the end of training.

    The first step is left out: it allocates the optimizer's state.
    """
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 1:
                self.began, self.seen = now(), state.num_input_tokens_seen

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.seconds, self.tokens = now() - self.began, state.num_input_tokens_seen - self.seen

    return Clock()
