"""Sample a checkpoint many times on some tasks: how often it is right, what it can still find, on what it agrees.

pass@k (Chen et al. 2021, arXiv:2107.03374) and majority@k (self-consistency, Wang et al. 2023, arXiv:2203.11171) for
k = 1, 2, 4 … up to the number of samples, in two modes. `cot`: the task as `steps.evaluation.evaluate` asks it.
`direct`: the
response is begun for the model (settings: `direct.prefill`, such as "#### "), so that it can work nothing out; what is
judged is the begun response with what the model adds. Prompts, filters and metric are those of
`steps.evaluation.evaluate`.

In: a checkpoint, the folder of task data. Out: explore.json (every number with its standard error) and items.jsonl
(each item's samples). Both are the same bytes for the same checkpoint and settings.

Run as: python -m steps.evaluation.explore --settings '{"tasks": ["fable_problems"], "samples": 16, …}' --name grpo
    --checkpoint results/fable/reinforcement/grpo --tasks-dir results/fable/world/eval --out results/fable/explore/grpo
"""

import importlib.metadata
import math
import os
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import numpy as np

from steps.core.files import fresh_folder, write_json, write_jsonl
from steps.core.manifest import write_manifest
from steps.core.progress import Progress
from steps.core.step import run, step_parser
from steps.engines.interface import Coder
from steps.engines.load import load_engine
from steps.evaluation.measure import check_writes, is_cut, judge, language_model, powers, seed_tasks, votes
from steps.evaluation.tasks import documents, load_tasks, stop_strings, task_config, task_files, task_inputs
from steps.models import checkpoints
from steps.stats import means, sampling

# Responses of each item that are written down: with 64 samples all of them would be the size of a data set.
SHOWN = 2


def build_requests(engine: Coder, tasks: dict, settings: dict) -> None:
    """Ask lm-eval for the requests of every task, as its evaluation does: chat template, examples, order.

    Args:
        tasks: task → lm-eval task object; `tasks.documents` then gives its requests.
    """
    seed_tasks(tasks)
    template = language_model(engine, settings["max_new_tokens"]).apply_chat_template
    for task in tasks.values():
        task.build_all_requests(
            limit=settings["limit"], apply_chat_template=True, fewshot_as_multiturn=True, chat_template=template
        )


def modes(settings: dict) -> dict[str, dict]:
    """Mode → {"prefill", "max_new_tokens"}."""
    found = {"cot": {"prefill": "", "max_new_tokens": settings["max_new_tokens"]}}
    if settings["direct"]:
        found["direct"] = settings["direct"]
    return found


def explore(engine: Coder, name: str, task, mode: str, settings: dict) -> tuple[dict, list[dict]]:
    """One task in one mode: its numbers (the key `n` and those after it of explore.json) and its rows of items.jsonl.

    Standard errors are over items; pass@k and majority@k have an interval as well. majority@k is the expectation over
    every choice of k of an item's samples. `tokens` and `entropy` count what the model wrote, its end token among it:
    not the prefill. `entropy` is minus the mean log-probability of a written token under the model's own distribution,
    which estimates the entropy per token where samples are of that distribution (temperature 1, top_p 1).
    """
    n, seed = settings["samples"], settings["seed"]
    prefill, limit = modes(settings)[mode]["prefill"], modes(settings)[mode]["max_new_tokens"]
    items = documents(task)
    drawn = engine.sample(
        [item.args[0] + prefill for item in items],
        n=n,
        temperature=settings["temperature"],
        top_p=settings["top_p"],
        max_new_tokens=limit,
        stop=stop_strings(task),
        seed=seed,
        progress=Progress(f"explore {name} {mode}", len(items) * n, "answers"),
    )
    ks = powers(n)
    correct, majority = np.zeros((len(items), n), dtype=bool), np.zeros((len(items), len(ks)))
    rows = []
    for i, (item, samples) in enumerate(zip(items, drawn, strict=True)):
        responses = [prefill + sample.text for sample in samples]
        answers, correct[i] = judge(task, item, responses)
        majority[i] = sampling.majority_at_k(votes(answers), correct[i].tolist(), ks)
        rows.append(
            {
                "task": name,
                "mode": mode,
                "doc_id": item.doc_id,
                "prompt": item.args[0],
                "target": task.doc_to_target(item.doc),
                "correct": correct[i].tolist(),
                "answers": answers,
                "responses": responses[:SHOWN],
            }
        )
    found = {"n": len(items), "samples": n, "temperature": settings["temperature"], "top_p": settings["top_p"]}
    found["pass@1"] = means.mean(correct.mean(axis=1))
    for k in ks[1:]:
        found[f"pass@{k}"] = means.bounded(sampling.pass_at_k(correct, k))
    for k, values in zip(ks, majority.T, strict=True):
        found[f"majority@{k}"] = means.bounded(values)
    tokens = np.array([[sample.tokens for sample in samples] for samples in drawn])
    nll = -np.array([sum(sample.logp for sample in samples) for samples in drawn])
    found["tokens"] = means.mean(tokens.mean(axis=1))
    found["entropy"] = per_token(nll, tokens.sum(axis=1))
    found["unparsed"] = float(np.mean([answer is None for row in rows for answer in row["answers"]]))
    cut = [is_cut(engine, sample, limit, stop_strings(task)) for samples in drawn for sample in samples]
    found["truncated"] = float(np.mean(cut))
    return found, rows


def per_token(nll: np.ndarray, tokens: np.ndarray) -> dict[str, float]:
    """Mean per token and its standard error, items being the unit of chance: the logarithm of the perplexity.

    Args:
        nll: [items], in nats, summed over all tokens of an item.
        tokens: [items].
    """
    perplexity = means.perplexity(nll, tokens)
    return {"value": math.log(perplexity["value"]), "stderr": perplexity["stderr"] / perplexity["value"]}


def main(args: Namespace) -> None:
    # datasets and transformers look for updates and caches at the hub unless told that there is none.
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    started = time.time()
    settings = args.settings
    specs = {task: settings["task_specs"].get(task, {}) for task in settings["tasks"]}
    files = {task: task_files(task, spec, args.tasks_dir) for task, spec in specs.items()}
    configs = {task: task_config(task, spec, files[task]) for task, spec in specs.items()}
    rests_on = task_inputs(files, configs)
    checkpoint_files = checkpoints.check(args.checkpoint)
    engine = load_engine(args.checkpoint, settings["batch_size"], settings["engine"])
    results: dict[str, dict] = {}
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as scratch:
        tasks = load_tasks(configs, Path(scratch))
        for name, task in tasks.items():
            check_writes(task, f"explore.tasks: {name}")
        build_requests(engine, tasks, settings)
        for name, task in tasks.items():
            results[name] = {}
            for mode in modes(settings):
                results[name][mode], items = explore(engine, name, task, mode, settings)
                rows += items

    out = fresh_folder(args.out)
    versions = {package: importlib.metadata.version(package) for package in ("lm_eval", "transformers", "torch")}
    setup = {**engine.setup(), "chat_template": True, "truncated_prompts": engine.truncated, **versions}
    if settings["direct"]:
        setup["prefill"] = settings["direct"]["prefill"]
    write_json(out / "explore.json", {"checkpoint": args.name, "tasks": results, "setup": setup})
    write_jsonl(out / "items.jsonl", rows)
    write_manifest(
        out,
        step="explore",
        settings=settings,
        inputs=[*checkpoint_files, *rests_on],
        counts={task: found["cot"]["n"] for task, found in results.items()},
        seed=settings["seed"],
        started=started,
        tokens=engine.tokens,
        setup=engine.setup(),
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a model or of a PEFT adapter")
    parser.add_argument("--name", required=True, help="the checkpoint's name in the report")
    parser.add_argument("--tasks-dir", type=Path, help="folder of <task>.jsonl files")
    run(main, parser)
