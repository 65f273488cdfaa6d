"""What a run of stage rl leaves beside its weights: samples, failures, disagreements, and what its manifest counts."""

from collections import Counter
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from steps.core.files import write_jsonl
from steps.engines import rollouts
from steps.judges.rows import judges_of
from steps.reinforcement.collapse import collapses, is_mixed
from steps.reinforcement.exploits import exploits
from steps.reinforcement.rl_plan import RolloutPlan


def write_samples(out: Path, work: Path, plan: RolloutPlan, batches: int, keep_groups: int) -> list[dict]:
    """Of so many batches of rollouts; returns the scores that failed."""
    write_jsonl(out / "rollouts.jsonl", rollouts.gathered(work / "rollouts", batches))
    # Of several processes, in the order of one.
    failed = sorted(
        rollouts.gathered(work / "failures", batches),
        key=lambda one: (one["step"], plan.names.index(one["reward"])),
    )
    if failed:
        write_jsonl(out / "failures.jsonl", failed)
    if disagreements := rollouts.gathered(work / "disagreements", batches):
        write_jsonl(out / "disagreements.jsonl", highest(disagreements, keep_groups))
    return failed


def highest(disagreements: list[dict], most: int) -> list[dict]:
    """Those of the highest reward, so many of each step; every process has kept as many."""
    ordered = sorted(disagreements, key=lambda one: (one["step"], -one["reward"]))
    return [one for _, own in groupby(ordered, key=lambda one: one["step"]) for one in islice(own, most)]


def counts_of(trainer: Any, rows: list[dict], log: list[dict], batches: int, failed: list[dict]) -> dict:
    """For the manifest; warns of a run that broke down or exploits its reward."""
    settings, plan = trainer.settings, trainer.plan
    collapsed = [*collapses(log, mixed=is_mixed(settings)).values()]
    exploited = exploits(rollouts.gathered(trainer.work / "strict", batches), plan.batches)
    for sentence in collapsed if trainer.warned else (*exploited, *collapsed):
        print(f"warning: {sentence}", flush=True)
    replaced = round(sum(row.get("replaced", 0) for row in log))
    counts = {
        "prompts": len(rows),
        "judges": judges_of(rows),
        "steps": len(log),
        "samples": (batches * settings["prompts"] + replaced) * settings["generations"],
        "tokens": log[-1]["tokens"],
        "generated_tokens": log[-1]["generated"],
        "failures": dict(Counter(failure["reward"] for failure in failed)),
        "timeouts": log[-1]["timeouts"],
        "collapse": collapsed,
        "exploits": exploited,
    }
    if trainer.validation:
        counts["valid"] = trainer.validation.counts(trainer.state.log_history, len(log))
    return counts
