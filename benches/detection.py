"""Sampled tokens per second of detection, against a loop over rows that calls transformers' `model.generate`.

ours  `Engine.sample` over all the rows, as `steps.diagnosis.detect` calls it.
loop  `model.generate` row by row over one in so many of the same rows, with the same number of samples a prompt, the
      same temperature, the whole distribution, the same longest answer and the same end tokens.

Tokens are what was written, up to and with the end token. Rounds are pairwise: both arms follow each other in every
round, in changing order, so that a slow minute of the machine meets both. The ratio of each round is one observation.

Run as: python -m benches.detection --checkpoint data/fable/base
    --data results/fable/data/lessons/bucket/train.jsonl --out reports/bench/detection.json
"""

import argparse
import time
from pathlib import Path

from benches.common import bench_parser, figure, in_turn, ratios, write_result
from steps.core.files import read_jsonl
from steps.core.step import run
from steps.core.turns import prompt_turns
from steps.engines.interface import Messages
from steps.engines.transformers import Engine
from steps.models import checkpoints

# Those of detect in workloads/fable.yaml.
SAMPLES, TEMPERATURE, MAX_NEW_TOKENS, BATCH_SIZE = 5, 0.5, 130, 256


def ours(engine: Engine, prompts: list[Messages], seed: int) -> float:
    before, began = engine.tokens, time.perf_counter()
    engine.sample(prompts, n=SAMPLES, temperature=TEMPERATURE, max_new_tokens=MAX_NEW_TOKENS, seed=seed)
    return (engine.tokens - before) / (time.perf_counter() - began)


def loop(engine: Engine, prompts: list[Messages], seed: int) -> float:
    import torch

    torch.manual_seed(seed)
    ends = torch.tensor(engine.stop_ids, device=engine.model.device)
    tokens, began = 0, time.perf_counter()
    for prompt in prompts:
        ids = torch.tensor(engine.encode([engine.render(prompt)]), device=engine.model.device)
        with torch.inference_mode():
            written = engine.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                num_return_sequences=SAMPLES,
                temperature=TEMPERATURE,
                top_k=0,
                top_p=1.0,
                max_new_tokens=MAX_NEW_TOKENS,
                eos_token_id=engine.stop_ids,
                pad_token_id=engine.pad_id,
            )
        own = written[:, ids.shape[1] :]
        ended = torch.isin(own, ends)
        # A token counts while no end token stands before it.
        tokens += int((ended.cumsum(-1) - ended.long() == 0).sum())
        engine.tokenizer.batch_decode(own, skip_special_tokens=True)
    return tokens / (time.perf_counter() - began)


def main(args: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(1)
    checkpoints.check(args.checkpoint)
    engine = Engine.load(args.checkpoint, BATCH_SIZE)
    prompts = [prompt_turns(row["messages"]) for row in read_jsonl(args.data)]
    # Evenly over the file: its rows lie source by source.
    prompts = prompts[:: max(1, len(prompts) // args.rows)][: args.rows]
    few = prompts[:: max(1, len(prompts) // args.loop_rows)][: args.loop_rows]
    candidates = {
        "ours": lambda seed: ours(engine, prompts, seed),
        "loop": lambda seed: loop(engine, few, seed),
    }
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for index, names in in_turn(list(candidates), args.rounds):
        for name in names:
            rates[name].append(candidates[name](index))
        print(
            f"round {index + 1}: " + "  ".join(f"{name} {rates[name][-1]:,.0f} tokens/s" for name in names), flush=True
        )
    figures = [
        figure("tokens a second of ours, of a loop over generate", ratios(rates["ours"], rates["loop"]), least=3.0)
    ]
    detail = {"rows": len(prompts), "loop_rows": len(few), "samples": SAMPLES, "temperature": TEMPERATURE}
    detail |= {"max_new_tokens": MAX_NEW_TOKENS, "batch_size": BATCH_SIZE, "threads": torch.get_num_threads()}
    write_result(args.out, __doc__, figures, detail | {"tokens_per_second": rates})


if __name__ == "__main__":
    parser = bench_parser(__doc__, "detection", {"rounds": 1, "rows": 8, "loop_rows": 2})
    parser.add_argument("--checkpoint", type=Path, default=Path("data/fable/base"))
    parser.add_argument("--data", type=Path, default=Path("results/fable/data/lessons/bucket/train.jsonl"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=600, help="rows that detection samples in each round")
    parser.add_argument("--loop-rows", type=int, default=60, help="rows of them that the loop samples in each round")
    run(main, parser)
