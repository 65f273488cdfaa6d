"""Rewards of reinforcement learning: named, weighted, each computed and logged alone.

Kinds: `answer` (numbers as verify.py compares them, or mathematical equivalence), `format` (a pattern), `length`,
`instruction` (a constraint that a program checks), `self` (the start policy's own verdict), `preference` (a reward
model) and `custom` (a function of the user's). A reward that raises, or returns no finite number, scores this one
sample 0 and says why; the others keep theirs.
"""

import importlib.util
import inspect
import math
import numbers
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steps import verify
from steps.equivalence import Checker

FIELDS = re.compile(r"\{(prompt|response)\}")
# Texts that the reward model reads at a time.
BATCH = 16


class Scored(NamedTuple):
    """One reward of one sample.

    Attributes:
        error: why there is no reward (it raised, or returned no finite number): the sample scores 0.0 as failed.
        note: "unparsed" (no answer in the response) or "timeout"; the value stands, it is not a failure.
    """

    value: float
    error: str | None = None
    note: str | None = None


# --- settings ------------------------------------------------------------------------------------


def check_settings(settings: dict[str, dict]) -> None:
    """What the schema cannot say.

    Raises:
        ValueError: the message names the reward, the key and the fix.
    """
    if not settings:
        raise ValueError("rewards: there is none; name one, such as answer: {kind: answer, weight: 1.0}")
    if not any(one["weight"] for one in settings.values()):
        raise ValueError("rewards: every weight is 0, so nothing is learned; give one reward a weight")
    for name, one in settings.items():
        _CHECKS.get(one["kind"], lambda name, one: None)(f"rewards.{name}", one)


def _check_answer(where: str, one: dict) -> None:
    if ("timeout" in one) != (one["equivalence"] == "math"):
        raise ValueError(f"{where}.timeout: equivalence math needs it, in seconds, and numeric has no use for it")


def _check_format(where: str, one: dict) -> None:
    try:
        re.compile(one["pattern"])
    except re.error as error:
        raise ValueError(f"{where}.pattern: {one['pattern']!r} is no regular expression ({error})") from None


def _check_length(where: str, one: dict) -> None:
    if not 0 <= one["start"] < one["end"]:
        raise ValueError(f"{where}: start {one['start']} must be below end {one['end']}, and neither negative")


def _check_self(where: str, one: dict) -> None:
    for field in ("prompt", "response"):
        if f"{{{field}}}" not in one["prompt"]:
            raise ValueError(f"{where}.prompt: the template does not show {{{field}}}; write it where it belongs")
    if not one["right"].strip() or not one["wrong"].strip() or one["right"] == one["wrong"]:
        raise ValueError(f"{where}: right {one['right']!r} and wrong {one['wrong']!r} must be two different answers")


def _check_custom(where: str, one: dict) -> None:
    if not Path(one["file"]).is_file():
        raise ValueError(f"{where}.file: {one['file']} is missing; the path is relative to the project's root")


_CHECKS = {
    "answer": _check_answer,
    "format": _check_format,
    "length": _check_length,
    "self": _check_self,
    "custom": _check_custom,
}


def custom_files(settings: dict[str, dict]) -> list[Path]:
    """Files of the user's that rewards come from: inputs of the step that uses them."""
    return sorted({Path(one["file"]) for one in settings.values() if one["kind"] == "custom"})


# --- pure rewards --------------------------------------------------------------------------------


def numeric(response: str, answer: str) -> Scored:
    """1.0 where what follows the last `####` equals the answer (Cobbe et al. 2021, arXiv:2110.14168)."""
    given = verify.worked_answer(response)
    if given is None:
        return Scored(0.0, note="unparsed")
    return Scored(float(verify.equal(given, answer)))


def too_long(tokens: int, start: int, end: int) -> float:
    """0 up to `start` tokens, then falling linearly to -1 at `end` and beyond.

    The soft overlong punishment of DAPO (Yu et al. 2025, arXiv:2503.14476, equation 13).
    """
    return -min(max((tokens - start) / (end - start), 0.0), 1.0)


def fill(template: str, prompt: str, response: str) -> str:
    """The template with its fields in one pass: braces in a response stay what they are."""
    given = {"prompt": prompt, "response": response}
    return FIELDS.sub(lambda match: given[match[1]], template)


def guarded(function: Callable[..., Any], *args: Any) -> Scored:
    """The finite number that a function returns, or why there is none."""
    try:
        value = function(*args)
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise TypeError(f"returned {value!r:.80}, which is no finite number")
    # Whatever a reward of the user's raises costs one sample and is reported by who asked.
    except Exception as error:
        return Scored(0.0, error=" ".join(f"{type(error).__name__}: {error}".split()))
    return Scored(float(value))


def question(row: dict) -> str:
    """Text of the last user turn."""
    return next(turn["content"] for turn in reversed(row["messages"]) if turn["role"] == "user")


def load_custom(where: str, path: Path, name: str, modules: dict[Path, Any]) -> Callable[..., Any]:
    """A function of the user's file, which runs once per process (`modules` remembers it).

    Raises:
        ValueError: the file cannot be run, has no such function, or the function takes other arguments.
    """
    if path not in modules:
        spec = importlib.util.spec_from_file_location(f"custom_reward_{len(modules)}", path)
        if spec is None or not path.is_file():
            raise ValueError(f"{where}.file: {path} is no Python file; correct the path")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise ValueError(f"{where}.file: {path} does not run ({type(error).__name__}: {error})") from error
        modules[path] = module
    function = getattr(modules[path], name, None)
    if not callable(function):
        raise ValueError(f"{where}.function: {path} has no function {name!r}; correct the name")
    try:
        inspect.signature(function).bind("", "", None)
    except TypeError as error:
        raise ValueError(f"{where}.function: {name} of {path} must take (prompt, response, answer): {error}") from None
    return function


# --- all rewards of a run ------------------------------------------------------------------------


class Rewards:
    """The rewards of a run. A context manager, because of the workers that check mathematical equivalence.

    Args:
        settings: name -> {"kind", "weight", …}.
        believes: `Engine.choose` of the start policy: ([prompts] of messages, [prompts] of [options]) ->
            [prompts] of [options] probabilities. For the kind self.
        reward_model: folder of a sequence classifier with one label. For the kind preference.

    Attributes:
        names: of the rewards, in the order of the settings.
        weights: theirs.

    Raises:
        ValueError: the settings contradict themselves, a custom function or the reward model is not what it must be.
    """

    def __init__(
        self,
        settings: dict[str, dict],
        *,
        believes: Callable[..., list[np.ndarray]] | None = None,
        reward_model: Path | None = None,
    ):
        check_settings(settings)
        self.settings, self.believes = settings, believes
        self.names = [*settings]
        self.weights = [float(one["weight"]) for one in settings.values()]
        self.checkers: dict[str, Checker] = {}
        self.functions: dict[str, Callable] = {}
        self.model = None
        modules: dict[Path, Any] = {}
        # A worker costs a core while it judges: as many as the step was given.
        workers = int(os.environ.get("OMP_NUM_THREADS") or 1)
        for name, one in settings.items():
            if one["kind"] == "answer" and one["equivalence"] == "math":
                self.checkers[name] = Checker(one["timeout"], workers)
            elif one["kind"] == "custom":
                self.functions[name] = load_custom(f"rewards.{name}", Path(one["file"]), one["function"], modules)
            elif one["kind"] == "self":
                assert believes is not None, "the kind self asks the start policy"
            elif one["kind"] == "preference" and self.model is None:
                if reward_model is None:
                    raise ValueError(f"rewards.{name}: the kind preference needs a reward model; give --reward-model")
                self.model = RewardModel(reward_model)

    def __enter__(self) -> "Rewards":
        return self

    def __exit__(self, *error) -> None:
        for checker in self.checkers.values():
            checker.__exit__(*error)

    def check_row(self, row: dict) -> None:
        """Whether every reward can judge this row.

        Raises:
            ValueError: it lacks an answer or a check that a reward needs, or math-verify cannot tell that its answer
                equals itself; the message names file, line, row and column.
        """
        where = f"{row['file']}, line {row['line']}, row {row['row']}"
        for name, one in self.settings.items():
            if one["kind"] == "answer" and not (row.get("answer") or "").strip():
                raise ValueError(
                    f"{where}, column answer: it is empty, and the reward {name} compares with it; add the answer or"
                    " remove the row"
                )
            if one["kind"] == "instruction":
                try:
                    verify.follows("", row["check"])
                except (KeyError, TypeError, ValueError) as error:
                    raise ValueError(
                        f"{where}, column check: the reward {name} cannot use it ({type(error).__name__}: {error}); add"
                        " a check that steps/verify.py knows or remove the row"
                    ) from None
            if name in self.checkers:
                self._check_gold(where, name, row["answer"])

    def _check_gold(self, where: str, name: str, answer: str) -> None:
        try:
            (outcome,) = self.checkers[name].check([(rf"\boxed{{{answer}}}", answer)])
        except ValueError as error:
            raise ValueError(f"{where}, column answer: {error}") from None
        if outcome != "right":
            raise ValueError(
                f"{where}, column answer: comparing {answer[:80]!r} with itself ends in {outcome}, so the reward {name}"
                " could never grant it; write it simpler or remove the row"
            )

    def score(self, name: str, rows: list[dict], responses: list[str], tokens: list[int]) -> list[Scored]:
        """One reward of a batch of samples, unweighted.

        Args:
            rows: [samples], the row of each.
            tokens: [samples], how many tokens each response has.

        Returns:
            [samples].
        """
        one = self.settings[name]
        kind = one["kind"]
        if name in self.checkers:
            pairs = [(response, row["answer"]) for row, response in zip(rows, responses, strict=True)]
            return [_judged(outcome) for outcome in self.checkers[name].check(pairs)]
        if kind == "answer":
            return [numeric(response, row["answer"]) for row, response in zip(rows, responses, strict=True)]
        if kind == "format":
            pattern = re.compile(one["pattern"], re.DOTALL)
            return [Scored(float(pattern.search(response) is not None)) for response in responses]
        if kind == "length":
            return [Scored(too_long(count, one["start"], one["end"])) for count in tokens]
        if kind == "instruction":
            return [
                Scored(float(verify.follows(response, row["check"])))
                for row, response in zip(rows, responses, strict=True)
            ]
        if kind == "self":
            return self._ask_itself(one, rows, responses)
        if kind == "preference":
            conversations = [
                [*row["messages"][:-1], {"role": "assistant", "content": response}]
                for row, response in zip(rows, responses, strict=True)
            ]
            return [guarded(float, value) for value in self.model.score(conversations)]
        assert kind == "custom", kind
        return [
            guarded(self.functions[name], question(row), response, row.get("answer"))
            for row, response in zip(rows, responses, strict=True)
        ]

    def _ask_itself(self, one: dict, rows: list[dict], responses: list[str]) -> list[Scored]:
        """Probability of `right` against `wrong`: the policy's belief that its response is good."""
        prompts = [
            [{"role": "user", "content": fill(one["prompt"], question(row), response)}]
            for row, response in zip(rows, responses, strict=True)
        ]
        beliefs = self.believes(prompts, [[one["right"], one["wrong"]]] * len(prompts))
        return [guarded(float, belief[0]) for belief in beliefs]

    def totals(self, values: dict[str, list[float]]) -> list[float]:
        """Weighted sums over the rewards, one per sample; `values` is name -> [samples]."""
        columns = [values[name] for name in self.names]
        return [
            math.fsum(weight * value for weight, value in zip(self.weights, sample, strict=True))
            for sample in zip(*columns, strict=True)
        ]


def _judged(outcome: str) -> Scored:
    if outcome == "error":
        return Scored(0.0, error="math-verify crashed on this answer, or ran out of memory or stack")
    return Scored(float(outcome == "right"), note=outcome if outcome in ("unparsed", "timeout") else None)


class RewardModel:
    """A sequence classifier with one label: the higher, the better people would like the response.

    Raises:
        ValueError: the folder is no such model, or its tokenizer cannot pad or has no chat template.
    """

    def __init__(self, folder: Path):
        import torch
        from transformers import AutoConfig, AutoModelForSequenceClassification
        from transformers.utils import logging

        from steps import checkpoints

        logging.disable_progress_bar()

        labels = AutoConfig.from_pretrained(folder, local_files_only=True).num_labels
        if labels != 1:
            raise ValueError(f"{folder}: a reward model has one label, and this one has {labels}; train one by reward")
        self.tokenizer = checkpoints.load_tokenizer(folder)
        for needed in ("pad_token", "chat_template"):
            if getattr(self.tokenizer, needed) is None:
                raise ValueError(
                    f"{folder}: the tokenizer has no {needed}; set it in the reward model's tokenizer files"
                )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.float32 if device == "cpu" else checkpoints.stored_dtype(folder)
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True
        )
        # It finds a text's last token by it.
        model.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id
        self.model = model.to(device).eval()
        self.max_length = model.config.get_text_config().max_position_embeddings

    def score(self, conversations: list[list[dict[str, str]]]) -> list[float]:
        """One number per conversation; one longer than the context loses its beginning."""
        import torch

        ids = [
            self.tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"][-self.max_length :]
            for messages in conversations
        ]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        found = [0.0] * len(ids)
        for begin in range(0, len(order), BATCH):
            batch = order[begin : begin + BATCH]
            given = self.tokenizer.pad(
                {"input_ids": [ids[i] for i in batch]}, padding_side="right", return_tensors="pt"
            ).to(self.model.device)
            with torch.inference_mode():
                logits = self.model(**given).logits
            assert logits.shape == (len(batch), 1)
            for i, value in zip(batch, logits.squeeze(1).float().tolist(), strict=True):
                found[i] = value
        return found
