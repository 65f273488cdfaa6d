"""A teacher's likeliest tokens against a full forward pass, the tail, the size, and files that are not whole."""

import argparse
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.core.manifest import verify_manifest
from steps.distillation import distill_objective, logprobs
from steps.distillation.teacher_cache import FILES, FLOOR, LOWEST, Cached, check, last_turn
from steps.models import checkpoints
from steps.models.checkpoints import load_model, load_tokenizer
from steps.training.packing import IGNORED
from steps.training.supervised import encode_rows
from tests.conftest import build_tokenizer, padded

SETTINGS = {"top_k": 8, "max_length": 256, "batch_size": 4}
VOCABULARY = len(build_tokenizer())
# The bytes before the array in a .npy file.
HEADER = 128


def make_row(i: int, *turns: str) -> dict:
    roles = ("user", "assistant")
    messages = [{"role": roles[k % 2], "content": text} for k, text in enumerate(turns)]
    return {"id": f"rows:{i}#0", "messages": messages, "answer": None, "file": "rows.jsonl", "line": i + 1, "row": i}


ROWS = [
    make_row(0, "What is 6 * 7?", "6 * 7 = 42\n#### 42"),
    make_row(1, "Name a capital.", "Tarsk", "And its river? Mara has 12 pears.", "The river of Tarsk has 30 boxes."),
    make_row(2, "one " * 300, "too long"),
    make_row(3, "Say nothing.", ""),
    make_row(4, "Write a mark.", "It is <|im_end|> here"),
    *(
        make_row(5 + i, f"Write {i} words.", "Each of the 7 boxes holds 8 red marbles; " * (i % 3 + 2))
        for i in range(24)
    ),
]


def run(folder, rows, teacher, **settings):
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "train.jsonl", rows)
    out = folder / f"out-{len(list(folder.iterdir()))}"
    args = argparse.Namespace(settings=SETTINGS | settings, input=folder / "train.jsonl", teacher=teacher, out=out)
    logprobs.main(args)
    return out


@pytest.fixture(scope="module")
def made(small_checkpoint, tmp_path_factory):
    return run(tmp_path_factory.mktemp("logprobs"), ROWS, small_checkpoint)


def by_hand(model, tokenizer, messages, vocabulary: int = VOCABULARY) -> tuple[np.ndarray, list[int]]:
    """Log-probabilities [n, vocabulary] in float64 at the places of the last turn and its end, alone; its n tokens."""
    prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    answer = tokenizer.encode(messages[-1]["content"] + "<|im_end|>", add_special_tokens=False)
    with torch.inference_mode():
        logits = model(torch.tensor([ids + answer])).logits[0].double().numpy()
    logits = logits[len(ids) - 1 : -1, :vocabulary]
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True)), answer


# --- what the teacher thinks ---------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 8, VOCABULARY])
def test_it_is_a_full_forward_pass(small_checkpoint, tmp_path, k):
    out = run(tmp_path / "a", ROWS, small_checkpoint, top_k=k)
    model, tokenizer = load_model(small_checkpoint, torch.float32).eval(), load_tokenizer(small_checkpoint)
    cached = Cached(out)
    assert (cached.k, cached.rows, len(cached)) == (k, len(ROWS), len(ROWS))
    tails, begin = [], 0
    for i, row in enumerate(ROWS):
        ids, logps, tail = cached[i]
        assert (ids.dtype, logps.dtype, tail.dtype) == (np.int64, np.float32, np.float32)
        if i in (2, 4):
            assert (ids.shape, logps.shape, tail.shape) == ((0, k), (0, k), (0,))
            continue
        expected, answer = by_hand(model, tokenizer, row["messages"])
        assert len(ids) == len(answer) == cached.lengths[i]
        order = np.argsort(-expected, axis=-1)[:, :k]
        found = np.take_along_axis(expected, ids, -1)
        # Ids whose probabilities are equal but for rounding may change places.
        np.testing.assert_allclose(found, np.take_along_axis(expected, order, -1), atol=1e-4)
        assert all(len(set(place)) == k for place in ids.tolist())
        outside = 1 - np.exp(found).sum(-1)
        tails += outside.tolist()
        # float16 has 11 bits: at 8 nats, half of its last one is 0.004.
        np.testing.assert_allclose(logps, found, rtol=2**-10, atol=2e-3)
        if k < VOCABULARY:
            np.testing.assert_allclose(tail, np.log(outside), rtol=2**-10, atol=2e-3)
        np.testing.assert_allclose(np.exp(logps).sum(-1) + np.exp(tail), 1, atol=2e-6)
        # As they lie on disk: over the whole vocabulary, descending, in the order of the rows.
        raw = cached.logps[begin : begin + len(ids)].astype(float)
        np.testing.assert_allclose(raw, found, rtol=2**-11, atol=1e-4)
        assert (np.diff(raw) <= 0).all()
        begin += len(ids)
    assert begin == len(cached.ids)
    assert read_json(out / "manifest.json")["counts"]["mean_tail"] == pytest.approx(np.mean(tails), abs=1e-6)


def test_so_it_is_some_places_at_a_time(small_checkpoint, tmp_path, some_places):
    test_it_is_a_full_forward_pass(small_checkpoint, tmp_path, 8)
    assert some_places["passes"] > 0


def test_ids_without_a_token_are_none_of_the_likeliest_and_not_in_the_rest(small_checkpoint, made, tmp_path):
    wide = padded(Path(shutil.copytree(small_checkpoint, tmp_path / "wide")), 1024)
    out = run(tmp_path / "rows", ROWS, wide)
    for name in ("ids", "logps", "tail"):
        ours, theirs = (np.load(folder / f"{name}.npy").astype(float) for folder in (out, made))
        np.testing.assert_allclose(ours, theirs, rtol=2**-10, atol=1e-4)
    assert read_json(out / "manifest.json")["counts"]["vocabulary"] == VOCABULARY


def test_halves_alone_do_not_sum_to_one(made):
    """What the reader's normalisation is for."""
    cached = Cached(made)
    raw = np.exp(cached.logps.astype(float)).sum(-1) + np.exp(cached.tail.astype(float))
    assert np.abs(raw - 1).max() > 1e-5


def test_places_are_those_that_sft_trains_on(made, small_checkpoint, tmp_path):
    tokenizer, cached = load_tokenizer(small_checkpoint), Cached(made)
    kept, _ = encode_rows(made.parent / "train.jsonl", tokenizer, {"completion_only_loss": True, "max_length": 256})
    for row in kept:
        i = next(i for i, other in enumerate(ROWS) if other["id"] == row["id"])
        trained = [label for label in row["labels"][1:] if label != IGNORED]
        if i == 1:
            earlier = len(tokenizer.encode("Tarsk<|im_end|>", add_special_tokens=False))
            assert len(trained) == cached.lengths[i] + earlier
        else:
            assert len(trained) == cached.lengths[i]
    # An empty response is its end token.
    assert cached.lengths[3] == 1


@pytest.mark.parametrize(
    ("labels", "places"),
    [
        ([IGNORED, IGNORED, 5, 6, IGNORED, 7, 8, IGNORED], (5, 7)),
        ([IGNORED, 5, 6], (1, 3)),
        ([5, 6, 7], (1, 3)),
        ([5, IGNORED], (0, 0)),
        ([IGNORED] * 3, (0, 0)),
    ],
)
def test_the_last_turn(labels, places):
    assert last_turn(labels) == places


def test_the_tail_is_what_a_difference_would_lose():
    """A tail of 1e-9 beside a probability of 1: one minus the k is 0 or noise in float32."""
    logits = torch.full((1, 1000), 0.0)
    logits[0, 7] = np.log(999e9)
    ids, logps, tail = logprobs.likeliest(logits, 1, 1000)
    assert ids.tolist() == [[7]] and float(logps) == pytest.approx(-1e-9, abs=1e-7)
    assert float(tail) == pytest.approx(np.log(1e-9), rel=1e-5)
    assert logprobs.likeliest(logits, 1000, 1000)[2].tolist() == [-np.inf]


def test_batches_do_not_matter_and_equal_runs_give_equal_bytes(small_checkpoint, tmp_path):
    first, second, alone = (
        run(tmp_path / "a", ROWS, small_checkpoint, batch_size=size) for size in (SETTINGS["batch_size"],) * 2 + (1,)
    )
    for name in (*(f"{name}.npy" for name in FILES), "skipped.jsonl", "manifest.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    together, apart = Cached(first), Cached(alone)
    for i in range(len(ROWS)):
        for a, b in zip(together[i][1:], apart[i][1:], strict=True):
            # A rounding of float32 may fall on the other side of a half.
            np.testing.assert_allclose(a, b, rtol=2**-10)
    assert (together.ids[:] == apart.ids[:]).mean() > 0.999


# --- accounting and size -------------------------------------------------------------------------


def test_rows_left_out_are_counted_and_keep_their_place(made):
    counts = verify_manifest(made)["counts"]
    assert (counts["in"], counts["kept"]) == (29, 27)
    assert counts["quarantined"] == {"control_token": 1, "too_long": 1}
    skipped = list(read_jsonl(made / "skipped.jsonl"))
    assert [(record["id"], record["reason"], record["step"]) for record in skipped] == [
        ("rows:2#0", "too_long", "logprobs"),
        ("rows:4#0", "control_token", "logprobs"),
    ]
    cached = Cached(made)
    assert [i for i in range(29) if not cached.lengths[i]] == [2, 4]
    assert counts["tokens"] == cached.lengths.sum() == len(cached.ids)
    assert counts["vocabulary"] == VOCABULARY


@pytest.fixture(scope="module")
def wide_checkpoint(tmp_path_factory):
    """A teacher whose vocabulary needs more than 16 bits."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder, tokenizer = tmp_path_factory.mktemp("checkpoint") / "wide", build_tokenizer()
    tokenizer.save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=70_000,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        head_dim=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=300,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("k", [8, 32])
@pytest.mark.parametrize(("size", "width"), [("small", 2), ("wide", 4)])
def test_bytes_a_token(request, tmp_path, k, size, width, monkeypatch):
    if size == "wide":
        monkeypatch.setattr(checkpoints, "token_count", lambda tokenizer: 70_000)
    out = run(tmp_path / "a", ROWS, request.getfixturevalue(f"{size}_checkpoint"), top_k=k)
    counts, cached = read_json(out / "manifest.json")["counts"], Cached(out)
    assert cached.ids.dtype.itemsize == width
    sizes = sum(path.stat().st_size for path in out.glob("*.npy"))
    assert sizes == counts["bytes"] == counts["tokens"] * ((width + 2) * k + 2) + 4 * len(ROWS) + 4 * HEADER
    assert counts["bytes_per_token"] == pytest.approx(sizes / counts["tokens"], abs=5e-4)
    assert counts["bytes_per_token"] <= 6 * k + 4
    if size == "wide":
        assert int(cached.ids.max()) >= 2**16
        # The id is written whole: the likeliest token of a place, from the model itself.
        model, tokenizer = load_model(request.getfixturevalue("wide_checkpoint"), torch.float32), build_tokenizer()
        expected, _ = by_hand(model.eval(), tokenizer, ROWS[0]["messages"], 70_000)
        found = np.take_along_axis(expected, cached[0][0], -1)
        np.testing.assert_allclose(found, -np.sort(-expected)[:, :k], atol=1e-4)


def test_it_is_read_from_disk_when_asked(made):
    cached = Cached(made)
    assert all(isinstance(part, np.memmap) for part in (cached.ids, cached.logps, cached.tail))
    assert not cached.ids.flags.writeable
    with pytest.raises(IndexError):
        cached[len(ROWS)]
    with pytest.raises(IndexError):
        cached[-1]


def test_a_token_that_is_ruled_out_stays_a_number(tmp_path):
    """A teacher's -inf is stored as the lowest value: its probability is 0, and 0 times it is 0."""
    lowest = np.float16(LOWEST)
    np.save(tmp_path / "ids.npy", np.array([[3, 1]], dtype=np.uint16))
    np.save(tmp_path / "logps.npy", np.array([[0.0, lowest]], dtype=np.float16))
    np.save(tmp_path / "tail.npy", np.array([FLOOR], dtype=np.float16))
    np.save(tmp_path / "lengths.npy", np.array([0, 1], dtype=np.uint32))
    ids, logps, tail = Cached(tmp_path)[1]
    assert ids.tolist() == [[3, 1]] and np.isfinite(logps).all() and np.isfinite(tail).all()
    assert np.exp(logps).tolist() == [[1.0, 0.0]] and (np.exp(logps) * logps)[0, 1] == 0.0


def test_a_teacher_that_rules_tokens_out_is_stored_as_numbers(small_checkpoint, tmp_path, monkeypatch):
    """All but three tokens: the likeliest eight have five that cannot be, and nothing is outside."""
    ask, out_of_it = logprobs.likeliest, torch.arange(3, VOCABULARY)
    monkeypatch.setattr(
        logprobs, "likeliest", lambda logits, **of: ask(logits.index_fill(-1, out_of_it, -torch.inf), **of)
    )
    out = run(tmp_path / "a", ROWS[:2], small_checkpoint)
    ids, logps, tail = Cached(out)[0]
    assert np.isfinite(logps).all() and np.isfinite(tail).all()
    assert (ids[:, :3] < 3).all() and (logps[:, 3:] < -9000).all() and (tail < -19.9).all()
    assert read_json(out / "manifest.json")["counts"]["mean_tail"] == 0.0


# --- mistakes ------------------------------------------------------------------------------------


@pytest.fixture
def copy(made, tmp_path):
    import shutil

    return shutil.copytree(made, tmp_path / "copy")


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_not_whole_are_named(copy, name):
    path = copy / f"{name}.npy"
    whole = path.read_bytes()
    for keep in (len(whole) - 1, HEADER, 60, 0):
        path.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=rf"{name}\.npy is damaged") as caught:
            Cached(copy)
        assert "\n" not in str(caught.value) and "run again" in str(caught.value)
    path.unlink()
    with pytest.raises(ValueError, match=rf"{name}\.npy is missing"):
        Cached(copy)
    with pytest.raises(ValueError, match=rf"{name}\.npy is missing"):
        check(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_found_by_the_check(copy, name):
    assert check(copy) == [copy / "manifest.json"]
    path = copy / f"{name}.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name}\.npy is damaged"):
        check(copy)


def test_files_of_another_run_do_not_fit(copy, small_checkpoint, tmp_path):
    fewer = run(tmp_path / "a", ROWS[:6], small_checkpoint)
    wider = run(tmp_path / "b", ROWS, small_checkpoint, top_k=9)
    for other, name in ((fewer, "ids"), (fewer, "tail"), (wider, "logps")):
        whole = (copy / f"{name}.npy").read_bytes()
        (copy / f"{name}.npy").write_bytes((other / f"{name}.npy").read_bytes())
        with pytest.raises(ValueError, match=rf"{name}\.npy is damaged.* does not fit the \d+ tokens"):
            Cached(copy)
        (copy / f"{name}.npy").write_bytes(whole)
    Cached(copy)


def test_mistakes_end_in_one_line(small_checkpoint, wide_checkpoint, tmp_path):
    with pytest.raises(ValueError, match=rf"logprobs\.top_k: {VOCABULARY + 1} of a vocabulary of {VOCABULARY}"):
        run(tmp_path / "a", ROWS, small_checkpoint, top_k=VOCABULARY + 1)
    with pytest.raises(ValueError, match=r"no row is left \(too_long\)"):
        run(tmp_path / "a", [ROWS[2]], small_checkpoint)
    with pytest.raises(ValueError, match="2 rows have the id rows:0#0"):
        run(tmp_path / "a", [ROWS[0], ROWS[1], ROWS[0]], small_checkpoint)
    with pytest.raises(ValueError, match=r"row rows:2#0: \d+ tokens do not fit the teacher's context of 300"):
        run(tmp_path / "a", ROWS, wide_checkpoint, max_length=2000)
    with pytest.raises(ValueError, match="no checkpoint there"):
        run(tmp_path / "a", ROWS, tmp_path / "none")


def test_an_empty_response_has_its_end(small_checkpoint, tmp_path):
    """Whatever of it the template marks as the assistant's."""
    import shutil

    teacher = shutil.copytree(small_checkpoint, tmp_path / "teacher")
    template = (teacher / "chat_template.jinja").read_text()
    marked = "{{- message.content + '<|im_end|>' }}{% endgeneration %}"
    assert marked in template
    plain = "{{- message.content }}{% endgeneration %}{{- '<|im_end|>' }}"
    (teacher / "chat_template.jinja").write_text(template.replace(marked, plain))
    out = run(tmp_path / "a", [ROWS[3], ROWS[0]], teacher)
    assert Cached(out).lengths[0] == 1 and Cached(out).lengths[1] > 5
    assert read_json(out / "manifest.json")["counts"]["kept"] == 2


def test_thoughts_are_written_as_distill_writes_them(small_checkpoint, tmp_path):
    row = make_row(0, "What is 6 * 7?", "42")
    row["messages"][1]["thinking"] = "Six sevens are forty-two."
    tokenizer, caches = load_tokenizer(small_checkpoint), {}

    def encoded(thinking, cached):
        settings = {"max_length": 256, "thinking": thinking}
        (kept,), _ = distill_objective.encode_rows(
            tmp_path / cached / "train.jsonl", tokenizer, settings, caches[cached]
        )
        return tokenizer.decode([label for label in kept["labels"] if label != IGNORED])

    for thinking in ("kept", "emptied"):
        caches[thinking] = Cached(run(tmp_path / thinking, [row], small_checkpoint, thinking=thinking))
        assert ("forty-two" in encoded(thinking, thinking)) == (thinking == "kept")
    with pytest.raises(ValueError, match="a recipe of its own no `thinking`"):
        encoded("emptied", "kept")
