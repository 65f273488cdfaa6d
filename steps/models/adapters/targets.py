"""Which linear layers of a model an adapter changes."""

from steps.settings.adapters import ALL_LINEAR, IA3_MODULES

Shapes = dict[str, tuple[int, int]]  # (out, in) of linear layers, by module


def matches(module: str, entry: str) -> bool:
    """Whether an entry of target_modules means a module: its name, or the end of it from a point on."""
    return module == entry or module.endswith(f".{entry}")


def entries(adapter: dict) -> list[str] | str:
    """The target_modules of an adapter, those that it has by default where it names none."""
    return adapter.get("target_modules", IA3_MODULES if adapter["kind"] == "ia3" else ALL_LINEAR)


def targeted(adapter: dict, shapes: Shapes, where: str) -> Shapes:
    """The shapes of the linear layers that an adapter changes.

    Args:
        shapes: of every linear layer of the base (`checkpoints.linear_shapes`).
        where: what an error calls the adapter's settings.

    Raises:
        ValueError: an entry of target_modules or feedforward_modules means no linear layer. PEFT skips such an entry.
    """
    wanted, chosen = entries(adapter), shapes
    if wanted != ALL_LINEAR:
        for entry in wanted:
            if not any(matches(module, entry) for module in shapes):
                raise ValueError(
                    f"{where}.target_modules: {entry} is no linear layer of the model's blocks, which are"
                    f" {', '.join(sorted({name.rpartition('.')[2] for name in shapes}))}"
                )
        chosen = {module: shape for module, shape in shapes.items() if any(matches(module, e) for e in wanted)}
    for entry in adapter.get("feedforward_modules", ()):
        if not any(matches(module, entry) for module in chosen):
            raise ValueError(f"{where}.feedforward_modules: {entry} is not among target_modules; add it there")
    return chosen
