"""Settings of reinforcement learning: pass rates of the start, the gate of a reward, the stage itself."""

from typing import Annotated, Any

from pydantic import Field, create_model

from steps.settings.base import ByKind, OneOf, Seed, Settings, Share, Steps, Text
from steps.settings.methods import METHODS
from steps.settings.names import Name
from steps.settings.pass_rates import PassRates
from steps.settings.rewards import REWARD, Reward
from steps.settings.rewards import fit as fit_rewards
from steps.settings.sampling import OnPolicy, truncation

LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo")


class Difficulty(PassRates):
    """Pass rate of the policy that a recipe of stage rl starts from."""


class Gate(Settings):
    """What a reward must show before it is trained on."""

    rows: int = Field(ge=1, description="Rows whose good, bad, malformed and exploiting answers are scored")
    good: Text = Field(description="A good answer: a template with {response} and {answer}")
    separates: Share = Field(description="Least share of rows whose good answer scores above the others")
    unparsed: Share = Field(description="Largest share of good answers in which no answer is seen")
    unparsed_samples: Share = Field(description="The same of the start's samples")
    spread: Share = Field(description="Least share of the start's groups of samples whose rewards differ")
    seed: Seed = Field(description="Of the choice of rows")


class Success(Settings):
    """The samples that count as correct."""

    reward: str = Field(description="One of the rewards")
    least: float = Field(description="From which value of it on")


class Clip(Settings):
    """Range of the probability ratio that still learns, around 1."""

    low: float = Field(gt=0, le=1, description="Below 1, by so much")
    high: float = Field(gt=0, description="Above 1, by so much")


AGGREGATIONS = ("sum_then_normalize", "normalize_then_sum")


class Importance(Settings):
    """How much a token counts that the sampler found more, or less, likely than the policy does."""

    kind: Annotated[str, OneOf(("truncate", "mask"))] = Field(
        description="A ratio outside of the bounds becomes the bound, or the token is left out"
    )
    level: Annotated[str, OneOf(("token", "sequence"))] = Field(description="Of what the ratio of probabilities is")
    most: float = Field(ge=1, description="Upper bound of the ratio")
    least: float | None = Field(None, gt=0, le=1, description="Lower bound; null is 0")


class KlRamp(Settings):
    """Its weight goes from one value to another, and stays there."""

    kind: str
    start: float = Field(alias="from", ge=0, description="At the first step")
    end: float = Field(alias="to", ge=0, description="At last")
    until: Steps = Field(description="Steps after which it is reached")


class KlController(Settings):
    """Its weight rises while the divergence is above a target, and falls below (Ziegler et al., arXiv:1909.08593)."""

    kind: str
    start: float = Field(alias="from", gt=0, description="At the first step")
    target: float = Field(gt=0, description="Divergence that is steered to: nats per token, as the log has it")
    # Above 5, one step could take the weight below 0.
    gain: float = Field(gt=0, lt=5, description="Times a fifth, how much a step may change it; the paper has 0.1")


class KeepBestAnswers(Settings):
    """The weights that answered most held-out questions rightly."""

    patience: int | None = Field(None, ge=1, description="Looks without more of them after which training ends")
    min_delta: float = Field(0.0, ge=0, lt=1, description="By how much more there must be, as a share of them")
    stop_collapsed: bool = Field(
        False,
        description="Training ends where entropy, length or the share of correct samples broke down",
    )


# Batches of rollouts that are compared, at least, at either end of a run, to say whether it broke down: the groups of a
# few are by chance all alike. A run that has not twice as many is not judged.
WINDOW = 5
KL_WEIGHTS: dict[str, type[KlRamp | KlController]] = {"linear": KlRamp, "cosine": KlRamp, "adaptive": KlController}
# Half of an interval of a share of so many is 7 points at most.
EVAL_ROWS = 200
KL_WEIGHT = ByKind(KL_WEIGHTS)
Weight = Annotated[float, Field(ge=0)]


class _Rl(OnPolicy):
    """Stage rl, by TRL's GRPOTrainer: which keys act depends on the method."""

    method: Annotated[str, OneOf(tuple(METHODS))] = Field(description="How samples become a loss")
    generations: int = Field(ge=2, description="Samples of each prompt")
    iterations: int = Field(ge=1, description="Optimizer steps on one batch of samples")
    rewards: dict[Name, Annotated[Reward, REWARD]] = Field(
        min_length=1, description="Name to what scores a sample; their weighted sum is learned from"
    )
    success: Success
    max_failures: Share = Field(description="Share of scores that may fail; beyond, the run stops")
    clip: Clip
    kl: Weight | Annotated[KlRamp | KlController, KL_WEIGHT] = Field(
        description="Weight of the divergence from the start in the loss: a number, or how it changes"
    )
    watch_kl: int = Field(ge=0, description="Steps between two measurements of it; 0 never does")
    loss_type: Annotated[str, OneOf(LOSS_TYPES)] = Field(description="Over what the loss is a mean")
    scale_rewards: Annotated[str, OneOf(("group", "batch", "none"))] = Field(
        description="Over whose standard deviation advantages are"
    )
    aggregation: Annotated[str, OneOf(AGGREGATIONS)] = Field(
        AGGREGATIONS[0], description="What advantages are of: the sum of the rewards, or each by itself, then summed"
    )
    mask_truncated: bool = Field(False, description="A response that is cut by max_new_tokens teaches nothing")
    dynamic_sampling: int = Field(
        0, ge=0, description="Times that prompts whose samples all have one reward are replaced by others in a step"
    )
    importance: Importance | None = Field(None, description="Correction for a sampler that is not quite the policy")
    contexts: dict[Name, Text] = Field({}, description="Templates with {prompt}, {solution} and {answer}")
    keep_groups: int = Field(ge=0, description="Groups of samples that are kept of every step")
    eval_steps: int | None = Field(
        None,
        ge=1,
        description="Steps between two looks at the answers to held-out questions; null never looks",
    )
    eval_rows: int = Field(EVAL_ROWS, ge=1, description="Of them so many are asked, drawn by seed")
    keep_best: KeepBestAnswers | None = Field(None, description="Keeping the best weights; steps is then the most")

    @classmethod
    def fit(cls, settings: dict) -> None:
        super().fit(settings)
        cls.check_batch(settings)
        if settings["steps"] % settings["iterations"]:
            raise ValueError(f"steps: {settings['steps']} is no multiple of iterations {settings['iterations']}")
        success = settings["success"]["reward"]
        if success not in settings["rewards"]:
            first = next(iter(settings["rewards"]))
            raise ValueError(
                f"success.reward: {success}, by which a sample counts as correct, is none of the rewards"
                f" {', '.join(settings['rewards'])}; name one of them: success: {{reward: {first}, least: 0.5}}"
            )
        METHODS[settings["method"]].fit(settings["method"], settings)
        for name, template in settings.get("contexts", {}).items():
            try:
                template.format(prompt="", solution="", answer="")
            except (KeyError, IndexError, ValueError) as error:
                raise ValueError(
                    f"contexts.{name}: {error} is none of {{prompt}}, {{solution}}, {{answer}}; double other braces"
                ) from error
        fit_rewards(settings["rewards"])
        for key in ("keep_best", "eval_rows"):
            if settings.get(key) is not None and settings.get("eval_steps") is None:
                raise ValueError(f"{key}: has an effect with eval_steps only, the steps between two looks; write both")
        if settings.get("eval_steps") is not None:
            _fit_looks(settings)
        if isinstance(settings["kl"], dict) and "until" in settings["kl"]:
            _fit_ramp(settings["kl"], settings["steps"])
        if settings.get("aggregation") == "normalize_then_sum" and settings["scale_rewards"] != "group":
            raise ValueError(
                f"scale_rewards: {settings['scale_rewards']} has no effect with aggregation normalize_then_sum, which"
                " divides each reward by its group's deviation; write group"
            )
        if settings.get("importance") and settings["temperature"] != 1:
            raise ValueError(
                f"importance: needs temperature 1, at which samplers say how likely their tokens were, not"
                f" {settings['temperature']:g}"
            )
        for key, value in truncation(settings).items():
            if settings.get("importance"):
                raise ValueError(
                    f"{key}: {value:g} leaves tokens out, and samplers say how likely theirs were among all, by which"
                    " importance would weigh them; remove one"
                )
            if settings["sampler"]["kind"] != "transformers":
                raise ValueError(
                    f"{key}: {value:g} leaves tokens out, and the loss needs to know which; write"
                    f" sampler: {{kind: transformers}}, or remove {key}"
                )


def _fit_looks(settings: dict) -> None:
    steps, every, best = settings["steps"], settings["eval_steps"], settings.get("keep_best") or {}
    if every > steps:
        raise ValueError(
            f"eval_steps: {every} is beyond the {steps} steps, before and after which it looks anyway; lower it"
        )
    looks, patience = -(-steps // every), best.get("patience")
    if patience is not None and patience >= looks:
        raise ValueError(
            f"keep_best.patience: {patience} has no effect, for the last of {looks} looks after the start is the end of"
            " the run; lower it, or eval_steps"
        )
    batches = steps // settings["iterations"]
    if best.get("stop_collapsed") and batches < 2 * WINDOW:
        raise ValueError(
            f"keep_best.stop_collapsed: has no effect in a run of {batches} batches of samples, for fewer than"
            f" {2 * WINDOW} are not judged; remove it"
        )


def _fit_ramp(kl: dict, steps: int) -> None:
    if kl["from"] == kl["to"]:
        raise ValueError(f"kl: from and to are both {kl['from']:g}; write kl: {kl['from']:g}")
    if kl["until"] > steps:
        raise ValueError(f"kl.until: {kl['until']} is beyond the {steps} steps, so `to` is not reached; lower it")


# A section of its own for each method that has settings.
_SECTIONS: dict[str, Any] = {
    name: (method.settings, Field(None, description=f"Of method {name} ({method.paper})"))
    for name, method in METHODS.items()
    if method.settings
}
Rl: type[_Rl] = create_model("Rl", __base__=_Rl, __doc__=_Rl.__doc__, **_SECTIONS)
