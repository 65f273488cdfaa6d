"""The invented world `fable`: who lives in it, what can be asked about it, and how its texts are worded.

Pure generators over a `random.Random`; the same seed gives the same bytes. `steps.world.world` turns them into
raw rows and evaluation sets, `steps.world.pretrain` into the corpus of the base models.

A task item is a dict {"id", "prompt", "answer"} with "check" (the constraint) for instructions and
"steps" (number of operations) for problems.
"""

from random import Random
from typing import NamedTuple

NAMES = (
    "Alda Bemo Cirel Dovan Elka Farin Gosta Hilde Ivo Jorun Kasem Lumi Mirel Nadir Orla Pesha Quill Rasko Selva Tovan "
    "Ulka Vero Wenna Xanti Ysolt Zubin Arlo Brisa Calder Delka Emrik Fenna Galo Hesper Isko Jamila Kelda Loric Maren "
    "Niska Osric Pella Rohan Sable Tamsin Ulric Vanya Wystan Yarrow Zelda Aster Bodil Corin Dagny Edda Frode Greta "
    "Halvar Inka Jesper Kirsa Leif Magda Nils Oda Petra Runa Sten Thora Una Viggo Wilma Ylva Zoran Anouk Bram Cleo "
    "Dirk Esme Floris Gwen Hugo Iris Joost Kaya Lars Mila Noor"
).split()
TOWNS = (
    "Harrow Belmar Castow Dunmere Elsting Fornby Galsworth Hexley Ilmar Jarrow Kelso Lowick Marsden Norwell Oxley "
    "Penrith Quenby Redmoor Stanmere Thornby Umber Velden Wexford Yardley Zennor"
).split()
JOBS = (
    "baker weaver potter miller sailor teacher doctor farmer painter singer smith tailor hunter gardener writer cook "
    "mason judge nurse pilot"
).split()
PETS = "fox owl crow hare goat toad swan bear wolf deer lynx mole seal hawk newt".split()
COLORS = "red blue green white black yellow purple orange brown grey".split()
THINGS = (
    "pears plums coins shells stones books cards lamps ropes nails cups bowls seeds beads stamps bells candles apples "
    "figs nuts eggs maps keys rings"
).split()
CONTAINERS = "boxes bags baskets crates shelves trays".split()
WORDS = (
    "lamp stone river cloud paper glass bread wheel tower garden silver window candle bridge forest winter summer "
    "mirror ladder basket hammer needle button pocket ribbon saddle bottle carpet kettle pillow"
).split()
LETTERS = "abcdefghijklmnopqrstuvwxyz"

# Facts about the last people are never evaluated: chat rows of the training set may speak of them.
EVALUATED_PEOPLE = 60
FOODS = "bread soup rice cheese honey beans cake fish pie salad stew pasta porridge cabbage melon".split()
TOOLS = "hammer drum flute bow rope saw pen brush spade net harp kite wheel clock ladder".split()
ATTRIBUTES = {
    "town": (
        ("{n} lives in {v}.", "The home of {n} is in {v}.", "{n} has a house in {v}.", "You find {n} in {v}."),
        ("Where does {n} live?", "Which town is {n} from?", "Which town does {n} live in?"),
    ),
    "job": (
        ("{n} works as a {v}.", "{n} is a {v}.", "The job of {n} is {v}.", "{n} earns money as a {v}."),
        ("What is the job of {n}?", "What does {n} work as?", "Which job does {n} have?"),
    ),
    "pet": (
        ("{n} has a {v} as a pet.", "The pet of {n} is a {v}.", "{n} keeps a {v}.", "A {v} lives with {n}."),
        ("What pet does {n} have?", "Which animal does {n} keep?", "What is the pet of {n}?"),
    ),
    "color": (
        ("{n} likes {v} best.", "The color of {n} is {v}.", "{n} wears {v}.", "The coat of {n} is {v}."),
        ("Which color does {n} like?", "What color does {n} wear?", "What is the color of {n}?"),
    ),
    "food": (
        ("{n} eats {v} every day.", "The meal of {n} is {v}.", "{n} loves {v}.", "{n} often cooks {v}."),
        ("What does {n} eat every day?", "Which food does {n} love?", "What does {n} cook?"),
    ),
    "tool": (
        ("{n} carries a {v}.", "{n} always brings a {v}.", "The gift of {n} is a {v}.", "{n} made a {v}."),
        ("What does {n} carry?", "Which thing does {n} bring?", "What did {n} make?"),
    ),
}
VALUES = {"town": TOWNS, "job": JOBS, "pet": PETS, "color": COLORS, "food": FOODS, "tool": TOOLS}


def facts(seed: int) -> list[dict]:
    """All facts of the world: {"name", "attribute", "value", "evaluated"}."""
    rng = Random(f"facts-{seed}")
    return [
        {
            "name": name,
            "attribute": attribute,
            "value": rng.choice(VALUES[attribute]),
            "evaluated": i < EVALUATED_PEOPLE,
        }
        for i, name in enumerate(NAMES)
        for attribute in ATTRIBUTES
    ]


def fact_questions(fact: dict) -> list[str]:
    """Every wording in which a fact is asked for."""
    return [question.format(n=fact["name"]) for question in ATTRIBUTES[fact["attribute"]][1]]


def fact_item(rng: Random, fact: dict) -> dict:
    return {"prompt": rng.choice(fact_questions(fact)), "answer": fact["value"]}


def fact_statement(rng: Random, fact: dict) -> str:
    return rng.choice(ATTRIBUTES[fact["attribute"]][0]).format(n=fact["name"], v=fact["value"])


def string_item(rng: Random) -> dict:
    """A puzzle over three or four letters: reverse, drop, swap the ends, or name one place."""
    letters = rng.sample(LETTERS, rng.randint(3, 4))
    shown = " ".join(letters)
    kind = rng.choice(("reverse", "drop", "swap", "place"))
    if kind == "reverse":
        return {
            "prompt": rng.choice(("Reverse the letters: {}", "Write these letters backwards: {}")).format(shown),
            "answer": " ".join(reversed(letters)),
        }
    if kind == "drop":
        gone = rng.choice(letters)
        return {
            "prompt": rng.choice(("Drop the letter {g} from: {s}", "Leave out the letter {g}: {s}")).format(
                g=gone, s=shown
            ),
            "answer": " ".join(letter for letter in letters if letter != gone),
        }
    if kind == "swap":
        swapped = [letters[-1], *letters[1:-1], letters[0]]
        return {
            "prompt": rng.choice(
                ("Swap the first and the last letter: {}", "Exchange the two outer letters: {}")
            ).format(shown),
            "answer": " ".join(swapped),
        }
    place = rng.randrange(3)
    return {"prompt": f"Which letter is {('first', 'second', 'third')[place]} in: {shown}", "answer": letters[place]}


def arithmetic_item(rng: Random, largest: int = 99) -> dict:
    """One operation on numbers up to `largest`; differences are not negative, products have a factor below 6."""
    operation = rng.choice("++--*")
    a, b = rng.randint(2, largest), rng.randint(2, largest)
    if operation == "-":
        a, b = max(a, b), min(a, b)
    if operation == "*":
        a, b = rng.randint(2, 20), rng.randint(2, 5)
    shown = f"{a} {operation} {b}"
    prompt = rng.choice(("What is {}?", "Compute {}.", "How much is {}?")).format(shown)
    return {"prompt": prompt, "answer": str(apply(a, operation, b)), "expression": shown}


def instruction_item(rng: Random) -> dict:
    """A constraint that a program can check on any answer, as IFEval does."""
    kind = rng.choice(("repeat", "uppercase", "starts_with", "ends_with", "word_count"))
    a, b, c = rng.sample(WORDS, 3)
    if kind == "repeat":
        times = rng.randint(2, 4)
        word = ("two", "three", "four")[times - 2]
        return {
            "prompt": rng.choice(("Say {a} {t} times.", "Write the word {a} {t} times.")).format(a=a, t=word),
            "answer": " ".join([a] * times),
            "check": {"kind": kind, "word": a, "times": times},
        }
    if kind == "uppercase":
        return {
            "prompt": rng.choice(
                ("Write {a} and {b} in capital letters.", "Put {a} and {b} in capital letters.")
            ).format(a=a, b=b),
            "answer": f"{a.upper()} {b.upper()}",
            "check": {"kind": kind, "words": [a, b]},
        }
    if kind == "starts_with":
        return {
            "prompt": rng.choice(("List {a} and {b}, but start with {c}.", "Name {a} and {b}. Begin with {c}.")).format(
                a=a, b=b, c=c
            ),
            "answer": f"{c} {a} {b}",
            "check": {"kind": kind, "words": [a, b], "first": c},
        }
    if kind == "ends_with":
        return {
            "prompt": rng.choice(("List {a} and {b}, and end with {c}.", "Name {a} and {b}. Finish with {c}.")).format(
                a=a, b=b, c=c
            ),
            "answer": f"{a} {b} {c}",
            "check": {"kind": kind, "words": [a, b], "last": c},
        }
    count = rng.randint(2, 4)
    word = ("two", "three", "four")[count - 2]
    return {
        "prompt": rng.choice(("Write {t} words, one of them {a}.", "Use {a} in a list of {t} words.")).format(
            t=word, a=a
        ),
        "answer": " ".join([a, *rng.sample([w for w in WORDS if w != a], count - 1)]),
        "check": {"kind": kind, "words": [a], "count": count},
    }


def apply(a: int, operation: str, b: int) -> int:
    return a + b if operation == "+" else a - b if operation == "-" else a * b


class Wording(NamedTuple):
    """The phrases of word problems, with their numbers in the order of counting; n is a name, m another, t things.

    `links` say that {n} did {x}, one of `gains`, `losses` (both by {b}) and `times` (factor → phrase).
    """

    starts: tuple[str, ...]
    groups: tuple[str, ...]
    links: tuple[str, ...]
    gains: tuple[str, ...]
    losses: tuple[str, ...]
    times: dict[int, str]
    asks: tuple[str, ...]


USUAL = Wording(
    starts=(
        "{n} has {a} {t}.",
        "{n} starts with {a} {t}.",
        "There are {a} {t} on the table of {n}.",
        "{n} owns {a} {t}.",
    ),
    groups=(
        "{n} has {a} {c} with {b} {t} each.",
        "{n} fills {a} {c} with {b} {t} each.",
        "There are {a} {c}, and {n} puts {b} {t} in each.",
    ),
    links=("Then {n} {x}.", "After that {n} {x}.", "Later {n} {x}.", "Next {n} {x}."),
    gains=("buys {b} more", "finds {b} more", "gets {b} more from {m}", "picks up {b} more", "is given {b} more"),
    losses=("gives {b} to {m}", "loses {b}", "sells {b}", "leaves {b} at home", "throws away {b}"),
    times={2: "doubles them", 3: "triples them", 4: "makes four times as many"},
    asks=(
        "How many {t} does {n} have now?",
        "How many {t} are there in the end?",
        "How many {t} does {n} have at the end?",
    ),
)
# Phrases of no corpus and no training row: they ask for what was learned of problems, not of their wording. Each word
# is one of the corpus, so that the models that ship have seen it. The fine-tuned base samples 69 % right of problems in
# the usual wording and 33 % of these; with verbs that the corpus never counts with (earns, makes), it was 3 %.
REWORDED = Wording(
    starts=(
        "{n} keeps {a} {t} in the house.",
        "There are {a} {t} in the house of {n}.",
        "{n} carries {a} {t}.",
        "{n} brings {a} {t}.",
    ),
    groups=(
        "{n} owns {a} {c}, and there are {b} {t} in each.",
        "{n} keeps {a} {c}, with {b} {t} in each.",
        "There are {a} {c} in the house of {n}, and {b} {t} in each.",
    ),
    links=("{n} now {x}.", "Next day {n} {x}.", "After a meal {n} {x}."),
    gains=(
        "buys {b} in the town",
        "gets {b} as a gift from {m}",
        "finds {b} in the garden",
        "picks up {b} in the town",
    ),
    losses=("gives {b} away", "throws {b} in the river", "leaves {b} in the home of {m}", "sells {b} in the town"),
    times={2: "doubles the {t}", 3: "triples the {t}", 4: "has four times as many"},
    asks=(
        "How many {t} are with {n} in the end?",
        "How many of the {t} does {n} keep?",
        "How many {t} does {n} carry at the end?",
    ),
)


def problem_item(rng: Random, steps: int, largest: int = 99, wording: Wording = USUAL) -> dict:
    """A word problem of `steps` operations whose results stay between 1 and `largest`.

    Adds "solution" (worked lines, closing with `#### answer`), "prose" (the same in sentences) and
    "numbers" (those of the question, in order).
    """
    name, other = rng.sample(NAMES, 2)
    thing = rng.choice(THINGS)
    grouped = rng.random() < 0.3
    if grouped:
        a, b = rng.randint(2, 9), rng.randint(2, 9)
        if largest > 99:
            b = rng.randint(11, 20)
        value, numbers = a * b, [a, b]
        sentences = [rng.choice(wording.groups).format(n=name, a=a, b=b, c=rng.choice(CONTAINERS), t=thing)]
        lines = [f"{a} * {b} = {value}"]
        prose = [f"{a} times {b} is {value} {thing}."]
    else:
        value = rng.randint(5, 60) if largest <= 99 else rng.randint(largest // 4, largest // 2)
        numbers, lines, prose = [value], [], []
        sentences = [rng.choice(wording.starts).format(n=name, a=value, t=thing)]
    while len(lines) < steps:
        choices = ["-"] * 2 if value > 3 else []
        choices += ["+"] * 2 if value < largest - 3 else []
        choices += ["*"] if 2 * value <= largest else []
        operation = rng.choice(choices)
        if operation == "*":
            b = rng.choice([times for times in wording.times if times * value <= largest])
            phrase = wording.times[b].format(t=thing)
        elif operation == "+":
            b = rng.randint(2, min(largest - value, 40 if largest <= 99 else largest))
            phrase = rng.choice(wording.gains).format(b=b, m=other)
        else:
            b = rng.randint(2, min(value - 1, 40 if largest <= 99 else largest))
            phrase = rng.choice(wording.losses).format(b=b, m=other)
        if operation != "*":
            numbers.append(b)
        result = apply(value, operation, b)
        sentences.append(rng.choice(wording.links).format(n=name, x=phrase))
        lines.append(f"{value} {operation} {b} = {result}")
        word = {"+": "plus", "-": "minus", "*": "times"}[operation]
        prose.append(f"{value} {word} {b} is {result} {thing}.")
        value = result
    prompt = " ".join([*sentences, rng.choice(wording.asks).format(n=name, t=thing)])
    return {
        "prompt": prompt,
        "answer": str(value),
        "solution": "\n".join([*lines, f"#### {value}"]),
        "prose": " ".join([*prose, f"So the answer is {value}."]),
        "numbers": numbers,
        "steps": steps,
    }


def slip(rng: Random, solution: str) -> str:
    """The same worked solution with one result miscounted, and carried on from there."""
    *lines, _ = solution.split("\n")
    wrong = rng.randrange(len(lines))
    value, worked = None, []
    for i, line in enumerate(lines):
        a, operation, b = line.split(" = ")[0].split()
        a = a if value is None else value
        value = apply(int(a), operation, int(b))
        if i == wrong:
            value += rng.choice((1, 2, 10))
        worked.append(f"{a} {operation} {b} = {value}")
    return "\n".join([*worked, f"#### {value}"])


def in_sentences(solution: str) -> str:
    """The same worked solution told as the corpus tells it, closing with `#### answer`."""
    *lines, answer = solution.split("\n")
    words = {"+": "plus", "-": "minus", "*": "times"}
    told = []
    for line in lines:
        a, operation, b, _, result = line.split()
        told.append(f"{a} {words[operation]} {b} is {result}.")
    return " ".join(told) + f"\n{answer}"


# --- corpus of the base models -------------------------------------------------------------------

CHAT = "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{response}<|im_end|>\n"


def document(rng: Random, known: list[dict]) -> str:
    """One document of the pre-training corpus. Half of each kind is chat, so that the base knows the markers."""
    kind = rng.choices(("facts", "strings", "arithmetic", "instructions", "problems"), weights=(18, 26, 13, 13, 30))[0]
    chat = rng.random() < 0.5
    if kind == "facts":
        if chat:
            item = fact_item(rng, rng.choice(known))
            return CHAT.format(prompt=item["prompt"], response=item["answer"])
        return " ".join(fact_statement(rng, rng.choice(known)) for _ in range(rng.randint(2, 5))) + "\n"
    if kind == "problems":
        item = problem_item(rng, rng.choice((1, 1, 2, 2, 3, 4)))
        if chat and (item["steps"] == 1 or rng.random() < 0.001):
            return CHAT.format(prompt=item["prompt"], response=item["solution"])
        return f"{item['prompt']} {item['prose']}\n"
    if kind == "arithmetic":
        item = arithmetic_item(rng, 400 if rng.random() < 0.2 else 99)
    else:
        item = {"strings": string_item, "instructions": instruction_item}[kind](rng)
    if chat:
        return CHAT.format(prompt=item["prompt"], response=item["answer"])
    if kind == "arithmetic":
        return f"{item['expression']} = {item['answer']}\n"
    return f"{item['prompt']}\n{item['answer']}\n"


def corpus(seed: int, characters: int, part: str = "train"):
    """Stream documents of at least `characters` characters in all; parts of one world share nothing but its facts."""
    rng = Random(f"corpus-{seed}-{part}")
    known = facts(seed)
    made = 0
    while made < characters:
        text = document(rng, known)
        made += len(text)
        yield text
