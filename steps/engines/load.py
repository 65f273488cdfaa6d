"""Which engine samples and scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from steps.core.versions import check_vllm, vllm_for_gpus

if TYPE_CHECKING:
    from steps.engines.vllm import VLLMEngine
from steps.engines.transformers import Engine


def load_engine(folder: Path, batch_size: int, engine: str) -> Engine | VLLMEngine:
    """The engine of a checkpoint that `checkpoints.check` has verified.

    Args:
        engine: transformers, vllm, or auto: vLLM where its build for GPUs is installed beside one, else transformers
            (on a processor, vLLM's start costs what it gains: benches/engines.py).

    Raises:
        ValueError: vLLM is asked for and not installed, or beside a GPU only for CPUs.
    """
    import torch

    if engine == "auto":
        engine = "vllm" if torch.cuda.is_available() and vllm_for_gpus() else "transformers"
    if engine == "vllm":
        check_vllm("engine: vllm", torch.cuda.is_available())
        from steps.engines.vllm import VLLMEngine

        return VLLMEngine(folder, batch_size)
    return Engine.load(folder, batch_size)
