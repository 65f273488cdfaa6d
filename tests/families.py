"""Small random models of real architectures, with tokenizers of their shape: Qwen2.5, Qwen3, Llama 3.2.

Made by code, without a download. What the families have of their own is theirs: the architecture's class and switches,
the pre-tokenizer's pattern, the names and places of the special tokens, the end tokens and pad token (or its absence),
the vocabulary that is wider than the tokenizer, the generation settings and the files in which the hub keeps all of it;
the chat template is the model's own, from the copies that TRL has. Sizes and weights are not theirs, and the merges of
the byte-level BPE come from the few sentences of `TEXT`.
"""

import json
from pathlib import Path

TEXT = [
    "Mara has 12 pears and buys 30 more pears at the market. How many pears does she have now?",
    "Mara has 12 + 30 = 42 pears. She now has 42 pears in all.\n#### 42",
    "The capital of Velmora is Tarsk. What is the capital of Velmora?",
    "Each of the 7 boxes holds 8 red marbles; 5 marbles are lost, so 7 * 8 - 5 = 51 marbles are left.",
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "system user assistant Cutting Knowledge Date: December 2023 Today Date: 26 Jul 2024",
]

# Of Qwen2Tokenizer: single digits. Llama 3 takes up to three at once.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_PATTERN = QWEN_PATTERN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
# In the order of their ids, behind those of the BPE; True where the tokenizer calls a token special.
QWEN2_5_ADDED = {
    "<|endoftext|>": True, "<|im_start|>": True, "<|im_end|>": True, "<|vision_start|>": True, "<|vision_end|>": True,
    "<tool_call>": False, "</tool_call>": False,
}  # fmt: skip
QWEN3_ADDED = QWEN2_5_ADDED | {"<tool_response>": False, "</tool_response>": False, "<think>": False, "</think>": False}
LLAMA_ADDED = {
    f"<|{name}|>": True
    for name in (
        "begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1",
        "finetune_right_pad_id", "reserved_special_token_2", "start_header_id", "end_header_id", "eom_id", "eot_id",
        "python_tag",
    )
}  # fmt: skip
QWEN_TOKENS = {"bos_token": None, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "add_bos_token": False}
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
# Name: what sets the family apart. `wider`: entries of the embedding behind the tokenizer's last token.
FAMILIES = {
    "qwen2_5": {
        "model": "Qwen2",
        "template": "qwen2_5.jinja",
        "pattern": QWEN_PATTERN,
        "added": QWEN2_5_ADDED,
        "tokenizer": QWEN_TOKENS | {"tokenizer_class": "Qwen2Tokenizer", "model_max_length": 131072},
        "wider": 17,
        "config": {
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "sliding_window": 32768,
            "use_sliding_window": False,
            "max_window_layers": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "rms_norm_eps": 1e-6,
        },
        "ends": ["<|endoftext|>"],
        "generation": {"do_sample": False, "max_new_tokens": 2048},
    },
    "qwen3": {
        "model": "Qwen3",
        "template": "qwen3.jinja",
        "pattern": QWEN_PATTERN,
        "added": QWEN3_ADDED,
        "tokenizer": QWEN_TOKENS | {"tokenizer_class": "Qwen2Tokenizer", "model_max_length": 131072},
        "wider": 29,
        "config": {
            "num_key_value_heads": 2,
            # As of the hub's: more than hidden_size over num_attention_heads.
            "head_dim": 32,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "rms_norm_eps": 1e-6,
        },
        "ends": ["<|endoftext|>"],
        "generation": {"do_sample": False, "max_new_tokens": 2048},
    },
    "llama3_2": {
        "model": "Llama",
        "template": "llama3_2.jinja",
        "pattern": LLAMA_PATTERN,
        "added": LLAMA_ADDED,
        # No pad token.
        "tokenizer": {
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 131072,
            "clean_up_tokenization_spaces": True,
        },
        "wider": 0,
        "config": {
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 131072,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
            },
            "rms_norm_eps": 1e-5,
        },
        "ends": ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
        "generation": {"do_sample": True, "temperature": 0.6, "top_p": 0.9},
    },
}


def chat_template(family: str) -> str:
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / FAMILIES[family]["template"]).read_text(encoding="utf-8")


def write_tokenizer(family: str, folder: Path) -> dict[str, int]:
    """tokenizer.json and tokenizer_config.json as the hub has them; returns token → id."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer

    about = FAMILIES[family]
    tokenizer = Tokenizer(models.BPE(ignore_merges=family == "llama3_2"))
    if family != "llama3_2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(about["pattern"]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=480, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, special_tokens=[]
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    tokenizer.add_tokens([AddedToken(t, special=special, normalized=False) for t, special in about["added"].items()])
    ids = tokenizer.get_vocab()
    if bos := about["tokenizer"]["bos_token"]:
        tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, ids[bos])]
                ),
            ]
        )
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(ids[token]): {
            "content": token,
            "special": special,
            **dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False),
        }
        for token, special in about["added"].items()
    }
    config = about["tokenizer"] | {"added_tokens_decoder": added, "chat_template": chat_template(family)}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return ids


def write_checkpoint(family: str, folder: Path, seed: int = 0, wider: int | None = None) -> Path:
    """A whole checkpoint in bfloat16 with tied embeddings, about 0.1 M parameters.

    Args:
        wider: entries of the embedding behind the last token; the family's own number by default.
    """
    import torch
    import transformers

    about = FAMILIES[family]
    ids = write_tokenizer(family, folder)
    ends = [ids[token] for token in about["ends"]]
    bos = about["tokenizer"]["bos_token"] or "<|endoftext|>"
    config = getattr(transformers, f"{about['model']}Config")(
        **SHAPE,
        **about["config"],
        vocab_size=len(ids) + (about["wider"] if wider is None else wider),
        tie_word_embeddings=True,
        bos_token_id=ids[bos],
        eos_token_id=ends if len(ends) > 1 else ends[0],
        dtype="bfloat16",
        # Random weights of the usual scale (0.02) make nearly flat predictions, which argmax ties would upset.
        initializer_range=0.1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, f"{about['model']}ForCausalLM")(config)
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=ids[bos], eos_token_id=config.eos_token_id, **about["generation"]
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder
