"""Settings of what measures how often a model answers rows correctly."""

from pydantic import Field

from steps.settings.base import EDGES, Draws, Edges


class PassRates(Draws):
    """How often a model answers training rows correctly."""

    edges: Edges = Field(description=EDGES)

    @classmethod
    def fit(cls, settings: dict) -> None:
        low, high = settings["edges"]
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"bucket.edges or difficulty.edges: {settings['edges']} must rise within (0, 1], such as [0.25, 0.75]"
            )
