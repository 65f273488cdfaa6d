"""What a method of reinforcement learning is: one module each, found by the name that `rl.method` gives.

The facts of a method (label, paper, what its teacher gives) are in steps/settings/methods.py; its module has its
formulas as pure functions and a class `Method`, which says where they act in a step: see `interface`.
"""

from importlib import import_module
from typing import Any


def method_of(settings: dict) -> Any:
    """The method of a recipe of stage rl: an `interface.Method`."""
    return import_module(f"steps.reinforcement.methods.{settings['method']}").Method(settings)
