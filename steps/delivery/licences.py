"""What a release is made from and under which licences it may be published."""

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from steps.core.manifest import is_manifest, read_manifest
from steps.core.promises import MANIFEST
from steps.data.sources import folder_of

PROJECT_LICENCE = Path(__file__).parents[2] / "LICENSE"
PROJECT_LICENCE_ID = "apache-2.0"
LICENCE_FILES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "USE_POLICY*")


class Part(NamedTuple):
    """Something that the release rests on, and what is known of its licence.

    Attributes:
        name: where its licence files go, below `licenses/`: "models/base".
        origin: path, or hub id and commit.
        licence: an identifier as the hub has them, or None where none is stated.
        files: the texts that lie beside it.
        readme: what states the licence, where it is there.
    """

    name: str
    origin: str
    licence: str | None
    files: list[Path]
    readme: Path | None = None


def front_matter(readme: Path) -> dict:
    """The YAML at the head of a card; empty where there is none."""
    import yaml

    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    matter = re.match(r"---[ \t]*\n(.*?\n)---[ \t]*(\n|$)", text, re.DOTALL)
    try:
        values = yaml.safe_load(matter[1]) if matter else {}
    except yaml.YAMLError as error:
        raise ValueError(f"{readme}: what stands between its lines `---` is not YAML ({error}); repair it") from error
    return values if isinstance(values, dict) else {}


def public(path: str | Path) -> str:
    """What a release says of a path: an absolute one is of this machine, and only its last part is told."""
    return Path(path).name if Path(path).is_absolute() else str(path)


def numbered(names: Iterable[str]) -> Iterator[str]:
    """The names, with a number behind each that came before."""
    seen: Counter[str] = Counter()
    for name in names:
        seen[name] += 1
        yield f"{name}-{seen[name]}" if seen[name] > 1 else name


def part_of(name: str, origin: str, folder: Path, own: bool) -> Part:
    """What lies beside a model or a data file. What Temper made itself is under its own licence."""
    if own:
        return Part(name, f"{origin}, made by Temper", PROJECT_LICENCE_ID, [])
    if folder.resolve() == PROJECT_LICENCE.parent.resolve():
        return Part(name, origin, None, [])  # the licence that lies there is Temper's
    readme = folder / "README.md"
    stated = front_matter(readme).get("license")
    files = sorted(path for pattern in LICENCE_FILES for path in folder.glob(pattern) if path.is_file())
    licence = stated if isinstance(stated, str) else None
    return Part(name, origin, licence, files, readme if readme.is_file() else None)


def model_part(name: str, model: dict) -> Part:
    """An entry of `models`."""
    folder = Path(model["folder"])
    own = is_manifest(folder / MANIFEST) and read_manifest(folder / MANIFEST)["step"] == "pretrain"
    revision = f" at {model['revision']}" if "revision" in model else ""
    return part_of(f"models/{name}", public(model["path"]) + revision, folder, own)


def data_parts(data: dict[str, list[dict]], world: str) -> list[Part]:
    """The sources of every data set, those of one folder together."""
    parts = []
    for dataset, sources in data.items():
        folders = {}  # folder -> its origin, and whether Temper made it
        for source in sources:
            folder, origin = folder_of(source["file"]), ""
            if "revision" in source:  # below its repository's folder, which has the licence
                owner, name, *inside = source["path"].split("/")
                folder = Path(source["file"]).parents[len(inside) - 1]
                origin = f"{owner}/{name} at {source['revision']}"
            folders[folder] = (origin or public(folder), source["file"].startswith(world))
        places = numbered(re.sub(r"[^\w.-]+", "_", public(folder)).strip("_") for folder in folders)
        for place, (folder, (origin, own)) in zip(places, folders.items(), strict=True):
            name = f"data/{dataset}/{place}" if len(folders) > 1 else f"data/{dataset}"
            parts.append(part_of(name, origin, folder, own))
    return parts


def document_parts(files: list[str], world: str) -> list[Part]:
    """The files of text that documents were made of."""
    return data_parts({"documents": [{"path": file, "file": file} for file in files]}, world)


def release_licence(chosen: str | None, bases: dict[str, Part]) -> str:
    """The licence that the user chose, else that of the models whose weights are in the release.

    Raises:
        ValueError: nothing was chosen, and theirs is not stated or not the same.
    """
    if chosen:
        return chosen
    for name, part in bases.items():
        if part.licence is None:
            raise ValueError(
                f"deliver.license: nothing beside `{name}` ({part.origin}) says under which licence it is; set"
                " deliver.license to that of the release, such as apache-2.0"
            )
    stated = {name: part.licence for name, part in bases.items()}
    if len(set(stated.values())) > 1:
        listed = ", ".join(f"`{name}` is under {licence}" for name, licence in stated.items())
        raise ValueError(f"deliver.license: {listed}; set deliver.license to that of the release")
    return next(iter(stated.values()))


def check_licence(settings: dict) -> None:
    """Raise the ValueError of `release_licence` before anything runs, where all models are here already."""
    bases = {name: model for name, model in settings["models"].items() if model["weights"]}
    if all(Path(model["folder"]).is_dir() for model in bases.values()):
        release_licence(settings["license"], {name: model_part(name, model) for name, model in bases.items()})


def copy_licences(parts: list[Part], out: Path) -> None:
    """Every part's texts, below licenses/."""
    for part in parts:
        for file in part.files:
            target = out / "licenses" / part.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
