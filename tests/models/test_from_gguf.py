"""A checkpoint folder from a GGUF file that is written here, byte by byte, from a model that is known."""

import struct
from pathlib import Path

import pytest
import torch

from steps.models import checkpoints, from_gguf
from steps.models.chat import Chat

pytest.importorskip("gguf", reason="requirements.lock names it")
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
HEADS, KEYS, LAYERS, HIDDEN = 4, 2, 2, 32
# Kinds of values, as the format numbers them.
U32, F32, STRING, ARRAY, I32 = 4, 6, 8, 9, 5


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(kind: int, given) -> bytes:
    if kind == STRING:
        return text(given)
    if kind == ARRAY:
        inner, items = given
        return struct.pack("<IQ", inner, len(items)) + b"".join(value(inner, item) for item in items)
    return struct.pack({U32: "<I", F32: "<f", I32: "<i"}[kind], given)


def permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp's order of the rows of a query or key, by its convert_hf_to_gguf.py."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def llama(vocabulary: int):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=HIDDEN, intermediate_size=64, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KEYS, max_position_embeddings=128, rms_norm_eps=1e-5,
        tie_word_embeddings=True, initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def written(path: Path, model, tokens: list[str], kinds: list[int], merges: list[str]) -> Path:
    end = tokens.index("<|im_end|>")
    metadata = {
        "general.architecture": (STRING, "llama"),
        "general.name": (STRING, "tiny"),
        "llama.block_count": (U32, LAYERS),
        "llama.context_length": (U32, 128),
        "llama.embedding_length": (U32, HIDDEN),
        "llama.feed_forward_length": (U32, 64),
        "llama.attention.head_count": (U32, HEADS),
        "llama.attention.head_count_kv": (U32, KEYS),
        "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
        "llama.rope.freq_base": (F32, 10000.0),
        "llama.rope.dimension_count": (U32, HIDDEN // HEADS),
        "llama.vocab_size": (U32, len(tokens)),
        "tokenizer.ggml.model": (STRING, "gpt2"),
        "tokenizer.ggml.pre": (STRING, "smollm"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)),
        "tokenizer.ggml.token_type": (ARRAY, (I32, kinds)),
        "tokenizer.ggml.merges": (ARRAY, (STRING, merges)),
        "tokenizer.ggml.bos_token_id": (U32, tokens.index("<|im_start|>")),
        "tokenizer.ggml.eos_token_id": (U32, end),
        "tokenizer.chat_template": (STRING, TEMPLATE),
    }
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    for i in range(LAYERS):
        ours, theirs = f"model.layers.{i}", f"blk.{i}"
        names |= {f"{ours}.self_attn.{k}_proj.weight": f"{theirs}.attn_{k}.weight" for k in "qkv"}
        names |= {f"{ours}.mlp.{k}_proj.weight": f"{theirs}.ffn_{k}.weight" for k in ("gate", "up", "down")}
        names |= {
            f"{ours}.self_attn.o_proj.weight": f"{theirs}.attn_output.weight",
            f"{ours}.input_layernorm.weight": f"{theirs}.attn_norm.weight",
            f"{ours}.post_attention_layernorm.weight": f"{theirs}.ffn_norm.weight",
        }
    state = model.state_dict()
    table, data = b"", b""
    for ours, theirs in names.items():
        weight = state[ours].float()
        weight = (
            permuted(weight, HEADS) if "attn_q" in theirs else permuted(weight, KEYS) if "attn_k" in theirs else weight
        )
        dims = weight.shape[::-1]
        table += text(theirs) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, len(data))
        data += weight.numpy().tobytes()
        data += b"\0" * (-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(names), len(metadata))
    head += b"".join(
        text(key) + struct.pack("<I", kind) + value(kind, given) for key, (kind, given) in metadata.items()
    )
    head += table
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> tuple[Path, object]:
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|im_start|>", "<|im_end|>", *letters, "Ġp", "ea", "rs"]
    kinds = [3, 3, *[1] * (len(tokens) - 2)]
    model = llama(len(tokens))
    return written(tmp_path_factory.mktemp("gguf") / "tiny.gguf", model, tokens, kinds, ["Ġ p", "e a", "r s"]), model


def test_the_folder_is_the_model_with_its_tokenizer_and_template(file, tmp_path, capsys):
    path, model = file
    out = tmp_path / "made/tiny"
    from_gguf.main(from_gguf.argparse.Namespace(file=path, out=out))
    assert "cuts text into words" in capsys.readouterr().out, "smollm's way is not known to transformers"
    checkpoints.check(out)
    made = checkpoints.load_model(out, torch.float32)
    assert made.state_dict().keys() == model.state_dict().keys()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(made(ids).logits, model(ids).logits)
    chat = Chat(checkpoints.load_tokenizer(out))
    assert chat.tokenizer.chat_template == TEMPLATE and chat.end == "<|im_end|>"
    (ids,) = chat.tokenizer(["<|im_start|>user\n pears<|im_end|>"], add_special_tokens=False)["input_ids"]
    assert (ids[0], ids[-1], len(ids)) == (0, 1, 1 + 4 + 1 + 3 + 1)
    assert chat.tokenizer.decode(ids) == "<|im_start|>user\n pears<|im_end|>"
    assert made.generation_config.eos_token_id == 1


def test_what_is_no_model_is_one_line(file, tmp_path):
    path, _ = file
    (tmp_path / "text.gguf").write_text("no")
    (tmp_path / "half.gguf").write_bytes(path.read_bytes()[:2000])
    (tmp_path / "there").mkdir()
    for name, out, words in (
        ("text.gguf", "a", "is no GGUF file"),
        ("half.gguf", "b", "transformers makes no model of it"),
        ("none.gguf", "c", "there is no such file"),
        (path, "there", "is there already"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            from_gguf.main(from_gguf.argparse.Namespace(file=tmp_path / name, out=tmp_path / out))
        assert "\n" not in str(error.value)
        assert not (tmp_path / "b").exists()


def numbered(data: bytes, key: bytes, number: int) -> bytes:
    """The file with another number behind a key and its kind."""
    at = data.index(key) + len(key) + 4
    return data[:at] + struct.pack("<I", number) + data[at + 4 :]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        # The count of tensors, and then that of one of them.
        (lambda data: data[:8] + struct.pack("<Q", 0) + data[16:], "block_count is 2, and it has 0 tensors"),
        (lambda data: data.replace(b"blk.1.attn_k.weight", b"blk.9.attn_k.weight"), "layers.1.self_attn.k_proj.weight"),
        (lambda data: numbered(data, b"llama.block_count", 10**9), "block_count is 1000000000, and it has 20 tensors"),
        (lambda data: data[:-4000] + b"\xff" * 4000, "NaN or infinite"),
        (lambda data: data.replace(b"{% endfor %}", b"{{ m() }}   "), "its chat template"),
    ],
)
def test_a_file_that_is_not_whole_leaves_no_folder(file, tmp_path, damage, said):
    path, _ = file
    (tmp_path / "damaged.gguf").write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=said) as error:
        from_gguf.main(from_gguf.argparse.Namespace(file=tmp_path / "damaged.gguf", out=tmp_path / "out"))
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
