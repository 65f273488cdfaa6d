"""The causes of incomplete learning as what reads them wants them; steps/settings/diagnosis.py has them."""

from steps.settings import diagnosis

CAUSES = tuple(diagnosis.CAUSES)
UNASSIGNED = "unassigned"
NUMERALS = {name: cause.numeral for name, cause in diagnosis.CAUSES.items()}
LABELS = {name: cause.label for name, cause in diagnosis.CAUSES.items()} | {UNASSIGNED: "unassigned"}
DESCRIPTIONS = {name: cause.line for name, cause in diagnosis.CAUSES.items()} | {
    UNASSIGNED: "No test passed: the evidence fits none of the five causes."
}
