"""What is trained is what is asked: a row is trained, scored, sampled and evaluated with the same tokens."""

from pathlib import Path

import pytest
import trl
from transformers import PretrainedConfig

from steps.engines.interface import Coder
from steps.evaluation.measure import language_model
from steps.models.chat import Chat
from steps.models.checkpoints import load_tokenizer
from steps.models.composed import composed
from steps.models.today import dated
from steps.training.texts import texts
from tests import families
from tests.fuzzed_chats import tokenizer_of

# Llama's marks without its BOS token, as fine-tunes of it have them: the tokenizer adds one to what is no chat.
WITHOUT_BOS = (
    "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
WITHOUT_END = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
TURNS = [
    {"role": "user", "content": "How many?"},
    {"role": "assistant", "content": "It is 42."},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "It is 43."},
]


def coder(tokenizer) -> Coder:
    """What every engine does alike, without a model."""
    return Coder(tokenizer, PretrainedConfig(max_position_embeddings=512), None, 4)


def published(name: str) -> str:
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def with_template(template: str):
    tokenizer = tokenizer_of("fable")
    tokenizer.chat_template = dated(template)
    return tokenizer


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    families.write_tokenizer("llama3_2", folder)
    return folder


def check_same(tokenizer) -> tuple[list[str], list[str]]:
    """What is asked and what is trained of both answers, by every way on which a row reaches a model."""
    engine, chat = coder(tokenizer), Chat(tokenizer)
    judge = language_model(engine, 8)
    trained = {}
    for text in texts(chat, {"messages": TURNS}):
        trained |= {tuple(text.ids[:begin]): tuple(text.ids[begin:end]) for begin, end in text.parts}
    assert len(trained) == 2
    asked = []
    for i in (1, 3):
        (sampled,) = engine.prompt_ids([TURNS[:i]])
        assert tuple(sampled) in trained
        rendered = judge.apply_chat_template(TURNS[:i])
        # As greedy answers are asked for, and as choices are compared.
        assert engine.prompt_ids([rendered]) == [sampled] == [judge.tok_encode(rendered)]
        # As rollouts and positions are coded.
        assert engine.encode([engine.render(TURNS[:i])]) == [sampled]
        (ids,), (own,) = engine._encode_turns([TURNS[: i + 1]])
        assert tuple(ids[: own.index(True)]) == tuple(sampled)
        assert tuple(ids[own.index(True) :]) == trained[tuple(sampled)]
        assert trained[tuple(sampled)][-1] in engine.stop_ids, "what is trained last stops sampling"
        asked.append(tokenizer.decode(sampled))
    return asked, [tokenizer.decode(list(said)) for said in trained.values()]


def test_a_template_without_bos_is_read_without_one(llama):
    tokenizer = load_tokenizer(llama)
    tokenizer.chat_template = WITHOUT_BOS
    bos = tokenizer.bos_token_id
    assert tokenizer("How many?")["input_ids"][0] == bos, "the tokenizer adds one"
    asked, trained = check_same(tokenizer)
    assert asked[0].startswith("<|start_header_id|>user") and trained[0] == "It is 42.<|eot_id|>"


def test_a_template_with_bos_is_read_with_one(llama):
    tokenizer = load_tokenizer(llama)
    asked, _ = check_same(tokenizer)
    assert all(text.count("<|begin_of_text|>") == 1 and text.startswith("<|begin_of_text|>") for text in asked)


def test_an_earlier_answer_has_the_thought_that_the_template_leaves_it():
    """Qwen3's: trained behind an empty thought, which is gone once more follows."""
    asked, trained = check_same(with_template(published("qwen3")))
    assert "<think>" not in asked[0] + asked[1]
    assert trained == [f"<think>\n\n</think>\n\nIt is {n}.<|im_end|>" for n in (42, 43)]


def test_a_prompt_that_opens_a_thought_is_trained_from_within_it():
    asked, trained = check_same(with_template(published("deepseek_r1_distill")))
    assert all(text.endswith("<think>\n") for text in asked) and asked[1].count("<think>") == 1
    assert trained == [f"\n</think>\n\nIt is {n}.<｜end▁of▁sentence｜>" for n in (42, 43)]


def test_a_template_with_a_date_is_taken():
    """gpt-oss's, as TRL has it."""
    asked, trained = check_same(with_template(published("gptoss")))
    assert "2024-07-26" in asked[0] and asked[0].endswith("<|start|>assistant")
    assert trained == [f"<|channel|>final<|message|>It is {n}.<|return|>" for n in (42, 43)]


def test_an_end_that_the_template_does_not_write_is_asked_for_by_name_or_given():
    with pytest.raises(ValueError, match=r"ends an answer with none of the tokenizer's tokens; set models\."):
        Chat(with_template(WITHOUT_END)).check()
    asked, trained = check_same(with_template(composed(WITHOUT_END, {"end_of_turn": "</s>"})))
    assert trained == ["It is 42.</s>", "It is 43.</s>"]
    # As it was trained, so it stands in the history.
    assert asked[1] == "user: How many?\nassistant: It is 42.</s>\nuser: And now?\nassistant: "


def test_thinking_can_be_switched_off():
    asked, trained = check_same(
        with_template(composed(published("qwen3"), {"template_kwargs": {"enable_thinking": False}}))
    )
    assert all(text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n") for text in asked)
    assert trained == ["It is 42.<|im_end|>", "It is 43.<|im_end|>"]


def test_a_system_turn_is_refused_where_the_template_says_so_or_folded():
    system = [{"role": "system", "content": "Be brief."}, *TURNS]
    refusing = Chat(with_template(published("gemma")))
    refusal = refusing.refusal(system[:2])
    assert refusal is not None and (refusal.reason, refusal.column) == ("template_refuses", "messages")
    folding = with_template(composed(published("gemma"), {"fold_system": True}))
    assert Chat(folding).refusal(system[:2]) is None
    asked, _ = check_same(folding)
    assert "Be brief." not in asked[0]
    made = texts(Chat(folding), {"messages": system})
    assert "<start_of_turn>user\nBe brief.\n\nHow many?<end_of_turn>" in folding.decode(made[0].ids)
