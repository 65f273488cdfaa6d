"""The steps of Temper: one module per rule, each runnable as `python -m steps.<name>`."""
