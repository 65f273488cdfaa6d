"""The level of all intervals. Nothing is imported here, so that a plan may tell how far a score may be off."""

LEVEL = 0.95
TAIL = (1 - LEVEL) / 2
# Its normal quantile, to the six digits that tables have.
Z = 1.959964
