"""CISPO, clipped importance sampling policy optimisation (arXiv:2506.13585): every token learns, also one that the clip
of GRPO would leave out; what is clipped is how much it counts.

    L = -mean over tokens of sg(min(r, 1 + high)) A log P(y_t)             (equations 4 and 5; sg: no gradient)

r is the token's probability ratio. There is no lower bound, as in the paper's runs, and `clip.low` is not read. TRL
computes it. Where no step came between sampling and learning, r is 1 and its gradient that of GRPO with
`loss_type: dapo`.
"""

from typing import Any

from steps.reinforcement.methods import interface


class Method(interface.Method):
    """The weight of a token is clipped, not its gradient."""

    @property
    def config(self) -> dict[str, Any]:
        # TRL takes the bound itself, and not its distance from 1.
        return {"loss_type": "cispo", "epsilon_high": 1 + self.settings["clip"]["high"]}
