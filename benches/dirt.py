"""What the cleaning finds of planted dirt: recall and precision of each kind, in English and in Chinese.

Word problems of the embedded world, in its own wording and in a Chinese one, with as many rows of each kind spoiled as
`--planted` says: copies, copies behind an opening sentence, two answers to one question, questions of an evaluation
set (half of them behind such an opening), other languages, responses that are too long, noise. They pass the steps with
the settings of params.yaml, the language apart, and are scored as `steps.world.score_dirt` scores the embedded world.

Run as: python -m benches.dirt --out reports/bench/dirt.json
"""

import argparse
import re
import tempfile
from itertools import chain
from pathlib import Path
from random import Random
from typing import NamedTuple

import yaml

from benches.common import bench_parser, figure, write_result
from steps.core.files import read_jsonl, write_jsonl
from steps.data import decontaminate, dedup, filter, ingest
from steps.data.rows import Ledger
from steps.world import fable, score_dirt, world

KINDS = (
    "exact_duplicate", "near_duplicate", "contradiction", "eval_overlap", "wrong_language", "too_long", "low_quality",
)  # fmt: skip
NOISE = ("\x07\x0b\x1b" * 10, "\ufffd" * 20)
LEAST = 0.98


class Language(NamedTuple):
    """What a copy of the world's rows is made of.

    Attributes:
        words: of the English world to those of this language, where it has others.
        space: between sentences, and around words.
        openings: of a near duplicate.
        repeated: a text that says one thing again and again.
    """

    wording: fable.Wording
    words: dict[str, str]
    space: str
    openings: tuple[str, ...]
    repeated: str


CHINESE = fable.Wording(
    starts=(
        "{n} 有 {a} 个 {t}。",
        "{n} 一开始有 {a} 个 {t}。",
        "{n} 的桌子上有 {a} 个 {t}。",
        "{n} 手里有 {a} 个 {t}。",
    ),
    groups=(
        "{n} 有 {a} 个 {c}，每个里面有 {b} 个 {t}。",
        "{n} 装满了 {a} 个 {c}，每个装 {b} 个 {t}。",
        "这里有 {a} 个 {c}，{n} 在每个里面放了 {b} 个 {t}。",
    ),
    links=("然后 {n} {x}。", "在那之后，{n} {x}。", "后来 {n} {x}。", "接着 {n} {x}。"),
    gains=("又买了 {b} 个", "又找到了 {b} 个", "从 {m} 那里又得到了 {b} 个", "又捡起了 {b} 个", "又收到了 {b} 个"),
    losses=("给了 {m} {b} 个", "弄丢了 {b} 个", "卖掉了 {b} 个", "把 {b} 个留在家里", "扔掉了 {b} 个"),
    times={2: "把数量变成了原来的两倍", 3: "把数量变成了原来的三倍", 4: "做到了原来的四倍"},
    asks=("现在 {n} 有多少个 {t}？", "最后一共有多少个 {t}？", "最后 {n} 还有多少个 {t}？"),
)
GIVEN, FAMILY = "安伟芳军敏静强磊洋艳", "王李张刘陈杨赵黄周吴"
THINGS = (
    "梨 李子 硬币 贝壳 石头 书 卡片 灯 绳子 钉子 杯子 碗 种子 珠子 邮票 铃铛 蜡烛 苹果 无花果 坚果 鸡蛋 地图 钥匙 戒指"
)
WORDS = (
    dict(zip(fable.NAMES, (family + given for family in FAMILY for given in GIVEN), strict=False))
    | dict(zip(fable.THINGS, THINGS.split(), strict=True))
    | dict(zip(fable.CONTAINERS, "盒子 袋子 篮子 箱子 架子 托盘".split(), strict=True))
)
LANGUAGES = {
    "en": Language(fable.USUAL, {}, " ", world.PREFIXES, " ha" * 60),
    "zh": Language(
        CHINESE, WORDS, "", ("请解答这道题。", "下面是一个问题。", "想一想这个问题。"), "好的，我知道了。" * 20
    ),
}
# (prompt, response) of other languages than the rows', by the language that they are in.
FOREIGN = {"es": world.FOREIGN[0], "de": world.FOREIGN[1], "ru": world.FOREIGN[2], "zh": world.FOREIGN[3]}
FOREIGN["en"] = (
    "{n} has {a} apples and buys {b} more apples at the market. How many apples does {n} have now?",
    "{n} now has {c} apples, because {a} and {b} are {c}.\n#### {c}",
)


def problem(rng: Random, language: Language, steps: int) -> dict[str, str]:
    """A word problem as {"prompt", "response", "answer"}."""
    item = fable.problem_item(rng, steps, wording=language.wording)
    prompt = item["prompt"]
    if language.words:
        prompt = "".join(language.words.get(word, word) for word in separated(prompt))
    return {"prompt": prompt, "response": item["solution"], "answer": item["answer"]}


def separated(text: str) -> list[str]:
    """Words without the spaces between them, punctuation and letters of other scripts apart."""
    return re.findall(r"[A-Za-z]+|[^A-Za-z\s]+", text)


def opened(rng: Random, language: Language, prompt: str) -> str:
    return rng.choice(language.openings) + language.space + prompt


def planted(rng: Random, name: str, rows: int, count: int) -> tuple[list[dict], list[dict]]:
    """Rows, with "kind" and "group" where one is spoiled, in random order; and the questions of the evaluation set."""
    language = LANGUAGES[name]
    seen: set[str] = set()

    def fresh(steps: int) -> dict[str, str]:
        return world.unique(lambda: problem(rng, language, steps), seen, lambda item: item["prompt"])

    made: list[dict] = [fresh(1 + number % 3) for number in range(rows)]
    for kind in ("exact_duplicate", "near_duplicate", "contradiction"):
        for number in range(count):
            original = fresh(3) | {"kind": kind, "group": f"{kind}-{number}"}
            copy = dict(original)
            if kind == "near_duplicate":
                copy["prompt"] = opened(rng, language, copy["prompt"])
            if kind == "contradiction":
                copy["response"] = world.other_answer(rng, copy["response"])
            made += [original, copy]
    items = [fresh(2 + number % 2) for number in range(10 * count)]
    for number, item in enumerate(items[:count]):
        prompt = opened(rng, language, item["prompt"]) if number % 2 else item["prompt"]
        made.append({"prompt": prompt, "response": f"#### {item['answer']}", "kind": "eval_overlap"})
    others = [texts for other, texts in FOREIGN.items() if other != name]
    for number in range(count):
        a, b = rng.randint(100, 400), rng.randint(100, 400)
        given = {"n": rng.choice(fable.NAMES), "a": a, "b": b, "c": a + b}
        prompt, response = (text.format(**given) for text in others[number % len(others)])
        made.append({"prompt": prompt, "response": response, "kind": "wrong_language"})
    for number in range(count):
        long = fresh(3)
        story = language.space.join(problem(rng, language, 2)["prompt"] for _ in range(400))
        made.append(long | {"response": f"{story}\n{long['response']}", "kind": "too_long"})
        noisy = fresh(3)
        noise = (*NOISE, language.repeated)[number % 3]
        made.append(noisy | {"response": f"{noise}\n{noisy['response']}", "kind": "low_quality"})
    rng.shuffle(made)
    return made, items


def cleaned(folder: Path, name: str, rows: list[dict], items: list[dict]) -> list[dict]:
    """The table of `score_dirt.score`, after all the steps."""
    settings = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    source = folder / "rows.jsonl"
    write_jsonl(source, ({"prompt": row["prompt"], "response": row["response"]} for row in rows))
    write_jsonl(folder / "items.jsonl", ({"prompt": item["prompt"]} for item in items))
    (folder / "ingest").mkdir()
    ledger = Ledger(folder / "ingest", "ingest")
    ingest.ingest_source({"path": source, "format": "prompt_response"}, 1_000_000, ledger, cores=1)
    ledger.close()
    before = folder / "ingest"
    for step, chosen, more in (
        (filter, settings["filter"] | {"language": name}, {}),
        (dedup, settings["dedup"], {}),
        (decontaminate, settings["decontaminate"], {"eval": [folder / "items.jsonl"]}),
    ):
        out = folder / step.__name__.rpartition(".")[2]
        step.main(argparse.Namespace(settings=chosen, input=before / "rows.jsonl", out=out, cores=1, **more))
        before = out
    truth = [
        {"file": source.name, "row": number, "kind": row["kind"], "group": row.get("group")}
        for number, row in enumerate(rows)
        if "kind" in row
    ]
    taken = chain.from_iterable(read_jsonl(path) for path in folder.glob("*/quarantine.jsonl"))
    quarantined = {(row["file"], row["row"]): row["reason"] for row in taken}
    kept = {(row["file"], row["row"]) for row in read_jsonl(before / "rows.jsonl")}
    return score_dirt.score(truth, quarantined, kept)


def main(args: argparse.Namespace) -> None:
    figures, tables = [], {}
    for name in LANGUAGES:
        with tempfile.TemporaryDirectory() as folder:
            rows, items = planted(Random(0), name, args.rows, args.planted)
            tables[name] = cleaned(Path(folder), name, rows, items)
        for line in tables[name]:
            for what in ("recall", "precision"):
                if line[what] is not None:
                    figures.append(figure(f"{name}, {line['kind']}: {what}", [line[what]], least=LEAST))
    write_result(args.out, __doc__, figures, {"rows": args.rows, "planted": args.planted, "tables": tables})


if __name__ == "__main__":
    parser = bench_parser(__doc__, "dirt", {"rows": 60, "planted": 6})
    parser.add_argument("--rows", type=int, default=3000, help="clean rows of each language")
    parser.add_argument("--planted", type=int, default=150, help="spoiled rows of each kind")
    main(parser.parse_args())
