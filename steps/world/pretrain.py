"""Make a base model of the embedded world: generate its corpus, train its tokenizer, pre-train a Qwen3 from scratch.

The documents of the corpus are the rows of one epoch, packed so that none sees another: a chat document begins
at position 0, as it will when the model is fine-tuned and asked. Weights are stored in bfloat16 so that both
base models fit in the repository; the config says float32, which is what descendants train and store.

Run as: python -m steps.world.pretrain --settings '{"hidden_size": 128, …}' --work work/fable/pretrain/base
    --out results/fable/pretrain/base
"""

import argparse
import hashlib
import shutil
import time
from pathlib import Path
from typing import Any

from steps.core.code import code_paths
from steps.core.files import fresh_folder
from steps.core.step import run, step_parser
from steps.core.work import work_folder
from steps.settings.training import material
from steps.training import packing
from steps.training import run as training
from steps.training.documents import encode_corpus
from steps.training.finish import save_checkpoint
from steps.training.plan import Plan
from steps.training.supervised import build_trainer, layout
from steps.world import fable

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# How Qwen2 and Qwen3 cut text before merging: digits one by one, words with their leading space.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Qwen's ChatML turns without its tools and thinking; the generation tags mark what the assistant writes.
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{- message.content + '<|im_end|>' }}{%- endgeneration %}
    {%- else %}
        {{- message.content + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""


def train_tokenizer(documents: list[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer: deterministic in the documents."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=1024,
    )


def new_model(tokenizer: Any, architecture: dict, seed: int) -> Any:
    """A Qwen3 with random weights in float32."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        **architecture,
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return Qwen3ForCausalLM(config)


def corpus_sample(settings: dict) -> list[str]:
    """The first documents of the corpus: what the tokenizer is trained on, and what stands for the corpus."""
    return list(fable.corpus(settings["seed"], settings["tokenizer_characters"]))


def digest(documents: list[str]) -> str:
    return hashlib.sha256("\0".join(documents).encode()).hexdigest()


def main(args: argparse.Namespace) -> None:
    started = time.time()
    settings = args.settings
    work = work_folder(args.work, args.out, material(settings), code_paths(__spec__.name))
    sample = corpus_sample(settings)
    tokenizer = train_tokenizer(sample, settings["vocab_size"])
    rows = [*encode_corpus(tokenizer, fable.corpus(settings["seed"], settings["characters"]))]
    plan = Plan(
        batches=packing.plan_batches(len(rows), settings["batch_size"], settings["epochs"], settings["seed"]),
        accumulation=settings["gradient_accumulation"],
        lengths=[len(row["input_ids"]) for row in rows],
        saves=settings["saves"],
        valid_points=10,  # as in the logs that ship
    )

    model = new_model(tokenizer, settings["architecture"], settings["seed"])
    # Not a setting: the models that ship were made with it.
    trainer = build_trainer(model, tokenizer, rows, settings | {"optimizer": "adamw"}, plan, work)
    valid = [*encode_corpus(tokenizer, fable.corpus(settings["seed"], 40_000, part="valid"))]
    size = settings["batch_size"]
    valid_batches = [
        layout(valid[start : start + size], settings, tokenizer.pad_token_id) for start in range(0, len(valid), size)
    ]
    log = training.train(trainer, plan, "pretrain", valid_batches)

    out = fresh_folder(args.out)
    counts = {
        "documents": len(rows),
        "tokens": plan.progress()[-1][1],
        "parameters": model.num_parameters(),
        "steps": plan.steps,
        "sample_sha256": digest(sample),
    }
    save_checkpoint(
        out,
        trainer=trainer,
        tokenizer=tokenizer,
        parent=None,
        save_dtype="bfloat16",
        step="pretrain",
        settings=settings,
        inputs=[],
        counts=counts,
        log=log,
        started=started,
        config={"dtype": "float32"},
    )
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of resumable state")
    run(main, parser)
