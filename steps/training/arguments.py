"""Trainer arguments: what every stage tells transformers of a training, and which settings it can."""

import math
from pathlib import Path

from steps.core import processes
from steps.core.versions import check_tracker
from steps.settings.base import Settings
from steps.settings.training import (
    DECAY,
    MINIMUM,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULES,
    check_apart,
    check_divided,
)
from steps.training import kernels
from steps.training.plan import Plan


def check_settings(settings: dict, of: type[Settings]) -> None:
    """What a training cannot do: on this device, among so many processes, or at all.

    Args:
        of: the class of the stage's settings.

    Raises:
        ValueError: naming the setting, its value and the fix.
    """
    for key, names in (("schedule", SCHEDULES), ("precision", PRECISIONS), ("optimizer", OPTIMIZERS)):
        if settings[key] not in names:
            raise ValueError(f"{key}: {settings[key]} is none of {', '.join(names)}")
    check_device(settings)
    kernels.check(settings)
    check_tracker(settings.get("tracker", "none"))
    check_divided(settings, processes.count())
    if processes.apart():
        check_apart(settings)
    of.fit(settings)


def check_device(settings: dict) -> None:
    """Raise a ValueError for what only a GPU does, where there is none."""
    if settings["precision"] != "fp16" and settings["optimizer"] != "paged_adamw_8bit":
        return
    import torch

    if torch.cuda.is_available():
        return
    # Both would quietly be something else there: fp32, and adamw_8bit.
    if settings["precision"] == "fp16":
        raise ValueError("precision: fp16 needs a GPU, and this job sees none; write auto")
    raise ValueError("optimizer: paged_adamw_8bit needs a GPU, and this job sees none; write adamw_8bit")


def uses_bf16(precision: str) -> bool:
    """`auto` is bf16 where a GPU multiplies in it; on CPUs its autocast is slower than fp32."""
    import torch

    return precision == "bf16" or (precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported())


def warmup_steps(ratio: float, steps: int) -> int:
    """Steps of the warm-up; of less than one, none: its first step has the rate 0, and would be one of few."""
    share = ratio * steps
    return math.ceil(share) if share >= 1 else 0


def schedule(settings: dict, steps: int) -> dict:
    """Those of the learning rate over so many steps.

    Raises:
        ValueError: they do not hold warmup and fall.
    """
    asked = settings.get("warmup_steps")
    warmup = warmup_steps(settings["warmup_ratio"], steps) if asked is None else asked
    name, lowest = settings["schedule"], settings.get("min_lr_ratio")
    kind, own = SCHEDULES[name], {}
    if lowest is not None:
        kind = "cosine_with_min_lr" if name == "cosine" else kind
        own[MINIMUM[name]] = lowest
    fall = 0
    if name == "wsd":
        fall = math.ceil((settings.get("decay_ratio") or DECAY) * steps)
        own["num_decay_steps"] = fall
    if steps and warmup + fall > steps:
        key = "warmup_ratio" if asked is None else "warmup_steps"
        raise ValueError(f"{key}: {warmup} steps of warmup and {fall} of the fall are more than the {steps} of the run")
    return {"lr_scheduler_type": kind, "lr_scheduler_kwargs": own or None, "warmup_steps": warmup}


def trainer_arguments(settings: dict, plan: Plan, work: Path, cuts: int) -> dict:
    """Keyword arguments that every TRL config takes. The trainer's item is a part of a planned batch, so its size is 1.

    Args:
        cuts: the parts that memory asks for (`MicroBatches.cuts`).
    """
    import torch

    betas = settings.get("betas")
    return {
        "output_dir": str(work),
        "max_steps": plan.steps,
        "per_device_train_batch_size": 1,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "gradient_accumulation_steps": settings["gradient_accumulation"] * cuts,
        "learning_rate": settings["learning_rate"],
        **schedule(settings, plan.steps),
        "weight_decay": settings["weight_decay"],
        "max_grad_norm": settings["max_grad_norm"],
        "optim": OPTIMIZERS[settings["optimizer"]],
        **({"adam_beta1": betas[0], "adam_beta2": betas[1]} if betas else {}),
        "neftune_noise_alpha": settings.get("neftune_alpha") or None,
        "use_liger_kernel": settings.get("liger", False),
        "bf16": uses_bf16(settings["precision"]),
        "fp16": settings["precision"] == "fp16",
        "use_cpu": not torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,
        "activation_checkpointing": settings["gradient_checkpointing"],
        "gradient_checkpointing": None,  # the older name of the line above; TRL's configs would turn it on
        "seed": settings["seed"],
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
