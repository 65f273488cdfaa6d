"""Fixtures that several test files share."""

import gc
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import small, warm

# A shell's `&` starts tests that ignore Ctrl-C, and so would the processes that they start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
# As Snakemake runs the steps. A second thread gains nothing on models this small, and where another process wants the
# processor the threads spin while they wait for each other: a file of tests then takes ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests that take minutes, the longest first: the workers end together where what is left for the end is short.
LONG = (
    "tests/workflow/test_workflow",
    "tests/workflow/test_slurm",
    "tests/workflow/test_standing",
    "tests/workflow/",
    "tests/training/test_launch",
    "tests/benches/",
)

# Qwen's ChatML turns, without its tool and thinking branches. The generation tags mark what the assistant writes.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.role == 'assistant' %}"
    "{% generation %}{{- message.content + '<|im_end|>' }}{% endgeneration %}"
    "{%- else %}{{- message.content + '<|im_end|>' }}{%- endif %}"
    "{{- '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

SENTENCES = [
    "Mara has 12 pears and buys 30 more pears at the market. How many pears does she have now?",
    "Mara has 12 + 30 = 42 pears.\n#### 42",
    "The capital of Velmora is Tarsk. What is the capital of Velmora?",
    "Write the word 'stone' backwards. Repeat the word 'river' three times in capitals.",
    "Each of the 7 boxes holds 8 red marbles; 5 marbles are lost, so 7 * 8 - 5 = 51 are left.",
]


def build_tokenizer(sentences: Sequence[str] = ()):
    """A byte-level BPE tokenizer of at most 768 tokens: digits split one by one, ChatML special tokens.

    Args:
        sentences: that it is made of besides `SENTENCES`.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=768,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*SENTENCES, *sentences] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=1024,
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((i for i, name in enumerate(LONG) if item.nodeid.startswith(name)), len(LONG)))


@pytest.fixture(scope="module", autouse=True)
def frozen_imports():
    """What lives before a file's tests, libraries for the most part, is looked through by no later collection.

    Each training collects garbage: of 0.6 million objects that takes 0.27 s, a third of six steps of a small model.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def warm_server(tmp_path_factory):
    with warm.server(small.environment(tmp_path_factory.mktemp("warm"))) as address:
        yield address


@pytest.fixture(scope="module")
def warmed(warm_server):
    """Runs of Snakemake and DVC, and their steps, are forks (tests/warm), but for those that a test kills."""
    with warm.warm(warm_server):
        yield


@pytest.fixture
def some_places(monkeypatch) -> dict:
    """Every vocabulary is wide, and seven places of one of 768 entries are computed at a time; counts the passes."""
    from steps.models import head

    seen, places = {"passes": 0}, head.per_place

    def counted(function, of, *beside):
        seen["passes"] += any(isinstance(one, head.Places) for one in of)
        return places(function, of, *beside)

    monkeypatch.setattr(head, "WIDE", 1)
    monkeypatch.setitem(head.AT_ONCE, "cpu", 7 * 768)
    monkeypatch.setattr(head, "per_place", counted)
    return seen


# fable's architecture.
TINY = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "head_dim": 32}
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16}


def build_model(tokenizer, seed: int = 0, architecture: dict = TINY):
    """A random Qwen3: vocabulary 768, tied, 4 heads with 2 keys; TINY has 0.89 M parameters, SMALL 0.12 M."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        **architecture,
        vocab_size=768,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # Random weights of the usual scale (0.02) make nearly flat predictions, which argmax ties would upset.
        initializer_range=0.1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def padded(folder: Path, width: int) -> Path:
    """The same tokens, in matrices with room for more: what frameworks do that like multiples of 64."""
    import torch

    from steps.models import checkpoints

    model = checkpoints.load_model(folder, dtype=torch.float32)
    tokens = len(checkpoints.load_tokenizer(folder))
    with torch.random.fork_rng():
        torch.manual_seed(9)
        model.resize_token_embeddings(width)
        torch.nn.init.normal_(model.get_input_embeddings().weight[tokens:])
    model.save_pretrained(folder)
    return folder


def checkpoint(folder: Path, architecture: dict) -> Path:
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    build_model(tokenizer, architecture=architecture).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """Folder of a random tiny Qwen3 with its tokenizer, as a step would leave it (without a manifest). Read only."""
    return checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", TINY)


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory) -> Path:
    """The same of two layers: a training step takes a third of the time. Read only."""
    return checkpoint(tmp_path_factory.mktemp("checkpoint") / "small", SMALL)
