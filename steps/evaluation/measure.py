"""Ask a model the questions of tasks and judge what it answers, through lm-eval."""

import random
from collections.abc import Hashable, Sequence

import numpy as np

from steps.core.progress import Progress
from steps.engines.interface import Coder, Sample
from steps.engines.transformers import Engine
from steps.evaluation.questions import LONGEST
from steps.evaluation.tasks import documents, headline, stop_strings
from steps.judges import tasks as ours
from steps.judges.canonical import canonical
from steps.judges.judge import kind_for
from steps.judges.reading import NO_ANSWER, boxed, worked_answer
from steps.judges.rows import RowJudge
from steps.stats import means, sampling


def language_model(engine: Coder, max_new_tokens: int):
    """lm-eval's HFLM whose generation is the engine's. Likelihoods stay HFLM's own where the engine has a model for it,
    and are what vLLM reads otherwise.

    Args:
        max_new_tokens: of an answer, where its task says nothing.

    Its attribute `cut` has the answers that came to no end: {(task, document's number)}.
    """
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.huggingface import HFLM

    class EngineLM(HFLM):
        cut: set[tuple[str, int]]

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
                limit, stop = longest(options, max_new_tokens), [until] if isinstance(until, str) else until
                drawn = engine.sample(
                    [requests[index].args[0] for index in members],
                    temperature=temperature,
                    max_new_tokens=limit,
                    stop=stop,
                    progress=Progress(f"greedy {tasks}", len(members), "answers"),
                )
                for index, (sample,) in zip(members, drawn, strict=True):
                    responses[index] = sample.text
                    if is_cut(engine, sample, limit, stop):
                        self.cut.add((requests[index].task_name, requests[index].doc_id))
            return responses

    if isinstance(engine, Engine):
        size = engine.batch_size
        # The chat template has written all that there is to read, as for `engine.encode`.
        told = {"backend": "causal", "batch_size": size, "add_bos_token": False}
        made = EngineLM(pretrained=engine.model, tokenizer=engine.tokenizer, **told)
        made.cut = set()
        return made

    class ReaderLM(EngineLM):
        """HFLM but for the model: encoding, prefixes, windows and chat template are its own."""

        def __init__(self):
            TemplateLM.__init__(self)
            self.tokenizer, self.batch_size_per_gpu = engine.tokenizer, 1
            # HFLM cuts a long text into windows of one token more than it reads; `engine.read` reads all of its tokens.
            self._max_length = engine.max_length - 1
            self.add_bos_token = False
            self.custom_prefix_token_id = self.enable_thinking = None
            self.chat_template_args = {}
            self.cut = set()

        def _loglikelihood_tokens(self, requests, disable_tqdm=False, override_bs=None):
            """As lm-eval's own vLLM backend: a request that is too long loses its beginning."""
            rows = [[*context, *continuation][-engine.max_length :] for _, context, continuation in requests]
            found = []
            for (_, _, continuation), logps, likeliest in zip(requests, *engine.read(rows), strict=True):
                own = slice(-len(continuation), None)
                found.append((float(logps[own].sum()), bool(likeliest[own].all())))
            return found

    return ReaderLM()


def longest(generation_kwargs: dict, max_new_tokens: int) -> int:
    """Tokens of a task's longest answer: its own number, by either of lm-eval's names for it, or that of all tasks."""
    own = (generation_kwargs.get(key) for key in LONGEST)
    return next(filter(None, own), max_new_tokens)


def is_cut(engine: Coder, sample: Sample, limit: int, stop: Sequence[str]) -> bool:
    """Whether a response had `limit` tokens and no end."""
    if sample.tokens < limit or sample.ids[-1] in engine.stop_ids:
        return False
    texts = engine.chat.texts([sample.ids]) if stop else []
    return not any(s in text for text in texts for s in stop)


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


def greedy(
    engine: Coder, tasks: dict, axes: dict[str, str], limit: int | None, max_new_tokens: int
) -> tuple[dict, list[dict]]:
    """Accuracy of every task and its samples. The tasks can be used again, with the engine's model as it is then.

    Args:
        tasks: task → lm-eval task object, from `load_tasks`.
        axes: task → axis, which is written beside its accuracy.
        limit: items per task; None takes all.
        max_new_tokens: of the answers to tasks that say nothing.

    Returns:
        Results: task → {axis, metric, value, stderr, n, others: {"metric,filter": {value, stderr}}}; where text is
        written also `truncated`, the share of answers that came to no end.
        Samples of the headline filter, in task and document order.
    """
    from lm_eval.evaluator import evaluate

    seed_tasks(tasks)
    writer = language_model(engine, max_new_tokens)
    found = evaluate(
        lm=writer,
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
        if task.OUTPUT_TYPE == "generate_until":
            cut = sum(task_name == name for task_name, _ in writer.cut)
            results[name]["truncated"] = cut / len(answers)
            values |= judged_beside(task, answers)
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


def judged_beside(task, answers: list[dict]) -> dict[str, dict[str, float]]:
    """What our judge, which rewards and data sets go by, says of the same answers to a task that has another.

    Args:
        answers: lm-eval's samples.

    Returns:
        {"judge_<kind>,response": {value, stderr}}, after `metric,filter`; nothing for a task of ours, or where a target
        has no marked answer that could be given.
    """
    scored_by = task.config.process_results
    golds = [worked_answer(sample["target"]) or boxed(sample["target"]) for sample in answers]
    if getattr(scored_by, "__module__", "") == ours.__name__ or not all(golds):
        return {}
    kind = kind_for(golds)
    rows = [{"messages": [{"role": "user", "content": ""}], "answer": gold, "judge": kind} for gold in golds]
    with RowJudge() as judge:
        if any(map(judge.refusal, rows)):
            return {}
        verdicts = judge.verdicts(rows, [[sample["resps"][0][0]] for sample in answers])
    right = np.array([own[0].right for own in verdicts], dtype=float)
    return {f"judge_{kind},response": means.mean(right)}


def _number(value) -> float | None:
    """lm-eval writes "N/A" for a standard error that it cannot give."""
    return float(value) if isinstance(value, int | float) else None


def _text(response) -> str:
    """A generated text; for a choice among given answers, its log-likelihood."""
    return response if isinstance(response, str) else f"log-likelihood {response[0]:.6g}"


def sample(engine: Coder, name: str, task, settings: dict, max_new_tokens: int, seed: int) -> tuple[dict, list[dict]]:
    """pass@k for k = 1, 2, 4 … and majority@n of one task from n samples an item.

    pass@1 is the mean over items of the share of correct samples, with a standard error over items; the others have
    an interval as well.

    Returns:
        {"n", "samples", "temperature", "top_p", "truncated", "pass@1": {value, stderr}, …, "majority@8": {…}}, and the
        samples.

    Raises:
        ValueError: the task is not one in which text is written.
    """
    check_writes(task, f"evaluate.sampling.tasks: {name}")
    n, stop = settings["samples"], stop_strings(task)
    limit = longest(task.config.generation_kwargs, max_new_tokens)
    items = documents(task)[: settings["limit"]]
    drawn = engine.sample(
        [item.args[0] for item in items],
        n=n,
        temperature=settings["temperature"],
        top_p=settings["top_p"],
        max_new_tokens=limit,
        stop=stop,
        seed=seed,
        progress=Progress(f"sampling {name}", len(items) * n, "answers"),
    )
    texts = [[one.text for one in own] for own in drawn]
    cut = [is_cut(engine, one, limit, stop) for own in drawn for one in own]
    correct = np.zeros((len(items), n), dtype=bool)
    majority = np.zeros(len(items))
    samples = []
    for row, (item, responses) in enumerate(zip(items, texts, strict=True)):
        answers, correct[row] = judge(task, item, responses)
        majority[row] = sampling.majority(votes(answers), correct[row].tolist())
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
        "temperature": settings["temperature"],
        "top_p": settings["top_p"],
        "truncated": float(np.mean(cut)),
        "pass@1": means.mean(correct.mean(axis=1)),
    }
    for k in powers(n)[1:]:
        result[f"pass@{k}"] = means.bounded(sampling.pass_at_k(correct, k))
    result[f"majority@{n}"] = means.bounded(majority)
    return result, samples


def check_writes(task, place: str) -> None:
    """Raise a ValueError, which begins with `place`, unless the task is one in which text is written."""
    if task.OUTPUT_TYPE != "generate_until":
        raise ValueError(f"{place} is of type {task.OUTPUT_TYPE}: there is nothing to sample")


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
