"""Other weights for a model that is being trained: those it started from, and those of its self-teacher.

Held as tensors of the trained parameters only, so that of an adapter they are small, and put on by exchanging pointers:
no second model is in memory.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from steps.training.state import trained_weights


def copied(model: Any) -> dict[str, Any]:
    """A copy of the trained parameters, by name."""
    return {name: parameter.clone() for name, parameter in trained_weights(model).items()}


@contextlib.contextmanager
def swapped_weights(model: Any, weights: dict[str, Any] | None) -> Iterator[None]:
    """The model in evaluation mode, without gradients, with these weights in place of its own; None leaves its own."""
    import torch

    parameters = dict(model.named_parameters())
    own = {name: parameters[name].data for name in weights or {}}
    training = model.training
    model.eval()
    try:
        for name in own:
            # DeepSpeed moves a model after these were copied, and may keep it in another precision.
            parameters[name].data = weights[name].to(parameters[name])
        with torch.no_grad():
            yield
    finally:
        for name, tensor in own.items():
            parameters[name].data = tensor
        model.train(training)


class Teacher:
    """The weights that score a sample a second time, knowing more than the policy did when it wrote it.

    Kinds: `live` the policy's own. `start` those it began with. `snapshot` {every}: its own, taken over every so many
    steps (RLSD, arXiv:2604.03128: 10). `ema` {rate}: their moving average, by θ' ← (1 − rate) θ' + rate θ after every
    step (SDPO, arXiv:2601.20802: 0.05).

    Attributes:
        weights: by name of the parameter; None for `live`.
    """

    def __init__(self, model: Any, settings: dict, start: dict[str, Any]):
        self.model, self.settings = model, settings
        kind = settings["kind"]
        self.weights = None if kind == "live" else start if kind == "start" else copied(model)

    def after(self, step: int) -> None:
        import torch

        kind = self.settings["kind"]
        if kind not in ("ema", "snapshot") or (kind == "snapshot" and step % self.settings["every"]):
            return
        rate = self.settings["rate"] if kind == "ema" else 1.0
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in self.weights.items():
                tensor.lerp_(parameters[name].detach().to(tensor), rate)

    def state(self) -> dict[str, Any]:
        """What a resumed run must be given back."""
        return self.weights if self.settings["kind"] in ("ema", "snapshot") else {}

    def restore(self, state: dict[str, Any]) -> None:
        for name, tensor in state.items():
            self.weights[name].copy_(tensor)
