"""Rollouts through vLLM: against the transformers engine on the policy's own weights, in both modes, on a CPU."""

import copy
import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from steps.core.hashes import sha256_file
from steps.engines import transformers as engine
from steps.engines import vllm_rollouts as vllm_sampler
from steps.models import checkpoints
from steps.models.adapters.attach import attach
from steps.settings.opd import Opd
from steps.settings.reinforcement import Rl
from steps.settings.sampling import OnPolicy, Sampler
from steps.training.state import trained_weights
from tests.conftest import build_tokenizer
from tests.distillation import test_opd
from tests.models.test_adapters import KINDS
from tests.reinforcement import test_rl

ROOT = Path(__file__).parents[2]
# vLLM's attention on CPUs has no heads of 16, as the smaller models of the tests do.
BASE = ROOT / "data" / "fable" / "base"
TEXT = "Mara has 7 pears and buys 4 more?"
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make vllm")
# Of a CPU with 16 GB: room for hundreds of these models' contexts.
COLOCATED = {"kind": "vllm", "mode": "colocate", "memory": 0.02}
FULL, LORA = {"kind": "full"}, {"kind": "lora", "r": 4, "alpha": 8, "dropout": 0.0}
# Nats: two ways to compute in float32 (the largest seen is 1.1e-5 over eight tokens).
CLOSE = 1e-3


def settings_of(sampler: dict, **over) -> dict:
    two = {"steps": 2, "saves": 1, "watch_kl": 0, "sampler": sampler}
    return test_rl.settings_of("grpo", **test_rl.REAL | two | over)


def test_the_gap_of_rollouts_is_none_of_answers_to_held_out_questions():
    sampler = object.__new__(vllm_sampler.Sampler)
    sampler.model = SimpleNamespace(device=torch.device("cpu"))
    sampler.trainer = SimpleNamespace(_metrics={"train": {"sampler_gap": []}})
    sampler.vllm = SimpleNamespace(update=lambda: None, sample=lambda *_, **__: [["a sample"]])
    sampler.prompt_ids, sampler._gap = lambda prompts: [[1]], lambda *_: 0.1
    sampler.sample(["a"], temperature=0.0)
    assert sampler.trainer._metrics["train"]["sampler_gap"] == []
    sampler.sample(["a"], temperature=0.8)
    assert sampler.trainer._metrics["train"]["sampler_gap"] == [0.1]


# --- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "right"),
    [
        ({"kind": "transformers"}, True),
        (COLOCATED, True),
        ({"kind": "vllm", "mode": "server", "url": "http://127.0.0.1:8000"}, True),
        ({"kind": "transformers", "memory": 0.3}, False),
        ({"kind": "vllm"}, False),
        ({"kind": "vllm", "mode": "server", "memory": 0.3}, False),
        ({"kind": "vllm", "mode": "server", "url": "127.0.0.1:8000"}, False),
        ({"kind": "vllm", "mode": "colocate", "memory": 1.0}, False),
    ],
)
def test_a_mode_has_its_own_keys_and_no_other(sampler, right):
    assert issubclass(Rl, OnPolicy) and issubclass(Opd, OnPolicy)
    try:
        TypeAdapter(Sampler).validate_python(sampler)
    except ValidationError:
        assert not right
    else:
        assert right


def installed(monkeypatch, there: bool) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: (there or None) if name == "vllm" else find(name, *rest)
    )


def test_what_cannot_be_is_one_line_with_the_fix(monkeypatch):
    installed(monkeypatch, False)
    vllm_sampler.check(settings_of({"kind": "transformers"}))
    with pytest.raises(ValueError, match=r"^sampler.*not installed here; run `make vllm`, or write transformers$"):
        vllm_sampler.check(settings_of(COLOCATED))
    installed(monkeypatch, True)
    vllm_sampler.check(settings_of(COLOCATED))
    with pytest.raises(ValueError, match=r"^sampler.* that of qlora is packed in 4 bits; write .*$"):
        vllm_sampler.check(settings_of(COLOCATED, adapter=LORA | {"kind": "qlora"}))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_is_not_there_or_takes_no_weights_is_told_before_training(monkeypatch, tmp_path):
    installed(monkeypatch, True)
    paths = {"/v1/models": {"data": [{"max_model_len": 16}]}}

    class Double(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in paths else 404)
            self.end_headers()
            self.wfile.write(json.dumps(paths.get(self.path)).encode())

        def log_message(self, *_):
            pass

    url = f"http://127.0.0.1:{free_port()}"
    sampler = {"kind": "vllm", "mode": "server", "url": url}
    # The whole step: nothing of it is reached but the check.
    with pytest.raises(ValueError, match=rf"^sampler.url: {url} does not answer /v1/models .*; start it as .*"):
        test_rl.run(BASE, tmp_path / "rl", settings_of(sampler))
    served = HTTPServer(("127.0.0.1", int(url.rsplit(":")[-1])), Double)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    try:
        with pytest.raises(ValueError, match=r"404.*; without VLLM_SERVER_DEV_MODE=1 .* restart it with that$"):
            vllm_sampler.check(settings_of(sampler))
        paths["/get_world_size"] = {"world_size": 1}
        vllm_sampler.check(settings_of(sampler))
        monkeypatch.undo()
        trainer = SimpleNamespace(model=checkpoints.load_model(BASE, torch.float32))
        with pytest.raises(ValueError, match=r"reads 16 tokens, and .* have 17; raise its --max-model-len$"):
            vllm_sampler.Server(trainer, checkpoints.load_tokenizer(BASE), {"sampler": sampler}, 8, longest=17)
    finally:
        served.shutdown()
        served.server_close()


@pytest.mark.parametrize(
    ("url", "reached"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://localhost:8000", True),
        ("http://[::1]:8000", True),
        ("http://10.1.2.3:8000", True),
        ("https://vllm.example.org", True),
        ("http://vllm.example.org:8000", False),
        ("http://8.8.8.8:8000", False),
        ("http://0.0.0.0:8000", False),
        ("http://127.0.0.1@8.8.8.8:8000", False),
        ("http://127.0.0.1.example.org:8000", False),
        ("http://[2001:4860:4860::8888]:8000", False),
    ],
)
def test_plain_http_reaches_this_machine_and_private_networks_only(url, reached, monkeypatch):
    monkeypatch.setattr(vllm_sampler, "_asked", lambda *_: {"data": [{"max_model_len": 16}]})
    if reached:
        assert vllm_sampler.check_server(url) == 16
    else:
        with pytest.raises(ValueError, match=r"^sampler.url: http.* is plain http to another machine.*ssh -L"):
            vllm_sampler.check_server(url)


# --- the weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "qlora"])
def test_an_adapter_is_merged_as_peft_merges_it_and_the_base_stays_bit_for_bit(kind, tiny_checkpoint):
    model = attach(checkpoints.load_model(tiny_checkpoint, torch.float32), KINDS[kind], seed=0, steps=20)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trained_weights(model).values():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=draw))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    expected = dict(copy.deepcopy(model).merge_and_unload().named_parameters())
    start = dict(checkpoints.load_model(tiny_checkpoint, torch.float32).named_parameters())
    for _ in range(3):
        found = dict(vllm_sampler.merged(model))
        assert found.keys() == expected.keys() == start.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
    assert any(not torch.equal(found[name], start[name]) for name in start)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


# --- for real --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory):
    """vLLM's server, which starts while the other tests run; the URL, once it answers."""
    if importlib.util.find_spec("vllm") is None:
        yield None
        return
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log"
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(BASE), "--host", "127.0.0.1",
        "--port", str(port), "--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", str(2**28),
        "--max-num-seqs", "32", "--worker-extension-cls", "steps.engines.vllm_rollouts.Worker",
    ]  # fmt: skip
    own = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with open(log, "w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=os.environ | own, cwd=ROOT, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"

    def ready() -> str:
        until = time.monotonic() + 300
        while time.monotonic() < until and process.poll() is None:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                return url
            except OSError:
                time.sleep(0.5)
        raise AssertionError(f"the server did not start:\n{log.read_text()[-3000:]}")

    yield ready
    # Its workers with it; one that is still starting does not listen to SIGTERM.
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def llama(folder: Path) -> Path:
    """A random Llama of 2 layers whose output layer shares the embedding's weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def greedy(sampler, limit: int = test_rl.LONGEST) -> list:
    asked = [row["messages"][:-1] for row in test_rl.made_rows(9)]
    with torch.no_grad():
        return [group[0] for group in sampler.sample(asked, temperature=0.0, max_new_tokens=limit, seed=0)]


def drawn() -> list:
    return [torch.random.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]


def followed(parent: Path, settings: dict, folder: Path, monkeypatch) -> list[list]:
    """Train; after every step, and before the first, the greedy responses by vLLM, held against the policy's own."""
    from transformers import TrainerCallback

    found: list[list] = []
    build = vllm_sampler.build

    def built(trainer, tokenizer, *args):
        before = drawn()
        sampler = build(trainer, tokenizer, *args)
        # Starting vLLM draws none of the numbers that training draws.
        assert drawn() == before
        plain = engine.Engine(trainer.model, tokenizer, 32)

        class Eye(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                if not found:
                    self.look()

            def on_step_end(self, args, state, control, **kwargs):
                self.look()

            def look(self):
                trainer.model.eval()
                theirs, ours = greedy(sampler), greedy(plain)
                trainer.model.train()
                assert [sample.ids for sample in theirs] == [sample.ids for sample in ours]
                assert [sample.text for sample in theirs] == [sample.text for sample in ours]
                for mine, its in zip(ours, theirs, strict=True):
                    assert abs(mine.logp - its.logp) < CLOSE and mine.tokens == its.tokens
                found.append([sample.ids for sample in ours])

        trainer.add_callback(Eye())
        return sampler

    monkeypatch.setattr(vllm_sampler, "build", built)
    test_rl.run(parent, folder, settings)
    return found


def gaps(out: Path) -> list[float]:
    return [row["sampler_gap"] for row in test_opd.table(out / "training_log.csv")]


@needs_vllm
@pytest.mark.parametrize("case", ["qwen3-full", "llama-lora"])
def test_vllm_writes_what_the_policy_would_after_every_step(case, tmp_path, monkeypatch):
    """Of Qwen3, output layer and embedding are one module in vLLM; of Llama 3.2 two that share their weights."""
    family, kind = case.split("-")
    parent = BASE if family == "qwen3" else llama(tmp_path / "llama")
    over = {"adapter": LORA, "learning_rate": 0.1} if kind == "lora" else {"learning_rate": 3e-3}
    seen = followed(parent, settings_of(COLOCATED, **over), tmp_path / "run", monkeypatch)
    assert len(seen) == 3 and seen[0] != seen[1] and seen[1] != seen[2]
    assert all(0 < gap < CLOSE for gap in gaps(tmp_path / "run" / "out"))


@needs_vllm
def test_a_killed_run_ends_as_an_undisturbed_one_and_a_server_writes_the_same(server, tmp_path, monkeypatch):
    settings = settings_of(COLOCATED)
    whole = test_rl.run(BASE, tmp_path / "whole", settings)
    sample, calls = vllm_sampler.Sampler.sample, []

    def killed(*args, **kwargs):
        calls.append(kwargs["seed"])
        if len(calls) == 2:
            raise test_rl.Killed
        return sample(*args, **kwargs)

    monkeypatch.setattr(vllm_sampler.Sampler, "sample", killed)
    with pytest.raises(test_rl.Killed):
        test_rl.run(BASE, tmp_path / "killed", settings)
    torch.manual_seed(99)
    resumed = test_rl.run(BASE, tmp_path / "killed", settings)
    assert calls == [[0, 0], [0, 1], [0, 1]]
    assert test_rl.hashes(resumed) == test_rl.hashes(whole)

    served = test_rl.run(BASE, tmp_path / "served", settings_of({"kind": "vllm", "mode": "server", "url": server()}))
    assert sha256_file(served / "rollouts.jsonl") == sha256_file(whole / "rollouts.jsonl")
    assert all(0 < gap < CLOSE for gap in gaps(served))
    # What the transformers engine writes at the same seed is drawn otherwise.
    plain = test_rl.run(BASE, tmp_path / "plain", settings_of({"kind": "transformers"}))
    assert sha256_file(plain / "rollouts.jsonl") != sha256_file(whole / "rollouts.jsonl")
    assert gaps(plain) == [None, None]


@needs_vllm
def test_on_policy_distillation_samples_through_vllm(tiny_checkpoint, tmp_path):
    out = test_opd.run([tiny_checkpoint, tiny_checkpoint], tmp_path / "run", test_opd.SETTINGS | {"sampler": COLOCATED})
    log = test_opd.table(out / "training_log.csv")
    assert [row["step"] for row in log] == [1, 2] and log[-1]["generated"] > 0
    assert all(0 < gap < CLOSE for gap in gaps(out))


@needs_vllm
def test_a_vllm_with_another_model_ends_the_step(tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_sampler.Colocated, "update", lambda self: None)
    with pytest.raises(ValueError, match=r"^sampler: .* nats per token off the policy's.*write .*transformers}$"):
        test_rl.run(BASE, tmp_path / "run", settings_of(COLOCATED))


@needs_vllm
def test_a_share_of_memory_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    import vllm

    def refuses(**_):
        raise ValueError("No available memory for the cache blocks.\nTry increasing it.")

    monkeypatch.setattr(vllm, "LLM", refuses)
    with pytest.raises(ValueError, match=r"^sampler: .*memory: 0.02 \(No available memory.*blocks.\); change it$"):
        test_rl.run(BASE, tmp_path / "run", settings_of(COLOCATED))
