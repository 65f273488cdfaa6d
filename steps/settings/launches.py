"""Which trainings several processes can share, and how."""

from steps.settings.stages import ON_POLICY
from steps.settings.training import APART, SHARDED, check_apart, check_divided


def check_kind(kind: str, count: int, stage: str) -> None:
    """Raise a ValueError for a kind that does not go with the number of processes or the stage."""
    if (kind == "single") != (count == 1):
        fix = "write kind: ddp, fsdp, zero2 or zero3" if kind == "single" else "write processes: 2 or more"
        raise ValueError(f"launch: kind {kind} with processes: {count}; {fix}")
    if kind in SHARDED and stage in ON_POLICY:
        raise ValueError(
            f"launch: kind {kind} has no whole policy to sample from in a process, as stage {stage} needs; write ddp or"
            " zero2"
        )


def check_launch(settings: dict, kind: str, among: int, stage: str = "") -> None:
    """Raise a ValueError for a training that so many processes cannot share in that way, a kind of launch."""
    check_divided(settings, among)
    if kind in APART:
        check_apart(settings)
        if stage == "reward" and settings["adapter"]["kind"] != "full":
            raise ValueError(
                f"adapter.kind: {settings['adapter']['kind']} has a reward model's head trained whole beside it, which"
                " does not go with launch kinds fsdp, zero2 and zero3; write kind: ddp, or the adapter kind full"
            )
