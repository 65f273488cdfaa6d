"""Folders of models that are broken, incomplete or hostile: each is refused in one line that names the file."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from steps.core.files import read_json, write_json
from steps.core.manifest import is_manifest
from steps.models import checkpoints

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
NORM = "model.norm.weight"
Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def copy(small_checkpoint, tmp_path) -> Path:
    return shutil.copytree(small_checkpoint, tmp_path / "copy")


@pytest.fixture(scope="module")
def trained(small_checkpoint, tmp_path_factory) -> Path:
    """A lora adapter of the small model."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapter") / "lora"
    model = checkpoints.load_model(small_checkpoint, torch.float32)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    wrapped.peft_config["default"].base_model_name_or_path = str(small_checkpoint)
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "lora")


def sharded(folder: Path) -> Path:
    """The weights in three files and an index."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    places = {}
    for shard in range(3):
        part = dict(list(tensors.items())[shard::3])
        save_file(part, folder / f"{shard}.safetensors", metadata={"format": "pt"})
        places |= dict.fromkeys(part, f"{shard}.safetensors")
    write_json(folder / INDEX, {"metadata": {}, "weight_map": places})
    return folder


def tensors_of(folder: Path, change: Callable[[dict], None], file: str = WEIGHTS) -> None:
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file, metadata={"format": "pt"})


def config_of(folder: Path, file: str = "config.json", **change) -> None:
    write_json(folder / file, read_json(folder / file) | change)


def error_of(action: Callable) -> str:
    with pytest.raises(ValueError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1200
    return message


# --- weights that are not the model's -------------------------------------------------------------


def put(name: str, value) -> Callable[[dict], None]:
    return lambda tensors: tensors.update({name: value})


def spoil(name: str, value: float) -> Callable[[dict], None]:
    def change(tensors: dict) -> None:
        tensors[name].view(-1)[-1] = value

    return change


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda tensors: tensors.pop(Q), [Q, "is missing"]),
        (put("model.layers.2.mlp.up_proj.weight", torch.zeros(2, 2)), ["model.layers.2.mlp", "has no place"]),
        (put(NORM, torch.ones(65)), [NORM, "[65] and not [64]"]),
        (spoil(NORM, float("nan")), [NORM, "NaN or infinite"]),
        (spoil(Q, float("-inf")), [Q, "NaN or infinite"]),
    ],
    ids=["missing", "extra", "misshapen", "nan", "infinite"],
)
def test_weights_that_are_not_the_models_are_refused(copy, change, said):
    """By the load of every engine, and by that of a judge; of shards as of one file."""
    from steps.engines.load import load_engine
    from steps.engines.vllm import _check_weights

    tensors_of(copy, change)
    expected = error_of(lambda: checkpoints.load_model(copy, torch.float32))
    assert expected.startswith(f"{copy / WEIGHTS}: ") and all(text in expected for text in said)
    assert error_of(lambda: load_engine(copy, 2, "transformers")) == expected
    assert error_of(lambda: _check_weights(copy)) == expected
    sharded(copy)
    message = error_of(lambda: checkpoints.load_model(copy, torch.float32))
    assert all(text in message for text in said), message


def test_a_judge_that_lacks_its_head_is_refused(copy):
    config_of(copy, architectures=["Qwen3ForSequenceClassification"], num_labels=1)
    assert "score.weight is missing" in error_of(lambda: checkpoints.load_classifier(copy, torch.float32))


def test_a_judge_is_no_language_model(copy):
    tensors_of(copy, put("score.weight", torch.zeros(1, 64)))
    assert "score.weight has no place" in error_of(lambda: checkpoints.load_model(copy, torch.float32))
    config_of(copy, num_labels=1)
    assert checkpoints.load_classifier(copy, torch.float32).score.weight.shape == (1, 64)


def test_fewer_layers_in_the_config_than_in_the_file(copy):
    config_of(copy, num_hidden_layers=1, layer_types=["full_attention"], max_window_layers=1)
    assert "model.layers.1." in error_of(lambda: checkpoints.load_model(copy, torch.float32))


def test_a_head_that_is_tied_may_be_missing_and_one_that_is_not_may_not(copy):
    assert "lm_head.weight" not in load_file(copy / WEIGHTS)
    checkpoints.load_model(copy, torch.float32)
    config_of(copy, tie_word_embeddings=False)
    assert "lm_head.weight is missing" in error_of(lambda: checkpoints.load_model(copy, torch.float32))


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 10**9, "layer_types": None},
        {"num_labels": 10**9},
        {"text_config": {"num_experts": 10**12}},
    ],
)
def test_a_count_that_the_weights_cannot_have_is_refused_before_anything_is_built(copy, change):
    config_of(copy, **change)
    assert error_of(lambda: checkpoints.check(copy)).startswith(str(copy / "config.json"))


@pytest.mark.parametrize(
    "change", [{"vocab_size": 10**15}, {"hidden_size": "wide"}, {"model_type": "none"}, {"rope_parameters": 7}]
)
def test_a_config_that_makes_no_such_model_is_one_line(copy, change):
    config_of(copy, **change)
    assert str(copy) in error_of(lambda: checkpoints.load_model(copy, torch.float32))


# --- adapters -------------------------------------------------------------------------------------

A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
TENSORS = "adapter_model.safetensors"


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda tensors: tensors.pop(A), [A, "is missing"]),
        (put(A.replace("q_proj", "k_proj"), torch.zeros(2, 64)), ["k_proj.lora_A", "has no place"]),
        (put(A, torch.zeros(2, 65)), ["q_proj.lora_A", "size mismatch"]),
        (spoil(A, float("nan")), [A, "NaN or infinite"]),
    ],
    ids=["missing", "extra", "misshapen", "nan"],
)
def test_an_adapter_that_is_not_its_bases_is_refused(adapter, change, said):
    tensors_of(adapter, change, TENSORS)
    message = error_of(lambda: checkpoints.load_model(adapter, torch.float32))
    assert message.startswith(str(adapter / TENSORS)) and all(text in message for text in said)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"target_modules": ["q_proj", "c_attn"]}, "'c_attn', which is no module of"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path is None"),
        ({"auto_map": {"AutoModel": "code.Model"}}, "auto_map names code"),
        ({"quantization_config": {"quant_method": "fp8"}}, "the weights are quantized (fp8), which nothing"),
        ({"text_config": {"quantization_config": {"bits": 4}}}, "the weights are quantized (in an unknown way)"),
        ({"megatron_config": {"a": 1}, "megatron_core": "code"}, "megatron_config names code"),
    ],
)
def test_an_adapters_config_that_cannot_be_is_refused_without_a_load(adapter, change, said):
    config_of(adapter, "adapter_config.json", **change)
    assert said in error_of(lambda: checkpoints.check(adapter))


@pytest.mark.parametrize(
    "config, said",
    [
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}, "cannot be merged"),
        ({"peft_type": "NONE"}, "does not fit"),
        ({"peft_type": "LORA", "r": "many"}, "does not fit"),
    ],
)
def test_an_adapter_that_peft_cannot_merge_is_one_line(adapter, config, said):
    base = read_json(adapter / "adapter_config.json")["base_model_name_or_path"]
    write_json(adapter / "adapter_config.json", config | {"base_model_name_or_path": base})
    message = error_of(lambda: checkpoints.load_model(adapter, torch.float32))
    assert message.startswith(str(adapter / TENSORS)) and said in message


def test_an_adapter_of_itself_ends(adapter, tmp_path):
    config_of(adapter, "adapter_config.json", base_model_name_or_path=str(adapter / ".." / "lora"))
    for read in (checkpoints.check, checkpoints.linear_shapes, checkpoints.full_checkpoint, checkpoints.stored_dtype):
        assert "descends from this very adapter" in error_of(lambda: read(adapter))  # noqa: B023
    other = shutil.copytree(adapter, tmp_path / "other")
    config_of(adapter, "adapter_config.json", base_model_name_or_path=str(other))
    config_of(other, "adapter_config.json", base_model_name_or_path=str(adapter))
    assert "descends from this very adapter" in error_of(lambda: checkpoints.check(other))


# --- files ----------------------------------------------------------------------------------------


def raw(header: object, data: int = 0, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + b"\0" * data


def entry(shape=(2,), offsets=(0, 8), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        raw({}, length=2**63),
        raw({}, length=99_000_000),
        raw(b"[" * 100_000),
        raw([]),
        raw(b'{"a": 1, "a": 2}'),
        raw({"a": 7}),
        raw({"a": entry(dtype="F31")}, 8),
        raw({"a": entry(shape=[-2])}, 8),
        raw({"a": entry(shape=[True, 2])}, 8),
        raw({"a": entry(offsets=[0, 4])}, 4),
        raw({"a": entry(offsets=[4, 12])}, 12),
        raw({"a": entry(), "b": entry()}, 8),
        raw({"a": entry()}, 7),
        raw({"a": entry()}, 9),
        raw({"a": entry(shape=[10**400])}, 8),
        raw({"a": entry(dtype=[])}, 8),
    ],
)
def test_a_broken_header_is_one_line(copy, data):
    (copy / WEIGHTS).write_bytes(data)
    assert error_of(lambda: checkpoints.check(copy)).startswith(f"{copy / WEIGHTS} is damaged")
    assert error_of(lambda: checkpoints.linear_shapes(copy)).startswith(f"{copy / WEIGHTS} is damaged")


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "tokenizer_config.json"])
def test_a_pointer_of_git_lfs_is_called_so(copy, name):
    (copy / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    assert f"{copy / name} is a pointer of Git LFS" in error_of(lambda: checkpoints.check(copy))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize(
    "data", [b"", b"{", b"[1]", b"\xff\xfe", b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"a": ' * 100_000, b"1" * 5000]
)
def test_a_config_that_is_no_object_is_one_line(copy, name, data):
    (copy / name).write_bytes(data)
    assert error_of(lambda: checkpoints.check(copy)).startswith(f"{copy / name} is no JSON")


def test_a_config_that_is_too_long_is_not_read(copy):
    with open(copy / "config.json", "wb") as file:
        file.truncate(2**35)  # sparse
    assert "config.json has more than" in error_of(lambda: checkpoints.check(copy))


def test_a_small_file_takes_little_memory(copy):
    """Of what is read, and not of what might be."""
    import tracemalloc

    tracemalloc.start()
    checkpoints.vocabulary(copy)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_what_is_no_file_is_not_read(copy):
    """A folder, a pipe, a device and a link to itself in the place of a file."""

    def link(path: Path, target: str) -> None:
        path.symlink_to(target)

    made = [Path.mkdir, os.mkfifo, lambda path: link(path, "/dev/zero"), lambda path: link(path, path.name)]
    for name in ("config.json", WEIGHTS):
        for make in made:
            folder = shutil.copytree(copy, copy.with_name("broken"))
            (folder / name).unlink()
            make(folder / name)
            assert error_of(lambda: checkpoints.check(folder)).startswith(f"{folder / name} is missing")  # noqa: B023
            shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is readable for root")
def test_a_file_that_may_not_be_read_is_one_line(copy):
    (copy / "config.json").chmod(0)
    assert "config.json cannot be read (Permission denied)" in error_of(lambda: checkpoints.check(copy))


def test_a_file_that_cannot_be_read_is_one_line(copy, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("steps.models.files.open", refuse, raising=False)
    assert "model.safetensors cannot be read (Permission denied)" in error_of(lambda: checkpoints.check_files(copy))


@pytest.mark.parametrize("outside", ["../outside.safetensors", "absolute", "sub/0.safetensors"])
def test_an_index_that_leads_out_of_the_folder_is_refused(copy, tmp_path, outside):
    sharded(copy)
    shutil.copyfile(copy / "0.safetensors", tmp_path / "outside.safetensors")
    name = str(tmp_path / "outside.safetensors") if outside == "absolute" else outside
    places = read_json(copy / INDEX)["weight_map"]
    moved = {tensor: name if place == "0.safetensors" else place for tensor, place in places.items()}
    write_json(copy / INDEX, read_json(copy / INDEX) | {"weight_map": moved})
    for read in (checkpoints.check, checkpoints.linear_shapes):
        assert "outside of it" in error_of(lambda: read(copy))  # noqa: B023


def test_a_link_out_of_the_folder_is_refused_unless_a_cache_keeps_the_contents(copy, tmp_path):
    (copy / WEIGHTS).rename(tmp_path / "secret")
    (copy / WEIGHTS).symlink_to(tmp_path / "secret")
    assert f"{copy / WEIGHTS} is a link to {tmp_path / 'secret'}" in error_of(lambda: checkpoints.check(copy))
    hub = tmp_path / "models--o--m"
    (hub / "blobs").mkdir(parents=True)
    (tmp_path / "secret").rename(hub / "blobs" / "0123")
    snapshot = shutil.copytree(copy, hub / "snapshots" / "rev", symlinks=True)
    (snapshot / WEIGHTS).unlink()
    (snapshot / WEIGHTS).symlink_to("../../blobs/0123")
    checkpoints.check(snapshot)


@pytest.mark.parametrize(
    "index", [{}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": {NORM: 7}}, {"weight_map": {NORM: WEIGHTS}}]
)
def test_an_index_without_a_map_is_one_line(copy, index):
    sharded(copy)
    write_json(copy / INDEX, index)
    assert f"{copy / INDEX} has no " in error_of(lambda: checkpoints.check(copy))


def test_an_index_that_is_wrong_about_a_tensor_is_refused(copy):
    sharded(copy)
    places = read_json(copy / INDEX)["weight_map"]
    moved = places | {NORM: f"{(int(places[NORM][0]) + 1) % 3}.safetensors"}
    write_json(copy / INDEX, read_json(copy / INDEX) | {"weight_map": moved})
    assert f"{copy / INDEX}: {NORM} is in" in error_of(lambda: checkpoints.check(copy))


def test_a_stale_index_beside_one_file_is_refused(copy):
    """transformers would read the file, and a merge the shards."""
    single = (copy / WEIGHTS).read_bytes()
    sharded(copy)
    checkpoints.check(copy)
    (copy / WEIGHTS).write_bytes(single)
    assert "has both model.safetensors and model.safetensors.index.json" in error_of(lambda: checkpoints.check(copy))


def test_an_index_of_the_one_file_is_none_too_many(copy):
    write_json(copy / INDEX, {"metadata": {}, "weight_map": dict.fromkeys(load_file(copy / WEIGHTS), WEIGHTS)})
    checkpoints.check(copy)


def test_vllm_gets_no_weights_that_transformers_does_not_read(copy):
    from steps.engines.vllm import _check_weights

    _check_weights(copy)
    shutil.copyfile(copy / WEIGHTS, copy / "consolidated.safetensors")
    assert "consolidated.safetensors: vLLM would read it" in error_of(lambda: _check_weights(copy))


# --- code, templates, manifests -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_code_of_the_folder_is_refused_without_a_question(copy, name, monkeypatch):
    config_of(copy, name, auto_map={"AutoConfig": "code.Config", "AutoTokenizer": ["code.Tokenizer", None]})
    (copy / "code.py").write_text("raise SystemExit('it ran')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question"))
    for read in (checkpoints.check, lambda folder: checkpoints.load_model(folder, torch.float32)):
        assert error_of(lambda: read(copy)).startswith(f"{copy / name}: auto_map names code")  # noqa: B023
    if name == "tokenizer_config.json":
        assert "auto_map" in error_of(lambda: checkpoints.load_tokenizer(copy))
    if name == "config.json":
        assert "auto_map" in error_of(lambda: checkpoints.stored_dtype(copy))


@pytest.mark.parametrize(
    "template, said",
    [
        ("{% for i in range(10**9) %}a{% endfor %}", "cannot render"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "more than 1 seconds"),
        ("{{ 'a' * 10**11 }}", "512 MiB"),
        ("{% set n = namespace(s='a') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}", "512 MiB"),
        ("{% for", "cannot render"),
        ("{{ raise_exception('no') }}", "cannot render"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "cannot render"),
    ],
)
def test_a_template_that_does_not_end_is_one_line(copy, template, said, monkeypatch):
    if "seconds" in said:
        monkeypatch.setattr("steps.models.templates.CPU_SECONDS", 1)
    (copy / "chat_template.jinja").write_text(template)
    message = error_of(lambda: checkpoints.load_tokenizer(copy))
    assert message.startswith(f"{copy}: its chat template") and said in message


@pytest.mark.parametrize(
    "begin, said",
    [
        ("{{ '' if range(9999) | random else ' ' }}", "writes at random"),
        ("{{ [['a', 'b']] | map('random') | first }}", "writes at random"),
        ("{{ lipsum(1) }}", "writes at random"),
        ("{{ raise_exception }}", "writes where a thing lies in memory"),
    ],
)
def test_a_template_that_another_run_would_write_otherwise_is_refused(copy, begin, said):
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").write_text(begin + template)
    assert f"its chat template {said}" in error_of(lambda: checkpoints.load_tokenizer(copy))


def test_a_template_that_asks_for_the_day_in_plain_words_has_one(copy):
    """As Llama 3.2's and Magistral's do, with the variable's presence asked for."""
    template = (copy / "chat_template.jinja").read_text()
    day = "{% if strftime_now is defined %}{{ strftime_now('%d') | int }}{% endif %}"
    (copy / "chat_template.jinja").write_text(day + template)
    tokenizer = checkpoints.load_tokenizer(copy)
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    assert asked.startswith("26<|im_start|>user")


def test_templates_of_the_families_are_fine(tmp_path):
    from tests.families import FAMILIES, write_tokenizer

    for family in FAMILIES:
        write_tokenizer(family, tmp_path / family)
        assert checkpoints.load_tokenizer(tmp_path / family).chat_template


def test_of_several_templates_the_default_is_taken(copy):
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").unlink()
    named = [{"name": "default", "template": template}, {"name": "tool_use", "template": "{{ tools }}"}]
    config_of(copy, "tokenizer_config.json", chat_template=named)
    assert checkpoints.load_tokenizer(copy).chat_template == template


@pytest.mark.parametrize("data", [b"", b'{"model": {', b"{}", b'{"version": "1.0", "model": 7}'])
def test_a_broken_tokenizer_is_one_line(copy, data):
    (copy / "tokenizer.json").write_bytes(data)
    for read in (checkpoints.load_tokenizer, checkpoints.vocabulary):
        assert str(copy / "tokenizer.json") in error_of(lambda: read(copy))  # noqa: B023


@pytest.mark.parametrize("text", ["{}", "[]", '{"outputs": {}}', '{"files": ["model.safetensors"]}'])
def test_a_manifest_of_another_tool_stands_for_nothing(copy, text):
    (copy / "manifest.json").write_text(text)
    assert not is_manifest(copy / "manifest.json")
    assert copy / WEIGHTS in checkpoints.check(copy)


def test_a_manifest_of_ours_stands_for_the_weights(copy):
    from steps.core.manifest import write_manifest

    write_manifest(copy, step="sft", settings={}, inputs=[], started=0.0)
    assert is_manifest(copy / "manifest.json") and checkpoints.check(copy) == [copy / "manifest.json"]
    (copy / "manifest.json").write_text("{")
    assert f"{copy / 'manifest.json'} is damaged" in error_of(lambda: checkpoints.check(copy))


def test_a_file_beside_a_model_that_its_manifest_does_not_list_counts(copy):
    """transformers reads special_tokens_map.json and added_tokens.json wherever they lie."""
    from steps.core.asked import Asked
    from steps.core.manifest import read_manifest, write_manifest, write_sealed
    from steps.core.standing import differences

    write_manifest(copy, step="sft", settings={}, inputs=[], started=0.0)
    out = copy.parent / "out"
    out.mkdir()
    write_manifest(out, step="evaluate", settings={}, inputs=checkpoints.check(copy), started=0.0)
    wanted = Asked("steps.core.step", {}, ())
    write_sealed(out / "manifest.json", read_manifest(out / "manifest.json") | {"asked": wanted.digest})
    assert not [line for line in differences(out, wanted) if "special" in line]
    (copy / "special_tokens_map.json").write_text('{"eos_token": "."}')
    assert f"{copy / 'special_tokens_map.json'} is new" in list(differences(out, wanted))
    assert copy / "special_tokens_map.json" in checkpoints.check(copy)


def test_templates_beside_the_template_are_refused(copy):
    (copy / "additional_chat_templates").mkdir()
    assert "additional_chat_templates: a model has one template here" in error_of(lambda: checkpoints.check(copy))


# --- what says otherwise than the weights ---------------------------------------------------------


def test_a_head_that_is_tied_and_stored_otherwise_is_refused(copy):
    """transformers would read both, vLLM and a merge the embeddings alone."""
    from steps.models.weights import Weights

    embeddings = load_file(copy / WEIGHTS)["model.embed_tokens.weight"]
    tensors_of(copy, put("lm_head.weight", embeddings.clone()))
    assert checkpoints.load_model(copy, torch.float32).lm_head.weight.shape == (768, 64)
    assert "lm_head.weight" not in Weights(copy).tensors
    tensors_of(copy, spoil("lm_head.weight", 0.5))
    for read in (lambda folder: checkpoints.load_model(folder, torch.float32), Weights):
        message = error_of(lambda: read(copy))  # noqa: B023
        assert message.startswith(f"{copy / WEIGHTS}: lm_head.weight is another than model.embed_tokens.weight")
    config_of(copy, tie_word_embeddings=False)
    checkpoints.load_model(copy, torch.float32)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_weights_that_are_whole_numbers_are_packed(copy, dtype):
    tensors_of(copy, lambda tensors: tensors.update({Q: tensors[Q].to(dtype)}))
    message = error_of(lambda: checkpoints.check(copy))
    assert message.startswith(f"{copy / 'config.json'}: its weights are packed ({Q} is ") and "plain ones" in message


@pytest.mark.parametrize("change", [{"head_dim": 10**9}, {"hidden_size": 10**9}, {"num_attention_heads": 10**9}])
def test_a_side_that_no_tensor_has_is_refused_before_anything_is_built(copy, change):
    config_of(copy, **change)
    message = error_of(lambda: checkpoints.check(copy))
    assert message.startswith(f"{copy / 'config.json'}: {[*change][0]} is 1000000000, but its weights are")


@pytest.mark.parametrize("end", ["<|im_end|>", 2.5, ["2"], [2, True], {"id": 2}])
def test_an_end_that_is_no_id_is_one_line(copy, end):
    config_of(copy, "generation_config.json", eos_token_id=end)
    assert "generation_config.json: eos_token_id has " in error_of(lambda: checkpoints.check(copy))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", "special_tokens_map.json"])
def test_no_file_of_a_folder_leads_out_of_it(copy, tmp_path, name):
    (tmp_path / "secret").write_text("{}")
    if (copy / name).exists():
        (copy / name).rename(tmp_path / "secret")
    (copy / name).symlink_to(tmp_path / "secret")
    assert f"{copy / name} is a link to {tmp_path / 'secret'}" in error_of(lambda: checkpoints.check(copy))
    (copy / name).unlink()
    (tmp_path / "secret").rename(copy / f"own_{name}")
    (copy / name).symlink_to(f"own_{name}")
    checkpoints.check(copy)


@pytest.mark.parametrize(
    "change", [{"r": 10**9}, {"rank_pattern": {"q_proj": 10**9}}, {"layer_replication": [[0, 2]] * 10**5}]
)
def test_an_adapter_of_sizes_that_its_tensors_cannot_have_is_refused_before_it_is_made(adapter, change):
    config_of(adapter, "adapter_config.json", **change)
    message = error_of(lambda: checkpoints.check(adapter))
    assert message.startswith(f"{adapter / 'adapter_config.json'}: ") and "sides of at most 64" in message
