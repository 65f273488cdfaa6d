"""Peak memory of a step of sft, rl and opd on a model of a wide vocabulary: all logits at once, and some at a time.

before  the logits of a pass are there as a whole, as below `steps.models.head.WIDE` entries
after   some places at a time, as from there on

A random Qwen3 of small layers with 151,936 entries (Qwen3's vocabulary) takes two optimizer steps of each stage's own
trainer on rows of full length, each in a process of its own: grpo for rl, reverse KL over the whole vocabulary with its
diagnostics for opd, whose teacher is another such model. The peak is what the process held at most (VmHWM) beyond what
it held before the first step, the model included; a GPU's is that of PyTorch's allocator. Compared are the losses and
the gradients' norms of the first step, after which the weights differ by a rounding. The loss of grpo is 0 there
whatever is computed, for advantages sum to 0; its gradient is not.

Run as: python -m benches.vocabulary --out reports/bench/vocabulary.json
"""

import argparse
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benches.common import bench_parser, figure, write_result
from steps.core.plain_yaml import read
from steps.core.step import run

STAGES = ("sft", "rl", "opd")
WAYS = ("before", "after")
# Of the figures: what the losses of both ways may differ by, and the norms of their gradients, of the norm.
CLOSE = 1e-5
# A norm below it has nothing in it to be compared.
NOTHING = 1e-3


def model_folder(folder: Path, vocabulary: int, seed: int = 0) -> Path:
    """fable's tokenizer and a random model with room for a wide vocabulary, in float32."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from steps.models import checkpoints

    tokenizer = checkpoints.load_tokenizer(Path("data/fable/base"))
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=4096, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    # Of the usual scale (0.02) two models hardly differ in what they predict.
    config.initializer_range = 0.1
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings_of(stage: str, length: int) -> dict:
    """Those of params.yaml, with a pass of the size that is asked for."""
    settings = read(Path("params.yaml"))[stage] | {"seed": 0, "precision": "fp32", "gradient_checkpointing": False}
    if stage == "sft":
        return settings | {"batch_size": 2, "max_length": length, "packing": False}
    few = {"prompts": 2, "generations": 2, "batch_size": 4, "sample_batch": 4, "max_new_tokens": length // 2}
    if stage == "rl":
        return settings | few | {"method": "grpo", "kl": 0.1, "iterations": 1}
    return settings | few | {
        "support": {"kind": "full"}, "divergence": {"kind": "reverse_kl"},
        "sources": [{"data": "bench", "share": 1.0, "teachers": [0]}], "weights": [1.0],
    }  # fmt: skip


def two_steps(stage: str, way: str, folder: Path, teacher: Path, length: int) -> dict:
    """Two steps in this process: the peak, the seconds and the losses."""
    import torch

    from steps.models import head
    from steps.preflight import machine, rehearse
    from steps.settings.stages import ON_POLICY
    from steps.training import memory
    from steps.training import run as training

    if way == "before":
        head.WIDE = 2**62
    settings = settings_of(stage, length)
    with tempfile.TemporaryDirectory() as work:
        args = argparse.Namespace(
            model=folder, teachers=[teacher] if stage == "opd" else [], judge=None, work=Path(work),
            settings={"prompt_tokens": 40, "recipe": settings},
        )  # fmt: skip
        torch.manual_seed(0)
        trainer, plan = rehearse.REHEARSALS[stage](args, settings, memory.read_shape(folder))
        if stage in ON_POLICY:
            trainer.engine.stop_ids = []
        if stage == "opd":
            # As if every entry were a token: those of fable are fewer, and no other would be compared.
            trainer.vocabulary = memory.read_shape(folder).vocabulary
        held, began = machine.held(), time.perf_counter()
        log = training.train(trainer, plan, stage)
    peak = machine.held(most=True) - held
    kept = [{key: row[key] for key in ("loss", "grad_norm")} for row in log]
    return {"peak": peak, "seconds": time.perf_counter() - began, "steps": kept}


def measure(*asked: Any) -> dict:
    """`two_steps` in a process of its own, forked of this one, which has imported what takes longer than the steps."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as alone:
        return alone.submit(two_steps, *asked).result()


def apart(one: dict, other: dict, key: str) -> float:
    """The difference of a number of both ways, of the first step: after it the weights differ by a rounding."""
    return abs(one["steps"][0][key] - other["steps"][0][key])


def main(args: argparse.Namespace) -> None:
    # To ask whether there is a GPU must not begin to use it, or no fork could.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    import torch
    import trl.trainer.sft_trainer  # noqa: F401

    # A pool of threads does not live on in a fork.
    torch.set_num_threads(1)
    runs: dict[str, dict[str, list[dict]]] = {stage: {way: [] for way in WAYS} for stage in args.stages}
    with tempfile.TemporaryDirectory() as name:
        folder = model_folder(Path(name, "model"), args.vocabulary)
        teacher = model_folder(Path(name, "teacher"), args.vocabulary, seed=1)
        for index in range(args.rounds):
            for stage in args.stages:
                for way in WAYS:
                    found = measure(stage, way, folder, teacher, args.length)
                    runs[stage][way].append(found)
                    print(
                        f"round {index + 1}: {stage} {way} {found['peak'] / 2**20:.0f} MiB, {found['seconds']:.1f} s",
                        flush=True,
                    )
    figures: list[dict] = []
    whole = args.vocabulary * 4 * (2 * args.length)
    for stage, ways in runs.items():
        for way in WAYS:
            peaks = [found["peak"] / 2**20 for found in ways[way]]
            figures.append(figure(f"{stage}: peak memory {way}", peaks, "MiB"))
        pairs: list[tuple[Any, Any]] = list(zip(ways["after"], ways["before"], strict=True))
        figures.append(figure(f"{stage}: peak after, of before", [a["peak"] / b["peak"] for a, b in pairs]))
        figures.append(figure(f"{stage}: time after, of before", [a["seconds"] / b["seconds"] for a, b in pairs]))
        differ = [apart(a, b, "loss") for a, b in pairs]
        figures.append(figure(f"{stage}: difference of the loss", differ, "nats", most=CLOSE))
        norms = [b["steps"][0]["grad_norm"] for _, b in pairs]
        if min(norms) < NOTHING:
            raise ValueError(f"{stage}: a gradient of {min(norms):g} says nothing of what is computed")
        differ = [apart(a, b, "grad_norm") / norm for (a, b), norm in zip(pairs, norms, strict=True)]
        figures.append(figure(f"{stage}: difference of the gradient's norm, of it", differ, most=CLOSE))
    detail = {"vocabulary": args.vocabulary, "length": args.length, "logits_of_sft": whole, "runs": runs}
    write_result(args.out, __doc__, figures, detail)
    for row in figures:
        if "most" in row and row["max"] > row["most"]:
            raise ValueError(f"{row['what']} is {row['max']:g}, above {row['most']:g}: the two ways differ")


if __name__ == "__main__":
    parser = bench_parser(__doc__, "vocabulary", {"rounds": 1, "vocabulary": 40_000, "length": 24, "stages": ["sft"]})
    parser.add_argument("--vocabulary", type=int, default=151_936, help="entries")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    run(main, parser)
