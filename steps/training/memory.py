"""How much memory a training needs, told before it starts: from its model's shapes and its settings, in bytes.

Every term is a formula whose docstring says where it is from. They are summed as if all were needed at once, for one
process, which for most trainings is true in the first backward pass after the first step. What they leave out (the
allocator's fragments, buffers of libraries) is what `preflight.headroom` is for; how near they come to what the dry
step measures is in each preflight.json, as `ratio`.

Counted are decoders of Llama's kind (Llama, Qwen, Mistral, Gemma and their like): attention with grouped keys, a gated
MLP, RMSNorm. Experts of a mixture count with their weights; of their activations, as many as a token is sent to.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from steps.models import checkpoints
from steps.models.adapters import kinds
from steps.models.adapters.targets import OUTPUT, inside, is_embedding
from steps.models.files import header, read_config
from steps.models.head import AT_ONCE, WIDE
from steps.settings.methods import METHODS
from steps.settings.reinforcement import EVAL_ROWS
from steps.settings.sampling import truncation
from steps.settings.stages import ON_POLICY
from steps.settings.training import APART, SAVE_DTYPES, SHARDED

FP32, BF16 = 4, 2
GIB = 2**30
# NF4 in blocks of 64 with 8-bit scales of those: 0.5 + 1/64 + 4/(64 x 256) bytes (arXiv:2305.14314, section 3).
NF4 = 0.516
# Both moments of AdamW in fp32; in 8 bits with an fp32 scale for 256 values (arXiv:2110.02861, section 2), which the
# paged one may move to the host's memory.
OPTIMIZERS = {"adamw": 8.0, "adamw_8bit": 2 * (1 + 4 / 256), "paged_adamw_8bit": 2 * (1 + 4 / 256)}
# The interpreter with its libraries: 0.6 GiB on a CPU here (resident, before any model). On a GPU the CUDA context, its
# kernels and cuBLAS's workspace, by NVIDIA's and PyTorch's documents; not measured here.
RUNTIME = {"cpu": 0.6 * GIB, "cuda": 0.7 * GIB}
# Logits that TRL's fused head holds at once: a tile of tokens x vocabulary (trl/kernels/chunked_logprob.py).
TILE = (4096, 32768)
# As in steps/distillation/overlap.py: logits compared at a time.
COMPARED = 2**25
# Of the table that the target `preflight` shows.
HEAD = "".join(
    f"{title:{width}}"
    for title, width in (
        ("checkpoint", "<28"),
        ("stage", "<9"),
        ("estimate", ">12"),
        ("measured", ">12"),
        ("usable GiB", ">12"),
        ("s/step", ">12"),
        ("hours", ">8"),
        ("  verdict", ""),
    )
)


@dataclass(frozen=True)
class Shape:
    """What of a model decides how much memory it takes.

    Attributes:
        parameters: all of them, tied ones once.
        linear: (out, in) of every linear layer of its blocks, by module.
        heads: of queries, in a layer.
        queries, keys: width of all heads' queries, and of keys (or values).
        inner: width of the MLP; with experts, of all those that one token is sent to.
        normed: queries and keys are normalised.
        eager: transformers has no other attention for the family.
        sizes: weights of every module.
    """

    parameters: int
    linear: dict[str, tuple[int, int]]
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    queries: int
    keys: int
    inner: int
    normed: bool
    eager: bool = False
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def in_layers(self) -> int:
        """Weights of all linear layers of the blocks."""
        return sum(out * width for out, width in self.linear.values())


def read_shape(folder: Path, attention: bool = True) -> Shape:
    """The shape of a checkpoint, from its config.json and the headers of its safetensors files; an adapter's base's.

    Args:
        attention: ask transformers, whose import takes seconds, which attention the family has.

    Raises:
        ValueError: its config lacks what the estimate rests on.
    """
    folder = checkpoints.full_checkpoint(folder)
    config = read_config(folder / checkpoints.CONFIG)
    config = config.get("text_config", config)
    needed = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    for key in needed:
        if key not in config:
            raise ValueError(
                f"{folder / 'config.json'}: has no {key}, which the estimate of preflight rests on; set"
                " preflight.required to false for models of another kind"
            )
    parameters = 0
    sizes: dict[str, int] = {}
    for path in checkpoints.weight_files(folder):
        for name, entry in header(path).items():
            module = name.rpartition(".")[0]
            sizes[module] = sizes.get(module, 0) + math.prod(entry["shape"])
            parameters += math.prod(entry["shape"])
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    experts = config.get("num_experts_per_tok")
    return Shape(
        parameters=parameters,
        linear=checkpoints.linear_shapes(folder),
        vocabulary=config["vocab_size"],
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        queries=heads * size,
        keys=(config.get("num_key_value_heads") or heads) * size,
        inner=config.get("moe_intermediate_size", config["intermediate_size"]) * experts
        if experts
        else config["intermediate_size"],
        normed=any(module.endswith("k_norm") for module in sizes),
        eager=attention and "model_type" in config and only_eager(folder),
        sizes=sizes,
    )


def only_eager(folder: Path) -> bool:
    """Whether transformers computes a model's attention eagerly where nothing else is asked for."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    config = type(checkpoints.load_config(folder))
    return config in MODEL_FOR_CAUSAL_LM_MAPPING and not MODEL_FOR_CAUSAL_LM_MAPPING[config]._supports_sdpa


# --- weights, gradients, optimizer ---------------------------------------------------------------


def trained(shape: Shape, adapter: dict) -> int:
    """Weights that are trained: all that are not frozen, or those of an adapter as `steps/models/adapters/kinds.py`
    counts them, and the modules that it trains whole."""
    of = adapter.get("freeze" if adapter["kind"] == "full" else "modules_to_save", ())
    named = sum(size for module, size in shape.sizes.items() if any(inside(module, entry) for entry in of))
    if adapter["kind"] == "full":
        return shape.parameters - named
    return kinds.trained_weights(adapter, shape.linear) + named + len(adapter.get("new_tokens", ())) * shape.hidden


def saved_bytes(settings: dict) -> int:
    """Bytes of a trained weight in the checkpoint."""
    return FP32 if SAVE_DTYPES[settings.get("save_dtype", "float32")] == "float32" else BF16


def weights(shape: Shape, adapter: dict) -> float:
    """The model as a training holds it: fp32 masters, frozen ones too; the linear layers of qlora in 4 bits."""
    base = shape.parameters * FP32
    if adapter["kind"] == "full":
        return base
    if kinds.KINDS[adapter["kind"]].four_bit:
        base -= shape.in_layers * (FP32 - NF4)
    return base + trained(shape, adapter) * FP32


def optimizer(shape: Shape, adapter: dict, name: str) -> float:
    """Its state, of the trained weights. adafactor keeps a mean for each row and column (arXiv:1804.04235,
    section 3)."""
    count = trained(shape, adapter)
    if name != "adafactor":
        return count * OPTIMIZERS[name]
    if adapter["kind"] != "full":
        # The side of an adapter's matrix is that of its layer: no more than 4 bytes for each.
        return count * FP32
    sides = sum(out + width for out, width in shape.linear.values())
    return FP32 * (sides + 2 * (shape.vocabulary + shape.hidden))


def casts(shape: Shape, bf16: bool, checkpointing: bool) -> float:
    """bf16 copies of fp32 weights that autocast makes for a forward pass, held until the backward one has used them.

    https://docs.pytorch.org/docs/stable/amp.html: weights are cast once per autocast block. With gradient checkpointing
    the graph holds those of one block of layers at a time.
    """
    if not bf16:
        return 0
    head = shape.vocabulary * shape.hidden
    return BF16 * (shape.in_layers / (shape.layers if checkpointing else 1) + head)


# --- activations and logits ----------------------------------------------------------------------


def layer_activations(shape: Shape, bf16: bool) -> float:
    """Bytes for each token that one decoder layer saves for its backward pass, with sdpa or flash attention.

    After Korthikanti et al. 2022 (arXiv:2205.05198, section 4.1), counted anew for what transformers' layers of Llama's
    kind save: two norms with input and normalised input (4 h, fp32 under autocast too), the inputs of the linear layers
    (h for queries, keys and values, q for the output, h for gate and up: under autocast a bf16 copy for each of them,
    5 h + q), queries, keys and values of attention (its output is the output layer's input), with normalised queries
    and keys their input and normalised input, and the MLP's gate, its activation, up and their product (4 i). Attention
    saves no square of the length: it is computed again (arXiv:2205.14135, section 3.1).
    """
    h, q, k, i = shape.hidden, shape.queries, shape.keys, shape.inner
    normed = (q + k) * (1 if shape.normed else 0)
    if bf16:
        return FP32 * (4 * h + normed) + BF16 * (5 * h + q + q + 2 * k + normed + 4 * i)
    return FP32 * (4 * h + h + q + h + q + 2 * k + 2 * normed + 4 * i)


def squares(shape: Shape, length: int, bf16: bool) -> float:
    """Bytes for each token that eager attention saves besides in a layer: probabilities of every head and place in fp32
    with what autocast makes of them, and keys and values repeated for all heads
    (`eager_attention_forward` of transformers' layers of Llama's kind)."""
    number = BF16 if bf16 else FP32
    return shape.heads * length * (FP32 + (BF16 if bf16 else 0)) + number * 2 * (shape.queries - shape.keys)


def activations(
    shape: Shape, rows: int, length: int, bf16: bool, checkpointing: bool, masked: bool, eager: bool = False
) -> float:
    """What the forward pass of a batch saves: all layers, or with checkpointing each one's input (Chen et al. 2016,
    arXiv:1604.06174) and one whole layer while it is computed again; the last norm's two; a mask of rows x length^2 (a
    byte, and its additive form) where rows are packed or padded."""
    tokens = rows * length
    layer = layer_activations(shape, bf16) + (squares(shape, length, bf16) if eager else 0)
    saved = shape.layers * FP32 * shape.hidden + layer if checkpointing else shape.layers * layer
    mask = rows * length**2 * (1 + (BF16 if bf16 else FP32)) if masked else 0
    return tokens * (saved + 2 * FP32 * shape.hidden) + mask


# fp32 numbers for each place and token of the vocabulary that are there at once at the worst moment of a loss: logits,
# what is computed of them, and gradients of either. Counted by PyTorch's allocator on a CPU with a vocabulary beside
# which nothing else weighs (`tests/training/test_memory.py`).
LOGITS = {
    # transformers' cross-entropy: logits, log_softmax, and a gradient
    "cross_entropy": 3.0,
    # transformers' LabelSmoother, of all logits
    "smoothed": 4.0,
    # steps/distillation/distill.py
    "forward_kl": 5.0,
    # steps/reinforcement/rl_trainer.py: plain policy gradients, and with the distribution of a self-teacher, where all
    # samples are taught
    "policy": 3.0,
    # of tokens drawn from a part of the vocabulary
    "policy_cut": 3.3,
    "self_distilled": 6.0,
    # steps/distillation/opd_trainer.py, by support and divergence
    "sampled": 4.0,
    "top_k": 4.0,
    "tail": 6.0,
    "full": 7.0,
    "full_jsd": 13.5,
}
# The diagnostics of opd (overlap.measure), for each of the logits that are compared at a time.
MEASURED = 5.0
# Of sampling, bytes for each row and token of the vocabulary: logits, the same over the temperature, and probabilities
# and their sums of 8 bytes (steps/engines/transformers.py).
SAMPLED = FP32 + FP32 + 8 + 8


def objective(stage: str, settings: dict) -> str | None:
    """What a stage does with logits, a key of LOGITS; a reward model has none."""
    if stage == "reward":
        return None
    if stage == "rl":
        plain = "policy_cut" if truncation(settings) else "policy"
        return "self_distilled" if METHODS[settings["method"]].distils else plain
    if stage == "opd":
        kind = settings["support"]["kind"]
        if kind == "top_k":
            return "tail" if settings["support"]["rest"] == "tail" else "top_k"
        return "full_jsd" if kind == "full" and settings["divergence"]["kind"] == "jsd" else kind
    if settings.get("objective") == "forward_kl":
        return "forward_kl"
    return "smoothed" if settings.get("label_smoothing") else "cross_entropy"


def wraps_head(shape: Shape, adapter: dict) -> bool:
    """Whether an adapter has something beside the weight of the output layer: it is not `head.is_plain`."""
    if adapter["kind"] == "full" or adapter.get("new_tokens"):
        return adapter["kind"] != "full"
    tables = [m for m, size in shape.sizes.items() if is_embedding(m) and size >= shape.vocabulary * shape.hidden]
    whole = adapter.get("modules_to_save", ())
    if len(tables) == 1:  # tied
        return any(is_embedding(entry) for entry in whole)
    return any(OUTPUT.search(module) and inside(module, entry) for module in tables for entry in whole)


def logits(
    stage: str, settings: dict, shape: Shape, rows: int, length: int, device: str, half: bool, apart: bool = False
) -> float:
    """What a loss needs beside the activations of the model.

    Cross-entropy and plain policy gradients go through TRL's fused head on a GPU: a tile of logits and its gradient,
    and the gradients of the last states and of the head in fp32 (trl/kernels/chunked_logprob.py). What is measured
    under way (trajectory, buckets, resample) reads logits without gradients, in full. Logits of a wide vocabulary are
    otherwise there some places at a time, with the same gradients (steps/models/head.py). Where an adapter is beside
    the head's weight, or labels are smoothed, all of them are there.
    """
    kind = objective(stage, settings)
    if kind is None:
        return 0
    written = written_tokens(stage, settings)
    places = rows * (length if written is None else written + 1)
    adapter = settings.get("adapter", {"kind": "full"})
    wide = shape.vocabulary >= WIDE and not (apart or wraps_head(shape, adapter) or kind == "smoothed")
    at_once = max(1, AT_ONCE[device] // shape.vocabulary) if wide else places
    whole = min(places, at_once) * shape.vocabulary * FP32
    summed = FP32 * shape.hidden * (2 * places + shape.vocabulary) if wide else 0
    if device == "cuda" and kind in ("cross_entropy", "policy") and not adapter.get("new_tokens"):
        tile = min(places, TILE[0]) * min(shape.vocabulary, TILE[1]) * (BF16 + FP32)
        fused = tile + FP32 * shape.hidden * (2 * places + shape.vocabulary)
        looks = any(settings.get(key) for key in ("trajectory", "buckets", "resample"))
        return max(fused, 2 * whole if looks else 0)
    # Under autocast the model's own logits are there too, in half of the width.
    number = LOGITS[kind] + (0.5 if half else 0.0)
    measured = MEASURED * FP32 * min(places * shape.vocabulary, COMPARED) if stage == "opd" else 0
    if wide:
        return max(number * whole, MEASURED * whole if stage == "opd" else 0) + summed
    return number * whole + measured


def written_tokens(stage: str, settings: dict) -> int | None:
    """Tokens of the longest response that a policy writes; None where it writes none."""
    if stage not in ON_POLICY:
        return None
    horizon = settings.get("horizon")
    return horizon["tokens"] if horizon else settings["max_new_tokens"]


# --- what a policy holds besides -----------------------------------------------------------------


def copies(stage: str, settings: dict) -> int:
    """Copies of the trained weights beside the model: its start, and those of `self_teacher`."""
    if stage != "rl":
        return 0
    kin = settings.get(settings["method"])
    kind = kin["teacher"]["kind"] if kin else None
    judged = any(reward["kind"] == "self" for reward in settings["rewards"].values())
    start = bool(settings["kl"] or settings["watch_kl"] or judged or kind == "start")
    return start + (kind in ("ema", "snapshot"))


def sampling(shape: Shape, rows: int, prompts: int, prompt: int, written: int, half: bool) -> float:
    """What writing needs: keys and values of all tokens in all layers (Pope et al. 2022, arXiv:2211.05102, section 3.3;
    keys come out of the rotary embedding in fp32 under autocast), the logits of a place, and of the prompts one layer.
    """
    entry = shape.keys * (FP32 + (BF16 if half else FP32))
    cache = rows * (prompt + written) * shape.layers * entry
    reading = prompts * prompt * FP32 * (3 * shape.inner + 4 * shape.hidden)
    return cache + rows * shape.vocabulary * SAMPLED + reading


# --- all of it -----------------------------------------------------------------------------------


def needs(
    stage: str,
    settings: dict,
    shape: Shape,
    teachers: Sequence[Shape] = (),
    judge: Shape | None = None,
    *,
    prompt_tokens: int,
    kind: str,
    processes: int,
    device: str,
    half: bool,
    on_device: float = 0,
) -> dict[str, float]:
    """Bytes that one process of a training needs, by term, and "total".

    What is shared out among processes: of ddp the rows of a forward pass, and its gradients are there twice, once in
    buckets (gradient_as_bucket_view in PyTorch's documents of DistributedDataParallel); of zero2 also gradients and
    optimizer, of zero3 and fsdp the weights too (Rajbhandari et al. 2020, arXiv:1910.02054, figure 1), of which two
    blocks and the head are whole while they are used.

    Args:
        teachers: of stage opd.
        judge: the reward model of stage rl.
        prompt_tokens: of the longest prompt, in the stages that sample.
        kind, processes: of `launch`.
        device: cpu or cuda.
        half: trained under autocast, in bf16 or fp16.
        on_device: bytes of a whole GPU, or of the machine's memory, of which vLLM takes its share; on a CPU that is for
            keys and values alone, and its copy of the weights is beside it (`steps.engines.vllm_rollouts.Colocated`).
    """
    adapter = settings.get("adapter", {"kind": "full"})
    count = trained(shape, adapter)
    spread = processes if kind in SHARDED else 1
    spread_state = processes if kind in APART else 1
    rows = -(-settings["batch_size"] // processes) * (2 if stage == "reward" else 1)
    written = written_tokens(stage, settings)
    length = settings["max_length"] if written is None else prompt_tokens + written
    checkpointing = settings["gradient_checkpointing"]
    masked = written is not None or settings.get("packing", True)
    attention = settings.get("attention", "auto")
    eager = attention == "eager" or (attention == "auto" and shape.eager)

    whole = FP32 * (2 * shape.in_layers / shape.layers + shape.vocabulary * shape.hidden) if spread > 1 else 0
    terms = {
        "runtime": RUNTIME[device],
        "weights": weights(shape, adapter) / spread + whole,
        "copies": copies(stage, settings) * count * FP32 / spread,
        "gradients": count * FP32 * (2 if kind == "ddp" else 1) / spread_state,
        "optimizer": optimizer(shape, adapter, settings["optimizer"]) / spread_state,
        "casts": casts(shape, half, checkpointing or spread > 1),
        "activations": activations(shape, rows, length, half, checkpointing, masked, eager),
        "logits": logits(stage, settings, shape, rows, length, device, half, kind in APART),
    }
    held = sorted((teacher.parameters * (FP32 if device == "cpu" else BF16) for teacher in teachers), reverse=True)
    terms["teachers"] = sum(held[: settings.get("resident") or len(held)])
    if judge:
        terms["judge"] = judge.parameters * (FP32 if device == "cpu" else BF16)
    if written is not None:
        samples = -(-settings["prompts"] * settings["generations"] // processes)
        at_once = min(settings["sample_batch"], samples)
        sampler = settings["sampler"]
        if sampler["kind"] == "transformers":
            of_prompts = max(1, at_once // settings["generations"])
            terms["sampling"] = sampling(shape, at_once, of_prompts, prompt_tokens, written, half)
            if settings.get("eval_steps"):
                # One response to each held-out question.
                asked = min(settings["sample_batch"], -(-settings.get("eval_rows", EVAL_ROWS) // processes))
                terms["sampling"] = max(terms["sampling"], sampling(shape, asked, asked, prompt_tokens, written, half))
        elif sampler["mode"] == "colocate":
            copy = shape.parameters * (BF16 if half else FP32) if device == "cpu" else 0
            terms["vllm"] = sampler["memory"] * on_device + copy
    passing = sum(terms[name] for name in ("gradients", "casts", "activations", "logits"))
    always = sum(terms.values()) - passing - terms.get("sampling", 0)
    return terms | {"total": always + max(passing, terms.get("sampling", 0))}
