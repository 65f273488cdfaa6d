"""Intervals, the one bootstrap, pass@k, agreement, correlation. NumPy and SciPy."""
