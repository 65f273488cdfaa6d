"""Measure one checkpoint: accuracy on every task, repeated sampling on some, perplexity of held-out responses.

Greedy accuracy goes through lm-eval, with the checkpoint's chat template for every task and every checkpoint.
A task is a file of `tasks/` or a stock task of lm-eval, pointed at local data; nothing is downloaded. Sampling
(pass@k, majority@k) uses the prompts, filters and metric of the same task objects.

In: a checkpoint, the folder of task data, rows of a valid split. Out: results.json (every number with its
standard error and n), samples.jsonl (every answer). Both are the same bytes for the same checkpoint and settings.

Run as: python -m steps.evaluation.evaluate --settings '{"target": ["fable_problems"], …}' --name sft
    --checkpoint results/fable/foundation/sft --tasks-dir results/fable/world/eval
    --valid results/fable/data/problems/split/valid.jsonl --out results/fable/evaluation/sft
"""

import contextlib
import importlib.metadata
import os
import tempfile
import time
from pathlib import Path

from steps.core.files import fresh_folder, read_jsonl, write_json, write_jsonl
from steps.core.manifest import write_manifest
from steps.core.progress import say
from steps.core.step import run, step_parser
from steps.core.turns import conversation
from steps.engines.load import load_engine
from steps.evaluation.measure import greedy, sample
from steps.evaluation.tasks import load_tasks, task_axes, task_config, task_files, task_inputs
from steps.judges.tasks import judge_of
from steps.models import checkpoints
from steps.models.chat import Chat
from steps.models.unfit import Unfit
from steps.stats import means

# --- the step ------------------------------------------------------------------------------------


def answered(chat: Chat, valid: Path) -> list[list[dict]]:
    """The held-out conversations that end with an answer, but for those that the chat template does not take.

    Raises:
        ValueError: there is no row.
    """
    rows, found = [conversation(row) for row in read_jsonl(valid)], []
    if not rows:
        raise ValueError(f"{valid} has no row: raise split.valid_share")
    for turns in rows:
        if turns[-1]["role"] == "assistant":
            with contextlib.suppress(Unfit):
                chat.closed(turns)
                found.append(turns)
    if left := len(rows) - len(found):
        say("evaluate", f"{left} of {len(rows)} held-out rows have no answer that the chat template takes")
    return found


def main(args) -> None:
    # datasets and transformers look for updates and caches at the hub unless told that there is none.
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    started = time.time()
    settings = args.settings
    files = {task: task_files(task, settings["tasks"].get(task, {}), args.tasks_dir) for task in task_axes(settings)}
    configs = {task: task_config(task, settings["tasks"].get(task, {}), files[task]) for task in files}
    rests_on = task_inputs(files, configs)
    checkpoint_files = checkpoints.check(args.checkpoint)
    engine = load_engine(args.checkpoint, settings["batch_size"], settings["engine"])
    with tempfile.TemporaryDirectory() as scratch:
        tasks = load_tasks(configs, Path(scratch))
        results, samples = greedy(engine, tasks, task_axes(settings), settings["limit"], settings["max_new_tokens"])
        truncated = engine.truncated
        judges = {name: judge_of(task.config.process_results) for name, task in sorted(tasks.items())}
        sampling = {}
        for name in settings["sampling"]["tasks"]:
            told = settings["sampling"], settings["max_new_tokens"], settings["seed"]
            sampling[name], drawn = sample(engine, name, tasks[name], *told)
            samples += drawn

    perplexity = {}
    # A set of prompts or documents has no answer whose perplexity could be measured.
    if args.valid and (rows := answered(engine.chat, args.valid)):
        perplexity["valid"] = means.perplexity(*engine.score(rows))

    out = fresh_folder(args.out)
    versions = {package: importlib.metadata.version(package) for package in ("lm_eval", "transformers", "torch")}
    write_json(
        out / "results.json",
        {
            "checkpoint": args.name,
            "tasks": results,
            "sampling": sampling,
            "perplexity": perplexity,
            "setup": {**engine.setup(), "chat_template": True, "truncated_prompts": truncated, **versions},
        },
    )
    write_jsonl(out / "samples.jsonl", samples)
    write_manifest(
        out,
        step="evaluate",
        settings=settings,
        inputs=[
            *checkpoint_files,
            *rests_on,
            *filter(None, [args.valid]),
        ],
        counts={task: result["n"] for task, result in results.items()},
        seed=settings["seed"],
        started=started,
        tokens=engine.tokens,
        setup=engine.setup() | {"judges": judges},
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a model or of a PEFT adapter")
    parser.add_argument("--name", required=True, help="the checkpoint's node, as the report names it")
    parser.add_argument("--tasks-dir", type=Path, help="folder of <task>.jsonl files")
    parser.add_argument("--valid", type=Path, help="rows of a valid split: perplexity of their last responses")
    run(main, parser)
