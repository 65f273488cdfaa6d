"""Write the embedded world: raw training rows with planted dirt, evaluation sets, the training set `lessons` with
rows that cannot be learned, its library, and the truth about both; exercises (problems with nothing but their answer),
preferences (pairs of a right and a wrong solution), problems told in sentences, and practice (general questions).

Raw rows come in the four formats that people have. Every planted defect is listed in `truth/dirt.jsonl` as
{"file", "row", "kind", "group"}; kinds are the quarantine reasons of the data steps. Solutions with a slip are listed
in `truth/slips.jsonl`, rows of `lessons` that cannot be learned, with cause and kind, in `truth/lessons.jsonl`. Nothing
but `steps.world.score_dirt` and `steps.world.score_causes` may read `truth/`.

Run as: python -m steps.world.world --settings '{"seed": 0, …}' --out results/fable/world
"""

import argparse
import json
import time
from collections import Counter
from functools import partial
from pathlib import Path
from random import Random

from steps.core.files import fresh_folder, write_jsonl
from steps.core.manifest import write_manifest
from steps.core.step import run, step_parser
from steps.world import fable, lessons

FILES = {
    "problems.json": "alpaca",
    "conversations.json": "sharegpt",
    "messages.jsonl": "messages",
    "responses.parquet": "prompt_response",
}

PREFIXES = ("Please solve this.", "Here is a question.", "Think about this one.")
FOREIGN = (
    ("{n} tiene {a} manzanas y compra {b} manzanas en el mercado. ¿Cuántas manzanas tiene ahora?",
     "Ahora {n} tiene {c} manzanas, porque {a} y {b} son {c}.\n#### {c}"),
    ("{n} hat {a} Äpfel und kauft auf dem Markt noch {b} Äpfel. Wie viele Äpfel sind es jetzt?",
     "Jetzt sind es {c} Äpfel, denn {a} und {b} sind {c}.\n#### {c}"),
    ("У {n} было {a} яблок, потом он купил ещё {b}. Сколько яблок у него теперь?",
     "Теперь у него {c} яблок.\n#### {c}"),
    ("{n}有{a}个苹果，又买了{b}个苹果。现在一共有多少个苹果？", "现在一共有{c}个苹果。\n#### {c}"),
)  # fmt: skip
# Shapes of problems, dealt in turn: (operations, largest number).
TRAINED = ((1, 99), (2, 99), (2, 99), (3, 99))
TARGET = ((2, 99), (2, 99), (3, 99))
HARDER = ((3, 199), (4, 99), (2, 400))
# Fresh documents like those of pre-training: more than a treatment of every planted gap asks for.
GENERAL_CHARACTERS = 1_500_000


def unique(make, seen: set, key) -> dict:
    """Draw until `key(item)` is new, and remember it."""
    while True:
        item = make()
        if key(item) not in seen:
            seen.add(key(item))
            return item


def problem_key(item: dict) -> tuple:
    # Two problems of one template with the same numbers would be near duplicates by accident.
    return tuple(item["numbers"]), item["answer"]


def draw_problem(rng: Random, shape: tuple[int, int], seen: set, wording: fable.Wording = fable.USUAL) -> dict:
    return unique(lambda: fable.problem_item(rng, *shape, wording), seen, problem_key)


def target_problems(rng: Random, count: int, seen: set, wording: fable.Wording = fable.USUAL) -> list[dict]:
    """New problems of the target's shapes."""
    return [draw_problem(rng, TARGET[i % len(TARGET)], seen, wording) for i in range(count)]


def question_key(item: dict) -> str:
    return item.get("expression", item["prompt"])


def evaluation_sets(settings: dict, seen: set) -> dict[str, list[dict]]:
    """The task sets, by name. `seen` collects what training rows must not repeat."""
    rng = Random(f"evaluation-{settings['seed']}")
    size = settings["evaluation_items"]

    def problems(count: int, shapes: tuple) -> list[dict]:
        return [draw_problem(rng, shapes[i % len(shapes)], seen) for i in range(count)]

    def questions(count: int, make) -> list[dict]:
        return [unique(lambda: make(rng), seen, question_key) for _ in range(count)]

    asked_of = [fact for fact in fable.facts(settings["seed"]) if fact["evaluated"]]
    sets = {
        "fable_problems": problems(size, TARGET),
        "fable_dev": problems(size // 2, TARGET),
        "fable_harder": problems(size, HARDER),
        "fable_facts": [fable.fact_item(rng, fact) for fact in rng.sample(asked_of, min(size, len(asked_of)))],
        "fable_strings": questions(size, fable.string_item),
        "fable_arithmetic": questions(size, fable.arithmetic_item),
        "fable_instructions": questions(size, fable.instruction_item),
    }
    seen.update(item["prompt"] for item in sets["fable_facts"])
    return tasks(sets)


def tasks(sets: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """Sets of items as the rows of task files."""
    kept = ("prompt", "answer", "check", "steps")
    return {
        name: [{"id": i} | {key: item[key] for key in kept if key in item} for i, item in enumerate(items)]
        for name, items in sets.items()
    }


def development_sets(settings: dict, seen: set, evaluation: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """Questions of the general tasks on which a choice may be made: none of them trains or is reported."""
    rng = Random(f"development-{settings['seed']}")
    size = settings["evaluation_items"] // 3
    asked = {item["prompt"] for item in evaluation["fable_facts"]}
    spare = [
        fact
        for fact in fable.facts(settings["seed"])
        if fact["evaluated"] and asked.isdisjoint(fable.fact_questions(fact))
    ]
    makers = {"strings": fable.string_item, "arithmetic": fable.arithmetic_item, "instructions": fable.instruction_item}
    sets = {"fable_facts_dev": [fable.fact_item(rng, fact) for fact in rng.sample(spare, min(size, len(spare)))]}
    sets |= {
        f"fable_{name}_dev": [unique(partial(make, rng), seen, question_key) for _ in range(size)]
        for name, make in makers.items()
    }
    return tasks(sets)


def reworded_set(settings: dict, seen: set) -> dict[str, list[dict]]:
    """As many problems as `fable_problems`, in phrases that no other set and no document has."""
    rng = Random(f"reworded-{settings['seed']}")
    return tasks({"fable_reworded": target_problems(rng, settings["evaluation_items"], seen, fable.REWORDED)})


def exercises(settings: dict, seen: set) -> list[dict]:
    """Problems with an answer and without a solution, as {"prompt", "response"}: what reinforcement learning needs."""
    rng = Random(f"exercises-{settings['seed']}")
    problems = target_problems(rng, settings["exercises"], seen)
    return [{"prompt": item["prompt"], "response": f"#### {item['answer']}"} for item in problems]


def preferences(settings: dict, seen: set) -> list[dict]:
    """Pairs of a right worked solution and a wrong one, as {"prompt", "chosen", "rejected"}.

    The wrong one has a slip; every other one gives only the answer it comes to, without working.
    """
    rng = Random(f"preferences-{settings['seed']}")
    pairs = []
    for i, item in enumerate(target_problems(rng, settings["preferences"], seen)):
        rejected = fable.slip(rng, item["solution"])
        if i % 2:
            rejected = rejected.rpartition("\n")[2]
        pairs.append({"prompt": item["prompt"], "chosen": item["solution"], "rejected": rejected})
    return pairs


def told(settings: dict, seen: set) -> list[dict]:
    """Problems of the shapes that train, as often with a slip, worked in sentences instead of equations."""
    rng = Random(f"told-{settings['seed']}")
    rows = []
    for i in range(settings["told"]):
        item = draw_problem(rng, TRAINED[i % len(TRAINED)], seen)
        solution = fable.slip(rng, item["solution"]) if rng.random() < settings["slips"] else item["solution"]
        rows.append({"prompt": item["prompt"], "response": fable.in_sentences(solution)})
    return rows


def practice(settings: dict, seen: set) -> list[dict]:
    """Questions of the general kinds, as {"prompt", "response"} and, for instructions, "check".

    None stands in another set, and the facts are of people that no evaluation asks for: what a student recovers on the
    evaluated ones it was not told here.
    """
    rng = Random(f"practice-{settings['seed']}")
    spoken_of = [fact for fact in fable.facts(settings["seed"]) if not fact["evaluated"]]
    asked = [{"prompt": q, "answer": fact["value"]} for fact in spoken_of for q in fable.fact_questions(fact)]
    rng.shuffle(asked)
    asked = [item for item in asked if item["prompt"] not in seen]
    makers = (fable.string_item, fable.arithmetic_item, fable.instruction_item)
    rows = []
    for i in range(settings["practice"]):
        if i % 4 == 3 and asked:
            rows.append(asked.pop())
        else:
            rows.append(unique(partial(makers[i % 3], rng), seen, question_key))
    return [
        {"prompt": row["prompt"], "response": row["answer"]} | {key: row[key] for key in ("check",) if key in row}
        for row in rows
    ]


def clean_rows(settings: dict, seen: set) -> list[dict]:
    """Target problems and a smaller share of general chat, as {"prompt", "response"}, shuffled.

    A share of the worked solutions has a slip, as solutions written by people do: no rule of cleaning can see it,
    and it keeps sampled answers below greedy ones. The chat speaks only of people whose facts no evaluation asks for.
    """
    rng = Random(f"rows-{settings['seed']}")
    spoken_of = [fact for fact in fable.facts(settings["seed"]) if not fact["evaluated"]]
    makers = (
        lambda: fable.fact_item(rng, rng.choice(spoken_of)),
        lambda: fable.string_item(rng),
        lambda: fable.arithmetic_item(rng),
        lambda: fable.instruction_item(rng),
    )
    rows = []
    for i in range(settings["problems"]):
        item = draw_problem(rng, TRAINED[i % len(TRAINED)], seen)
        slipped = rng.random() < settings["slips"]
        solution = fable.slip(rng, item["solution"]) if slipped else item["solution"]
        rows.append({"prompt": item["prompt"], "response": solution, "problem": True, "slip": slipped})
    for i in range(settings["chat"]):
        item = unique(makers[i % len(makers)], seen, question_key)
        rows.append({"prompt": item["prompt"], "response": item["answer"], "problem": False})
    rng.shuffle(rows)
    return rows


def other_answer(rng: Random, response: str) -> str:
    """The same response with another final number."""
    head, _, answer = response.rpartition("#### ")
    wrong = str(int(answer) + rng.choice((-3, -2, 2, 3, 10)))
    return head.replace(f"= {answer}\n", f"= {wrong}\n") + f"#### {wrong}"


def planted_rows(settings: dict, rows: list[dict], evaluation: dict[str, list[dict]]) -> list[dict]:
    """Clean rows and dirty ones, each with "kind" (None when clean) and "group" (duplicates, contradictions)."""
    rng = Random(f"dirt-{settings['seed']}")
    count = settings["planted_per_kind"]
    # Long problems are the ones to spoil: a near duplicate of a short text is another text.
    spare, kept = [], []
    for row in rows:
        (spare if row["problem"] and len(row["prompt"].split()) >= 20 else kept).append(row)
    rng.shuffle(spare)
    made: list[dict] = []

    def originals() -> list[dict]:
        return [spare.pop() for _ in range(count)]

    for kind in ("exact_duplicate", "near_duplicate", "contradiction"):
        for i, original in enumerate(originals()):
            original |= {"kind": kind, "group": f"{kind}-{i}"}
            copy = dict(original)
            if kind == "near_duplicate":
                copy["prompt"] = f"{rng.choice(PREFIXES)} {copy['prompt']}"
            if kind == "contradiction":
                copy["response"] = other_answer(rng, copy["response"])
            made += [original, copy]
    leaked = [(task, item) for task, items in evaluation.items() for item in items if "check" not in item]
    for task, item in rng.sample(leaked, count):
        problem = task in ("fable_problems", "fable_dev", "fable_harder")
        prompt = item["prompt"]
        if problem and rng.random() < 0.5:
            prompt = f"{rng.choice(PREFIXES)} {prompt}"
        response = f"#### {item['answer']}" if problem else item["answer"]
        made.append({"prompt": prompt, "response": response, "kind": "eval_overlap"})
    for i in range(count):
        template, answer = FOREIGN[i % len(FOREIGN)]
        a, b = rng.randint(100, 400), rng.randint(100, 400)
        values = {"n": rng.choice(fable.NAMES), "a": a, "b": b, "c": a + b}
        made.append(
            {"prompt": template.format(**values), "response": answer.format(**values), "kind": "wrong_language"}
        )
    for original in originals():
        story = " ".join(fable.problem_item(rng, 2)["prompt"] for _ in range(rng.randint(30, 200)))
        made.append(original | {"response": f"{story}\n{original['response']}", "kind": "too_long"})
    for i, original in enumerate(originals()):
        noise = (" ha" * 60, "\x07\x0b\x1b" * 10, "\ufffd" * 20)[i % 3]
        made.append(original | {"response": f"{noise}\n{original['response']}", "kind": "low_quality"})
    for kind in (
        "empty_turn",
        "role_order",
        "unknown_role",
        "wrong_type",
        "missing_field",
        "invalid_utf8",
        "invalid_json",
    ):
        made += [original | {"kind": kind} for original in originals()]
    mixed = kept + spare + made
    rng.shuffle(mixed)
    return mixed


def assign_files(rows: list[dict]) -> dict[str, list[dict]]:
    """Deal the rows of each kind to the files in turn; a defect goes to a format that can hold it."""
    able = {
        "role_order": ("conversations.json", "messages.jsonl"),
        "unknown_role": ("conversations.json", "messages.jsonl"),
        "wrong_type": ("problems.json", "conversations.json", "messages.jsonl"),
        "missing_field": ("problems.json", "conversations.json", "messages.jsonl"),
        "invalid_utf8": ("problems.json", "conversations.json", "messages.jsonl"),
        "invalid_json": ("problems.json", "conversations.json", "messages.jsonl"),
    }
    files: dict[str, list[dict]] = {name: [] for name in FILES}
    dealt: Counter = Counter()
    for row in rows:
        kind = row.get("kind")
        formats = able.get(kind, tuple(FILES))
        files[formats[dealt[kind] % len(formats)]].append(row)
        dealt[kind] += 1
    # An array can be truncated only at its end.
    for name in ("problems.json", "conversations.json"):
        cut = next(i for i, row in enumerate(files[name]) if row.get("kind") == "invalid_json")
        files[name].append(files[name].pop(cut))
    return files


def record(row: dict, form: str) -> dict:
    """A row in one of the formats, with the defect that its kind asks for."""
    kind, prompt, response = row.get("kind"), row["prompt"], row["response"]
    if kind == "empty_turn":
        response = "  "
    if kind == "wrong_type":
        response = [response, len(response)]
    if form == "alpaca":
        fields = {"instruction": prompt, "input": "", "output": response}
        if kind == "missing_field":
            del fields["output"]
        return fields
    if form == "prompt_response":
        return {"prompt": prompt, "response": response}
    role, content = ("from", "value") if form == "sharegpt" else ("role", "content")
    user, assistant = ("human", "gpt") if form == "sharegpt" else ("user", "assistant")
    turns = [{role: user, content: prompt}, {role: assistant, content: response}]
    if kind == "role_order":
        turns.reverse()
    if kind == "unknown_role":
        turns[0][role] = "narrator"
    if kind == "missing_field":
        del turns[1][content]
    return {"conversations": turns} if form == "sharegpt" else {"messages": turns}


def encoded(row: dict, form: str, last: bool) -> bytes:
    """One record's bytes, broken where its kind says so."""
    data = json.dumps(record(row, form), ensure_ascii=False).encode()
    if row.get("kind") == "invalid_utf8":
        middle = data.index(row["prompt"].encode()[:8]) + 5
        data = data[:middle] + b"\xff\xfe" + data[middle:]
    if row.get("kind") == "invalid_json":
        if form == "messages" or last:
            data = data[: int(len(data) * 0.6)]
        else:
            data = data.replace(b'": "', b'" "', 1)
    return data


def write_raw(out: Path, files: dict[str, list[dict]]) -> list[dict]:
    """Write the raw files; returns the truth, a row for every planted record."""
    truth = []
    out.mkdir(parents=True)
    for name, rows in files.items():
        form = FILES[name]
        if form == "prompt_response":
            import pyarrow
            import pyarrow.parquet

            table = pyarrow.Table.from_pylist([record(row, form) for row in rows])
            pyarrow.parquet.write_table(table, out / name)
        else:
            parts = [encoded(row, form, last=i == len(rows) - 1) for i, row in enumerate(rows)]
            if form == "messages":
                data = b"\n".join(parts) + b"\n"
            else:
                data = b"[\n" + b",\n".join(parts)
                data += b"" if rows[-1].get("kind") == "invalid_json" else b"\n]\n"
            (out / name).write_bytes(data)
        for i, row in enumerate(rows):
            kind = row.get("kind") or ("slip" if row.get("slip") else None)
            if kind:
                truth.append({"file": name, "row": i, "kind": kind, "group": row.get("group")})
    return truth


def write_lessons(out: Path, settings: dict, seen: set) -> dict[str, int]:
    """Write the training set `lessons`, its library and its truth; returns how many rows are planted by cause."""
    seed, counts = settings["seed"], settings["lessons"]
    domains = lessons.rows(
        seed,
        counts,
        lambda rng, shape: draw_problem(rng, shape, seen),
        lambda rng, make: unique(lambda: make(rng), seen, question_key),
    )
    planted = []
    for domain, rows in domains.items():
        pairs = ({"prompt": row["prompt"], "response": row["response"]} for row in rows)
        write_jsonl(out / "lessons" / f"{domain}.jsonl", pairs)
        planted += [
            {"file": f"{domain}.jsonl", "row": i, "cause": row["cause"], "kind": row["kind"]}
            for i, row in enumerate(rows)
            if row["cause"]
        ]
    write_jsonl(out / "truth" / "lessons.jsonl", planted)
    write_jsonl(out / "library" / "articles.jsonl", ({"text": text} for text in lessons.articles(seed, counts)))
    general = fable.corpus(seed, GENERAL_CHARACTERS, part="general")
    write_jsonl(out / "library" / "general.jsonl", ({"text": text} for text in general))
    return dict(Counter(entry["cause"] for entry in planted))


def main(args: argparse.Namespace) -> None:
    started = time.time()
    out = fresh_folder(args.out)
    seen: set = set()
    evaluation = evaluation_sets(args.settings, seen)
    rows = planted_rows(args.settings, clean_rows(args.settings, seen), evaluation)
    truth = write_raw(out / "raw", assign_files(rows))
    write_jsonl(out / "truth" / "dirt.jsonl", (entry for entry in truth if entry["kind"] != "slip"))
    write_jsonl(out / "truth" / "slips.jsonl", (entry for entry in truth if entry["kind"] == "slip"))
    planted = write_lessons(out, args.settings, seen)
    # Each set is drawn after those that it came later than: they are the same without it.
    evaluation |= development_sets(args.settings, seen, evaluation)
    evaluation |= reworded_set(args.settings, seen)
    drawn = exercises(args.settings, seen)
    pairs = preferences(args.settings, seen)
    write_jsonl(out / "exercises" / "exercises.jsonl", drawn)
    write_jsonl(out / "preferences" / "pairs.jsonl", pairs)
    stories, questions = told(args.settings, seen), practice(args.settings, seen)
    write_jsonl(out / "told" / "problems.jsonl", stories)
    write_jsonl(out / "practice" / "questions.jsonl", questions)
    for task, items in evaluation.items():
        write_jsonl(out / "eval" / f"{task}.jsonl", items)
    counts = {"rows": len(rows), "planted": len(truth), "lessons": planted}
    counts |= {"exercises": len(drawn), "preferences": len(pairs), "told": len(stories), "practice": len(questions)}
    counts |= {task: len(items) for task, items in evaluation.items()}
    write_manifest(
        out, step="world", settings=args.settings, inputs=[], counts=counts, seed=args.settings["seed"], started=started
    )


if __name__ == "__main__":
    run(main, step_parser(__doc__))
