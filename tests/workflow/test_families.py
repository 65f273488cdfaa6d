"""Small models of the true architectures, with tokenizers and chat templates of their shape, through every stage.

`tests/families.py` makes them. What is expected of a template is written out here, from the model cards.
"""

import argparse
import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.data import bucket
from steps.distillation import distill, generate, logprobs, opd
from steps.engines.transformers import Engine
from steps.evaluation import evaluate
from steps.graph import graph as dag
from steps.graph import recipes
from steps.judges.instructions import follows
from steps.judges.reading import said
from steps.judges.rows import RowJudge
from steps.judges.tasks import filter_first_line, score_question
from steps.models import checkpoints, teachers
from steps.models.chat import Chat
from steps.recipes import cpt, interpolate, merge, reward, sft
from steps.recipes.preferences import encode_pairs
from steps.reinforcement import difficulty, gate, rl
from steps.settings.axes import AXES
from steps.training import supervised
from steps.training.documents import encode_corpus
from steps.training.supervised import encode_rows
from tests import families
from tests.workloads import PARAMS, ROOT, SMOKE, lay_over

LORA = {"adapter": {"kind": "lora", "r": 4, "alpha": 8}}
QLORA = {"adapter": {"kind": "qlora", "r": 4, "alpha": 8}}
# Two steps of each training stage.
TOY = {
    "bucket": {"batch_size": 64},
    "sft": {"epochs": 1, "batch_size": 4, "saves": 1, "max_length": 512},
    "cpt": {"epochs": 1, "batch_size": 2, "saves": 1, "max_length": 512},
    "reward": {"epochs": 1, "batch_size": 4, "saves": 1, "max_length": 512},
    "difficulty": {"max_new_tokens": 16},
    "rl": {"steps": 2, "prompts": 2, "generations": 4, "batch_size": 4, "max_new_tokens": 16, "saves": 1},
    "generate": {"samples": 4, "keep": 1, "max_new_tokens": 256},
    "logprobs": {"max_length": 768, "batch_size": 4},
    "distill": {"epochs": 1, "batch_size": 4, "saves": 1, "max_length": 768},
    "opd": {"steps": 2, "prompts": 2, "generations": 2, "batch_size": 2, "max_new_tokens": 16, "saves": 1},
    "interpolate": {"alphas": [0.0, 1.0], "target": ["bbh"], "general": ["math500"]},
    "evaluate": {
        "target": ["gsm8k"],
        "harder": [],
        "general": ["nq_open"],
        "dev": [],
        "limit": 2,
        "tasks": {
            name: {"data_files": {split: f"data/{name}/{split}.jsonl" for split in ("train", "test")}}
            for name in ("gsm8k", "bbh", "nq_open")
        }
        | {
            "math500": {
                "stock": "math",
                "data_files": {"test": "data/math500/test.jsonl"},
                "overrides": {"generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": 16}},
            }
        },
        "max_new_tokens": 16,
        "sampling": {"tasks": ["gsm8k"], "limit": 2, "samples": 2},
    },
}
REWARDS = {
    "answer": {"kind": "answer", "weight": 1.0},
    "preferred": {"kind": "preference", "weight": 1.0, "model": "judge"},
    "believed": {"kind": "self", "weight": 0.1, "prompt": "{prompt} {response}", "right": "Yes", "wrong": "No"},
}
RECIPES = {
    "plain": {"stage": "sft", "from": "base", "data": "problems", "trajectory": 2},
    "lora": {"stage": "sft", "from": "base", "data": "problems", **LORA},
    "qlora": {"stage": "sft", "from": "base", "data": "problems", **QLORA},
    "knowledge": {"stage": "cpt", "from": "base", "diagnosis": "plain", "treats": ["missing_knowledge"]},
    "judge": {"stage": "reward", "from": "base", "data": "preferences"},
    "grpo": {"stage": "rl", "from": "plain", "data": "exercises", "rewards": REWARDS},
    "sdpo": {"stage": "rl", "from": "plain", "data": "exercises", "method": "sdpo", **LORA},
    "told": {"stage": "distill", "from": "base", "data": "exercises", "teachers": ["plain"]},
    "weighed": {
        "stage": "distill", "from": "base", "data": "exercises", "teachers": ["plain"], "objective": "forward_kl",
    },
    "opd": {"stage": "opd", "from": "base", "data": "exercises", "teachers": ["large"], "off_policy": 0.5},
    "ties": {"stage": "merge", "from": ["plain", "lora"], "method": "ties"},
    "path": {"stage": "interpolate", "from": ["base", "plain"]},
}  # fmt: skip
SAID = "12 + 30 = 42 pears .\n#### 42"
SYSTEM = "Be brief."
# What stands before the first user turn, and what closes a turn.
ENDS = {"qwen2_5": "<|im_end|>", "qwen3": "<|im_end|>", "llama3_2": "<|eot_id|>"}
# What a template writes between the opened prompt and the answer.
THOUGHT = {"qwen2_5": "", "qwen3": "<think>\n\n</think>\n\n", "llama3_2": ""}
HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
PROMPT = {
    "qwen2_5": (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "qwen3": "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n",
    "llama3_2": (
        "<|begin_of_text|>" + HEADER.format("system") + "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024"
        "\n\n<|eot_id|>" + HEADER.format("user") + "How many?<|eot_id|>" + HEADER.format("assistant")
    ),
}
QUESTION = [{"role": "user", "content": "How many?"}]
TURN = [*QUESTION, {"role": "assistant", "content": SAID}]


def rows(count: int) -> list[dict]:
    """Problems with a worked answer, some with a system turn, as the split leaves them."""
    made = []
    for i in range(count):
        system = [{"role": "system", "content": SYSTEM}] if i % 3 == 2 else []
        asked = {"role": "user", "content": f"Mara has {i} pears and buys {i + 2} more. How many has Zoë now?"}
        said = {"role": "assistant", "content": f"{i} + {i + 2} = {2 * i + 2}\n#### {2 * i + 2}"}
        place = {"id": f"sums:{i}", "file": "sums.jsonl", "line": i + 1, "row": i}
        made.append(place | {"messages": [*system, asked, said], "answer": str(2 * i + 2), "rejected": "1"})
    return made


@pytest.fixture(scope="module", params=families.FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def base(family, tmp_path_factory) -> Path:
    return families.write_checkpoint(family, tmp_path_factory.mktemp(family) / "base")


@pytest.fixture(scope="module")
def tokenizer(base):
    return checkpoints.load_tokenizer(base)


# --- tokenizers and templates ----------------------------------------------------------------------


def test_a_prompt_is_what_the_model_card_says(family, base, tokenizer):
    engine = Engine.load(base, 4)
    assert engine.render(QUESTION) == PROMPT[family]
    (ids,) = engine.prompt_ids([QUESTION])
    assert tokenizer.decode(ids) == PROMPT[family]
    # One beginning, of those that have one, whoever writes it.
    bos = tokenizer.convert_tokens_to_ids("<|begin_of_text|>") if family == "llama3_2" else None
    assert [i for i in ids if i == bos] == ids[: int(bos is not None)]
    # A text is what a template has written: nothing is added to it.
    (plain,) = engine.prompt_ids(["How many?"])
    assert tokenizer.decode(plain) == "How many?"


def test_what_is_trained_on_is_the_answer_with_its_end(family, tokenizer):
    (row,) = supervised.encode(Chat(tokenizer), {"messages": TURN}, completion_only=True)
    assert tokenizer.decode(row["input_ids"]).startswith(PROMPT[family])
    trained = tokenizer.decode([i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label >= 0])
    assert trained == THOUGHT[family] + SAID + ENDS[family]


def test_in_a_conversation_every_answer_is_trained_on(family, tokenizer):
    encoded = supervised.encode(Chat(tokenizer), {"messages": TURN * 2}, completion_only=True)
    assert len(encoded) == (2 if THOUGHT[family] else 1)
    text = tokenizer.decode([label for row in encoded for label in row["labels"] if label >= 0])
    assert text.count(SAID + ENDS[family]) == 2 and "How many?" not in text


def test_an_answer_is_scored_given_its_prompt(family, base):
    """Against the model's own loss on ids that are put together here."""
    import torch

    engine = Engine.load(base, 4)
    encode = engine.tokenizer.backend_tokenizer.encode
    prompt = encode(PROMPT[family], add_special_tokens=False).ids
    answer = encode(THOUGHT[family] + SAID + ENDS[family], add_special_tokens=False).ids
    with torch.no_grad():
        logits = engine.model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum").item()
    (nll,), (tokens,) = engine.score([TURN])
    assert tokens == len(answer) and nll == pytest.approx(expected, rel=1e-4)
    (right, wrong), _ = engine.score([TURN, [*QUESTION, {"role": "assistant", "content": "43"}]])
    (found,) = engine.choose([QUESTION], [[SAID, "43"]])
    assert found[0] == pytest.approx(1 / (1 + torch.tensor(right - wrong).exp().item()), abs=1e-4)


def test_no_rendering_knows_the_day(base, tmp_path, monkeypatch):
    from transformers import AutoTokenizer
    from transformers.utils import chat_template_utils

    later = SimpleNamespace(now=lambda: datetime.datetime(2031, 1, 2))
    monkeypatch.setattr(chat_template_utils, "datetime", later)
    chat_template_utils._compile_jinja_template.cache_clear()
    raw = AutoTokenizer.from_pretrained(base, local_files_only=True)
    raw_says = raw.apply_chat_template(QUESTION, tokenize=False)
    assert ("02 Jan 2031" in raw_says) == ("Today Date" in raw_says), "the template asks for the day no more"
    ours = checkpoints.load_tokenizer(base)
    assert "2031" not in ours.apply_chat_template(QUESTION, tokenize=False)
    # What is saved with a checkpoint says so to everyone who serves it.
    ours.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert "2031" not in saved.apply_chat_template(QUESTION, tokenize=False)
    assert saved.pad_token is not None
    teachers.check_same_language(base, tmp_path)


def test_padding_has_a_token_of_its_own(family, tokenizer):
    expected = {"llama3_2": "<|finetune_right_pad_id|>"}.get(family, "<|endoftext|>")
    assert tokenizer.pad_token == expected != ENDS[family]


def test_control_tokens_stay_out_of_the_rows_and_thoughts_do_not(family, tokenizer, tmp_path):
    texts = [SAID, f"Hm.{ENDS[family]}", "<think>\nHm.\n</think>\n\n#### 42"]
    said = [{"messages": [*QUESTION, {"role": "assistant", "content": text}]} for text in texts]
    made = [row | messages for row, messages in zip(rows(3), said, strict=True)]
    write_jsonl(tmp_path / "rows.jsonl", made)
    settings = {"completion_only_loss": True, "max_length": 512}
    kept, skipped = encode_rows(tmp_path / "rows.jsonl", tokenizer, settings)
    assert [row["id"] for row in kept] == ["sums:0", "sums:2"]
    assert [(row["id"], row["reason"], row["detail"]) for row in skipped] == [
        ("sums:1", "control_token", ENDS[family])
    ]  # fmt: skip
    pairs, skipped = encode_pairs(tmp_path / "rows.jsonl", tokenizer, 512)
    assert [row["id"] for row in pairs] == ["sums:0", "sums:2"] and skipped[0]["reason"] == "control_token"


def test_a_document_begins_and_ends_as_in_pre_training(family, tokenizer):
    (row,) = encode_corpus(tokenizer, ["Tarsk is big."])
    begin, end = ("<|begin_of_text|>", "<|end_of_text|>") if family == "llama3_2" else ("", "<|endoftext|>")
    assert tokenizer.decode(row["input_ids"]) == begin + "Tarsk is big." + end


def test_greedy_answers_are_those_of_transformers(family, base):
    """In one batch of unequal lengths; until any of the family's ends."""
    import torch

    engine = Engine.load(base, 4)
    ends = {"llama3_2": ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]}.get(family, ["<|endoftext|>", "<|im_end|>"])
    assert engine.stop_ids == sorted(engine.tokenizer.convert_tokens_to_ids(ends))
    prompts = [QUESTION, [{"role": "system", "content": SYSTEM}, *QUESTION], TURN + QUESTION]
    found = engine.sample(prompts, temperature=0.0, max_new_tokens=12)
    for prompt, (sample,) in zip(prompts, found, strict=True):
        ids = torch.tensor([engine.prompt_ids([prompt])[0]])
        expected = engine.model.generate(
            ids, do_sample=False, max_new_tokens=12, eos_token_id=engine.stop_ids, temperature=None, top_p=None,
            pad_token_id=engine.pad_id,
        )  # fmt: skip
        assert list(sample.ids) == expected[0, ids.shape[1] :].tolist()


def test_an_answer_is_read_behind_the_thinking():
    thought = "<think>\n\n</think>\n\n"
    row = {"messages": [*QUESTION, {"role": "assistant", "content": "Tarsk"}], "answer": None}
    told = [RowJudge().verdict(row, text, 5).right for text in (thought + "tarsk.", "<think>\nTarsk\n</think>\n\nMara")]
    assert told == [True, False]
    assert follows(thought + "pear pear", {"kind": "repeat", "word": "pear", "times": 2})
    assert filter_first_line([[thought + "Tarsk\nis"]], None) == [["Tarsk"]]
    assert said("2 < 3\n") == "2 < 3\n"
    doc = {"question": "who", "answer": ["The Tarsk", "14 December 1972 UTC"]}
    scores = [score_question(doc, [text])["exact_match"] for text in ("tarsk!", "14 December, 1972 UTC", "UTC")]
    assert scores == [1.0, 1.0, 0.0]


# --- every stage -----------------------------------------------------------------------------------


def settings_of(base: Path, large: Path) -> tuple[dict, dict]:
    """The sections of the steps that sample, and the recipes' settings, as the workflow hands them to the steps."""
    params = lay_over(lay_over(PARAMS, SMOKE), TOY)
    params["models"] = {"base": {"path": str(base)}, "large": {"path": str(large)}}
    params["studies"] = {"every": {"detect": "problems", "recipes": RECIPES}}
    graph = dag.Graph(recipes.complete(params))
    shared = {key: graph.params["evaluate"][key] for key in ("tasks", "limit", "batch_size", "max_new_tokens")}
    nodes = {name: node.settings for name, node in graph.nodes.items()}
    sampling = {"engine": "transformers"}
    sections = ("bucket", "difficulty", "generate", "logprobs", "evaluate", "gate")
    sections = {name: graph.params[name] | sampling for name in sections}
    measured = [task for axis in AXES for task in sections["evaluate"][axis]]
    sections["evaluate"]["tasks"] = {task: shared["tasks"][task] for task in measured}
    return sections, nodes | {"path": shared | nodes["path"] | sampling}


def whole(folder: Path, base: Path) -> Path:
    """A finished checkpoint is a model like its base, to transformers and to us; returns it."""
    import torch
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    checkpoints.check(folder)
    assert checkpoints.load_tokenizer(folder).get_vocab() == checkpoints.load_tokenizer(base).get_vocab()
    if checkpoints.is_adapter(folder):
        model = checkpoints.load_model(folder, torch.float32)
    else:
        model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not loading["missing_keys"] and not loading["unexpected_keys"] and model.dtype == torch.float32
        with safe_open(folder / "model.safetensors", "pt") as file:
            assert "lm_head.weight" not in file.keys(), "a tied embedding is stored once"
        # The base is bfloat16; what is trained is stored as it was trained, and what is merged of it too.
        was, now = (read_json(f / "config.json") for f in (base, folder))
        kept = ("architectures", "vocab_size", "rope_parameters", "tie_word_embeddings", "eos_token_id", "head_dim")
        assert {key: now.get(key) for key in kept} == {key: was.get(key) for key in kept}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()
    return folder


def changed(folder: Path, base: Path) -> bool:
    import torch

    a, b = (checkpoints.load_model(f, torch.float32).state_dict() for f in (folder, base))
    return any(not torch.equal(a[name], b[name]) for name in a)


def test_two_steps_through_every_stage(family, base, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    # As Qwen2.5's larger sizes: the same tokens in an embedding that is padded further.
    large = families.write_checkpoint(family, tmp_path / "large", seed=1, wider=families.FAMILIES[family]["wider"] + 7)
    sections, of = settings_of(base, large)
    made = tmp_path / "made"
    data = tmp_path / "rows.jsonl"
    write_jsonl(data, rows(8))
    write_jsonl(tmp_path / "documents.jsonl", [{"text": f"Tarsk has {i} towers."} for i in range(4)])

    def step(module, name: str, settings: dict, /, **inputs) -> Path:
        out = made / name
        module.main(argparse.Namespace(settings=settings, out=out, **inputs))
        return out

    def train(module, name: str, parent: Path, /, **inputs) -> Path:
        work = {"work": tmp_path / "work" / name, "logs": None}
        out = step(module, name, of[name], parent=parent, **work, **inputs)
        steps = read_json(out / "manifest.json")["counts"]["steps"]
        assert steps == 2 and len((out / "training_log.csv").read_text().splitlines()) == 1 + steps
        return out

    both = {"data": data, "valid": data}
    bucketed = step(bucket, "bucket", sections["bucket"], input=data, model=base) / "train.jsonl"
    tuned = whole(train(sft, "plain", base, data=bucketed, valid=data), base)
    assert changed(tuned, base)
    light = whole(train(sft, "lora", base, **both), base)
    whole(train(cpt, "knowledge", base, data=tmp_path / "documents.jsonl"), base)
    judge = train(reward, "judge", base, **both)

    found = step(difficulty, "difficulty", sections["difficulty"], input=data, model=tuned)
    judged = ("rewards", "success", "pass_rate", "max_failures", "method", "max_new_tokens")
    # After two steps a judge may like anything.
    bars = sections["gate"] | {key: of["grpo"][key] for key in judged} | {"separates": 0.0}
    files = {"data": found / "train.jsonl", "samples": found / "samples.jsonl", "start": tuned, "reward_model": judge}
    prompts = step(gate, "gate", bars, **files) / "prompts.jsonl"
    whole(train(rl, "grpo", tuned, data=prompts, valid=None, reward_model=judge), base)
    whole(train(rl, "sdpo", tuned, data=prompts, valid=None, reward_model=None), base)

    generated = sections["generate"] | {"decontaminate": {"ngram_words": 8, "min_overlap": 0.6}}
    written = step(generate, "generate", generated, input=data, teacher=tuned, eval=[]) / "train.jsonl"
    cached = step(logprobs, "logprobs", sections["logprobs"], input=written, teacher=tuned)
    whole(train(distill, "told", base, data=[written], logprobs=[]), base)
    whole(train(distill, "weighed", base, data=[written], logprobs=[cached]), base)
    whole(train(opd, "opd", base, teachers=[large], data=[data], responses=[written]), base)

    if family == "llama3_2":
        whole(train(sft, "qlora", base, **both), base)
    whole(step(merge, "ties", of["ties"], parents=[tuned, light], base=base), base)
    walked = {"parents": [base, tuned], "tasks_dir": None, "work": tmp_path / "work/path"}
    whole(step(interpolate, "path", of["path"], **walked), base)
    measured = step(
        evaluate, "evaluate", sections["evaluate"], checkpoint=tuned, name="plain", tasks_dir=None, valid=data
    )
    results = read_json(measured / "results.json")
    assert results["setup"]["truncated_prompts"] == 0 and results["perplexity"]["valid"]["value"] > 0
    for sample in read_jsonl(measured / "samples.jsonl"):
        assert sample["prompt"].endswith(PROMPT[family][-len("assistant\n") :])
        # Five questions with their answers, and the one that is asked.
        assert sample["prompt"].count(ENDS[family]) - PROMPT[family].count(ENDS[family]) == 10
