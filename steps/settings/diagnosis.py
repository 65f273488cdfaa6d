"""The causes of incomplete learning, and the settings of what finds and treats them."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from steps.settings.base import Draws, Seed, Settings, Share, Unique
from steps.settings.names import FilePath


@dataclass(frozen=True)
class Cause:
    """Why a row was not learned (Xue et al., ACL 2026).

    Attributes:
        numeral: of its type in the paper.
        label: what tables and figures call it.
        line: what it is.
    """

    numeral: str
    label: str
    line: str


# In the order in which they are tested.
CAUSES = {
    "missing_knowledge": Cause("I", "missing knowledge", "The base never saw what the row states."),
    "base_conflict": Cause("II", "conflict with the base", "The base firmly believes something else."),
    "data_conflict": Cause("III", "conflict in the data", "Another row asks the same and answers otherwise."),
    "left_side_forgetting": Cause("IV", "left-side forgetting", "Learned early in training, and overwritten since."),
    "insufficient_optimisation": Cause("V", "insufficient optimisation", "Still on its way when training ended."),
}
Probability = Share
Files = Annotated[list[FilePath], Unique, Field(description='JSON Lines of documents, {"text": …}')]


class Detect(Draws):
    """Which training rows a checkpoint did not learn."""

    threshold: float = Field(gt=0, le=1, description="Share of right answers below which a row is unlearned")
    options: int = Field(ge=2, description="Of the multiple choice, the right one included")
    short_answer_words: int = Field(ge=0, description="Responses of at most so many words are the answer itself")


class Evidence(Draws):
    """The signals by which an unlearned row is attributed to a cause."""

    neighbours: int = Field(ge=1, description="Nearest rows whose answers are compared")
    same_question: Share = Field(description="Least mean cosine of two questions that ask the same")
    library: Files


class Attribute(Settings):
    """The tests by which a cause is assigned."""

    blind: Share = Field(description="Share of right answers below which the base is blind to a row")
    sure: Probability = Field(description="Of its most frequent answer, from which the base is sure of it")
    held: Share = Field(description="Of the points of training, at most, at which an unseen fact was right")
    divergence: float = Field(ge=0, description="Of the base's belief from the label, in nats")
    judge: Probability = Field(description="The base's preference for the rival's answer")
    drop: Share = Field(description="Fall of a domain's share of right rows from its best point")
    rise: float = Field(ge=1, description="Factor by which a row's loss has grown since its best point")
    weakest: Probability = Field(description="Of a token below which a row has room for optimisation")
    progress: Share = Field(description="Fall of a row's loss below that of the first point")


class Mixture(Settings):
    """What a recipe of stage cpt trains on."""

    general: Files
    library: Files
    knowledge_share: float = Field(gt=0, le=1, description="Share of the tokens that are about the gaps")
    documents_per_entity: int = Field(ge=1, description="Documents searched per entity that a row asks for")
    seed: Seed = Field(description="Of the choice and order of the documents")


class Treat(Settings):
    """What a recipe of stage sft with `treats` trains on."""

    repeats: int = Field(ge=1, description="Passes of each epoch over a row that needs more optimisation")
