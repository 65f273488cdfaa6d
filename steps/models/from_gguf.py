"""Make a checkpoint folder from a GGUF file: for a model of which there is no other copy at hand.

transformers unpacks the blocks into plain weights, and reads configuration, tokenizer and chat template from the file.
What was rounded away when the file was made stays away: the folder is the model that llama.cpp runs, not the one that
was trained. Weights of blocks become float32, others stay as stored.

Run as: python -m steps.models.from_gguf model.Q4_1.gguf models/mine

Then `models: {base: {path: models/mine}}`. The licence is not in the file: put the model's LICENSE beside the weights.
"""

import argparse
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from steps.core.progress import say
from steps.core.step import ERROR_PREFIX, USER_ERROR
from steps.models import checkpoints
from steps.models.files import LFS_POINTER, one_line

MAGIC = b"GGUF"
# Ends of keys of the metadata.
COUNTS = ("block_count", "expert_count")


def check_file(file: Path) -> None:
    """Raise a ValueError for what is no GGUF file, before a library reads it."""
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file; correct the path")
    with open(file, "rb") as opened:
        begin = opened.read(len(LFS_POINTER))
    if begin == LFS_POINTER:
        raise ValueError(f"{file} is a pointer of Git LFS and not the file; run `git lfs pull` in its repository")
    if not begin.startswith(MAGIC):
        raise ValueError(f"{file} is no GGUF file: it does not begin with {MAGIC.decode()}; name one that is")


def impossible(metadata: dict[str, Any], tensors: int) -> str | None:
    """A count in the metadata that so many tensors cannot have: a billion blocks would be built for hours."""
    counts = [key for key in metadata if key.endswith(COUNTS) and isinstance(metadata[key], int)]
    return next((key for key in counts if metadata[key] > tensors), None)


def unpacked(file: Path) -> tuple[Any, Any, str | None]:
    """The model of a file with plain weights, its tokenizer, and how its tokenizer is called to cut text into words
    where transformers does not know that.

    Raises:
        ValueError: transformers does not know the architecture or the tokenizer, or the file is damaged or not whole.
    """
    # transformers reads the metadata of most architectures by it.
    if importlib.util.find_spec("gguf") is None:
        raise ValueError("gguf: the package is not installed; run `make setup`, which brings it")
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    from transformers.integrations.gguf.reader import read_gguf_metadata
    from transformers.utils import logging

    logging.disable_progress_bar()
    where = {"gguf_file": file.name, "local_files_only": True}
    try:
        metadata, tensors = read_gguf_metadata(str(file))
        if key := impossible(metadata, len(tensors)):
            raise ValueError(f"{key} is {metadata[key]}, and it has {len(tensors)} tensors")
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
        model, info = AutoModelForCausalLM.from_pretrained(
            file.parent, quantization_config=GgufConfig(dequantize=True), output_loading_info=True, **where
        )
    except MemoryError:
        raise
    # What a damaged file makes a reader of bytes raise has no common class.
    except Exception as error:
        raise ValueError(f"{file}: transformers makes no model of it ({one_line(error)}); take another file") from error
    # transformers draws them at random.
    if missing := sorted(info["missing_keys"]):
        more = f" (the first of {len(missing)})" if len(missing) > 1 else ""
        raise ValueError(f"{file} lacks weights: {missing[0]}{more}; take another file")
    words = metadata.get("tokenizer.ggml.pre", "default")
    known = words in GGUF_PRE_TOKENIZER_SPLITS or metadata.get("tokenizer.ggml.model") != "gpt2"
    return model, tokenizer, None if known or words in ("default", "gpt-2") else words


def write(model: Any, tokenizer: Any, out: Path) -> None:
    """A checkpoint folder: weights without a trace of how they were packed, configuration, tokenizer, template."""
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    model.generation_config.eos_token_id = model.generation_config.eos_token_id or tokenizer.eos_token_id
    out.mkdir(parents=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    for path in checkpoints.weight_files(out):
        path.chmod((out / checkpoints.CONFIG).stat().st_mode)  # safetensors writes for the owner alone


def main(args: argparse.Namespace) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1")
    check_file(args.file)
    if args.out.exists():
        raise ValueError(f"{args.out} is there already; name a folder that is not")
    model, tokenizer, words = unpacked(args.file)
    parameters = sum(parameter.numel() for parameter in model.parameters())

    from transformers import AutoModelForCausalLM

    try:
        write(model, tokenizer, args.out)
        # As every step will read it.
        checkpoints.check_weights(args.out, AutoModelForCausalLM)
        template = checkpoints.load_tokenizer(args.out).chat_template
    except BaseException:
        shutil.rmtree(args.out, ignore_errors=True)
        raise
    say("from_gguf", f"{args.out}: {parameters:,} parameters, {len(tokenizer):,} tokens")
    if template is None:
        say("from_gguf", "the file has no chat template: name one by models.<name>.chat_template")
    if words:
        say("from_gguf", f"transformers does not know how {words!r} cuts text into words, and cuts it as GPT-2 does")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a .gguf file")
    parser.add_argument("out", type=Path, help="the folder to make")
    try:
        main(parser.parse_args())
    except ValueError as error:
        print(f"{ERROR_PREFIX}{' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(USER_ERROR)
