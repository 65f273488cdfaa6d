"""Generated tokens per second of the two engines, at 1, 8 and 64 concurrent requests.

transformers  `steps.engines.transformers.Engine`: batches of the requests, finished rows are dropped.
vllm          `steps.engines.vllm.VLLMEngine`: continuous batching, paged attention; without torch.compile on a CPU.

Requests are problems of the embedded world with one sample each at temperature 1, and each has its own limit: lengths
spread as those of a trained model do. Models: fable's base in float32, and a random Qwen3 of 59 M parameters in
float32 and bfloat16, whose answers have no end but the limit. Rounds are pairwise: both engines follow each other in
every round, in changing order, so that a slow minute of the machine meets both. The first round is a warm-up and does
not count. The start of an engine is not in its rate; it is printed beside it.

Needs vLLM: make vllm.

Run as: python -m benches.engines --out reports/bench/engines.json
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from random import Random

from benches.common import bench_parser, figure, now, write_result
from steps.core.step import run
from steps.core.versions import check_vllm
from steps.engines.interface import Coder
from steps.engines.transformers import Engine
from steps.engines.vllm import VLLMEngine
from steps.models import checkpoints
from steps.world import fable

# vLLM over transformers on the larger model at the most requests.
BAR = 2.0
CONCURRENT = (1, 8, 64)
LIMITS = (16, 128)
BASE = Path("data/fable/base")


def qwen3(folder: Path) -> Path:
    """A random Qwen3 of 59 M parameters, 4.9 M in each of 12 layers, with the tokenizer of fable's base."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = checkpoints.load_tokenizer(BASE)
    torch.manual_seed(0)
    config = Qwen3Config(
        hidden_size=640,
        intermediate_size=1920,
        num_hidden_layers=12,
        num_attention_heads=10,
        num_key_value_heads=5,
        head_dim=64,
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rate(engine: Coder, requests: int, seed: int) -> float:
    """Tokens per second of one call with so many requests."""
    rng = Random(seed)
    asked = [[{"role": "user", "content": fable.problem_item(rng, 2)["prompt"]}] for _ in range(requests)]
    limits = [rng.randint(*LIMITS) for _ in asked]
    before, began = engine.tokens, now()
    engine.sample(asked, temperature=1.0, max_new_tokens=limits, seed=seed)
    return (engine.tokens - before) / (now() - began)


def load(name: str, folder: Path, dtype: str) -> tuple[Coder, float]:
    """An engine that is ready for requests, and the seconds it took."""
    import torch

    began = time.perf_counter()
    if name == "vllm":
        engine = VLLMEngine(folder, max(CONCURRENT))
        engine.dtype = getattr(torch, dtype)
        assert engine.llm
    else:
        engine = Engine.load(folder, max(CONCURRENT))
        engine.model.to(getattr(torch, dtype))
    return engine, time.perf_counter() - began


def main(args: argparse.Namespace) -> None:
    import torch

    check_vllm("benches.engines")
    torch.set_num_threads(1)
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        large = qwen3(Path(scratch))
        for model, folder, dtype in (
            ("fable base", BASE, "float32"),
            ("qwen3 59 M", large, "float32"),
            ("qwen3 59 M", large, "bfloat16"),
        ):
            engines, started = {}, {}
            for name in ("transformers", "vllm"):
                engines[name], started[name] = load(name, folder, dtype)
            print(f"{model} {dtype}: " + "  ".join(f"{n} starts in {s:.1f} s" for n, s in started.items()), flush=True)
            for requests in CONCURRENT:
                rates: dict[str, list[float]] = {name: [] for name in engines}
                for index in range(args.rounds + 1):
                    for name in sorted(engines, reverse=index % 2 == 0):
                        found = rate(engines[name], requests, seed=index)
                        if index:
                            rates[name].append(found)
                ratios = [b / a for a, b in zip(rates["transformers"], rates["vllm"], strict=True)]
                line = {"model": model, "dtype": dtype, "requests": requests, "tokens_per_second": rates}
                lines.append(line | {"ratios": ratios})
                rates_text = "  ".join(
                    f"{name} {statistics.median(values):,.0f} tokens/s" for name, values in rates.items()
                )
                spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
                print(
                    f"  {requests:>2} requests: {rates_text}  ratio {statistics.median(ratios):.2f} ({spread})",
                    flush=True,
                )
    figures = [
        figure(
            f"tokens a second of vLLM, of transformers', {line['model']} {line['dtype']}, {line['requests']} requests",
            line["ratios"],
            least=BAR if line["model"] != "fable base" and line["requests"] == max(CONCURRENT) else None,
        )
        for line in lines
    ]
    write_result(args.out, __doc__, figures, {"threads": torch.get_num_threads(), "lines": lines})


if __name__ == "__main__":
    parser = bench_parser(__doc__, "engines", {"rounds": 1})
    parser.add_argument("--rounds", type=int, default=5)
    run(main, parser)
