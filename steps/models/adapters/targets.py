"""Which linear layers of a model an adapter changes, by their names: routers, experts and towers are told by theirs."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from steps.settings.adapters import ALL_LINEAR, IA3_MODULES

Shapes = dict[str, tuple[int, int]]  # (out, in) of linear layers, by module
EMBEDDINGS = re.compile(r"emb|lm_head|^wte$|^wpe$")  # and output layers, by the last part of their names
OUTPUT = re.compile(r"lm_head|embed_out")  # output layers that are not tied
# What sends a token to experts, and scales what is shared: only where there are experts is a `gate` one.
ROUTERS = re.compile(r"(^|\.)(gate|shared_expert_gate|\w*router\w*)(\.|$)")
FUSED = "gate_up_proj"
OF_EXPERTS = re.compile(r"(^|\.)experts(\.|$)")
# What reads images and sound, and what turns them into tokens.
TOWERS = re.compile(r"(^|\.)(vision|visual|image|audio|speech|multi_modal|mm|embed_vision|embed_audio)\w*(\.|$)")
BLOCK = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")  # the first number of a name


def is_embedding(module: str) -> bool:
    """Whether a name is that of embeddings or of an output layer."""
    return bool(EMBEDDINGS.search(module.rpartition(".")[2]))


def matches(module: str, entry: str) -> bool:
    """Whether an entry means a module: its name, the end of it from a point on, or a pattern of either (`*.mlp.*`)."""
    if "*" in entry:
        return fnmatchcase(module, entry) or fnmatchcase(module, f"*.{entry}")
    return module == entry or module.endswith(f".{entry}")


def inside(name: str, entry: str) -> bool:
    """Whether a name is that of a module which an entry means, or of anything in one."""
    parts = name.split(".")
    return any(matches(".".join(parts[: end + 1]), entry) for end in range(len(parts)))


def entries(adapter: dict) -> list[str] | str:
    """The target_modules of an adapter, those that it has by default where it names none."""
    return adapter.get("target_modules", IA3_MODULES if adapter["kind"] == "ia3" else ALL_LINEAR)


def wanted(adapter: dict) -> list[str]:
    """The same as a list, without embeddings and output layers, which are no layers of blocks."""
    named = entries(adapter)
    return [ALL_LINEAR] if named == ALL_LINEAR else [entry for entry in named if not is_embedding(entry)]


def targeted_embeddings(adapter: dict) -> list[str]:
    """The entries of target_modules that name embeddings or the output layer."""
    named = entries(adapter)
    return [] if named == ALL_LINEAR else [entry for entry in named if is_embedding(entry)]


def of_blocks(names: Iterable[str], routed: bool = False) -> list[str]:
    """Of the names of linear layers those that all-linear means: no routers, no experts, no towers.

    Args:
        routed: there are experts beside them, as parameters.
    """
    names = list(names)
    routed = routed or any(OF_EXPERTS.search(name) for name in names)
    others = [TOWERS, OF_EXPERTS, ROUTERS] if routed else [TOWERS]
    return [name for name in names if not any(other.search(name) for other in others)]


def left_out(adapter: dict, name: str) -> bool:
    """Whether exclude_modules, layers_to_transform or modules_to_save keep an adapter from a layer."""
    if any(inside(name, entry) for entry in adapter.get("modules_to_save", ())):
        return True
    if any(inside(name, entry) for entry in adapter.get("exclude_modules", ())):
        return True
    blocks, number = adapter.get("layers_to_transform"), BLOCK.search(name)
    return bool(blocks) and (number is None or int(number[1]) not in blocks)


def targeted(adapter: dict, shapes: Shapes, where: str, experts: Iterable[str] = (), routed: bool = False) -> Shapes:
    """The shapes of the linear layers that an adapter changes.

    Args:
        shapes: of every linear layer of the base (`checkpoints.linear_shapes`), routers and towers among them, which
            all-linear leaves out.
        where: what an error calls the adapter's settings.
        experts: names of the parameters of experts that the adapter changes too.
        routed: there are experts as parameters, changed or not.

    Raises:
        ValueError: an entry of a setting means no linear layer, or none is left. PEFT skips such an entry.
    """
    experts = list(experts)
    blocks = of_blocks(shapes, routed)
    own: set[str] = set()
    for entry in wanted(adapter):
        # A name that text and towers share means the text's.
        meant = blocks if entry == ALL_LINEAR else [name for name in blocks if matches(name, entry)]
        meant = meant or [name for name in shapes if matches(name, entry)]
        # Files have the experts one by one, and a model two of their weights as one.
        fused = entry.rpartition(".")[2] == FUSED and any(OF_EXPERTS.search(name) for name in shapes)
        if not meant and not fused and not any(matches(name, entry) for name in experts):
            raise ValueError(
                f"{where}.target_modules: {entry} is no linear layer of the model's blocks, which are"
                f" {', '.join(sorted({name.rpartition('.')[2] for name in blocks}))}"
            )
        own.update(meant)
    for key in ("exclude_modules", "rank_pattern", "alpha_pattern"):
        for entry in adapter.get(key, ()):
            if not any(inside(name, entry) for name in (*own, *experts)):
                raise ValueError(f"{where}.{key}: {entry} is none of the layers that are changed; correct or remove it")
    numbers = {int(found[1]) for name in shapes if (found := BLOCK.search(name))}
    for number in adapter.get("layers_to_transform", ()):
        if number not in numbers:
            raise ValueError(
                f"{where}.layers_to_transform: {number} is no block; they are 0 to {max(numbers, default=0)}"
            )
    chosen = {name: shape for name, shape in shapes.items() if name in own and not left_out(adapter, name)}
    if not chosen and not targeted_embeddings(adapter) and not experts:
        raise ValueError(f"{where}: no linear layer is left to change; see target_modules and exclude_modules")
    for entry in adapter.get("feedforward_modules", ()):
        if not any(matches(module, entry) for module in chosen):
            raise ValueError(f"{where}.feedforward_modules: {entry} is not among target_modules; add it there")
    return chosen


def rank_of(adapter: dict, module: str, key: str = "r") -> int:
    """The rank of an adapter's change of a layer: its own of rank_pattern, else that of all."""
    own = [rank for entry, rank in adapter.get("rank_pattern", {}).items() if matches(module, entry)]
    return own[0] if own else adapter[key]
