"""Settings of stage reward: a model that scores responses, from pairs of which one is preferred."""

from steps.settings.training import Curriculum, Epochs, Optimization


class Reward(Optimization, Epochs, Curriculum):
    """Stage reward, a model that scores responses, from pairs of which one is preferred, by TRL's RewardTrainer."""
