"""What a candidate is to a comparison, as the tables call it."""

from steps.reinforcement.section.facts import Reinforcement, method_name
from steps.reinforcement.section.wording import say
from steps.report.candidates import Candidate
from steps.report.tables import Column

METHOD = Column("method", "method")
# How a task was answered → what that is called.
MODE_LABELS = {"cot": "with working", "direct": "answer only"}


def role(candidate: Candidate, study: Reinforcement) -> str:
    """Its method, or that it is a start or a control."""
    if candidate.stage == "rl":
        return method_name(candidate)
    return say("start") if study.is_start(candidate) else say("control", stage=candidate.stage)
