"""What becomes of architectures of transformers: the model check, every training stage, every kind of adapter.

Each is a random model of two to four small layers from its own configuration class, with the tokenizer of fable's base
model. What is counted is how many of its trainings work: two steps through the stage's own main, with the weights that
came out finite, loaded again and other than the base's. What is handled or refused says so by its line; anything else
is a failure.

Run as: python -m benches.models --out reports/bench/models.json
    --add --architectures "Mamba" tries these and keeps what the file says of the others
"""

import argparse
import contextlib
import io
import shutil
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from benches.common import bench_parser, figure, write_result
from steps.core.files import read_json, write_jsonl
from steps.core.step import run
from steps.distillation import distill, logprobs, opd
from steps.graph import graph as dag
from steps.graph import recipes, workload
from steps.graph.workload import lay_over
from steps.models import checkpoints
from steps.preflight.adapters import ADAPTERS_TRIED
from steps.preflight.check_model import checked
from steps.recipes import cpt, reward, sft
from steps.reinforcement import rl

ROOT = Path(__file__).parents[1]
BASE = ROOT / "data/fable/base"
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GATED = SIZE | {"intermediate_size": 64, "num_key_value_heads": 2}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 16}
# Name: the stem of its classes, and its configuration.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen2": ("Qwen2", GATED),
    "Qwen2.5": ("Qwen2", GATED | {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
    "Qwen3": ("Qwen3", GATED | {"head_dim": 16}),
    "Qwen3-MoE": (
        "Qwen3Moe",
        GATED | {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
    "Qwen3.5": (
        "Qwen3_5Text",
        GATED
        | {
            "head_dim": 16, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
            "linear_num_value_heads": 4, "layer_types": ["linear_attention", "full_attention"],
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.25,
            },
        },
    ),
    "Llama 3": ("Llama", GATED | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "Llama 4": (
        "Llama4Text",
        GATED | {"head_dim": 8, "intermediate_size_mlp": 64, "num_local_experts": 4, "attention_chunk_size": 64},
    ),
    "Mistral": ("Mistral", GATED | {"sliding_window": 16}),
    "Gemma 2": ("Gemma2", GATED | {"head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8}),
    "Gemma 3": ("Gemma3Text", GATED | {"head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8}),
    "Phi 3": ("Phi3", GATED),
    "OLMo 2": ("Olmo2", GATED),
    "Granite": ("Granite", GATED),
    "DeepSeek-V3": (
        "DeepseekV3",
        GATED
        | {
            "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
            "moe_intermediate_size": 16, "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
            "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
        },
    ),
    "gpt-oss": ("GptOss", GATED | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "GPT-NeoX": ("GPTNeoX", SIZE | {"intermediate_size": 64}),
    "GPT-2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024}),
    "Falcon": ("Falcon", SIZE),
    "Falcon, alibi": ("Falcon", SIZE | {"alibi": True}),
    "Bloom": ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "LFM2": ("Lfm2", GATED | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}),
    "Granite 4 hybrid": (
        "GraniteMoeHybrid",
        GATED
        | MAMBA
        | {
            "layer_types": ["mamba", "attention"], "num_local_experts": 0, "num_experts_per_tok": 0,
            "shared_intermediate_size": 64, "attention_multiplier": 0.35,
        },
    ),
    "Falcon-H1": ("FalconH1", GATED | MAMBA | {"mamba_d_ssm": 64}),
    "Mamba 2": (
        "Mamba2",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2,
         "chunk_size": 16},
    ),
    "Mamba": ("Mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "Jamba": (
        "Jamba",
        GATED
        | {
            "num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 2, "attn_layer_offset": 1,
            "expert_layer_period": 2, "expert_layer_offset": 1, "use_mamba_kernels": False, "mamba_d_state": 4,
        },
    ),
    "Nemotron-H": (
        "NemotronH",
        GATED
        | {
            "layers_block_type": ["mamba", "attention"], "mamba_num_heads": 8, "mamba_head_dim": 8,
            "ssm_state_size": 8, "n_groups": 1, "chunk_size": 16, "head_dim": 8,
        },
    ),
    "Qwen3-Next": (
        "Qwen3Next",
        GATED
        | {
            "head_dim": 16, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
            "linear_num_value_heads": 4, "layer_types": ["linear_attention", "full_attention"], "num_experts": 4,
            "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
        },
    ),
    "Mixtral": ("Mixtral", GATED | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "Gemma 4": (
        "Gemma4Text",
        GATED
        | {
            "head_dim": 8, "global_head_dim": 8, "sliding_window": 16, "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 1027, "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "Cohere 2": (
        "Cohere2", GATED | {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "GLM 4": ("Glm4", GATED | {"head_dim": 8}),
    "OLMo 3": ("Olmo3", GATED | {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}),
    "SmolLM3": ("SmolLM3", GATED | {"no_rope_layers": [1, 0]}),
    "Phi 2": ("Phi", GATED | {"num_key_value_heads": 4}),
    "OPT": ("OPT", SIZE | {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 512}),
    "RecurrentGemma": (
        "RecurrentGemma",
        GATED | {"lru_width": 32, "attention_window_size": 16, "block_types": ["recurrent", "attention"]},
    ),
    "MiniMax": (
        "MiniMax",
        GATED
        | {
            "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "block_size": 16,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
}  # fmt: skip
# Two steps of each training stage.
SMALL = {
    "sft": {"epochs": 1, "batch_size": 4, "gradient_accumulation": 1, "saves": 1, "max_length": 256},
    "cpt": {"epochs": 1, "batch_size": 4, "gradient_accumulation": 1, "saves": 1, "max_length": 256},
    "reward": {"epochs": 1, "batch_size": 4, "gradient_accumulation": 1, "saves": 1, "max_length": 256},
    "rl": {"steps": 2, "prompts": 2, "generations": 4, "batch_size": 8, "max_new_tokens": 8, "saves": 1},
    "logprobs": {"max_length": 256, "batch_size": 8, "top_k": 8},
    "distill": {"epochs": 1, "batch_size": 4, "gradient_accumulation": 1, "saves": 1, "max_length": 256},
    "opd": {"steps": 2, "prompts": 2, "generations": 2, "batch_size": 4, "max_new_tokens": 8, "saves": 1},
}
# A random model is never right; what it believes of its responses differs.
SAMPLED = {
    "answer": {"kind": "answer", "weight": 1.0},
    "belief": {"kind": "self", "weight": 1.0, "prompt": "{prompt} {response}", "right": "Yes", "wrong": "No"},
}
RECIPES = {
    "sft": {"stage": "sft", "from": "base", "data": "problems"},
    "cpt": {"stage": "cpt", "from": "base", "data": "texts"},
    "reward": {"stage": "reward", "from": "base", "data": "preferences"},
    "rl": {"stage": "rl", "from": "base", "data": "exercises", "rewards": SAMPLED},
    "distill": {"stage": "distill", "from": "base", "data": "exercises", "teachers": ["teacher"]},
    "distill by KL": {
        "stage": "distill", "from": "base", "data": "exercises", "teachers": ["teacher"], "objective": "forward_kl",
    },
    "opd": {"stage": "opd", "from": "base", "data": "exercises", "teachers": ["teacher"]},
}  # fmt: skip
STAGES = tuple(RECIPES)
WORKS, HANDLED, REFUSED, FAILS = "works", "handled", "refused", "fails"


def build(name: str, folder: Path, seed: int = 0) -> Path:
    """A random checkpoint of an architecture with the tokenizer of fable's base; returns its folder."""
    import torch
    import transformers

    stem, given = ARCHITECTURES[name]
    tokenizer = checkpoints.load_tokenizer(BASE)
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = getattr(transformers, f"{stem}Config")(**given, **ids, vocab_size=len(tokenizer) + 3)
    # Of the usual scale (0.02), predictions are nearly flat, and what goes wrong between rows hardly shows.
    config.initializer_range = 0.1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config = transformers.GenerationConfig(**ids)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(BASE / file, folder / file)
    return folder


def rows(count: int) -> list[dict]:
    """Sums with a worked answer and a wrong one."""
    made = []
    for i in range(count):
        asked = {"role": "user", "content": f"Mara has {i} pears and buys {i + 2} more. How many has she now?"}
        said = {"role": "assistant", "content": f"{i} + {i + 2} = {2 * i + 2}\n#### {2 * i + 2}"}
        place = {"id": f"sums:{i}", "file": "sums.jsonl", "line": i + 1, "row": i, "pass_rate": 0.5}
        made.append(place | {"messages": [asked, said], "answer": str(2 * i + 2), "rejected": "1"})
    return made


class Trainings:
    """Every training of one model, in a folder of its own.

    Args:
        base: the model's folder.
        teacher: another of the same architecture.
        work: where it trains.
    """

    def __init__(self, base: Path, teacher: Path, work: Path):
        self.base, self.teacher, self.work = base, teacher, work
        self.data, self.documents = work / "rows.jsonl", work / "documents.jsonl"
        write_jsonl(self.data, rows(8))
        write_jsonl(self.documents, [{"text": f"Tarsk has {i} towers and a wall."} for i in range(8)])
        params = lay_over(workload.load(ROOT)[0], SMALL)
        params["models"] = {"base": {"path": str(base)}, "teacher": {"path": str(teacher)}}
        params["data"]["texts"] = {"sources": [{"path": str(self.documents), "format": "text"}]}
        adapted = {
            kind: RECIPES["sft"] | {"adapter": adapter, "learning_rate": 1e-2}
            for kind, adapter in ADAPTERS_TRIED.items()
        }
        own = {name.replace(" ", "_"): recipe for name, recipe in (RECIPES | adapted).items()}
        params["studies"] = {"every": {"recipes": own}}
        graph = dag.Graph(recipes.complete(params))
        self.settings = {name: node.settings for name, node in graph.nodes.items()}
        self.logprobs = graph.params["logprobs"] | {"engine": "transformers"}

    def train(self, module: ModuleType, name: str, **inputs: Any) -> str:
        """How a training ends: `WORKS`, or `HANDLED` with how."""
        out = self.work / "made" / name
        place = {"out": out, "work": self.work / "work" / name, "logs": None, "parent": self.base}
        module.main(argparse.Namespace(settings=self.settings[name], **place, **inputs))
        counts = read_json(out / "manifest.json")["counts"]
        assert counts["steps"] == 2, f"{counts['steps']} steps"
        assert module is reward or differs(out, self.base), "nothing was trained"
        return f"{HANDLED}: {counts['layout']}" if "layout" in counts else WORKS

    def stage(self, name: str) -> str:
        """How a stage, or an adapter's fine-tuning, ends."""
        both = {"data": self.data, "valid": self.data}
        if name == "cpt":
            return self.train(cpt, name, data=self.documents)
        if name == "reward":
            return self.train(reward, name, **both)
        if name == "rl":
            return self.train(rl, name, data=self.data, valid=None, reward_model=None)
        if name == "opd":
            return self.train(opd, name, teachers=[self.teacher], data=[self.data], responses=[])
        if name not in ("distill", "distill by KL"):
            return self.train(sft, name, **both)
        # As if its teacher had written the rows.
        cached = []
        if name == "distill by KL":
            cached = [self.work / "made/logprobs"]
            told = {"settings": self.logprobs, "input": self.data, "teacher": self.teacher, "out": cached[0]}
            logprobs.main(argparse.Namespace(**told))
        return self.train(distill, name.replace(" ", "_"), data=[self.data], logprobs=cached)


def differs(folder: Path, base: Path) -> bool:
    """Whether a checkpoint is another finite model than its base."""
    import torch

    ours, theirs = (checkpoints.load_model(one, torch.float32).state_dict() for one in (folder, base))
    assert all(torch.isfinite(tensor).all() for tensor in ours.values() if tensor.is_floating_point())
    return any(not torch.equal(ours[name], theirs[name]) for name in theirs)


def outcome(tried: Callable[[], str], work: Path) -> str:
    """What became of a trial in one line, without its folder: an error of the user's is a refusal, any other a
    failure."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return tried()
    except ValueError as error:
        line = " ".join(str(error).replace(f"{work}/", "").split())
        # A library's own says nothing of what to do here.
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        return f"{REFUSED if str(ROOT / 'steps') in last else FAILS}: {line}"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{FAILS}: {type(error).__name__}: {' '.join(str(error).split()):.200} ({Path(last.filename).name})"


def examined(name: str, stages: list[str], kinds: list[str], work: Path) -> dict:
    """All that became of an architecture."""
    base, teacher = build(name, work / "base"), build(name, work / "teacher", seed=1)
    found: dict[str, Any] = {}

    def check() -> str:
        found.update(checked(base))
        return WORKS

    ended = outcome(check, work)
    trainings = Trainings(base, teacher, work)
    with contextlib.chdir(ROOT):
        return {
            "check": ended,
            "layout": found.get("layout"),
            "properties": found.get("properties", []),
            "stages": {stage: outcome(lambda stage=stage: trainings.stage(stage), work) for stage in stages},
            "adapters": {kind: outcome(lambda kind=kind: trainings.stage(kind), work) for kind in kinds},
        }


def counted(found: dict) -> dict[str, int]:
    """How often trials of some architectures ended in each way."""
    ended = [e for own in found.values() for e in (own["check"], *own["stages"].values(), *own["adapters"].values())]
    return {kind: sum(e.startswith(kind) for e in ended) for kind in (WORKS, HANDLED, REFUSED, FAILS)}


def main(args: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(1)
    found = read_json(args.out)["detail"] if args.add else {}
    for name in args.architectures:
        with tempfile.TemporaryDirectory() as work:
            found[name] = examined(name, args.stages, args.adapters, Path(work))
        print(f"--- up to {name}", flush=True)
        figures = [figure("architectures", [len(found)])]
        for kind, count in counted(found).items():
            figures.append(figure(f"trials that end so: {kind}", [count], most=0 if kind == FAILS else None))
        # Each time: a run that is ended leaves what it found.
        write_result(args.out, __doc__, figures, found)


if __name__ == "__main__":
    small = {"architectures": ["LFM2"], "stages": ["sft"], "adapters": ["lora"]}
    parser = bench_parser(__doc__, "models", small)
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES), help="which, by name")
    parser.add_argument("--add", action="store_true", help="to what the file has of other architectures")
    parser.add_argument("--stages", nargs="*", default=list(STAGES), help="which trainings")
    parser.add_argument("--adapters", nargs="*", default=list(ADAPTERS_TRIED), help="which kinds")
    run(main, parser)
