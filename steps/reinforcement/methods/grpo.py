"""GRPO, group relative policy optimisation (arXiv:2402.03300): a response's advantage in its group, at every token.

TRL's trainer computes it, with the parts of later papers that `loss_type`, `clip` and `scale_rewards` choose.
"""

from steps.reinforcement.methods.interface import Method

__all__ = ["Method"]
