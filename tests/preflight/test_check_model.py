"""The model check: what holds of a model that works, and one line for each that does not."""

import json
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from benches.models import ARCHITECTURES, build
from steps.core.files import read_json
from steps.core.manifest import verify_manifest
from steps.models import checkpoints, trial
from steps.preflight import check_model, properties
from steps.preflight.check_model import checked
from steps.settings.adapters import ADAPTERS
from tests import families


@pytest.fixture
def base(small_checkpoint, tmp_path) -> Path:
    return shutil.copytree(small_checkpoint, tmp_path / "base")


def change(file: Path, **values) -> None:
    file.write_text(json.dumps(read_json(file) | values))


def found(result: dict) -> dict[str, tuple[str, str]]:
    return {one["name"]: (one["found"], one["treated"]) for one in result["properties"]}


def test_a_plain_model_is_taken_as_it_is(base, tmp_path, capsys):
    out = tmp_path / "check_model" / "base"
    check_model.main(Namespace(settings={}, model=base, out=out))
    result = read_json(out / "check.json")
    assert (result["architecture"], result["layout"], result["context"]) == ("qwen3", "packed", 1024)
    lines = found(result)
    assert lines["packed rows"] == ("logits as of the row alone", "rows are packed, told apart by their positions")
    assert lines["rows padded on the left"] == ("logits as of the row alone", "")
    assert lines["vocabulary"][0].endswith("768 embeddings")
    assert lines["end of an answer"][0] == "<|im_end|> is trained and stops sampling"
    assert lines["greedy answers"][0].startswith("those of transformers' generate")
    # The template has no place for tools.
    told = ("alike in 8 kinds of conversation", "rows with tools are left out as template_drops")
    assert lines["asked and trained"] == told
    # 7 linear layers in each of two blocks.
    assert result["adapters"]["lora"].startswith("14 of 14 linear layers")
    assert result["adapters"].keys() == ADAPTERS.keys()
    counts = verify_manifest(out)["counts"]
    assert counts["layout"] == "packed" and counts["treated"].keys() == {"asked and trained", "packed rows"}
    table = (out / "check.md").read_text()
    assert table.startswith("## base: qwen3\n") and table in capsys.readouterr().out
    assert f"| rows padded on the left | {lines['rows padded on the left'][0]} | as it is |" in table


@pytest.mark.parametrize("family", families.FAMILIES)
def test_families_ask_as_they_train(family, tmp_path):
    result = checked(families.write_checkpoint(family, tmp_path / "base"))
    kinds, _ = found(result)["asked and trained"]
    assert int(kinds.split()[2]) >= 4
    begins = {"llama3_2": "prompts begin with <|begin_of_text|>"}.get(family, "prompts begin with no token")
    assert found(result)["beginning"][0] == begins


@pytest.mark.parametrize("name", ["Qwen3-MoE", "Qwen3.5", "Falcon-H1", "GPT-2", "Bloom", "Mamba 2", "Mamba"])
def test_other_architectures_are_handled(name, tmp_path):
    lines = found(checked(build(name, tmp_path / "base")))
    handled = {"GPT-2": "rows padded on the left", "Qwen3-MoE": "asked and trained"}.get(name, "packed rows")
    assert lines[handled][1]
    assert lines["context"][0] == ("without a bound" if name in ("Bloom", "Mamba 2", "Mamba") else lines["context"][0])
    assert name in ARCHITECTURES


@pytest.mark.parametrize(("name", "key"), [("GPT-2", "n_positions"), ("Qwen3", "max_position_embeddings")])
def test_a_model_that_reads_little_is_tried_on_little(name, key, tmp_path, monkeypatch):
    """Its prompts end where its positions do; where not even a question fits, a line says so."""
    stem, given = ARCHITECTURES[name]
    for positions in (64, 16):
        monkeypatch.setitem(ARCHITECTURES, name, (stem, given | {key: positions}))
        base = build(name, tmp_path / str(positions))
        if positions == 64:
            assert found(checked(base))["context"][0] == "64 tokens"
        else:
            with pytest.raises(
                ValueError, match=r"a question of \d+ tokens and an answer are more than the 16 positions"
            ):
                checked(base)


def test_a_row_reads_otherwise_beside_a_long_one_under_longrope(tmp_path, monkeypatch):
    """Which transformers decides for the whole batch; so that length is the context."""
    import torch

    rope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 256}
    rope |= {"short_factor": [1.0] * 8, "long_factor": [3.0] * 8}
    stem, given = ARCHITECTURES["Qwen3"]
    longer = given | {"max_position_embeddings": 1024, "rope_parameters": rope}
    monkeypatch.setitem(ARCHITECTURES, "Qwen3", (stem, longer))
    base = build("Qwen3", tmp_path / "base")
    assert found(checked(base))["context"][0] == "256 tokens"
    model = checkpoints.load_model(base, torch.float32).eval()
    row = torch.arange(3, 23)[None]
    differences = []
    for length in (250, 300):
        both = torch.cat([torch.nn.functional.pad(row, (0, length - 20)), torch.full((1, length), 5)])
        mask = torch.ones_like(both)
        mask[0, 20:] = 0
        with torch.no_grad():
            together, alone = model(both, attention_mask=mask).logits[0, :20], model(row).logits[0]
        differences.append((together - alone).abs().max().item())
    assert differences[0] < 1e-4 < 1e-2 < differences[1]


def test_tokens_without_an_embedding(base):
    tokenizer = checkpoints.load_tokenizer(base)
    tokenizer.add_tokens([f"<new{i}>" for i in range(768)])
    tokenizer.save_pretrained(base)
    with pytest.raises(
        ValueError, match=r"tokenizer.json: token '<new767>' has the id \d+, and the embeddings have 768 rows"
    ):
        checked(base)


def test_embeddings_that_are_not_tied_as_the_config_says(base):
    change(base / "config.json", tie_word_embeddings=False)
    with pytest.raises(ValueError, match=r"lm_head.weight is missing|tie_word_embeddings is False"):
        checked(base)


def test_an_end_that_does_not_stop(base):
    from steps.engines.transformers import Engine
    from steps.models.chat import Chat

    engine = Engine.load(base, 4)
    engine.stop_ids = [0]
    line = r"trained to end with '<\|im_end\|>', and sampling stops at <\|endoftext\|>; add"
    with pytest.raises(ValueError, match=line):
        properties.ends(engine, Chat(engine.tokenizer))


def test_other_tokens_are_asked_than_trained(base, monkeypatch):
    from steps.engines.transformers import Engine
    from steps.models.chat import Chat

    engine = Engine.load(base, 4)
    whole = engine.encode
    monkeypatch.setattr(engine, "encode", lambda texts: [[0, *ids] for ids in whole(texts)])
    line = r"one turn: the model is asked with …'<\|endoftext\|><\|im_start\|>.*set another"
    with pytest.raises(ValueError, match=line):
        properties.asks(engine, Chat(engine.tokenizer))


def test_a_model_that_samples_otherwise_than_it_reads(base, monkeypatch):
    from steps.engines.transformers import Engine

    engine = Engine.load(base, 4)
    forward = Engine._forward
    monkeypatch.setattr(Engine, "_forward", lambda self, *given: forward(self, *given) * 1.01)
    with pytest.raises(ValueError, match=r"qwen3: sampled log-probabilities differ from those of a forward pass by"):
        properties.samples(engine)


class Changed:
    """An engine of which one thing is otherwise."""

    def __init__(self, engine, **changed):
        self.__dict__ = engine.__dict__ | {"model": engine.model, "_engine": engine} | changed

    def __getattr__(self, name):
        return getattr(self._engine, name)


@pytest.fixture(scope="module")
def engine(small_checkpoint):
    from steps.engines.transformers import Engine

    return Engine.load(small_checkpoint, 8)


def each(answers, greedy, change):
    """`answers` of an engine's `sample` with each sample changed, where they are greedy or where not."""

    def sample(*given, **options):
        found = answers(*given, **options)
        if (options["temperature"] == 0) != greedy:
            return found
        return [[sample._replace(**change(sample)) for sample in own] for own in found]

    return sample


NAN = float("nan")


@pytest.mark.parametrize(
    ("greedy", "change", "message"),
    [
        (False, lambda sample: {"logp": NAN}, "sampled log-probabilities differ.* by nan"),
        # In sum they are right.
        (False, lambda sample: {"logps": sample.logps[::-1]}, "sampled log-probabilities differ"),
        (False, lambda sample: {"logps": (*sample.logps[:-1], NAN)}, "sampled log-probabilities differ"),
        (True, lambda sample: {"ids": sample.ids[:2]}, r"a greedy answer ends after 2 tokens, and .* after 8"),
        (True, lambda sample: {"ids": ()}, "a greedy answer ends after 0 tokens"),
        (True, lambda sample: {"ids": sample.ids[::-1]}, "greedy answers differ"),
    ],
)
def test_samples_that_are_not_the_models_are_refused(engine, greedy, change, message):
    with pytest.raises(ValueError, match=message):
        properties.samples(Changed(engine, sample=each(engine.sample, greedy, change)))


def test_tokens_that_are_drawn_otherwise_than_they_are_likely_are_refused(engine):
    def likeliest(*given, **options):
        return engine.sample(*given, **options | {"temperature": 0.0})

    def colder(*given, **options):
        return engine.sample(*given, **options | {"temperature": 0.9 * options["temperature"]})

    for drawn in (likeliest, colder):
        with pytest.raises(ValueError, match="tokens are drawn otherwise than a forward pass has"):
            properties.samples(Changed(engine, sample=drawn))


def test_likelihoods_that_are_no_numbers_or_beliefs_that_are_no_shares_are_refused(engine):
    def score(conversations):
        nll, tokens = engine.score(conversations)
        return (nll * [1, 1, NAN] if len(nll) == 3 else nll), tokens

    with pytest.raises(ValueError, match="log-likelihoods in a batch differ.* by nan"):
        properties.batches(Changed(engine, score=score))
    for wrong in ([1, 2], [1, NAN], [1, 0]):
        with pytest.raises(ValueError, match="beliefs among options differ"):
            properties.batches(Changed(engine, choose=lambda *given: [engine.choose(*given)[0] * wrong]))  # noqa: B023


@pytest.mark.parametrize("rows", [[0], [1], [2], [0, 1, 2]])
def test_rows_that_are_no_numbers_are_no_rows_as_alone(rows):
    one = [torch.randn(4, 7) for _ in range(3)]
    assert trial.largest(one, one) == 0
    other = [row * (NAN if i in rows else 1) for i, row in enumerate(one)]
    assert trial.largest(other, one) == float("inf")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rms_norm_eps": NAN}, "qwen3: its logits are NaN or infinite; take the config.json"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 0}}, "its logits are NaN or infinite"),
        (
            {"use_sliding_window": True, "sliding_window": -4, "layer_types": ["sliding_attention"] * 2},
            r"qwen3: it does not run \(RuntimeError",
        ),
    ],
)
def test_a_config_with_which_the_model_does_not_run_is_one_line(base, config, message):
    change(base / "config.json", **config)
    with pytest.raises(ValueError, match=message):
        checked(base)


def test_what_generation_config_asks_for_is_said_and_does_not_count(base):
    """As those of Qwen2.5-Instruct do, whose greedy answers are none by `generate`."""
    asked = {"do_sample": True, "repetition_penalty": 1.3, "temperature": 0.7, "no_repeat_ngram_size": 1}
    change(base / "generation_config.json", **asked)
    lines = found(checked(base))
    told, treated = lines["generation_config.json"]
    assert told == "do_sample: True, no_repeat_ngram_size: 1, repetition_penalty: 1.3, temperature: 0.7"
    assert treated == "not used: what is sampled here goes by the settings"
    assert lines["greedy answers"][0].startswith("those of transformers' generate")


def test_a_prompt_with_the_token_of_padding_is_read_whole(base):
    template = (base / "chat_template.jinja").read_text()
    (base / "chat_template.jinja").write_text("{{- '<|endoftext|>' }}" + template)
    assert found(checked(base))["greedy answers"][0].startswith("those of transformers' generate")


def test_an_answer_that_would_stop_before_its_end(base):
    """Every token is one of those that end."""
    change(base / "generation_config.json", eos_token_id=[*range(768)])
    with pytest.raises(ValueError, match="stands inside of an answer and stops sampling; take its id out of eos_token"):
        checked(base)


def test_calls_of_tools_that_end_otherwise_than_answers_are_told(base):
    template = (base / "chat_template.jinja").read_text()
    answer = "message.content + '<|im_end|>' }}{% endgeneration %}"
    assert answer in template
    calls = "(message.tool_calls | tojson + '<|endoftext|>' if message.tool_calls else '<|im_end|>')"
    other = template.replace(answer, f"message.content + {calls} }}}}{{% endgeneration %}}")
    (base / "chat_template.jinja").write_text("{% if tools %}{{ tools | tojson }}{% endif %}" + other)
    assert found(checked(base))["end of an answer"] == (
        "<|im_end|> is trained and stops sampling",
        "calls of tools end with <|endoftext|>, which does not stop: where tools are called, add its id to"
        " eos_token_id in generation_config.json",
    )


def test_no_chat_template(base):
    (base / "chat_template.jinja").unlink(missing_ok=True)
    change(base / "tokenizer_config.json", chat_template=None)
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        checked(base)


def test_pickled_weights(base):
    model = checkpoints.load_model(base, torch.float32)
    (base / "model.safetensors").unlink()
    torch.save(model.state_dict(), base / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin: these weights are pickled.*save_pretrained\('") as error:
        checkpoints.check(base)
    assert "\n" not in str(error.value)
