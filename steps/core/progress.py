"""Lines for the person who waits."""

import time

from steps.core import processes

# How a line begins that the person who waits sees when the step has ended.
SAID = "temper: "


def say(step: str, text: str) -> None:
    """A line of what a step found, for the screen: a display shows it when the step has ended."""
    if processes.first():
        print(f"{SAID}{step}: {text}", flush=True)


class Progress:
    """One line for the person who waits: what runs, how far, at what value, how long still.

    A line is printed at most every `every` seconds, and one at the end.
    """

    def __init__(self, name: str, total: int | None, unit: str, every: float = 3.0):
        self.name, self.total, self.unit, self.every = name, total, unit, every
        self.began = self.printed = time.monotonic()

    def update(self, done: int, **values: float) -> None:
        now = time.monotonic()
        if not processes.first():
            return
        if now - self.printed < self.every and done != self.total:
            return
        self.printed = now
        rate = done / max(now - self.began, 1e-9)
        parts = [f"{self.name}: {self.unit} {done:,}" + (f"/{self.total:,}" if self.total else "")]
        parts += [f"{key} {value:.4g}" for key, value in values.items()]
        parts.append(f"{rate:,.3g} {self.unit}/s")
        if self.total and done < self.total and rate > 0:
            left = int((self.total - done) / rate)
            parts.append(f"{left // 60}:{left % 60:02d} left")
        print("  ".join(parts), flush=True)
