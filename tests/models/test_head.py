"""Logits of a wide vocabulary, some places at a time: losses and gradients are those of the plain computation."""

import pytest
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from steps.models import head

SHAPE = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
FAMILIES = {
    "tied": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=True)),
    "untied": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=False)),
    "capped": lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE, final_logit_softcapping=3.0)),
    "scaled": lambda: CohereForCausalLM(
        CohereConfig(**{k: v for k, v in SHAPE.items() if k != "head_dim"}, logit_scale=0.0625)
    ),
    "divided": lambda: GraniteForCausalLM(
        GraniteConfig(**{k: v for k, v in SHAPE.items() if k != "head_dim"}, logits_scaling=4.0)
    ),
    "biased": lambda: PhiForCausalLM(PhiConfig(**{k: v for k, v in SHAPE.items() if k != "head_dim"})),
}


def built(family: str, seed: int = 0):
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = FAMILIES[family]()
        if getattr(model.get_output_embeddings(), "bias", None) is not None:
            torch.nn.init.normal_(model.get_output_embeddings().bias)
    return model.train()


def batch(rows: int = 3, length: int = 11):
    import torch

    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 97, (rows, length), generator=generator)
    trained = torch.rand((rows, length - 1), generator=generator) < 0.7
    return ids, trained


@pytest.fixture
def narrow(monkeypatch):
    """A few places at a time, of any vocabulary."""

    def switch(on: bool) -> None:
        monkeypatch.setattr(head, "WIDE", 0 if on else 2**30)
        monkeypatch.setitem(head.AT_ONCE, "cpu", 5 * 97)

    return switch


def nll(logits, tokens):
    import torch

    return torch.nn.functional.cross_entropy(logits, tokens, reduction="none")


def cross_entropy(model, temperature: float = 1.0):
    ids, trained = batch()
    logits = head.read(model, input_ids=ids, use_cache=False)[:, :-1][trained].float() / temperature
    return head.per_place(nll, [logits], ids[:, 1:][trained]).mean()


def slopes(model, value) -> dict:
    model.zero_grad()
    value.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_loss_and_its_gradients_are_the_plain_ones(narrow, family, temperature):
    import torch

    model = built(family)
    narrow(False)
    ids, trained = batch()
    plain = model(input_ids=ids).logits[:, :-1][trained].float() / temperature
    expected = nll(plain, ids[:, 1:][trained]).mean()
    wanted = slopes(model, expected)
    narrow(True)
    found = cross_entropy(model, temperature)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    slope = slopes(model, found)
    assert slope.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(slope[name], value, rtol=1e-5, atol=1e-5)


def test_without_a_mask_the_loss_is_transformers_own(narrow):
    model = built("tied")
    ids, _ = batch()
    narrow(True)
    logits = head.read(model, input_ids=ids, use_cache=False)[:, :-1]
    found = head.per_place(nll, [logits], ids[:, 1:]).mean()
    assert found.item() == pytest.approx(model(input_ids=ids, labels=ids).loss.item(), abs=1e-5)


def test_under_autocast_the_product_is_rounded_as_the_models_is(narrow):
    import torch

    model = built("untied")
    ids, trained = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = model(input_ids=ids).logits[:, :-1][trained].float()
        expected = nll(plain, ids[:, 1:][trained]).mean()
        wanted = slopes(model, expected)
        narrow(True)
        found = cross_entropy(model)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    slope = slopes(model, found)
    weight = "lm_head.weight"
    # Summed in float32 here, rounded to bfloat16 there.
    torch.testing.assert_close(slope[weight], wanted[weight], rtol=0.02, atol=2e-3)


def test_two_models_several_values_and_no_gradient_of_the_teacher(narrow):
    import torch

    student, teacher = built("tied"), built("capped", seed=5)
    ids, trained = batch()
    tokens = ids[:, 1:][trained]

    def compared(one, other, tokens):
        p, q = one.log_softmax(-1), other.log_softmax(-1)
        return (p.exp() * (p - q)).sum(-1), one.argmax(-1) == tokens, torch.stack([p, q], -1)[:, :2]

    def both(read):
        with torch.no_grad():
            theirs = read(teacher)
        return head.per_place(compared, [read(student), theirs], tokens)

    narrow(False)
    expected = both(lambda model: model(input_ids=ids).logits[:, :-1][trained])
    wanted = slopes(student, expected[0].sum() + expected[2].sum())
    narrow(True)
    found = both(lambda model: head.read(model, input_ids=ids)[:, :-1][trained])
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    slope = slopes(student, found[0].sum() + found[2].sum())
    for name, value in wanted.items():
        torch.testing.assert_close(slope[name], value, rtol=1e-4, atol=1e-4)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_no_place_at_all_is_a_loss_of_nothing(narrow):
    model = built("tied")
    ids, trained = batch()
    narrow(True)
    logits = head.read(model, input_ids=ids)[:, :-1][trained & False]
    value = head.per_place(nll, [logits], ids[:, 1:][trained & False]).sum()
    value.backward()
    assert value.item() == 0 and not model.lm_head.weight.grad.any()


def test_weights_that_were_put_on_for_a_while_are_those_that_answer(narrow):
    """What a self-teacher's weights read is computed after they were taken off."""
    import torch

    from steps.training.self_teacher import copied, swapped_weights

    model = built("tied")
    ids, _ = batch()
    narrow(True)
    other = {name: value * 1.5 for name, value in copied(model).items()}
    with swapped_weights(model, other):
        expected = model(input_ids=ids).logits
        places = head.read(model, input_ids=ids)
    found = head.per_place(lambda logits: logits, [places])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_an_output_layer_that_is_not_known_is_refused(narrow, monkeypatch):
    narrow(True)
    monkeypatch.setattr(head, "scale_and_cap", lambda config: (1.0, None))
    for family in ("capped", "scaled", "divided"):
        with pytest.raises(ValueError, match="what this model makes of its output layer is unknown here"):
            cross_entropy(built(family))


def test_a_cap_that_takes_little_is_not_overlooked(narrow, monkeypatch):
    """30 tanh(3 / 30) is 2.99: less than rounding in 16 bits, and more than in float32."""
    narrow(True)
    model = built("capped")
    model.config.final_logit_softcapping = 30.0
    ids, _ = batch()
    assert model(input_ids=ids).logits.abs().max() < 15
    head.read(model, input_ids=ids)
    monkeypatch.setattr(head, "scale_and_cap", lambda config: (1.0, None))
    model._output_layer_known = False
    with pytest.raises(ValueError, match="what this model makes of its output layer is unknown here"):
        head.read(model, input_ids=ids)


def test_the_rule_is_the_width_alone(monkeypatch):
    model = built("tied")
    assert head.WIDE == 32_768 and not head.is_wide(model)
    monkeypatch.setattr(head, "WIDE", 97)
    assert head.is_wide(model)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert not head.is_wide(model)
