"""What the hub has at a commit, and which of it is fetched."""

MODEL_FILES = (
    "*.json",
    "*.safetensors",
    "*.jinja",
    "tokenizer.model",
    "vocab.txt",
    "merges.txt",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
    "README.md",
)
# What comes with a file of a data set.
BESIDE_DATA = ("LICENSE*", "README.md")


def wanted(settings: dict, where: str) -> list[dict]:
    """What to ask the hub for: {"repo_id", "repo_type", "revision", "file", "folder", "sha256"} per repository.

    "file" is that of a data set, None of a model; "folder" is where the files go; "sha256" has the hashes that the user
    expects of some.

    Args:
        settings: an entry of `models`, {"path": "owner/name", "revision", "sha256"?: {file: hash}}, or of `data`,
            {"sources": [{"path": "owner/name/file", "revision"?, "sha256"?: hash, …}]}; a source without a revision is
            a local file and not asked for.
        where: the entry's key, for errors.

    Raises:
        ValueError: a path is not of that form.
    """
    if "sources" not in settings:
        if settings["path"].count("/") != 1:
            raise ValueError(f"{where}.path: {settings['path']} is no hub id; write owner/name")
        return [
            {
                "repo_id": settings["path"],
                "repo_type": "model",
                "revision": settings["revision"],
                "file": None,
                "folder": ".",
                "sha256": settings.get("sha256", {}),
            }
        ]
    requests = []
    for index, source in enumerate(settings["sources"]):
        if "revision" not in source:
            continue
        owner, _, rest = source["path"].partition("/")
        name, _, file = rest.partition("/")
        if not file:
            raise ValueError(f"{where}.sources[{index}].path: {source['path']} names no file; write owner/name/file")
        requests.append(
            {
                "repo_id": f"{owner}/{name}",
                "repo_type": "dataset",
                "revision": source["revision"],
                "file": file,
                "folder": f"{owner}/{name}",
                "sha256": {file: source["sha256"]} if "sha256" in source else {},
            }
        )
    return requests
