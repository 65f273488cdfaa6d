"""Pre-flight: the steps that are tried, what is there, what is said where it does not fit, the rungs of a ladder."""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from benches.models import build
from steps.core.files import read_json
from steps.core.manifest import verify_manifest
from steps.graph import graph as dag
from steps.graph import recipes
from steps.models import positions
from steps.preflight import machine as preflight_machine
from steps.preflight import preflight, rehearse, remedies
from steps.settings.launches import check_kind
from steps.settings.stages import ON_POLICY
from steps.settings.training import check_apart, check_divided
from steps.training import memory, packing
from steps.training.memory import GIB
from tests.graph.test_recipes import PARAMS, overlaid
from tests.training.test_memory import FEW, LORA, OPD, settings_of
from tests.workflow.test_workflow import copy_of_the_repository, environment
from tests.workloads import write_workload

ROOT = Path(__file__).parents[2]
FULL = {"kind": "full"}
TEACH = {"sources": [{"data": "one", "share": 0.5, "teachers": [0]}, {"data": "two", "share": 0.5, "teachers": [0]}]}


def arguments(folder: Path, model: Path, stage: str, settings: dict, **over) -> argparse.Namespace:
    told = {"stage": stage, "headroom": 0.1, "prompt_tokens": 40, "recipe": settings}
    given = {"teachers": [], "judge": None, "kind": "single", "processes": 1, "memory": None}
    given |= {"settings": told, "model": model, "work": folder / "work", "out": folder / "out"}
    return argparse.Namespace(**given | over)


# --- the steps that are tried --------------------------------------------------------------------


@pytest.fixture
def unlimited(monkeypatch):
    """The limit is the process's own: none for the one that runs the tests."""
    monkeypatch.setattr(rehearse.resource, "setrlimit", lambda *_: None)


SHORT = {"batch_size": 2, "max_length": 64, "gradient_accumulation": 4}
ADALORA = {
    "kind": "adalora", "init_r": 4, "target_r": 2, "alpha": 8, "tinit": 0.1, "tfinal": 0.3, "every": 10,
    "orthogonality": 0.5,
}  # fmt: skip
TRIED = [
    ("sft", SHORT | {"adapter": ADALORA}),
    ("cpt", SHORT),
    ("distill", SHORT | {"objective": "forward_kl"}),
    ("reward", SHORT),
    ("rl", FEW | {"iterations": 2, "method": "srpo", "max_new_tokens": 8, "eval_steps": 1, "keep_best": {}}),
    ("opd", OPD | TEACH | {"off_policy": 0.5, "max_new_tokens": 8, "horizon": {"tokens": 8, "from": 2, "until": 5}}),
]


@pytest.mark.parametrize(("stage", "over"), TRIED, ids=[stage for stage, _ in TRIED])
def test_every_stage_takes_two_full_steps(small_checkpoint, tmp_path, unlimited, monkeypatch, stage, over):
    seen = []
    built = rehearse.REHEARSALS[stage]

    def watched(args, settings, shape):
        trainer, plan = built(args, settings, shape)
        forward = trainer.model.forward

        def noted(*given, **named):
            if trainer.model.training:
                seen.append(tuple(named["input_ids"].shape))
            return forward(*given, **named)

        trainer.model.forward = noted
        if stage in ON_POLICY:
            trainer.engine.stop_ids = [*range(768)]  # any token would end a response, if it were asked
        seen.append(plan)
        return trainer, plan

    monkeypatch.setitem(rehearse.REHEARSALS, stage, watched)
    settings = settings_of(stage, **over)
    teaching = [small_checkpoint] if stage == "opd" else []
    args = arguments(tmp_path, small_checkpoint, stage, settings, teachers=teaching, memory=2**40)
    args.out.mkdir()
    rehearse.main(args)
    plan, *shapes = seen
    found = read_json(args.out / "attempt.json")
    # Of a process that gives back what tests before it held, which a rehearsal of its own does not have.
    assert found["peak"] > 0.9 * found["before"] >= 0 and found["seconds"] > 0 and "micro_batch" not in found
    if stage in ON_POLICY:
        assert plan.steps == 2 * settings.get("iterations", 1)
        # Each part of the samples, at the prompts' and the responses' greatest length.
        assert max(width for _, width in shapes) == pytest.approx(40 + 8, abs=2)
        if stage == "rl":
            assert {rows for rows, _ in shapes} == {8}
    else:
        # Two passes of a step, of which there are two.
        rows = 2 * settings["batch_size"] if stage == "reward" else settings["batch_size"]
        assert plan.steps == 2 and shapes == [(rows, 64)] * 4


def test_rows_lie_as_the_model_reads_them_right(tmp_path, monkeypatch):
    """Packed, each its own sequence, or all in one with their ends: as the training's."""
    shape = memory.Shape(0, {}, 40, *[1] * 6, normed=False)
    found = {}
    for name, layout in (("Qwen3", packing.PACKED), ("LFM2", packing.ALONE), ("Qwen2", packing.FLATTENED)):
        folder = build(name, tmp_path / name)
        if layout == packing.FLATTENED:  # what only kernels for GPUs read
            monkeypatch.setattr(rehearse.layouts, "right_layout", lambda model: (packing.FLATTENED, {}))
        args = arguments(tmp_path / name, folder, "sft", {})
        trainer, _ = rehearse.fine_tuning(args, settings_of("sft", **SHORT), shape)
        batch = trainer.collate([{"part": 0}])
        found[layout] = (tuple(batch["input_ids"].shape), "cu_seq_lens_q" in batch)
    assert found == {
        packing.PACKED: ((2, 64), False),
        packing.ALONE: ((2, 64), False),
        packing.FLATTENED: ((1, 128), True),
    }
    assert trainer.settings["layout"] == packing.FLATTENED


def test_padded_prompts_are_numbered_as_the_training_does(tmp_path):
    _, model, _ = rehearse.load(build("GPT-2", tmp_path / "base"), settings_of("rl", adapter=FULL))
    assert positions.padded_difference(model) < 1e-4


def test_prompts_are_as_long_as_told(small_checkpoint):
    from steps.models.checkpoints import load_tokenizer

    tokenizer = load_tokenizer(small_checkpoint)
    rows = rehearse.prompts_of(tokenizer, 50, 4)
    lengths = [
        len(
            tokenizer.apply_chat_template(row["messages"][:1], add_generation_prompt=True, return_dict=True)[
                "input_ids"
            ]
        )
        for row in rows
    ]
    assert max(lengths) <= 50 < max(lengths) + 4 and lengths[0] > lengths[1]
    with pytest.raises(ValueError, match=r"preflight.prompt_tokens: 5 is less than the \d+ tokens"):
        rehearse.prompts_of(tokenizer, 5, 1)


# --- from the command line -----------------------------------------------------------------------


def test_a_training_whose_first_attempt_runs_out_of_memory(small_checkpoint, tmp_path, monkeypatch, capsys):
    """The whole step, with steps tried in a process that may have less than a pass takes and more than its parts do."""
    settings = settings_of("sft", batch_size=32, max_length=512, packing=False, gradient_accumulation=4)
    monkeypatch.setitem(memory.RUNTIME, "cpu", 0)
    shape = memory.read_shape(small_checkpoint)
    whole = memory.needs(
        "sft", settings, shape, prompt_tokens=40, kind="single", processes=1, device="cpu", half=False
    )["total"]
    room = virtual_memory() + int(0.6 * whole)
    monkeypatch.setattr(preflight_machine, "available", lambda count: ("cpu", int(room / 0.9), "free here", 0))
    args = arguments(tmp_path, small_checkpoint, "sft", settings)
    preflight.main(args)

    found, manifest = read_json(args.out / "preflight.json"), verify_manifest(args.out)
    assert found["verdict"] == "smaller" and found["usable"] == pytest.approx(room, abs=2)
    cut = found["measured"]["micro_batch"]
    assert cut["asked"] == 32 and cut["out_of_memory"] == {16: 1, 8: 2}[cut["used"]]
    assert manifest["counts"] == {"verdict": "smaller", "micro_batch": cut}
    said = capsys.readouterr().out
    assert f"warning: 32 rows do not fit in a forward pass, {cut['used']} do: lower batch_size" in said
    assert re.search(r"total +\d\.\d+ GiB", said) and not args.work.exists()
    # Two of the four passes of a step are tried: a step is counted as four.
    assert found["seconds_per_step"] > 0
    assert found["hours_of_1000_rows"] == pytest.approx(2 * 1000 / 128 * found["seconds_per_step"] / 3600)
    row = (args.out / "row.txt").read_text()
    assert row.split()[:2] == ["out", "sft"] and row.split()[-1] == "smaller" and len(row) <= len(memory.HEAD) + 2


def virtual_memory() -> int:
    """Bytes of data that a process has that has loaded what a training loads."""
    script = (
        "import trl.trainer.sft_trainer; from steps.preflight import machine, rehearse;"
        "import transformers.models.qwen3.modeling_qwen3;"
        "print(machine.resident('VmData'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return int(done.stdout)


# --- what is said where it does not fit ----------------------------------------------------------


def refused(args: argparse.Namespace) -> str:
    with pytest.raises(ValueError) as error:
        preflight.main(args)
    assert not args.out.exists() and "\n" not in str(error.value)
    return str(error.value)


def test_looks_at_held_out_questions_take_time():
    plain = settings_of("rl", steps=100, prompts=8, generations=5)
    (found,) = preflight.hours("rl", plain, 36.0).values()
    # 26 looks, the start's and the last one among them, of a step and a half each.
    (with_looks,) = preflight.hours("rl", plain | {"eval_steps": 4, "eval_rows": 60}, 36.0).values()
    assert (found, with_looks) == pytest.approx((1.0, 1.39))


def test_too_little_memory_is_said_with_a_fix_that_fits(tiny_checkpoint, tmp_path, monkeypatch):
    settings = settings_of("sft", batch_size=64, max_length=1024, gradient_accumulation=2)
    shape = memory.read_shape(tiny_checkpoint)

    def total(**over):
        return memory.needs(
            "sft", settings | over, shape, prompt_tokens=40, kind="single", processes=1, device="cpu", half=False
        )["total"]

    def said(room):
        monkeypatch.setattr(
            preflight_machine, "available", lambda count: ("cpu", int(1.001 * room / 0.9), "free here", 0)
        )
        return refused(arguments(tmp_path, tiny_checkpoint, "sft", settings))

    message = said(total(batch_size=16))
    assert re.match(r"sft of .* needs about 4.55 GiB \(activations 3.38, runtime 0.6, logits 0.562\), and 1.", message)
    assert "free here, less headroom 0.1" in message
    assert message.endswith("; set batch_size: 16, gradient_accumulation: 8")
    message = said(total(batch_size=1, gradient_checkpointing=True))
    assert message.endswith("; set batch_size: 1, gradient_accumulation: 128, gradient_checkpointing: true")
    assert said(1e6).endswith(
        "; nothing in the settings would make it fit: take a smaller model or ask for more memory"
    )


def test_the_order_of_the_remedies():
    def words(stage, kind="single", count=1, device="cuda", **over):
        settings = settings_of(stage, **over)
        found = remedies.remedies(settings, stage, kind, count, device)
        for changed, new_kind, many in found:
            check_kind(new_kind, many, stage)
            check_divided(changed, many)
            if new_kind in ("fsdp", "zero2", "zero3"):
                check_apart(changed)
        said = [remedies.advice(settings, kind, [one], lambda *_: True) for one in found]
        assert all(one.startswith("set ") for one in said)
        return [one.removeprefix("set ") for one in said]

    rows = "batch_size: 1, gradient_accumulation: 4"
    checkpointing, optimizer = "gradient_checkpointing: true", "optimizer: adamw_8bit"
    # The optimizer of 8 bits cannot be taken apart.
    all_of_it = f"{checkpointing}, adapter: {{kind: lora, r: 16, alpha: 32}}, launch: {{kind: fsdp, processes:"
    assert sorted(words("sft", batch_size=4, gradient_accumulation=1, adapter=FULL), key=len) == sorted(
        [
            "batch_size: 2, gradient_accumulation: 2",
            rows,
            f"{rows}, {checkpointing}",
            f"{rows}, {checkpointing}, {optimizer}",
            f"{rows}, {checkpointing}, {optimizer}, adapter: {{kind: lora, r: 16, alpha: 32}}",
            "batch_size: 2, gradient_accumulation: 2, " + all_of_it + " 2}",
            all_of_it + " 4}",
        ],
        key=len,
    )
    # A policy samples in every process, so its weights are not shared out; it writes fewer at once instead.
    rows = "batch_size: 1, sample_batch: 4"
    assert words("rl", batch_size=2, sample_batch=8, adapter=LORA) == [
        rows,
        f"{rows}, {checkpointing}",
        f"{rows}, {checkpointing}, {optimizer}",
        f"{checkpointing}, launch: {{kind: zero2, processes: 2}}",
    ]
    assert words("reward", "fsdp", 4, batch_size=8, gradient_accumulation=1, gradient_checkpointing=True) == [
        "batch_size: 4, gradient_accumulation: 2",
    ]


def test_no_remedy_is_advised_that_a_launch_refuses():
    def found(stage, kind="single", count=1, device="cuda", **over):
        settings = settings_of(stage, **over)
        return [
            (changed["batch_size"], changed["optimizer"], new_kind, many)
            for changed, new_kind, many in remedies.remedies(settings, stage, kind, count, device)
        ]

    given = {"gradient_checkpointing": True, "adapter": LORA}
    # Prompts that 2 and 4 processes can share and 8 cannot, and rows that 8 could.
    policy = given | {"prompts": 4, "batch_size": 8, "optimizer": "adamw_8bit"}
    assert [one for one in found("rl", **policy) if one[2] != "single"] == [
        (2, "adamw", "zero2", 2),
        (4, "adamw", "zero2", 4),
    ]
    # 12 rows: 6 cannot be shared by 4, but by 2.
    assert found("opd", "ddp", 4, **policy | {"prompts": 16, "batch_size": 12, "optimizer": "adafactor"}) == []
    assert found("opd", "ddp", 2, **policy | {"prompts": 6, "batch_size": 12}) == [(6, "adamw_8bit", "ddp", 2)]
    # What nothing takes apart, and where there is nothing to take it to.
    for over in ({"adapter": LORA | {"kind": "qlora"}}, {"precision": "fp16"}):
        kinds = {kind for _, _, kind, _ in found("sft", **given | {"batch_size": 8} | over)}
        assert kinds == {"single"}
    assert {kind for _, _, kind, _ in found("sft", device="cpu", batch_size=8)} == {"single"}


def test_settings_that_cannot_be_taken_apart_are_one_line(small_checkpoint, tmp_path):
    settings = settings_of("sft", batch_size=4, optimizer="adafactor")
    message = refused(arguments(tmp_path, small_checkpoint, "sft", settings, kind="fsdp", processes=2))
    assert message.startswith("optimizer: adafactor: does not go with launch kinds fsdp")


def test_what_vllm_takes_is_not_for_the_tried_steps(small_checkpoint, tmp_path, monkeypatch):
    settings = settings_of("rl", **FEW) | {"sampler": {"kind": "vllm", "mode": "colocate", "memory": 0.25}}
    monkeypatch.setattr(preflight_machine, "available", lambda count: ("cpu", 10 * GIB, "free here", 16 * GIB))
    shape, limits = memory.read_shape(small_checkpoint), []

    def tried(args, limit):
        limits.append(limit)
        return {"peak": 5 * GIB, "before": GIB, "seconds": 1.0, "rows": 8}

    monkeypatch.setattr(preflight, "try_steps", tried)
    args = arguments(tmp_path, small_checkpoint, "rl", settings)
    preflight.main(args)
    assert limits == [pytest.approx(9 * GIB - 4 * GIB - 4 * shape.parameters, abs=2)]
    terms = read_json(args.out / "preflight.json")
    own = sum(v for k, v in terms["estimate"].items() if k not in ("total", "runtime", "vllm"))
    assert terms["ratio"] == pytest.approx(4 * GIB / own)


def test_a_full_disk(small_checkpoint, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(2**40, 2**40, 1000))
    settings = settings_of("sft", **SHORT)
    message = refused(arguments(tmp_path, small_checkpoint, "sft", settings))
    assert re.match(r"disk: states and checkpoint need [\d.]+ GiB, .* has 0.0 GiB free; make room", message)


def test_states_are_three_times_the_weights_in_fp32(small_checkpoint):
    shape = memory.read_shape(small_checkpoint)
    found = preflight_machine.disk("sft", settings_of("sft", adapter=FULL), shape)
    assert found == {"states": 2 * 3 * 4 * shape.parameters, "checkpoint": 4 * shape.parameters}
    adapter = preflight_machine.disk("sft", settings_of("sft", adapter=LORA), shape)
    assert adapter["checkpoint"] == 4 * memory.trained(shape, LORA) == adapter["states"] / 6


def test_prompts_beyond_the_context(small_checkpoint, tmp_path):
    args = arguments(tmp_path, small_checkpoint, "rl", settings_of("rl", **FEW))
    args.settings["prompt_tokens"] = 1000
    message = refused(args)
    assert message.startswith(
        "preflight.prompt_tokens: 1000 and the 48 tokens of a response do not fit a context of 1024"
    )


def test_a_mistake_found_in_the_tried_steps_is_one_line(small_checkpoint, tmp_path, monkeypatch):
    error = "Traceback …\ntemper: error: rewards: there is none\n"
    done = subprocess.CompletedProcess([], 2, stderr=error)
    monkeypatch.setattr(preflight.subprocess, "run", lambda *_, **__: done)
    args = arguments(tmp_path, small_checkpoint, "sft", settings_of("sft", **SHORT))
    assert refused(args) == "rewards: there is none"
    done.returncode = -9
    assert "killed, as a system does that has no memory left" in refused(args)
    done.returncode = 1
    with pytest.raises(AssertionError, match="ended with 1"):
        preflight.main(args)


# --- what is there -------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 8 GiB free, in files."""
    for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: {16 * 2**20} kB\nMemAvailable: {8 * 2**20} kB\n")
    (proc / "self/cgroup").write_text("0::/jobs/one\n")
    (cgroups / "jobs/one").mkdir(parents=True)
    return proc, cgroups


def test_memory_of_the_machine_of_a_job_and_of_a_container(machine, monkeypatch):
    proc, cgroups = machine
    assert preflight_machine.machine_memory(proc, cgroups) == (8 * GIB, "free on this machine")
    # The limit is of a folder above its own, of which one gigabyte is used, half of that by files that can go.
    (cgroups / "jobs/memory.max").write_text(f"{4 * GIB}\n")
    (cgroups / "jobs/memory.current").write_text(f"{GIB}\n")
    (cgroups / "jobs/memory.stat").write_text(f"anon 5\ninactive_file {GIB // 2}\n")
    (cgroups / "jobs/one/memory.max").write_text("max\n")
    assert preflight_machine.machine_memory(proc, cgroups) == (4 * GIB - GIB // 2, "left in this container")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "2048")
    assert preflight_machine.machine_memory(proc, cgroups) == (2 * GIB, "in this SLURM job")
    monkeypatch.delenv("SLURM_MEM_PER_NODE")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "512")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "3")
    assert preflight_machine.machine_memory(proc, cgroups) == (3 * GIB // 2, "in this SLURM job")


def test_memory_of_an_older_container(machine):
    proc, cgroups = machine
    (proc / "self/cgroup").write_text("9:name=systemd:/\n4:memory:/one\n")
    folder = cgroups / "memory/one"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text(f"{3 * GIB}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{2 * GIB}\n")
    (folder / "memory.stat").write_text(f"total_inactive_file {GIB}\n")
    assert preflight_machine.machine_memory(proc, cgroups) == (2 * GIB, "left in this container")


def test_processes_on_a_cpu_share_its_memory():
    one, four = preflight_machine.available(1), preflight_machine.available(4)
    if one[0] == "cpu":
        assert four[1] == pytest.approx(one[1] / 4, rel=0.2) and "for each of 4 processes" in four[2]
        total = re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())[1]
        assert one[3] == four[3] == pytest.approx(1024 * int(total), rel=0.01)


def test_on_a_gpu_its_memory_alone_is_measured(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert preflight_machine.held(most=True) >= preflight_machine.held() > 2**20
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 0)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 7)
    assert (preflight_machine.held(), preflight_machine.held(most=True)) == (0, 7)


# --- in the graph --------------------------------------------------------------------------------


def graph(change: dict) -> dag.Graph:
    return dag.Graph(recipes.complete(overlaid(PARAMS, change)))


def test_one_node_stands_for_those_that_differ_in_seed_and_rate():
    change = {"seeds": [0, 1], "studies": {"foundation": {"recipes": {"sft": {"grid": {"learning_rate": [0.1, 0.2]}}}}}}
    change["studies"]["foundation"]["recipes"] |= {"blend": None, "sft_lora": None}
    change["studies"] |= dict.fromkeys(("arena", "incomplete_learning", "reinforcement", "distillation"))
    found = graph(change)
    assert len(found.nodes) == 4 and list(found.rehearsals.values()) == ["sft-learning_rate=0.1-s0"]
    assert {found.rehearsal(name) for name in found.nodes} == {"sft-learning_rate=0.1-s0"}


def test_nodes_that_need_other_memory_are_tried_apart():
    found = graph({})
    tried = {*found.rehearsals.values()}
    assert tried <= {name for name, node in found.nodes.items() if node.launch}
    assert {"sft", "sft_lora", "grpo", "srpo", "cold", "opd", "knowledge"} <= tried
    # The same training from another checkpoint of the same model.
    assert found.rehearsal("opd_cold") == "opd" and found.rehearsed_teachers("cold") == ()


def test_the_target_of_a_workload_without_trainings(tmp_path):
    """Nor does it wait for input."""
    folder = copy_of_the_repository(tmp_path)
    merged = {"sft": None, "sft_lora": None, "blend": {"from": ["base", "base"]}}
    change = {"studies": dict.fromkeys(PARAMS["studies"]) | {"foundation": {"recipes": merged}}}
    write_workload(folder, change, size={})
    silent, never_written = os.pipe()
    try:
        subprocess.run(
            ["snakemake", "--cores", "1", "preflight"], cwd=folder, env=environment(folder), stdin=silent,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60, check=True,
        )  # fmt: skip
    finally:
        os.close(never_written)
        os.close(silent)
    assert (folder / "logs/fable/preflight.log").read_text() == f"{memory.HEAD}\n"
