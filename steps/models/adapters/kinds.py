"""What is done for each adapter kind of `steps.settings.adapters`: one entry of `KINDS`.

PEFT's configuration, how many weights of a layer are trained, what the settings must fit, and what becomes of the
weights that stay frozen.

A kind is one way to change a frozen weight W of shape (out, in). s is a scale, the rest is trained:

full     every weight itself
lora     W + s B A, s = alpha / r (arXiv:2106.09685)
rslora   as lora, s = alpha / sqrt(r) (arXiv:2312.03732)
dora     as lora, each row then scaled to a trained length (arXiv:2402.09353)
pissa    as lora; s B A starts as the r largest singular triplets of W, whose rest is frozen (arXiv:2404.02948)
milora   as pissa with the r smallest (arXiv:2406.09044)
qlora    as lora, W in 4 bits while it trains (arXiv:2305.14314)
adalora  W + s B E A, s = alpha / init_r; the least important entries of the diagonal E go (arXiv:2303.10512)
vera     W + diag(b) B diag(d) A; A and B are random, frozen and shared by all layers (arXiv:2310.11454)
oft      W R', R a block-diagonal rotation (arXiv:2306.07280)
boft     diag(s) W R', R a product of such rotations with the inputs permuted between (arXiv:2311.06243)
hra      W R, R a product of r reflections I − 2 u u' / |u|² (arXiv:2405.17484)
ia3      the outputs of keys and values and the inputs of the MLP's last layer scaled (arXiv:2205.05638)

Weight decay pulls what is trained to 0: that is back to the base for all but the scales of ia3 and boft, which are 1
there, for pissa and milora, whose part of W it takes away, and for hra, of whose vectors only the directions count.
Dropout in pissa drops the largest part of W: 0.15 of it raises the loss of fable's base from 0.44 to 0.80 before
anything is trained.

qlora saves memory, not time: the frozen layers take 7.75 times less, and are unpacked again at each use. Before that,
the whole model is in memory once, unquantised. The 4 bits are there in training only: what is saved is a LoRA of the
unquantised base, and merging adds it to the unquantised weights, so that the merged model is not quite the one that
was trained.

A step of fable's base takes this many times that of full (`python -m benches.adapters`, one core): ia3 0.83,
pissa 1.07, oft 1.08, lora and rslora 1.09, milora 1.10, adalora 1.16, qlora 1.21, dora 1.52,
boft of two factors 1.73, vera of rank 256 1.86. At this size the gradient of frozen weights is not
what a step is spent on.

Everything that is not a setting is PEFT's default, except where noted. Imports neither torch nor PEFT before a
configuration is asked for: the graph checks settings, and the memory estimate counts weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from steps.models.adapters.targets import (
    OF_EXPERTS,
    OUTPUT,
    Shapes,
    entries,
    matches,
    rank_of,
    targeted,
    targeted_embeddings,
)
from steps.settings.adapters import ADAPTERS, ALL_LINEAR, IA3_FEEDFORWARD


@dataclass(frozen=True)
class Kind:
    """How an adapter kind is made.

    Attributes:
        config: PEFT's configuration, from the adapter's settings, what all kinds share (task type and target modules),
            the seed, and the optimizer steps planned.
        trained: weights that are trained in one layer, from the settings, the module's name, and out and in.
        check: refuses what PEFT would ignore, change, or take and then fail at: of the settings, the layers that are
            changed, and what an error calls the settings.
        four_bit: the frozen weights are in 4 bits while it trains.
        triplets: which singular triplets of a weight it starts as, "largest" or "smallest".
        transposed: PEFT changes with it GPT-2's Conv1D too, whose weights are (in, out).
    """

    config: Callable[[dict, dict, int, int], Any]
    trained: Callable[[dict, str, int, int], int]
    check: Callable[[dict, Shapes, str], None] | None = None
    four_bit: bool = False
    triplets: str | None = None
    transposed: bool = False


def check(
    adapter: dict, shapes: Shapes, where: str = "adapter", experts: Iterable[str] = (), routed: bool = False
) -> None:
    """Refuse what PEFT would ignore, change, or take and then fail at.

    Args:
        adapter: settings that the schema has accepted.
        shapes: of every linear layer of the base (`checkpoints.linear_shapes`).
        where: what the message calls the settings.
        experts, routed: see `targets.targeted`.

    Raises:
        ValueError: naming the setting, the layer that it does not fit, and the fix.
    """
    kind = ADAPTERS[adapter["kind"]]
    if adapter["kind"] == "full":
        return
    named = targeted_embeddings(adapter)
    if named and not kind.experts:
        raise ValueError(
            f"{where}.target_modules: {named[0]} is no layer that kind {adapter['kind']} changes; name it in"
            " modules_to_save, or write kind: lora"
        )
    if heads := [entry for entry in named if OUTPUT.search(entry)]:
        raise ValueError(
            f"{where}.target_modules: {heads[0]} is an output layer, whose weight TRL reads without an adapter's change"
            " of it; name it in modules_to_save"
        )
    modules = targeted(adapter, shapes, where, experts, routed)
    if modules and (own := KINDS[adapter["kind"]].check):
        own(adapter, modules, where)


def trained_weights(adapter: dict, shapes: Shapes) -> int:
    """Weights that an adapter trains on a model with linear layers of such shapes, experts by their own."""
    modules = targeted(adapter, shapes, "adapter")
    if entries(adapter) == ALL_LINEAR and ADAPTERS[adapter["kind"]].experts and adapter.get("experts") != "frozen":
        modules |= {name: shape for name, shape in shapes.items() if OF_EXPERTS.search(name)}
    of_layer = KINDS[adapter["kind"]].trained
    return sum(of_layer(adapter, module, out, width) for module, (out, width) in modules.items())


def peft_config(adapter: dict, seed: int, steps: int, targets: dict | None = None) -> Any:
    """PEFT's configuration of an adapter.

    Args:
        seed: draws what is random in the adapter.
        steps: optimizer steps planned.
        targets: its keys that say where, in place of `target_modules` as it stands (`attach`).
    """
    shared = {"task_type": "CAUSAL_LM"} | (targets or {"target_modules": entries(adapter)})
    return KINDS[adapter["kind"]].config(adapter, shared, seed, steps)


# --- low rank ------------------------------------------------------------------------------------


def lora(**options: bool) -> Callable[[dict, dict, int, int], Any]:
    """W + s B A, with options of PEFT's LoraConfig."""

    def config(adapter: dict, shared: dict, seed: int, steps: int) -> Any:
        import peft

        return peft.LoraConfig(
            r=adapter["r"],
            lora_alpha=adapter["alpha"],
            lora_dropout=adapter.get("dropout", 0.0),
            rank_pattern=patterns(adapter, "rank_pattern"),
            alpha_pattern=patterns(adapter, "alpha_pattern"),
            **options,
            **shared,
        )

    return config


def patterns(adapter: dict, key: str) -> dict[str, Any]:
    """As PEFT has them: regular expressions for the ends of names."""
    return {re.escape(entry): value for entry, value in adapter.get(key, {}).items()}


def of_lora(adapter: dict, module: str, out: int, width: int) -> int:
    """r (in + out) (arXiv:2106.09685, section 4.2)."""
    return rank_of(adapter, module) * (width + out)


def of_dora(adapter: dict, module: str, out: int, width: int) -> int:
    """And a length for each row of W."""
    return of_lora(adapter, module, out, width) + out


def check_rank(adapter: dict, modules: Shapes, where: str) -> None:
    """No change of a weight has a higher rank than the weight."""
    key = ADAPTERS[adapter["kind"]].rank
    assert key, f"kind {adapter['kind']} has no rank"
    # The one that has the least to spare.
    module = min(modules, key=lambda name: min(modules[name]) - rank_of(adapter, name, key))
    if (rank := rank_of(adapter, module, key)) > min(modules[module]):
        raise ValueError(f"{where}.{key}: {rank} is above {min(modules[module])}, the rank of {module}; lower it")


def adalora(adapter: dict, shared: dict, seed: int, steps: int) -> Any:
    """W + s B E A, pruned between two shares of the steps."""
    import peft

    tinit, tfinal = round(adapter["tinit"] * steps), round(adapter["tfinal"] * steps)
    pruning = range(tinit + 1, steps - tfinal)
    if steps and not any(step % adapter["every"] == 0 for step in pruning):
        raise ValueError(
            f"adapter.every: no multiple of {adapter['every']} lies between tinit and tfinal of this run, steps"
            f" {tinit} and {steps - tfinal} of {steps}; lower it"
        )
    return peft.AdaLoraConfig(
        init_r=adapter["init_r"],
        target_r=adapter["target_r"],
        lora_alpha=adapter["alpha"],
        lora_dropout=adapter.get("dropout", 0.0),
        tinit=tinit,
        tfinal=tfinal,
        deltaT=adapter["every"],
        orth_reg_weight=adapter["orthogonality"],
        total_step=max(steps, 1),
        **shared,
    )


def of_adalora(adapter: dict, module: str, out: int, width: int) -> int:
    """init_r (in + out + 1)."""
    return adapter["init_r"] * (width + out + 1)


def check_adalora(adapter: dict, modules: Shapes, where: str) -> None:
    """There is rank to prune, and time for it."""
    check_rank(adapter, modules, where)
    if adapter["target_r"] >= adapter["init_r"]:
        raise ValueError(
            f"{where}.target_r: {adapter['target_r']} is not below init_r {adapter['init_r']}, from which it is pruned"
        )
    if adapter["tinit"] + adapter["tfinal"] >= 1:
        raise ValueError(
            f"{where}.tinit: {adapter['tinit']} + tfinal {adapter['tfinal']} leave no share of the steps to prune in;"
            " lower one"
        )


# --- scales --------------------------------------------------------------------------------------


def vera(adapter: dict, shared: dict, seed: int, steps: int) -> Any:
    """W + diag(b) B diag(d) A."""
    import peft

    # The projections are the random part of this adapter: another seed draws others.
    return peft.VeraConfig(
        r=adapter["r"],
        d_initial=adapter.get("d_initial", 0.1),
        vera_dropout=adapter.get("dropout", 0.0),
        projection_prng_key=seed,
        **shared,
    )


def of_vera(adapter: dict, module: str, out: int, width: int) -> int:
    """r + out (arXiv:2310.11454, section 3.2)."""
    return adapter["r"] + out


def check_vera(adapter: dict, modules: Shapes, where: str) -> None:
    """Something is trained."""
    if adapter.get("d_initial") == 0:
        raise ValueError(f"{where}.d_initial: at 0 no gradient reaches the adapter; PEFT's default is 0.1")


def ia3(adapter: dict, shared: dict, seed: int, steps: int) -> Any:
    """Activations scaled."""
    import peft

    scaled = adapter.get("feedforward_modules", IA3_FEEDFORWARD)
    # PEFT wants them as target_modules has them.
    names = [name for name in shared["target_modules"] if any(matches(name, entry) for entry in scaled)]
    return peft.IA3Config(**shared, feedforward_modules=names)


def of_ia3(adapter: dict, module: str, out: int, width: int) -> int:
    """A scale for each output, of the feedforward modules for each input."""
    scaled = adapter.get("feedforward_modules", IA3_FEEDFORWARD)
    return width if any(matches(module, entry) for entry in scaled) else out


# --- rotations -----------------------------------------------------------------------------------


def oft(adapter: dict, shared: dict, seed: int, steps: int) -> Any:
    """W R'."""
    import peft

    # PEFT's default approximates the inverse by a series, whose result is not orthogonal.
    return peft.OFTConfig(oft_block_size=adapter["block_size"], use_cayley_neumann=False, **shared)


def of_oft(adapter: dict, module: str, out: int, width: int) -> int:
    """A skew-symmetric block of size b for each b inputs (arXiv:2306.07280)."""
    size = adapter["block_size"]
    return width // size * size * (size - 1) // 2


def check_oft(adapter: dict, modules: Shapes, where: str) -> None:
    """Blocks fit the layers."""
    if adapter.get("dropout"):
        raise ValueError(f"{where}.dropout: PEFT's oft layers ignore it; remove it")
    check_blocks(adapter, modules, where)


def boft(adapter: dict, shared: dict, seed: int, steps: int) -> Any:
    """diag(s) W R', R a product."""
    import peft

    return peft.BOFTConfig(
        boft_block_size=adapter["block_size"],
        boft_n_butterfly_factor=adapter["factors"],
        boft_dropout=adapter.get("dropout", 0.0),
        **shared,
    )


def of_boft(adapter: dict, module: str, out: int, width: int) -> int:
    """A full block of size b for each b inputs and each factor, and a scale for each output."""
    return adapter["factors"] * width * adapter["block_size"] + out


def hra(adapter: dict, shared: dict, seed: int, steps: int) -> Any:
    """W R, R a product of reflections."""
    import peft

    return peft.HRAConfig(r=adapter["r"], **shared)


def of_hra(adapter: dict, module: str, out: int, width: int) -> int:
    """A vector of the inputs for each reflection (arXiv:2405.17484)."""
    return adapter["r"] * width


def check_hra(adapter: dict, modules: Shapes, where: str) -> None:
    """The start is the base: each reflection there is undone by its neighbour."""
    check_rank(adapter, modules, where)
    if adapter["r"] % 2:
        raise ValueError(
            f"{where}.r: {adapter['r']} is odd, so that hra would not start at its base; write an even number"
        )


def check_blocks(adapter: dict, modules: Shapes, where: str) -> None:
    """Blocks and the factors of them fit the layers, and a dropout of blocks drops any."""
    size, factors, dropout = adapter["block_size"], adapter.get("factors", 1), adapter.get("dropout", 0.0)
    for module, (_, width) in modules.items():
        if width % size:
            raise ValueError(f"{where}.block_size: {size} does not divide {width}, the input width of {module}")
        if factors > 1 and (size % 2 or width % (size * 2 ** (factors - 1))):
            raise ValueError(
                f"{where}.factors: {factors} with block_size {size} do not fit {width}, the input width of"
                f" {module}; block_size must be even, and {2 ** (factors - 1)} times it divide the width"
            )
        if 0 < dropout * (width // size) < 1:
            raise ValueError(
                f"{where}.dropout: {dropout} of the {width // size} blocks of {module} is less than one block, and"
                " nothing would be dropped; raise it or remove it"
            )


KINDS = {
    "lora": Kind(lora(), of_lora, check_rank, transposed=True),
    "rslora": Kind(lora(use_rslora=True), of_lora, check_rank, transposed=True),
    "dora": Kind(lora(use_dora=True), of_dora, check_rank, transposed=True),
    "pissa": Kind(lora(), of_lora, check_rank, triplets="largest", transposed=True),
    "milora": Kind(lora(), of_lora, check_rank, triplets="smallest", transposed=True),
    "qlora": Kind(lora(), of_lora, check_rank, four_bit=True),
    "adalora": Kind(adalora, of_adalora, check_adalora, transposed=True),
    "vera": Kind(vera, of_vera, check_vera, transposed=True),
    "oft": Kind(oft, of_oft, check_oft),
    "boft": Kind(boft, of_boft, check_blocks),
    "hra": Kind(hra, of_hra, check_hra),
    "ia3": Kind(ia3, of_ia3, transposed=True),
}
