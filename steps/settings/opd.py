"""Settings of stage opd, on-policy distillation: what is made small, over which tokens, and for how long."""

from typing import Annotated

from pydantic import Field

from steps.settings.base import SHORT_ANSWER, ByKind, OneOf, Settings, Share, Steps
from steps.settings.sampling import OnPolicy, truncation

SIDES = ("student", "teacher", "union", "overlap")
Weights = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2)]


class Divergence(Settings):
    """What is made small at each token."""

    kind: str


class Jsd(Divergence):
    """Generalised Jensen-Shannon (GKD, arXiv:2306.13649)."""

    beta: float = Field(gt=0, lt=1, description="Near 0 forward, near 1 reverse")


DIVERGENCES = {"reverse_kl": Divergence, "forward_kl": Divergence, "jsd": Jsd}


class Support(Settings):
    """Over which tokens of the vocabulary."""

    kind: str


class TopK(Support):
    """The likeliest tokens."""

    of: Annotated[str, OneOf(SIDES)] = Field(description="Whose")
    k: int = Field(ge=1, description="How many")
    rest: Annotated[str, OneOf(("renormalised", "tail"))] = Field(description="Left out, or one more token")


SUPPORTS = {"sampled": Support, "full": Support, "top_k": TopK}


class Horizon(Settings):
    """How many tokens are written and learned from."""

    tokens: int = Field(ge=1, description="At most")
    start: int = Field(1, alias="from", ge=1, description="At first, where the number grows")
    until: Steps = Field(1, description="Step at which it is reached")


class Diagnostics(Settings):
    """What is logged of every step."""

    top_k: int = Field(ge=1, description="Tokens of the sets whose overlap is logged")
    width: int = Field(ge=1, description="Tokens per bin of positions.csv")


class Opd(OnPolicy):
    """Stage opd, on-policy distillation."""

    generations: int = Field(ge=1, description="Samples of each prompt")
    shares: Weights | None = Field(description="Of the prompts, by data set; null gives all the same")
    weights: Weights | None = Field(description="Of the teachers in a mixture; null gives all the same")
    divergence: Annotated[Divergence, ByKind(DIVERGENCES)] = Field(description="What is made small at each token")
    support: Annotated[Support, ByKind(SUPPORTS)] = Field(description="Over which tokens of the vocabulary")
    horizon: Horizon | None = Field(description="Tokens that are learned from; null is max_new_tokens")
    off_policy: Share = Field(description="Share of the samples that the teacher wrote")
    resident: int | None = Field(ge=1, description="Teachers in memory at once; null keeps all")
    diagnostics: Diagnostics
    short_answer_words: int = Field(ge=0, description=SHORT_ANSWER)
    keep_samples: int = Field(ge=0, description="Samples that are kept of every step")

    @classmethod
    def fit(cls, settings: dict) -> None:
        super().fit(settings)
        fit_divergence(settings["divergence"], settings["support"], settings["off_policy"])
        cls.check_batch(settings)
        for key, value in truncation(settings).items():
            if settings["support"]["kind"] == "sampled":
                raise ValueError(
                    f"{key}: {value:g} leaves tokens out, and a support of sampled takes those that were drawn for"
                    " draws from all; write full or top_k, or remove it"
                )
        if settings["horizon"]:
            _fit_horizon(settings["horizon"], settings["max_new_tokens"])
        if settings["off_policy"] and any(len(source["teachers"]) > 1 for source in settings["sources"]):
            raise ValueError(
                "off_policy: a mixture of teachers writes no responses; route them by data set, or write 0.0"
            )
        rate = settings["pass_rate"]
        if rate and rate["above"] >= rate["below"]:
            raise ValueError(
                f"pass_rate: no row lies above {rate['above']:g} and below {rate['below']:g}; correct them"
            )


def _fit_horizon(horizon: dict, longest: int) -> None:
    if horizon["tokens"] > longest:
        raise ValueError(f"horizon.tokens: {horizon['tokens']} is beyond max_new_tokens {longest}; lower it")
    if ("from" in horizon) != ("until" in horizon):
        raise ValueError("horizon: from and until go together: the supervised tokens grow from the one by that step")
    if horizon.get("from", 1) > horizon["tokens"]:
        raise ValueError(f"horizon.from: {horizon['from']} is beyond horizon.tokens {horizon['tokens']}; lower it")


def fit_divergence(divergence: dict, support: dict, off_policy: float) -> None:
    """What the classes cannot say of a divergence over a support.

    Raises:
        ValueError: naming the setting and the fix.
    """
    if support["kind"] == "top_k" and support["k"] == 1 and support["rest"] == "renormalised":
        raise ValueError(
            "support.k: 1 token renormalised has probability 1 for student and teacher alike, so that nothing is"
            " learned; write rest: tail, or a larger k"
        )
    if support["kind"] == "sampled" and off_policy:
        raise ValueError(
            f"support.kind: sampled needs tokens that the student wrote, and off_policy {off_policy:g} brings others;"
            " write full or top_k, or off_policy: 0.0"
        )
    if divergence["kind"] == "jsd" and not 0 < divergence["beta"] < 1:
        raise ValueError(
            f"divergence.beta: {divergence['beta']:g} is not between 0 and 1; the ends are forward_kl and reverse_kl"
        )
