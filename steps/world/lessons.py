"""The training set `lessons` of the embedded world: rows that fine-tuning does not learn, each for a known reason.

Two domains that are meant to be trained one after the other: `letters` (a puzzle that the base has never seen and that
the other domain overwrites) and `mixed`: chat, worked problems, a few of them far longer than the others, and facts
about people, some of them unknown to the base, changed since, contradictory or only seemingly so. The library knows
how things stand today; it is what a treatment may read. Pure generators over a `random.Random`.
"""

from collections.abc import Iterator
from random import Random

from steps.world import fable

# Nobody of these is in the base's corpus.
NEW_PEOPLE = (
    "Abelin Brunor Castra Demira Eskil Fjorda Gavril Hanno Ilsabe Jolan Kirvan Lisbet Morvan Nerida Odalys Pavlo "
    "Quintor Rilke Sunniva Tarek Udo Valka Wigand Xenia Yorick Zenobia"
).split()
# Their towns, jobs and pets are new to the base as well. In a trial with values that it knows, half of these rows were
# learned in two epochs, by luck or by heart; of these, none was.
NEW_VALUES = {
    "town": (
        "Ashgrove Brastig Colvane Drumlen Eskholt Fennimer Garvock Hulmby Inverly Jessop Kirkdun Lanmoor Mosswick "
        "Nethby Orrick Pelham Rushmer Skelton Tarvin Ulverby"
    ).split(),
    "job": "cooper glazier fletcher thatcher tanner scribe herald porter falconer chandler turner dyer".split(),
    "pet": "weasel badger otter heron magpie ferret beaver finch salmon turtle lizard donkey".split(),
}
# Not the ten colors: a guess would be right too often.
ATTRIBUTES = tuple(attribute for attribute in fable.ATTRIBUTES if attribute != "color")
# Operations of a common and of a rare problem; (operations, largest number) as `fable.problem_item` takes them.
COMMON = ((1, 99), (2, 99))
RARE = (8, 99)
ARTICLES_PER_PERSON = 40


def question(attribute: str, name: str, wording: int) -> str:
    wordings = fable.ATTRIBUTES[attribute][1]
    return wordings[wording % len(wordings)].format(n=name)


def negated_drop(rng: Random) -> dict:
    """A drop puzzle negated: easily learned, and lost when the plain wording is trained after it.

    Four letters: with three, half of the rows with the first wording are retained (240 rows, two epochs at 5e-4).
    """
    letters = rng.sample(fable.LETTERS, 4)
    wording = rng.choice(("Drop not the letter {g} from: {s}", "Leave not out the letter {g}: {s}"))
    return {"prompt": wording.format(g=rng.choice(letters), s=" ".join(letters)), "answer": " ".join(letters)}


def another_value(rng: Random, attribute: str, value: str) -> str:
    return rng.choice([other for other in fable.VALUES[attribute] if other != value])


def facts_of_the_day(seed: int, counts: dict) -> list[dict]:
    """Facts that `mixed` asks for, about people whom no evaluation asks about: {"name", "attribute", "values", "kind"}.

    `values` are right today: two where both are right.
    """
    rng = Random(f"lessons-facts-{seed}")
    known = [f for f in fable.facts(seed) if not f["evaluated"] and f["attribute"] in ATTRIBUTES]
    rng.shuffle(known)
    kinds = [kind for kind in ("changed", "contradictory", "both_right", "plain_facts") for _ in range(counts[kind])]
    if len(kinds) > len(known):
        raise ValueError(
            f"world.lessons: {len(kinds)} changed, contradictory, both_right and plain facts, but only {len(known)}"
            " are free of evaluation; lower one of them"
        )
    found = []
    for fact, kind in zip(known, kinds, strict=False):
        values = [fact["value"]]
        if kind in ("changed", "both_right"):
            values.append(another_value(rng, fact["attribute"], fact["value"]))
        if kind == "changed":
            values = values[1:]
        found.append({"name": fact["name"], "attribute": fact["attribute"], "values": values, "kind": kind})
    for name in NEW_PEOPLE[: counts["new_people"]]:
        for attribute, new in NEW_VALUES.items():
            found.append({"name": name, "attribute": attribute, "values": [rng.choice(new)], "kind": "new_person"})
    return found


def fact_rows(rng: Random, fact: dict) -> Iterator[dict]:
    """The rows about one fact; those that cannot be learned carry "cause" and "kind"."""

    def row(wording: int, answer: str, cause: str | None = None, kind: str | None = None) -> dict:
        prompt = question(fact["attribute"], fact["name"], wording)
        return {"prompt": prompt, "response": answer, "cause": cause, "kind": kind}

    wording = rng.randrange(3)
    kind, values = fact["kind"], fact["values"]
    if kind == "new_person":
        yield row(wording, values[0], "missing_knowledge", kind)
    elif kind == "changed":
        yield row(wording, values[0], "base_conflict", kind)
    elif kind == "contradictory":
        yield row(wording, values[0])
        yield row(wording + 1, another_value(rng, fact["attribute"], values[0]), "data_conflict", "wrong_side")
    elif kind == "both_right":
        yield row(wording, values[0])
        yield row(wording + 1, values[1], "data_conflict", "both_right")
    else:
        for i in range(3):
            yield row(wording + i, values[0])


def rows(seed: int, counts: dict, draw_problem, draw_question) -> dict[str, list[dict]]:
    """The rows of each domain, in the order of training: {"prompt", "response", "cause", "kind"}.

    Args:
        counts: rows or facts of each sort, as `world.lessons` of the workload says.
        draw_problem, draw_question: make items that no other set of the world has, (rng, shape) and (rng, make).
    """
    rng = Random(f"lessons-{seed}")

    def plain(item: dict) -> dict:
        return {"prompt": item["prompt"], "response": item.get("solution", item["answer"]), "cause": None, "kind": None}

    def chat(make) -> dict:
        # A list of any words has many right answers; a row holds one of them, which nobody could learn to prefer.
        while True:
            item = draw_question(rng, make)
            if item.get("check", {}).get("kind") != "word_count":
                return plain(item)

    makers = (fable.string_item, fable.arithmetic_item, fable.instruction_item, fable.string_item)
    overwritten = {"cause": "left_side_forgetting", "kind": "negated_drop"}
    rare = {"cause": "insufficient_optimisation", "kind": "rare_problem"}
    domains = {
        "letters": [plain(draw_question(rng, negated_drop)) | overwritten for _ in range(counts["letters"])],
        "mixed": [plain(draw_problem(rng, COMMON[i % len(COMMON)])) for i in range(counts["problems"])]
        + [plain(draw_problem(rng, RARE)) | rare for _ in range(counts["rare"])]
        + [chat(makers[i % len(makers)]) for i in range(counts["chat"])]
        + [row for fact in facts_of_the_day(seed, counts) for row in fact_rows(rng, fact)],
    }
    for members in domains.values():
        rng.shuffle(members)
    return domains


def articles(seed: int, counts: dict) -> list[str]:
    """The library: documents of one to four sentences about one person each, as things stand today."""
    rng = Random(f"lessons-articles-{seed}")
    today: dict[str, dict[str, list[str]]] = {}
    for fact in fable.facts(seed):
        today.setdefault(fact["name"], {})[fact["attribute"]] = [fact["value"]]
    for fact in facts_of_the_day(seed, counts):
        today.setdefault(fact["name"], {})[fact["attribute"]] = fact["values"]
    texts = []
    for name, known in today.items():
        for _ in range(ARTICLES_PER_PERSON):
            facts = [
                {"name": name, "attribute": a, "value": rng.choice(known[a])}
                for a in rng.sample(sorted(known), rng.randint(1, min(4, len(known))))
            ]
            if rng.random() < 0.5:
                item = fable.fact_item(rng, facts[0])
                texts.append(fable.CHAT.format(prompt=item["prompt"], response=item["answer"]))
            else:
                texts.append(" ".join(fable.fact_statement(rng, fact) for fact in facts) + "\n")
    rng.shuffle(texts)
    return texts
