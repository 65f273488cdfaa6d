"""The engine against transformers' own generation and likelihoods."""

import random

import numpy as np
import pytest
import torch

from steps.engines import transformers as engine_module
from steps.engines.cache import roomy_cache
from steps.engines.transformers import Engine, _choose
from steps.engines.truncation import Truncation

WORDS = "Mara has 12 pears and buys 30 more at the market each box holds 8 red marbles river stone"


def prompts(count: int) -> list[list[dict]]:
    rng = random.Random(0)
    return [
        [{"role": "user", "content": " ".join(rng.choices(WORDS.split(), k=rng.randint(3, 40)))}] for _ in range(count)
    ]


@pytest.fixture(scope="module")
def engine(tiny_checkpoint) -> Engine:
    loaded = Engine.load(tiny_checkpoint, batch_size=64)
    # With a letter as an end token the random model ends some responses early, as a trained one does.
    loaded.model.generation_config.eos_token_id = [loaded.tokenizer.eos_token_id, loaded.tokenizer.encode("a")[0]]
    return Engine(loaded.model, loaded.tokenizer, batch_size=64)


def resized(engine: Engine, batch_size: int) -> Engine:
    return Engine(engine.model, engine.tokenizer, batch_size)


# --- generation ------------------------------------------------------------------------------------


def log_probabilities(engine, prompt: list[int], written: list[int]) -> list[float]:
    with torch.inference_mode():
        logp = engine.model(torch.tensor([prompt + written])).logits[0].double().log_softmax(-1)
    return [float(logp[len(prompt) - 1 + k, token]) for k, token in enumerate(written)]


def test_greedy_equals_generate_of_transformers(engine):
    asked = prompts(24)
    ours = engine.sample(asked, temperature=0.0, max_new_tokens=40)
    ends = {sample.tokens for (sample,) in ours}
    assert len(ends) > 3, "rows must end at different places, or dropping them is not tested"
    for messages, (sample,) in zip(asked, ours, strict=True):
        ids = engine.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            written = engine.model.generate(**ids, max_new_tokens=40, do_sample=False)
        prompt = ids["input_ids"][0].tolist()
        tokens = written[0, len(prompt) :].tolist()
        # The end token counts.
        logp = log_probabilities(engine, prompt, tokens)
        assert (sample.logp, sample.tokens) == (pytest.approx(sum(logp), rel=1e-4), len(logp))
        assert sample.confidence == pytest.approx(np.mean(logp), rel=1e-4)
        if tokens[-1] in engine.stop_ids:
            tokens.pop()
        assert sample.text == engine.tokenizer.decode(tokens, skip_special_tokens=True)


def test_batch_composition_does_not_matter(engine):
    for n, temperature, count, least in ((1, 0.0, 64, 1.0), (3, 1.0, 16, 0.9)):
        asked = prompts(count)
        together = engine.generate(asked, n=n, temperature=temperature, max_new_tokens=16, seed=5)
        alone = resized(engine, 1).generate(asked, n=n, temperature=temperature, max_new_tokens=16, seed=5)
        # On some processors products of other sizes are rounded otherwise, which carries a draw over an edge.
        same = [one == other for pair in zip(together, alone, strict=True) for one, other in zip(*pair, strict=True)]
        assert sum(same) >= least * len(same)


def test_left_padding_leaves_the_logits_alone(engine):
    long, short = "Mara has 12 pears and buys 30 more pears at the market", "river stone"
    ids = [engine.tokenizer.encode(text) for text in (long, short)]
    pad = len(ids[0]) - len(ids[1])
    with torch.inference_mode():
        alone = engine.model(torch.tensor([ids[1]])).logits[0, -1]
        mask = torch.tensor([[1] * len(ids[0]), [0] * pad + [1] * len(ids[1])])
        padded = engine._forward(
            torch.tensor([ids[0], [engine.pad_id] * pad + ids[1]]),
            mask,
            (mask.cumsum(-1) - 1).clamp(min=0),
            roomy_cache(engine.model, len(ids[0]) + 1),
        )[1]
    torch.testing.assert_close(alone, padded, rtol=1e-4, atol=1e-4)


def test_samples_follow_the_distribution(engine):
    text = "Mara has"
    with torch.inference_mode():
        logits = engine.model(torch.tensor([engine.tokenizer.encode(text)])).logits[0, -1]
    n, temperature = 4000, 0.7
    probability = torch.softmax(logits.double() / temperature, -1).tolist()
    # Several tokens are one text: an end token none, a part of a character the replacement character.
    expected: dict[str, float] = {}
    for token, p in enumerate(probability):
        shown = [] if token in engine.stop_ids else [token]
        said = engine.tokenizer.decode(shown, skip_special_tokens=True)
        expected[said] = expected.get(said, 0.0) + p
    (texts,) = resized(engine, n).generate([text], n=n, temperature=temperature, max_new_tokens=1, seed=1)
    for said, p in sorted(expected.items(), key=lambda item: -item[1])[:5]:
        assert texts.count(said) / n == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / n))


def test_prompts_of_token_ids_are_taken_as_they_are(engine):
    """Ids and the text that they encode are the same prompt; ids that no text encodes to are continued all the same."""
    asked = prompts(6)
    ids = [tuple(found) for found in engine.prompt_ids(asked)]
    options = {"n": 2, "temperature": 1.0, "max_new_tokens": 12, "seed": 3}
    assert engine.sample(ids, **options) == engine.sample(asked, **options)
    assert engine.sample([ids[0], *asked[1:3], ids[3]], **options) == engine.sample(asked[:4], **options)

    written = [one for (one,) in engine.sample(asked, temperature=0.0, max_new_tokens=24)]
    halves = [one.ids[: len(one.ids) // 2] for one in written]
    begun = [(*prompt, *half) for prompt, half in zip(ids, halves, strict=True)]
    recoded = [engine.encode([engine.tokenizer.decode(tokens)])[0] for tokens in begun]
    assert sum([*tokens] != other for tokens, other in zip(begun, recoded, strict=True)) >= 3, "a case that matters"
    for tokens, half, one in zip(begun, halves, written, strict=True):
        ((rest,),) = engine.sample([tokens], temperature=0.0, max_new_tokens=24 - len(half))
        assert (*half, *rest.ids) == one.ids


def test_limits_of_single_prompts(engine):
    """Every prompt's responses are those of a call with its own limit; a prompt may use the context that it leaves."""
    asked, limits = prompts(5), [1, 9, 16, 4, 16]
    options = {"n": 3, "temperature": 1.0, "seed": 2}
    found = engine.sample(asked, max_new_tokens=limits, **options)
    assert any(len(one.ids) < limit for own, limit in zip(found, limits, strict=True) for one in own)
    for i, limit in enumerate(limits):
        alone = engine.sample(asked, max_new_tokens=limit, **options)[i]
        assert [(one.text, one.ids, one.tokens) for one in found[i]] == [(o.text, o.ids, o.tokens) for o in alone]
        assert [one.logp for one in found[i]] == pytest.approx([one.logp for one in alone], rel=1e-4)

    fresh = resized(engine, 8)
    long = tuple(engine.encode(["river stone " * 400])[0][: fresh.max_length - 2])
    fresh.sample([long, (5, 6)], temperature=0.0, max_new_tokens=[2, 8])
    assert fresh.truncated == 0
    fresh.sample([long, (5, 6)], temperature=0.0, max_new_tokens=[3, 8])
    assert fresh.truncated == 1


def test_seeds_differ_and_repeat(engine):
    asked = prompts(4)
    first = engine.generate(asked, n=2, temperature=1.0, max_new_tokens=16, seed=0)
    assert first == engine.generate(asked, n=2, temperature=1.0, max_new_tokens=16, seed=0)
    assert first != engine.generate(asked, n=2, temperature=1.0, max_new_tokens=16, seed=1)
    assert all(a != b for a, b in first)


def test_nucleus_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(5, 1)[:, [3, 0, 2, 1]]
    chance = torch.tensor([0.0, 0.55, 0.65, 0.9999, 0.62], dtype=torch.float64)
    # 0.8 is reached by the two likeliest tokens, at places 1 and 3, with shares 0.625 and 0.375.
    assert _choose(logits, 1.0, Truncation(0.8), chance).tolist() == [1, 1, 3, 3, 1]
    assert set(_choose(logits, 1.0, Truncation(0.45), chance).tolist()) == {1}
    whole = _choose(logits, 1.0, Truncation(), torch.tensor([0.0, 0.051, 0.56, 0.71, 0.6999]))
    assert whole.tolist() == [0, 1, 2, 3, 2]


@pytest.mark.parametrize(
    ("cut", "left"),
    [
        ({"top_k": 2}, {1, 3}),
        ({"min_p": 0.31}, {1, 3}),
        ({"min_p": 0.29}, {1, 3, 2}),
        # Of what min_p and top_k leave, 0.5 + 0.3: a nucleus of 0.6 is 0.48.
        ({"top_p": 0.6, "top_k": 2}, {1}),
        ({"top_p": 0.6, "min_p": 0.4}, {1}),
        ({"top_p": 0.6, "top_k": 3}, {1, 3}),
        ({"top_p": 0.98, "top_k": 4, "min_p": 0.0}, {1, 3, 2, 0}),
    ],
)
def test_what_is_drawn_from_is_noted(cut, left):
    logits, noted = torch.log(torch.tensor([[0.05, 0.5, 0.15, 0.3]])).repeat(400, 1), []
    chance = torch.from_numpy(np.random.default_rng(0).random(400))
    drawn = _choose(logits, 1.0, Truncation(**cut), chance, noted)
    assert set(drawn.tolist()) == left and [set(ids.tolist()) for ids in noted] == [left] * 400
    shares = torch.tensor([0.05, 0.5, 0.15, 0.3])[[*left]]
    found = torch.tensor([(drawn == i).float().mean() for i in left])
    assert torch.allclose(found, shares / shares.sum(), atol=0.07)


def test_what_is_no_number_ends_in_a_line_whatever_is_cut(engine, monkeypatch):
    """Weights that overflow are told of by their log-probabilities."""
    monkeypatch.setattr(Engine, "_forward", lambda self, ids, *_: torch.full((len(ids), 40), torch.nan))
    for cut in ({}, {"top_p": 0.9}, {"top_k": 3}, {"min_p": 0.1}):
        with pytest.raises(ValueError, match="log-probabilities are NaN or infinite"):
            engine.sample(["a", "b"], temperature=1.0, max_new_tokens=2, **cut)


def test_samples_say_what_their_tokens_were_drawn_from(engine):
    cut = Truncation(0.9, 5, 0.01)
    options = {"n": 3, "temperature": 0.7, "max_new_tokens": 12, "seed": 3}
    drawn = engine.sample(prompts(5), **options, **cut._asdict(), noting=True)
    assert drawn[0][0].kept != () and [[s.text for s in group] for group in drawn] == engine.generate(
        prompts(5), **options, **cut._asdict()
    )
    for asked, group in zip(engine.prompt_ids(prompts(5)), drawn, strict=True):
        for sample in group:
            assert len(sample.kept) == sample.tokens
            ids = torch.tensor([[*asked, *sample.ids]])
            logits = engine.model(ids).logits[0, len(asked) - 1 : -1].detach().double() / 0.7
            for token, row, kept in zip(sample.ids, logits.softmax(-1).numpy(), sample.kept, strict=True):
                left = sorted(range(len(row)), key=lambda i: -row[i])[:5]
                left = [i for i in left if row[i] >= 0.01 * row.max()]
                mass = np.cumsum(row[left])
                size = 1 + int((mass < 0.9 * mass[-1]).sum())
                assert kept.tolist() == left[:size] and token in kept


def test_stop_strings_cut_and_leave_the_rest_as_it_was(engine):
    asked = prompts(8)
    whole = engine.generate(asked, temperature=0.0, max_new_tokens=48)
    stop = next(text[len(text) // 2 :][:2] for (text,) in whole if len(text) > 40)
    cut = engine.generate(asked, temperature=0.0, max_new_tokens=48, stop=[stop])
    assert [text.split(stop)[0] for (text,) in whole] == [text for (text,) in cut]
    assert whole != cut


def test_long_prompts_lose_their_beginning_and_are_counted(engine):
    small = resized(engine, 4)
    small.max_length = 40
    long = "river " * 60 + "Mara has 12 pears"
    assert small.generate([long], temperature=0.0, max_new_tokens=8) == [
        engine.generate(
            [engine.tokenizer.decode(engine.tokenizer.encode(long)[-32:])], temperature=0.0, max_new_tokens=8
        )[0]
    ]
    assert small.truncated == 1
    with pytest.raises(ValueError, match="max_new_tokens: 40 leaves no room"):
        small.generate(["a"], temperature=0.0, max_new_tokens=40)


def test_log_probability_is_that_of_temperature_one_and_the_whole_vocabulary(engine, monkeypatch):
    written = []

    def recorded(*args):
        token = _choose(*args)
        written.append(int(token[0]))
        return token

    monkeypatch.setattr(engine_module, "_choose", recorded)
    for seed in range(4):
        written.clear()
        ((sample,),) = engine.sample(["Mara has"], temperature=0.6, top_p=0.9, max_new_tokens=12, seed=seed)
        expected = log_probabilities(engine, engine.tokenizer.encode("Mara has"), written)
        assert (sample.logp, sample.tokens) == (pytest.approx(sum(expected), rel=1e-4), len(expected))


def test_generate_gives_the_texts_of_sample(engine):
    asked, options = prompts(5), {"n": 3, "temperature": 1.0, "max_new_tokens": 12, "seed": 3}
    drawn = engine.sample(asked, **options)
    assert engine.generate(asked, **options) == [[sample.text for sample in samples] for samples in drawn]
    assert engine.tokens >= 2 * sum(sample.tokens for samples in drawn for sample in samples)


# --- likelihood --------------------------------------------------------------------------------------


def test_score_counts_the_last_turn_with_its_end(engine):
    conversations = [
        [{"role": "user", "content": "Mara has 12 pears"}, {"role": "assistant", "content": "#### 42"}],
        [
            {"role": "system", "content": "river"},
            {"role": "user", "content": "stone"},
            {"role": "assistant", "content": "red"},
            {"role": "user", "content": "more"},
            {"role": "assistant", "content": "7 * 8 = 56"},
        ],
    ]
    nll, tokens = engine.score(conversations)
    together = nll.copy()
    for i, messages in enumerate(conversations):
        prompt = engine.tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        ids = engine.tokenizer.encode(prompt)
        answer = engine.tokenizer.encode(messages[-1]["content"] + "<|im_end|>")
        with torch.inference_mode():
            logp = engine.model(torch.tensor([ids + answer])).logits[0].log_softmax(-1)
        expected = -sum(float(logp[len(ids) - 1 + k, token]) for k, token in enumerate(answer))
        assert tokens[i] == len(answer)
        assert together[i] == pytest.approx(expected, rel=1e-4)


def test_scores_are_the_same_some_places_at_a_time(engine, request):
    conversations = [
        [{"role": "user", "content": "Mara has 12 pears?"}, {"role": "assistant", "content": text}]
        for text in ("12 + 30 = 42", "no", "The capital of Velmora is Tarsk.")
    ]
    prompts, options = [turns[:1] for turns in conversations], [["42", "Tarsk", "no pears"]] * 3
    expected = engine.score(conversations), engine.choose(prompts, options)
    seen = request.getfixturevalue("some_places")
    found = engine.score(conversations), engine.choose(prompts, options)
    assert seen["passes"] > 1
    np.testing.assert_allclose(found[0][0], expected[0][0], rtol=1e-5, atol=1e-5)
    assert (found[0][1] == expected[0][1]).all()
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-6)


def test_score_of_a_turn_that_is_cut_counts_what_is_inside(engine):
    """The end of an earlier turn is no end of it."""
    asked = [{"role": "user", "content": "stone"}]
    ((nll,), (tokens,)) = engine.score([[*asked, {"role": "assistant", "content": "river " * 1500}]])
    ids = engine.prompt_ids([asked])[0]
    assert tokens == engine.max_length - len(ids)
    full = engine.tokenizer.encode(engine.render(asked) + "river " * 1500)[: engine.max_length]
    with torch.inference_mode():
        logp = engine.model(torch.tensor([full])).logits[0].log_softmax(-1)
    expected = -sum(float(logp[place - 1, full[place]]) for place in range(len(ids), len(full)))
    assert nll == pytest.approx(expected, rel=1e-4)


def test_no_prompts_give_no_answers(engine):
    assert engine.generate([], n=2, temperature=1.0, max_new_tokens=4) == []


def test_choose_is_the_softmax_of_the_scores(engine):
    # Options that share their beginning, one that is the beginning of another, single ones, twice the same.
    options = [
        ["7 * 8 = 56\n#### 56", "7 * 8 = 51\n#### 51", "7 * 8 = 5\n#### 5"],
        ["red", "red stone", "river", "marbles at the market"],
        ["12"],
        ["Tarsk", "Tarsk"],
        ["30", "42"],
    ]
    asked = prompts(len(options))
    found = resized(engine, 8).choose(asked, options)
    for messages, own, probability in zip(asked, options, found, strict=True):
        nll, _ = engine.score([[*messages, {"role": "assistant", "content": option}] for option in own])
        expected = np.exp(-nll) / np.exp(-nll).sum()
        np.testing.assert_allclose(probability, expected, atol=1e-5)
    assert found[3].tolist() == [0.5, 0.5]
    for together, alone in zip(engine.choose(asked, options), found, strict=True):
        np.testing.assert_allclose(together, alone, atol=1e-5)
    assert engine.choose([], []) == []


# --- hidden states -----------------------------------------------------------------------------------


def test_embed_is_that_of_each_prompt_alone(engine):
    asked = [*prompts(9), "river stone", "Mara has 12 pears"]
    found = resized(engine, 4).embed(asked)
    assert found["last"].dtype == found["middle"].dtype == np.float32
    for i, prompt in enumerate(asked):
        ids = torch.tensor(engine.encode([engine.render(prompt)]))
        with torch.inference_mode():
            states = engine.model(ids, output_hidden_states=True).hidden_states
        # Embeddings, then 4 layers: the second is in the middle. The head reads the last place of the last one.
        assert len(states) == 5
        np.testing.assert_allclose(found["last"][i], states[4][0, -1], atol=1e-4)
        np.testing.assert_allclose(found["middle"][i], states[2][0].mean(0), atol=1e-4)
        with torch.inference_mode():
            logits = engine.model.lm_head(torch.from_numpy(found["last"][i]))
            torch.testing.assert_close(logits, engine.model(ids).logits[0, -1], rtol=1e-3, atol=1e-3)
    assert engine.embed([])["last"].shape == (0, 128)
