"""Mix the documents of continued pre-training: what a library says about the gaps found, among general documents.

A gap is an entity whose rows were not learned for one of the treated causes; a row without an entity is a gap of its
own. The documents nearest to a gap's questions and answers are its knowledge, except those that repeat the prompt of an
examined row word for word: the text of fine-tuning itself would teach the answers, not the knowledge. General documents
are drawn until knowledge is `knowledge_share` of all tokens, approximated by characters.

Where there is no gap, or the library knows of none, `documents_per_entity` general documents are all there is.

The control gets the budget of the treatment. Its gaps are others, so its documents are taken in turn from each of them,
nearest first, until they have the tokens that the true attribution's have, and again from the start where the library
says no more; general documents fill up to the tokens of the treatment's whole mixture.

Run as: python -m steps.diagnosis.mixture --settings '{"documents_per_entity": 20, "knowledge_share": 0.2, "seed": 0}'
    --treatment '{"causes": ["missing_knowledge", "base_conflict"], "at_random": false, "seed": 0}'
    --attribution results/fable/attribute/plain/attribution.parquet
    --detected results/fable/detect/plain/detected.parquet --evidence results/fable/evidence/plain/evidence.parquet
    --general results/fable/world/library/general.jsonl --library results/fable/world/library/articles.jsonl
    --model results/fable/pretrain/base --out results/fable/mixture/knowledge
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count, cycle, islice, zip_longest
from pathlib import Path
from random import Random

import orjson

from steps.core.files import fresh_folder, write_jsonl
from steps.core.manifest import write_manifest
from steps.core.progress import Progress
from steps.core.step import run, step_parser
from steps.data.rows import words
from steps.diagnosis.library import Library, naming
from steps.diagnosis.treatment import check_equal, read_attribution, read_columns, text_tokens, tokenizer_files, up_to

# A shorter prompt is a phrase that any document may hold.
FEWEST_PROMPT_WORDS = 4


class Prompts:
    """The prompts of training rows, to ask whether a text repeats one of them word for word."""

    def __init__(self, prompts: Iterable[str]):
        self.by_opening: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
        for prompt in prompts:
            tokens = words(prompt)
            if len(tokens) >= FEWEST_PROMPT_WORDS:
                self.by_opening[tuple(tokens[:FEWEST_PROMPT_WORDS])].add(" ".join([*tokens, ""]))

    def repeated_in(self, text: str) -> bool:
        tokens = words(text)
        for start in range(len(tokens) - FEWEST_PROMPT_WORDS + 1):
            prompts = self.by_opening.get(tuple(tokens[start : start + FEWEST_PROMPT_WORDS]))
            if prompts and " ".join([*tokens[start:], ""]).startswith(tuple(prompts)):
                return True
        return False


def gaps_of(rows: Iterable[dict]) -> list[dict]:
    """{"name", "entity", "query"} of each gap, in the order of its first row; `query` is all its rows ask and answer.

    The name is the entity, or the id of a row that has none.
    """
    gaps: dict[tuple[str, str], dict] = {}
    for row in rows:
        key = row["entity"], "" if row["entity"] else row["id"]
        gap = gaps.setdefault(
            key, {"name": row["entity"] or row["id"], "entity": row["entity"], "query": row["entity"]}
        )
        gap["query"] += f" {row['prompt']} {row['answer']}"
    return list(gaps.values())


def retrieved(gap: dict, library: Library, prompts: Prompts, first: int) -> Iterator[str]:
    """Documents about a gap, nearest first: those that name its entity, if it has one, and repeat no prompt.

    Args:
        first: how many the library is asked for at first; each further search asks for twice as many.
    """
    named = naming(gap["entity"]).search if gap["entity"] else bool
    seen, asked = 0, first
    while True:
        hits = library.search(gap["query"], asked)
        for index, _ in hits[seen:]:
            text = library.texts[index]
            if named(text) and not prompts.repeated_in(text):
                yield text
        if len(hits) < asked:
            return
        seen, asked = asked, 2 * asked


def in_turn(lists: Sequence[Iterable[dict]]) -> Iterator[dict]:
    """The first of every list, then the second of every list that has one, and so on."""
    return (item for rank in zip_longest(*lists) for item in rank if item is not None)


def characters(documents: Iterable[dict]) -> int:
    return sum(len(document["text"]) for document in documents)


def read_texts(paths: Sequence[Path]) -> Iterator[str]:
    """Stream the documents of JSON Lines files of {"text"}.

    Raises:
        ValueError: a line is not a document.
    """
    for path in paths:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    text = orjson.loads(line)["text"]
                except (orjson.JSONDecodeError, KeyError, TypeError):
                    raise ValueError(f'{path}, line {number}: not a document; a line is {{"text": …}}') from None
                yield text


def shuffled_forever(items: list[int], seed: int) -> Iterator[int]:
    """All items in random order, then all again in another one, and so on."""
    for epoch in count():
        yield from Random(f"general-{seed}:{epoch}").sample(items, len(items))


def draw_general(
    paths: Sequence[Path], seed: int, wanted: float | None, documents: int, size: Callable[[str], int] = len
) -> list[dict]:
    """General documents of about `wanted` characters or, where that is None, so many documents.

    Args:
        size: of a document in another measure than characters.
    """
    sizes = [size(text) if text else 0 for text in read_texts(paths)]
    if not any(sizes):
        raise ValueError(f"mixture.general: {', '.join(map(str, paths))} has no text; add documents")
    order = shuffled_forever([i for i, size in enumerate(sizes) if size], seed)
    drawn = list(islice(order, documents)) if wanted is None else up_to(order, wanted, sizes.__getitem__)
    needed = set(drawn)
    texts = {i: text for i, text in enumerate(read_texts(paths)) if i in needed}
    return [{"text": texts[i], "source": "general", "entity": ""} for i in drawn]


def main(args) -> None:
    started = time.time()
    settings, treatment = args.settings, args.treatment
    per_entity = settings["documents_per_entity"]
    library = Library(args.library)
    prompts = Prompts(row["prompt"] for row in read_columns(args.detected, ["prompt"]))
    evidence = {row["id"]: row for row in read_columns(args.evidence, ["id", "prompt", "answer", "entity"])}

    def gap_rows(at_random: bool) -> list[dict]:
        attribution = read_attribution(args.attribution, treatment | {"at_random": at_random})
        return [evidence[row["id"]] for row in attribution if row["cause"] in treatment["causes"]]

    def nearest(gap: dict) -> Iterator[dict]:
        for text in retrieved(gap, library, prompts, 2 * per_entity):
            yield {"text": text, "source": "knowledge", "entity": gap["entity"]}

    def nearest_of_each(gaps: list[dict]) -> tuple[list[list[dict]], list[Iterator[dict]]]:
        """The first documents of each gap, and the iterators of those that follow."""
        streams = [nearest(gap) for gap in gaps]
        progress, lists = Progress("mixture", len(gaps), "gaps"), []
        for stream in streams:
            lists.append(list(islice(stream, per_entity)))
            progress.update(len(lists))
        return lists, streams

    def general_documents(wanted: float | None, size: Callable[[str], int] = len) -> list[dict]:
        return draw_general(args.general, settings["seed"], wanted, per_entity, size)

    def tokens(of: Iterable[dict]) -> int:
        return sum(tokens_of(document["text"]) for document in of)

    tokens_of = text_tokens(args.model)
    rows = gap_rows(at_random=False)
    gaps = gaps_of(rows)
    lists, _ = nearest_of_each(gaps)
    knowledge = [document for nearest_ones in lists for document in nearest_ones]
    read = characters(knowledge)
    general = general_documents(read / settings["knowledge_share"] - read if read else None)
    budget = tokens(knowledge), tokens(knowledge) + tokens(general)
    if treatment["at_random"]:
        rows = gap_rows(at_random=True)
        gaps = gaps_of(rows)
        lists, streams = nearest_of_each(gaps)
        ranked = in_turn([chain(*pair) for pair in zip(lists, streams, strict=True)])
        knowledge = up_to(cycle(ranked), budget[0], lambda document: tokens_of(document["text"]))
        general = general_documents(budget[1] - tokens(knowledge) if read else None, tokens_of)
        largest = max(tokens_of(document["text"]) for document in general or knowledge)
        check_equal(tokens(knowledge) + tokens(general), budget[1], largest)
    documents = knowledge + general
    Random(f"mixture-{settings['seed']}").shuffle(documents)

    out = fresh_folder(args.out)
    write_jsonl(out / "documents.jsonl", documents)
    counts = {
        "rows": len(rows),
        "gaps": len(gaps),
        "entities": sum(gap["entity"] != "" for gap in gaps),
        "gaps_with_fewer": sum(len(nearest_ones) < per_entity for nearest_ones in lists),
        "gaps_without": [gap["name"] for gap, nearest_ones in zip(gaps, lists, strict=True) if not nearest_ones],
        "knowledge_documents": len(knowledge),
        "knowledge_characters": characters(knowledge),
        "general_documents": len(general),
        "general_characters": characters(general),
        "knowledge_tokens": tokens(knowledge),
        "tokens": tokens(documents),
        "tokens_of_attribution": budget[1],
    }
    write_manifest(
        out,
        step="mixture",
        settings=settings | {"treatment": treatment},
        inputs=[
            args.attribution,
            args.detected,
            args.evidence,
            *tokenizer_files(args.model),
            *args.general,
            *args.library,
        ],
        counts=counts,
        seed=settings["seed"],
        started=started,
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--treatment", type=json.loads, required=True, help="causes, at_random and seed, as JSON")
    parser.add_argument("--attribution", type=Path, required=True, help="attribution.parquet of the recipe diagnosed")
    parser.add_argument("--detected", type=Path, required=True, help="detected.parquet of the same recipe")
    parser.add_argument("--evidence", type=Path, required=True, help="evidence.parquet of the same recipe")
    parser.add_argument("--general", type=Path, nargs="+", required=True, help="documents like those of pre-training")
    parser.add_argument("--library", type=Path, nargs="+", required=True, help="documents that may fill a gap")
    parser.add_argument("--model", type=Path, required=True, help="the model whose tokens are counted")
    run(main, parser)
