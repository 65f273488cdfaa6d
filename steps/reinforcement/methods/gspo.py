"""GSPO, group sequence policy optimisation (arXiv:2507.18071): GRPO whose importance ratio is a whole response's.

    s = (P(y|x) / P_old(y|x))^(1 / |y|)                                    (equation 7)
    L = -mean over responses of min(s A, clip(s, 1 - low, 1 + high) A)     (equation 5)

TRL computes it. A mean over tokens is so near 1 that the paper clips at 3e-4 and 4e-4 (section 5.1). Where no step
came between sampling and learning, s is 1 and its gradient that of GRPO with `loss_type: grpo`.
"""

from typing import Any

from steps.reinforcement.methods import interface


class Method(interface.Method):
    """One ratio for a whole response."""

    @property
    def config(self) -> dict[str, Any]:
        return {"importance_sampling_level": "sequence"}
