"""Settings of stage reward: a model that scores responses, from pairs of which one is preferred."""

from steps.settings.training import Adapted, Curriculum, Epochs, Optimization

# Of a reward model, the output layer that stands in the place of a language model's.
HEAD = "score"
# Kinds of adapter whose change cannot be put into the weights that it was trained on, and why.
_UNFIT = {
    "qlora": "trains beside weights of 4 bits, and a reward model is stored whole",
    "adalora": "prunes by a penalty that this stage's loss has no place for",
}
_OUTPUTS = ("lm_head", "embed_out")


class Reward(Adapted, Optimization, Epochs, Curriculum):
    """Stage reward, a model that scores responses, from pairs of which one is preferred, by TRL's RewardTrainer."""

    @classmethod
    def fit(cls, settings: dict) -> None:
        super().fit(settings)
        adapter = settings["adapter"]
        if why := _UNFIT.get(adapter["kind"]):
            raise ValueError(f"adapter.kind: {adapter['kind']} {why}; write lora or another kind")
        for key in ("freeze", "target_modules", "modules_to_save"):
            named = adapter.get(key, ())
            for entry in named if isinstance(named, list) else ():
                last = entry.rpartition(".")[2]
                if last in _OUTPUTS:
                    raise ValueError(f"adapter.{key}: a reward model has no {last}; take it out")
                if last == HEAD:
                    raise ValueError(f"adapter.{key}: the head starts at random and is always trained; take it out")
