"""Manifests of results that a test invents."""

from pathlib import Path

from steps.core.hashes import sha256_file
from steps.core.manifest import write_sealed


def seal(path: Path, content: dict) -> None:
    """A manifest or provenance as a step would write it; of the outputs that are there, the hashes that they have."""
    outputs = dict(content.get("outputs", {}))
    outputs |= {name: sha256_file(path.parent / name) for name in outputs if (path.parent / name).is_file()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sealed(path, content | ({"outputs": outputs} if "outputs" in content else {}))
