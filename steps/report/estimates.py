"""Estimates of what was measured once per seed."""

from collections.abc import Sequence

import numpy as np

from steps.report.tables import Estimate
from steps.stats import intervals


def over_seeds(values: Sequence[float]) -> Estimate | float | None:
    """The mean of what was measured once per seed; the interval is over seeds only, so that one seed has none."""
    if len(values) < 2:
        return float(values[0]) if len(values) else None
    value = float(np.mean(values))
    low, high = intervals.widen(value, (value, value), values)
    stderr = float(np.std(values, ddof=1) / np.sqrt(len(values)))
    return Estimate(value, low, high, stderr, len(values), tuple(values))
