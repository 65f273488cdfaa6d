"""Measure one checkpoint: accuracy on every task, repeated sampling on some, perplexity of held-out responses.

Greedy accuracy goes through lm-eval, with the checkpoint's chat template for every task and every checkpoint.
A task is a file of `tasks/` or a stock task of lm-eval, pointed at local data; nothing is downloaded. Sampling
(pass@k, majority@k) uses the prompts, filters and metric of the same task objects.

In: a checkpoint, the folder of task data, rows of a valid split. Out: results.json (every number with its
standard error and n), samples.jsonl (every answer). Both are the same bytes for the same checkpoint and settings.

Run as: python -m steps.evaluate --settings '{"target": ["fable_problems"], …}' --name sft
    --checkpoint results/fable/foundation/sft --tasks-dir results/fable/world/eval
    --valid results/fable/data/problems/split/valid.jsonl --out results/fable/evaluation/sft
"""

import importlib.metadata
import os
import random
import tempfile
import time
from collections.abc import Hashable
from pathlib import Path

import numpy as np

from steps import checkpoints, estimators
from steps.common import (
    Progress,
    fresh_folder,
    read_jsonl,
    run,
    step_parser,
    write_json,
    write_jsonl,
    write_manifest,
)
from steps.engine import Coder, Engine, load_engine
from steps.verify import NO_ANSWER, canonical

TEMPLATES = Path(__file__).parent.parent / "tasks"
AXES = ("target", "harder", "general", "dev")
LOADERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


# --- tasks ---------------------------------------------------------------------------------------


def task_axes(settings: dict) -> dict[str, str]:
    """Task → axis, in the order of the settings.

    Raises:
        ValueError: a task stands on two axes, or is sampled or described without standing on one.
    """
    axes: dict[str, str] = {}
    for axis in AXES:
        for task in settings[axis]:
            if task in axes:
                raise ValueError(f"evaluate.{axis}: {task} already stands under {axes[task]}; name it once")
            axes[task] = axis
    for key, names in (("sampling.tasks", settings["sampling"]["tasks"]), ("tasks", settings["tasks"])):
        for task in names:
            if task not in axes:
                raise ValueError(f"evaluate.{key}: {task} stands on no axis; add it to one of {', '.join(AXES)}")
    return axes


def task_files(task: str, spec: dict, tasks_dir: Path | None) -> dict[str, Path]:
    """Split → data file of one task: those its description names, else `<tasks_dir>/<task>.jsonl`.

    Raises:
        ValueError: a file is missing or empty, or they are of different formats.
    """
    files = {split: Path(path) for split, path in spec.get("data_files", {}).items()}
    if not files:
        if tasks_dir is None:
            raise ValueError(f"evaluate.tasks.{task}: give its data_files; the workload has no folder of tasks")
        files = {"test": tasks_dir / f"{task}.jsonl"}
    for split, path in files.items():
        if not path.is_file() or path.stat().st_size == 0:
            raise ValueError(f"{path} is missing or empty; evaluate.tasks.{task}.data_files.{split} names it")
        if path.suffix not in LOADERS or path.suffix != next(iter(files.values())).suffix:
            raise ValueError(f"{path}: evaluate.tasks.{task}.data_files must be of one format of {', '.join(LOADERS)}")
    return files


def task_config(task: str, spec: dict, files: dict[str, Path]) -> dict:
    """lm-eval's configuration of one task: a template, local data files, overrides.

    Args:
        task: its name in the results.
        spec: {"stock": template, "overrides": {lm-eval key: value}}, both optional. Stock is a file of `tasks/`,
            else a task of lm-eval, by file name or by path below its `tasks` folder; the task's own name by default.
            An override of dataset_kwargs (such as {"field": "examples"}) is added to the data files.
        files: split → data file.
    """
    overrides = dict(spec.get("overrides", {}))
    data_files = {split: str(path.resolve()) for split, path in files.items()}
    return {
        "include": str(find_template(task, spec.get("stock", task))),
        "task": task,
        "dataset_path": LOADERS[next(iter(files.values())).suffix],
        "dataset_name": None,
        "dataset_kwargs": {"data_files": data_files, **overrides.pop("dataset_kwargs", {})},
        **overrides,
    }


def find_template(task: str, stock: str) -> Path:
    import lm_eval

    own = TEMPLATES / f"{stock}.yaml"
    if own.is_file():
        return own
    library = Path(lm_eval.__file__).parent / "tasks"
    if "/" in stock:
        found = [library / f"{stock}.yaml"] if (library / f"{stock}.yaml").is_file() else []
    else:
        # By file name: building lm-eval's own index of 14,000 tasks takes 10 seconds. Variants lie deeper.
        found = sorted(library.rglob(f"{stock}.yaml"))
        found = [path for path in found if len(path.parts) == min(len(other.parts) for other in found)]
    if len(found) != 1:
        choices = ", ".join(str(path.relative_to(library).with_suffix("")) for path in found)
        raise ValueError(
            f"evaluate.tasks.{task}.stock: {stock!r} names {len(found)} files of tasks/ and of lm-eval's tasks"
            f" ({choices or 'none'}); give the path below lm_eval/tasks, without .yaml"
        )
    return found[0]


def load_tasks(configs: dict[str, dict], scratch: Path) -> dict:
    """Task name → lm-eval task object, in the given order. Task files and data caches are written to `scratch`."""
    import yaml
    from lm_eval.tasks import TaskManager

    for task, config in configs.items():
        # A cache of our own: the shared one may be absent, full or locked by another process.
        config["dataset_kwargs"]["cache_dir"] = str(scratch / "cache")
        (scratch / f"{task}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    manager = TaskManager(include_path=str(scratch), include_defaults=False)
    loaded = manager.load(list(configs))["tasks"]
    return {task: loaded[task] for task in configs}


def headline(task) -> tuple[str, str]:
    """(metric, filter) by which a task is reported: the first of its configuration."""
    return next(iter(task.aggregation())), task._filters[0].name


# --- greedy, through lm-eval ---------------------------------------------------------------------


def language_model(engine: Coder):
    """lm-eval's HFLM whose generation is the engine's. Likelihoods stay HFLM's own where the engine has a model for it,
    and are what vLLM reads otherwise."""
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.huggingface import HFLM

    class EngineLM(HFLM):
        def generate_until(self, requests, disable_tqdm=False):
            groups: dict[str, list[int]] = {}
            for index, request in enumerate(requests):
                groups.setdefault(repr(sorted(request.args[1].items())), []).append(index)
            responses = [""] * len(requests)
            for members in groups.values():
                options = dict(requests[members[0]].args[1])
                until = options.get("until") or []
                temperature = options.get("temperature", 0.0) if options.get("do_sample") else 0.0
                tasks = ", ".join(dict.fromkeys(requests[index].task_name for index in members))
                texts = engine.generate(
                    [requests[index].args[0] for index in members],
                    temperature=temperature,
                    max_new_tokens=options.get("max_gen_toks", self.max_gen_toks),
                    stop=[until] if isinstance(until, str) else until,
                    progress=Progress(f"greedy {tasks}", len(members), "answers"),
                )
                for index, (text,) in zip(members, texts, strict=True):
                    responses[index] = text
            return responses

    if isinstance(engine, Engine):
        size = engine.batch_size
        return EngineLM(pretrained=engine.model, tokenizer=engine.tokenizer, backend="causal", batch_size=size)

    class ReaderLM(EngineLM):
        """HFLM but for the model: encoding, prefixes, windows and chat template are its own."""

        def __init__(self):
            TemplateLM.__init__(self)
            self.tokenizer, self.batch_size_per_gpu = engine.tokenizer, 1
            # HFLM cuts a long text into windows of one token more than it reads; `engine.read` reads all of its tokens.
            self._max_length = engine.max_length - 1
            self.add_bos_token = self.custom_prefix_token_id = self.enable_thinking = None
            self.chat_template_args = {}

        def _loglikelihood_tokens(self, requests, disable_tqdm=False, override_bs=None):
            """As lm-eval's own vLLM backend: a request that is too long loses its beginning."""
            rows = [[*context, *continuation][-engine.max_length :] for _, context, continuation in requests]
            found = []
            for (_, _, continuation), logps, likeliest in zip(requests, *engine.read(rows), strict=True):
                own = slice(-len(continuation), None)
                found.append((float(logps[own].sum()), bool(likeliest[own].all())))
            return found

    return ReaderLM()


def seed_tasks(tasks: dict) -> None:
    """What lm-eval's simple_evaluate does with loaded tasks before it asks them.

    Without its index of 14,000 tasks and its report on the machine: 6 of the 7 seconds that the default tasks take on
    the tiny models.
    """
    import torch
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    for task in tasks.values():
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(DEFAULT_OTHER_SEED)


def greedy(engine: Coder, tasks: dict, axes: dict[str, str], limit: int | None) -> tuple[dict, list[dict]]:
    """Accuracy of every task and its samples. The tasks can be used again, with the engine's model as it is then.

    Args:
        tasks: task → lm-eval task object, from `load_tasks`.
        axes: task → axis, which is written beside its accuracy.
        limit: items per task; None takes all.

    Returns:
        Results: task → {axis, metric, value, stderr, n, others: {"metric,filter": {value, stderr}}}.
        Samples of the headline filter, in task and document order.
    """
    from lm_eval.evaluator import evaluate

    seed_tasks(tasks)
    found = evaluate(
        lm=language_model(engine),
        task_dict={"tasks": tasks, "groups": {}},
        limit=limit,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        # Means have a closed standard error; 0 would switch that off as well.
        bootstrap_iters=1,
    )
    results, samples = {}, []
    for name, task in tasks.items():
        metric, chosen = headline(task)
        row = found["results"][name]
        values = {
            key: {"value": float(value), "stderr": _number(row.get(key.replace(",", "_stderr,", 1)))}
            for key, value in row.items()
            if "," in key and "_stderr," not in key
        }
        own = values.pop(f"{metric},{chosen}")
        answers = sorted(
            (sample for sample in found["samples"][name] if sample["filter"] == chosen), key=lambda s: s["doc_id"]
        )
        results[name] = {"axis": axes[name], "metric": metric, **own, "n": len(answers), "others": values}
        for sample in answers:
            responses = [response[0] for response in sample["resps"]]
            samples.append(
                {
                    "task": name,
                    "doc_id": sample["doc_id"],
                    "prompt": sample["arguments"][0][0],
                    "target": sample["target"],
                    "responses": [_text(response) for response in responses],
                    "correct": [bool(sample[metric])],
                    "kind": "greedy",
                }
            )
    return results, samples


def _number(value) -> float | None:
    """lm-eval writes "N/A" for a standard error that it cannot give."""
    return float(value) if isinstance(value, int | float) else None


def _text(response) -> str:
    """A generated text; for a choice among given answers, its log-likelihood."""
    return response if isinstance(response, str) else f"log-likelihood {response[0]:.6g}"


# --- sampling ------------------------------------------------------------------------------------


def sample(engine: Coder, name: str, task, sampling: dict, resamples: int, seed: int) -> tuple[dict, list[dict]]:
    """pass@k for k = 1, 2, 4 … and majority@n of one task from n samples an item.

    pass@1 is the mean over items of the share of correct samples, with a standard error over items; the others
    have bootstrap standard errors and intervals, resampling items.

    Returns:
        {"n", "samples", "temperature", "top_p", "pass@1": {value, stderr}, …, "majority@8": {…}}, and the samples.

    Raises:
        ValueError: the task is not one in which text is written.
    """
    check_writes(task, f"evaluate.sampling.tasks: {name}")
    n = sampling["samples"]
    items = documents(task)[: sampling["limit"]]
    texts = engine.generate(
        [item.args[0] for item in items],
        n=n,
        temperature=sampling["temperature"],
        top_p=sampling["top_p"],
        max_new_tokens=sampling["max_new_tokens"],
        stop=stop_strings(task),
        seed=seed,
        progress=Progress(f"sampling {name}", len(items) * n, "answers"),
    )
    correct = np.zeros((len(items), n), dtype=bool)
    majority = np.zeros(len(items))
    samples = []
    for row, (item, responses) in enumerate(zip(items, texts, strict=True)):
        answers, correct[row] = judge(task, item, responses)
        majority[row] = estimators.majority(votes(answers), correct[row].tolist())
        samples.append(
            {
                "task": name,
                "doc_id": item.doc_id,
                "prompt": item.args[0],
                "target": task.doc_to_target(item.doc),
                "responses": responses,
                "correct": correct[row].tolist(),
                "kind": "sampled",
            }
        )
    result = {
        "n": len(items),
        "samples": n,
        "temperature": sampling["temperature"],
        "top_p": sampling["top_p"],
        "pass@1": estimators.mean(correct.mean(axis=1)),
    }
    for k in powers(n)[1:]:
        result[f"pass@{k}"] = estimators.bootstrap_mean(estimators.pass_at_k(correct, k), resamples, seed)
    result[f"majority@{n}"] = estimators.bootstrap_mean(majority, resamples, seed)
    return result, samples


def check_writes(task, place: str) -> None:
    """Raise a ValueError, which begins with `place`, unless the task is one in which text is written."""
    if task.OUTPUT_TYPE != "generate_until":
        raise ValueError(f"{place} is of type {task.OUTPUT_TYPE}: there is nothing to sample")


def documents(task) -> list:
    """The requests that were built for a task, in the order of its documents."""
    return sorted(task.instances, key=lambda instance: instance.doc_id)


def stop_strings(task) -> list[str]:
    return task.config.generation_kwargs.get("until") or []


def powers(n: int) -> list[int]:
    """1, 2, 4 … below n, and n: the k of pass@k."""
    return [2**power for power in range(n.bit_length()) if 2**power < n] + [n]


def judge(task, item, responses: list[str]) -> tuple[list[str | None], list[bool]]:
    """Of each response of one item the answer that the task's headline filter finds, and whether it is right."""
    metric, _ = headline(task)
    answers = _filtered(task, item, responses)
    correct = [bool(task.process_results(item.doc, [answer])[metric]) for answer in answers]
    return [None if answer == NO_ANSWER else answer for answer in answers], correct


def votes(answers: list[str | None]) -> list[Hashable | None]:
    """What the answers count as in a vote: equal ones are one."""
    return [None if answer is None else canonical(answer) for answer in answers]


def _filtered(task, item, responses: list[str]) -> list[str]:
    """What the task's headline filter makes of each response. Filters keep the first of several: one at a time."""
    from lm_eval.api.instance import Instance

    chosen = task._filters[0]
    copies = [
        Instance(item.request_type, item.doc, item.arguments, item.idx, item.metadata, resps=[text])
        for text in responses
    ]
    chosen.apply(copies)
    return [copy.filtered_resps[chosen.name] for copy in copies]


# --- the step ------------------------------------------------------------------------------------


def main(args) -> None:
    # datasets and transformers look for updates and caches at the hub unless told that there is none.
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    started = time.time()
    settings = args.settings
    files = {task: task_files(task, settings["tasks"].get(task, {}), args.tasks_dir) for task in task_axes(settings)}
    configs = {task: task_config(task, settings["tasks"].get(task, {}), files[task]) for task in files}
    checkpoint_files = checkpoints.check(args.checkpoint)
    engine = load_engine(args.checkpoint, settings["batch_size"], settings["engine"])
    with tempfile.TemporaryDirectory() as scratch:
        tasks = load_tasks(configs, Path(scratch))
        results, samples = greedy(engine, tasks, task_axes(settings), settings["limit"])
        truncated = engine.truncated
        sampling = {}
        for name in settings["sampling"]["tasks"]:
            sampling[name], drawn = sample(
                engine, name, tasks[name], settings["sampling"], settings["resamples"], settings["seed"]
            )
            samples += drawn

    perplexity = {}
    if args.valid:
        rows = [row["messages"] for row in read_jsonl(args.valid)]
        if not rows:
            raise ValueError(f"{args.valid} has no row: raise split.valid_share")
        perplexity["valid"] = estimators.perplexity(*engine.score(rows))

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
            *(path for paths in files.values() for path in paths.values()),
            *filter(None, [args.valid]),
        ],
        counts={task: result["n"] for task, result in results.items()},
        seed=settings["seed"],
        started=started,
        tokens=engine.tokens,
        setup=engine.setup(),
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a model or of a PEFT adapter")
    parser.add_argument("--name", required=True, help="the checkpoint's node, as the report names it")
    parser.add_argument("--tasks-dir", type=Path, help="folder of <task>.jsonl files")
    parser.add_argument("--valid", type=Path, help="rows of a valid split: perplexity of their last responses")
    run(main, parser)
