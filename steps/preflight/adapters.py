"""What becomes of each kind of adapter on the model at hand."""

import contextlib
import io
from typing import Any

from steps.models.adapters.attach import attach, find_targets, weight_counts
from steps.models.adapters.frozen import linear_layers
from steps.models.adapters.kinds import KINDS
from steps.models.files import one_line
from steps.preflight.properties import Property
from steps.settings.adapters import ADAPTERS

# One of each kind, as small as fits any model.
ADAPTERS_TRIED = {
    **{kind: {"kind": kind, "r": 2, "alpha": 4} for kind in ("lora", "rslora", "dora", "pissa", "milora", "qlora")},
    "adalora": {
        "kind": "adalora", "init_r": 3, "target_r": 2, "alpha": 4, "tinit": 0.1, "tfinal": 0.1, "every": 1,
        "orthogonality": 0.5,
    },
    "oft": {"kind": "oft", "block_size": 4},
    "boft": {"kind": "boft", "block_size": 4, "factors": 1},
    "hra": {"kind": "hra", "r": 2},
    "vera": {"kind": "vera", "r": 2},
    "ia3": {"kind": "ia3"},
}  # fmt: skip


def attached(model: Any) -> dict[str, str]:
    """What becomes of each kind of adapter on the model: how many linear layers it changes, or why it is refused.

    Tried on a copy without weights, but for kinds that start from them: they change the layers that lora does.
    """
    import torch
    from transformers import AutoModelForCausalLM

    found = {"full": f"all {model.num_parameters():,} weights"}
    linear = len(linear_layers(model))
    for kind, adapter in ADAPTERS_TRIED.items():
        like = "lora" if KINDS[kind].four_bit or KINDS[kind].triplets else kind
        try:
            # What a training would say of the layers that stay is in the numbers here.
            with contextlib.redirect_stdout(io.StringIO()):
                find_targets(model, adapter)
                if like == kind:
                    with torch.device("meta"):
                        copy = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
                    found[kind] = changed(attach(copy, adapter, seed=0, steps=100), linear)
                else:
                    found[kind] = found[like]
        except ValueError as error:
            found[kind] = f"refused: {error}"
        # PEFT raises a dozen classes for layers that it does not know.
        except Exception as error:
            found[kind] = f"refused: PEFT has it not for this model ({one_line(error)})"
    assert found.keys() == ADAPTERS.keys(), "a kind of adapter is not tried"
    return found


def changed(wrapped: Any, linear: int) -> str:
    """What of a model an adapter changes."""
    layers, experts = wrapped.base_model.targeted_module_names, wrapped.base_model.targeted_parameter_names
    beside = f" and {len(experts)} parameters of experts" if experts else ""
    return f"{len(layers)} of {linear} linear layers{beside}, {weight_counts(wrapped)['trained']:,} weights"


def lines(found: dict[str, str]) -> list[Property]:
    """Kinds with the same outcome share a line."""
    kinds: dict[str, list[str]] = {}
    for kind, outcome in found.items():
        kinds.setdefault(outcome, []).append(kind)
    return [Property(f"adapter {', '.join(own)}", outcome) for outcome, own in kinds.items()]
