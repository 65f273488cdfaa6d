"""The causes of incomplete learning, in the order in which they are tested (Xue et al., ACL 2026, types I to V)."""

# Key to (numeral, name, one line that says what it is).
_CAUSES = {
    "missing_knowledge": ("I", "missing knowledge", "The base never saw what the row states."),
    "base_conflict": ("II", "conflict with the base", "The base firmly believes something else."),
    "data_conflict": ("III", "conflict in the data", "Another row asks the same and answers otherwise."),
    "left_side_forgetting": ("IV", "left-side forgetting", "Learned early in training, and overwritten since."),
    "insufficient_optimisation": ("V", "insufficient optimisation", "Still on its way when training ended."),
}  # fmt: skip

CAUSES = tuple(_CAUSES)
UNASSIGNED = "unassigned"
NUMERALS = {cause: numeral for cause, (numeral, _, _) in _CAUSES.items()}
LABELS = {cause: label for cause, (_, label, _) in _CAUSES.items()} | {UNASSIGNED: "unassigned"}
DESCRIPTIONS = {cause: line for cause, (_, _, line) in _CAUSES.items()} | {
    UNASSIGNED: "No test passed: the evidence fits none of the five causes."
}
