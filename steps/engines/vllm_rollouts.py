"""Rollouts through vLLM: an engine whose weights follow the policy that is being trained.

`sampler: {kind: vllm, mode: colocate, memory: 0.3}` runs vLLM in the trainer's own process, on its device, with that
share of the memory; every process of a training has one. `{kind: vllm, mode: server, url: …}` asks a running server,
which has devices of its own. Before every batch of rollouts the policy's weights, an adapter merged into them, are
given to vLLM: a resumed run samples with what it resumed, and nothing is ever sampled by an older policy.

A server is started from the project's folder, on the checkpoint that training starts from or one of the same shape:

    VLLM_SERVER_DEV_MODE=1 VLLM_NO_USAGE_STATS=1 python -m vllm.entrypoints.openai.api_server --model <checkpoint>
        --host 127.0.0.1 --worker-extension-cls steps.engines.vllm_rollouts.Worker
        --weight-transfer-config '{"backend": "nccl"}'

Whoever reaches its port can change the model and run calls in it, for nothing asks who they are: without `--host` vLLM
listens on all interfaces. A server on another node is reached through a tunnel (`ssh -L 8000:127.0.0.1:8000 <node>`),
or listens on that node's address in a private network (`--host 10.1.2.3`), and `url` names the address. Plain http to
any other machine is refused. NCCL opens ports of its own, which no tunnel carries: on GPUs it is the private network.

TRL's client streams the weights to it over NCCL. A training on a CPU has no NCCL: it writes them into its work folder,
which the server must see under the same path, and has them read (there with `--dtype float32 --enforce-eager` in place
of the weight transfer).

Sample j of prompt i is seeded by (seed, batch of rollouts, i, j), within what vLLM promises (`steps/engines/vllm.py`):
a resumed run repeats the bytes of an undisturbed one where vLLM repeats them, as it does on a CPU.

A token's probability differs between vLLM and the trainer by rounding. The losses do not read vLLM's: the ratio to the
policy that sampled is taken from the trainer's own forward passes, or is 1 where no step came between. TRL's own use
of vLLM corrects the loss for the difference by truncated importance sampling; here it is measured instead, as
`sampler_gap` in training_log.csv: nats per token, over one prompt's samples of each batch of rollouts. On a CPU in
float32 it is 1e-7 to 1e-5, in bfloat16 0.005 to 0.025 (fable's base), and a step ends where it is more than `GAP`:
vLLM then has another model.

Both modes run on CPUs, in the tests; two processes with a vLLM each wrote, and learned, what one did (seen once, on
gloo). Not run, for want of a GPU: either mode on one, and NCCL.
"""

import contextlib
import ipaddress
import json
import os
import random
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from steps.core import processes
from steps.core.progress import Progress
from steps.core.versions import check_vllm
from steps.engines import vllm as vllm_engine
from steps.engines.interface import Coder, Messages, Sample
from steps.engines.transformers import Engine

# Nats per token between vLLM's log-probabilities and the policy's; bfloat16 rounds to a tenth of it or less.
GAP = 0.3
# Seconds for a server to say that it is there.
PATIENCE = 10
# Tokens that vLLM reads at once; it keeps memory for them.
READ_AT_ONCE = 4096
# Precision of the trainer's forward passes → that of vLLM's weights.
DTYPES = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}
START = (
    "start it as steps/engines/vllm_rollouts.py says, with VLLM_SERVER_DEV_MODE=1, --host 127.0.0.1 and"
    " --worker-extension-cls"
)


class Worker:
    """What vLLM's own worker gets besides: `--worker-extension-cls` puts this class under it."""

    def load_policy(self, weights: Any) -> None:
        """Take the weights of a checkpoint, from a folder or as pairs of name and tensor.

        TRL hands them to `model.load_weights`, which fails on CPUs: vLLM packs the weights of linear layers once they
        are loaded, and what it would load into is gone. `reload_weights` makes it again and packs it again, layer by
        layer; not that of an output layer which shares the embedding's weights and so is in no checkpoint.
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
        from vllm.platforms import current_platform

        given = {"weights_path": weights} if isinstance(weights, str) else {"weights_iterator": weights}
        self.model_runner.reload_weights(**given)
        if current_platform.is_cpu():
            for layer in self.model_runner.get_model().modules():
                if isinstance(layer, ParallelLMHead):
                    layer.quant_method.process_weights_after_loading(layer)


# --- before training -----------------------------------------------------------------------------


def check(settings: dict) -> None:
    """What the schema cannot say of `sampler`, and whether a server is there.

    Raises:
        ValueError: naming the setting, its value and the fix.
    """
    sampler = settings["sampler"]
    if sampler["kind"] == "transformers":
        return
    import torch

    check_vllm("sampler: {kind: vllm}", torch.cuda.is_available())
    if settings["adapter"]["kind"] == "qlora":
        raise ValueError(
            "sampler: {kind: vllm} needs the adapter merged into its base, and that of qlora is packed in 4 bits; write"
            " kind: transformers, or another adapter"
        )
    if settings["adapter"].get("modules_to_save"):
        raise ValueError("sampler: {kind: vllm} takes no adapter with modules_to_save; write kind: transformers")
    if sampler["mode"] == "server":
        check_server(sampler["url"])


def check_server(url: str) -> int:
    """The longest text that the model of a server reads, in tokens.

    Raises:
        ValueError: none answers there, or one that takes no weights, or others can listen and speak on the way to it.
    """
    if not guarded(url):
        raise ValueError(
            f"sampler.url: {url} is plain http to another machine, and whoever reaches that port can change the model;"
            " write http://127.0.0.1:8000 with a tunnel to it (ssh -L 8000:127.0.0.1:8000 <node>), or its address in a"
            " private network"
        )
    served = _asked(url, "/v1/models", START)["data"][0]
    # Of the paths that dev mode adds one that answers at once: the first /server_info takes ten seconds and more.
    dev = "without VLLM_SERVER_DEV_MODE=1 in its environment it takes no weights; restart it with that"
    _asked(url, "/get_world_size", dev)
    return served["max_model_len"]


def guarded(url: str) -> bool:
    """Whether a url stays on this machine, or goes to an address of a private network, or by https."""
    there = urlsplit(url)
    if there.scheme == "https" or there.hostname == "localhost":
        return True
    try:
        address = ipaddress.ip_address(there.hostname or "")
    except ValueError:
        return False  # a name: who answers to it is another's to say
    return address.is_private and not address.is_unspecified


def _asked(url: str, path: str, fix: str) -> dict:
    try:
        with urllib.request.urlopen(url.rstrip("/") + path, timeout=PATIENCE) as answer:
            return json.load(answer)
    except (OSError, ValueError) as error:
        raise ValueError(f"sampler.url: {url} does not answer {path} ({error}); {fix}") from error


# --- the engine ----------------------------------------------------------------------------------


def build(trainer: Any, tokenizer: Any, settings: dict, batch_size: int, prompts: Sequence[Messages]) -> Engine:
    """The engine that a trainer samples through.

    Args:
        batch_size: samples that are written at once.
        prompts: all that will be asked.
    """
    if settings["sampler"]["kind"] == "transformers":
        return Engine(trainer.model, tokenizer, batch_size)
    return Sampler(trainer, tokenizer, settings, batch_size, prompts)


class Sampler(Engine):
    """An engine that judges with the model being trained, and samples through vLLM after giving it that model."""

    name = "vllm"

    def __init__(self, trainer: Any, tokenizer: Any, settings: dict, batch_size: int, prompts: Sequence[Messages]):
        super().__init__(trainer.model, tokenizer, batch_size)
        self.trainer = trainer
        longest = max(map(len, self.prompt_ids(prompts))) + settings["max_new_tokens"]
        kind = {"colocate": Colocated, "server": Server}[settings["sampler"]["mode"]]
        self.vllm = kind(trainer, tokenizer, settings, batch_size, min(longest, self.max_length))

    def sample(
        self, prompts: Sequence[str | Messages | tuple[int, ...]], *, n: int = 1, **options: Any
    ) -> list[list[Sample]]:
        """As `Engine.sample`, by the weights of this moment. Every process of a training must call it."""
        import torch

        self.vllm.update()
        # Autocast would change the precision of vLLM's own layers.
        with torch.autocast(self.model.device.type, enabled=False):
            answers = self.vllm.sample(prompts, n=n, **options)
        if answers:
            gap = self._gap(self.prompt_ids(prompts[:1])[0], answers[0])
            # Answers to held-out questions are no rollouts.
            if options["temperature"] > 0:
                self.trainer._metrics["train"]["sampler_gap"].append(gap)
        return answers

    def _gap(self, prompt: list[int], samples: Sequence[Sample]) -> float:
        """Nats per token between the log-probabilities of a prompt's samples by vLLM and by the trainer.

        Raises:
            ValueError: it is too large for rounding.
        """
        rows = [[*prompt, *sample.ids] for sample in samples]
        nll, count = self._nll(rows, [[place >= len(prompt) for place in range(len(row))] for row in rows])
        gap = float(np.mean(np.abs(nll + [sample.logp for sample in samples]) / count))
        if not gap <= GAP:
            raise ValueError(
                f"sampler: vLLM's log-probabilities are {gap:.2g} nats per token off the policy's, more than rounding"
                " makes: it has another model, or computes this one otherwise; write sampler: {kind: transformers}"
            )
        return gap


# --- the weights ---------------------------------------------------------------------------------


def weights(model: Any) -> Iterator[tuple[str, Any]]:
    """Names and weights of a model as its checkpoint has them."""
    if hasattr(model, "peft_config"):
        return merged(model)
    return ((name, parameter.detach()) for name, parameter in model.named_parameters())


def merged(model: Any) -> Iterator[tuple[str, Any]]:
    """Names and weights of the model that a PEFT model makes.

    PEFT merges in place, and what it takes out again afterwards leaves rounding behind: the base would be another one
    after every batch of rollouts, and a resumed run, which reads it anew, another run. It is put back here.
    """
    import warnings

    from peft.tuners.tuners_utils import BaseTunerLayer

    if any(getattr(config, "target_parameters", None) for config in model.peft_config.values()):
        raise ValueError(
            "sampler: {kind: vllm} takes no adapted experts; write adapter.experts: frozen, or another kind"
        )
    inner = model.base_model.model
    layers = {name: module for name, module in inner.named_modules() if isinstance(module, BaseTunerLayer)}
    for name, layer in layers.items():
        own = dict(layer.get_base_layer().named_parameters())
        kept = {key: parameter.detach().clone() for key, parameter in own.items()}
        with warnings.catch_warnings():
            # That unmerging is inexact.
            warnings.simplefilter("ignore")
            layer.merge()
            changed = {key: parameter.detach().clone() for key, parameter in own.items()}
            layer.unmerge()
        for key, parameter in own.items():
            parameter.data.copy_(kept[key])
        # vLLM keeps them until it has all that it fuses: these are copies.
        yield from ((f"{name}.{key}", tensor) for key, tensor in changed.items())
    for name, parameter in inner.named_parameters():
        if not any(name.startswith(f"{layer}.") for layer in layers):
            yield name, parameter.detach()


# --- where vLLM runs -----------------------------------------------------------------------------


class Colocated(vllm_engine.VLLMEngine):
    """vLLM in this process."""

    def __init__(self, trainer: Any, tokenizer: Any, settings: dict, batch_size: int, longest: int):
        """`longest` is how many tokens the longest prompt and its response have."""
        model = trainer.model
        Coder.__init__(self, tokenizer, model.config, model.generation_config.eos_token_id, batch_size)
        self.model, self.max_length = model, longest
        os.environ.update({name: value for name, value in vllm_engine.ENVIRONMENT.items() if name not in os.environ})
        from vllm import LLM

        on_cpu, memory = trainer.accelerator.device.type == "cpu", settings["sampler"]["memory"]
        options: dict[str, Any] = {"gpu_memory_utilization": memory}
        if on_cpu:
            # A compiled graph would keep the weights that were packed when it was made.
            room = int(memory * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
            options = {"enforce_eager": True, "kv_cache_memory_bytes": room}
            # As in `vllm_engine`: a prompt that is read in parts and a seed fail together there.
            options |= {"enable_chunked_prefill": False}
        # Its weights come from the policy: all that it reads is the config.
        folder = Path(trainer.args.output_dir) / f"vllm-{processes.rank()}"
        model.config.save_pretrained(folder)
        try:
            with undisturbed():
                self._llm = LLM(
                    model=str(folder),
                    load_format="dummy",
                    skip_tokenizer_init=True,
                    generation_config="vllm",
                    dtype=DTYPES[trainer.accelerator.mixed_precision],
                    max_model_len=longest,
                    max_num_seqs=batch_size,
                    max_num_batched_tokens=max(READ_AT_ONCE, batch_size, longest),
                    logprobs_mode="raw_logprobs",
                    # Several processes each have one, and are not to be started by it.
                    distributed_executor_backend="uni" if processes.count() == 1 else "external_launcher",
                    worker_extension_cls=f"{Worker.__module__}.{Worker.__qualname__}",
                    seed=0,
                    disable_log_stats=True,
                    **options,
                )
        except ValueError as error:
            said = str(error).strip().splitlines()[0]
            raise ValueError(f"sampler: vLLM does not start with memory: {memory:g} ({said}); change it") from error

    def update(self) -> None:
        """Give vLLM the policy's weights."""
        self._llm.collective_rpc("load_policy", args=(weights(self.model),))
        self._llm.reset_prefix_cache()


class Server(vllm_engine.VLLMEngine):
    """A vLLM that runs elsewhere, asked over HTTP by TRL's client."""

    def __init__(self, trainer: Any, tokenizer: Any, settings: dict, batch_size: int, longest: int):
        """`longest` is how many tokens the longest prompt and its response have."""
        from requests.adapters import HTTPAdapter
        from trl.generation.vllm_client import VLLMClient

        model = trainer.model
        Coder.__init__(self, tokenizer, model.config, model.generation_config.eos_token_id, batch_size)
        self.model, self.max_length, self.url = model, longest, settings["sampler"]["url"].rstrip("/")
        if (reads := check_server(self.url)) < longest:
            raise ValueError(
                f"sampler.url: the model at {self.url} reads {reads} tokens, and the longest prompt and its response"
                f" have {longest}; raise its --max-model-len"
            )
        self.folder = (Path(trainer.args.output_dir) / f"vllm-{processes.rank()}").resolve()
        self.streams = trainer.accelerator.device.type == "cuda"
        self.client = VLLMClient(base_url=self.url)
        self.client.session.mount(self.url, HTTPAdapter(pool_maxsize=batch_size))
        if self.streams and processes.first():
            try:
                self.client.init_communicator(trainer.accelerator.device)
                # NCCL on the other side must know what comes.
                self.layout = [
                    (name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape))
                    for name, tensor in weights(model)
                ]
            except RuntimeError as error:
                raise ValueError(f"sampler.url: {error}") from error

    def update(self) -> None:
        """Give the server the policy's weights: over NCCL, or on a CPU by a file."""
        from safetensors.torch import save_file

        if processes.first() and not self.streams:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(
                {name: tensor.contiguous() for name, tensor in weights(self.model)}, self.folder / "model.safetensors"
            )
        if processes.first():
            with self._answering():
                self._send()
        processes.wait()

    def _send(self) -> None:
        if self.streams:
            self.client.update_named_params(self.layout, weights(self.model))
        else:
            asked = {"method": "load_policy", "args": [str(self.folder)]}
            answer = self.client.session.post(f"{self.url}/collective_rpc", json=asked)
            if answer.status_code != 200:
                raise ValueError(f"sampler.url: {self.url} does not take the weights ({answer.text}); {START}")
        self.client.reset_prefix_cache()

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ValueError(
                f"sampler.url: {self.url} stopped answering ({type(error).__name__}); start it again: the training goes"
                " on from the state that it last put aside"
            ) from error

    def _run(self, requests: Sequence[tuple[list[int], dict]], progress: Progress | None = None) -> list[Any]:
        """vLLM's outputs of (token ids, options of SamplingParams), in their order, as far as a Sample needs them."""

        def one(request: tuple[list[int], dict]) -> SimpleNamespace:
            ids, options = request
            response = self.client.generate(
                [ids],
                temperature=options["temperature"],
                top_p=options["top_p"],
                top_k=options["top_k"],
                min_p=options["min_p"],
                max_tokens=options["max_tokens"],
                generation_kwargs={key: options[key] for key in ("seed", "stop", "stop_token_ids")},
            )
            written, logps = response["completion_ids"][0], [token[0] for token in response["logprobs"][0]]
            each = [{token: SimpleNamespace(logprob=logp)} for token, logp in zip(written, logps, strict=True)]
            written = SimpleNamespace(token_ids=written, cumulative_logprob=sum(logps), logprobs=each)
            return SimpleNamespace(outputs=[written])

        with self._answering(), ThreadPoolExecutor(self.batch_size) as pool:
            return list(pool.map(one, requests))


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the random numbers that training draws: a vLLM that starts in this process seeds all generators."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(python)
    np.random.set_state(numpy)
