"""Quarantine rows by length, language and quality.

Takes `rows.jsonl` of an earlier data step; writes `rows.jsonl` (kept, unchanged) and `quarantine.jsonl`. Rows are
judged one by one, in this order: too_short, too_long, wrong_language, low_quality. Language is judged by script and,
among languages of the Latin script, by function words: cheap, without a model, and blind to short texts.

Run as: python -m steps.filter --settings '{"language": "en", …}' --input results/mine/data/problems/ingest/rows.jsonl \
    --out results/mine/data/problems/filter
"""

import argparse
import re
import time
from pathlib import Path

from steps.common import Progress, fresh_folder, run, step_parser, write_manifest
from steps.rows import Ledger, RowProblem, prompt_of, read_rows, words

# Function words of two letters and more: single letters are content in puzzles and formulas.
FUNCTION_WORDS = {
    language: frozenset(text.split())
    for language, text in {
        "en": "the of and to in is are was it its for on with that this as at by from be have has had he she they his"
        " her not or but an if how many much what which who when where does do did there their you your we our i"
        " will would can could should then than each all some any more after before into about so no up out my me him",
        "de": "der das und ist nicht ein eine einen einem einer mit für auf dem zu wie viele sich sie ich wird sind"
        " auch nach bei aus noch wenn aber oder dass hatte haben kein jetzt von im wurde sein ihre",
        "es": "el los las una por para con que más cuántos cuántas tiene está como pero sus al del muy también qué es"
        " en se lo le ha son ahora porque cuando hay fue su entre sobre desde",
        "fr": "le les des une dans pour que qui sur pas avec combien il elle ont est au aux du ce cette et sont plus"
        " mais vous nous je ne en où par leur ses fait être avez",
        "it": "il lo gli una che per con non sono di del della dei nel alla più quanti quante come anche ma ha questo"
        " questa dove perché quando ogni dal sua suo hanno cosa",
        "pt": "os as uma para com que não mais por quantos quantas tem como mas ao dos das na no em se ele ela seu"
        " sua também está são foi quando muito isso agora",
        "nl": "het een van en op te dat niet zijn voor met ze hij hoeveel heeft ook naar bij uit als maar nog deze"
        " wordt aan werd hebben geen meer nu",
        "pl": "nie jest się na do że jak ale czy przez ile był była ma od po za są tego które już teraz oraz przed",
        "sv": "och att det som en på är av för med den till inte har hur många ett om men han hon var nu från eller",
        "tr": "bir ve bu için ile kaç ne çok daha gibi var kadar sonra olan değil ama her şimdi tane olarak",
    }.items()
}
# Words that are evidence against a language: function words of others that it does not have itself.
FOREIGN_WORDS = {
    language: frozenset().union(*FUNCTION_WORDS.values()) - own for language, own in FUNCTION_WORDS.items()
}
_LATIN = "A-Za-zªºÀ-ÖØ-öø-ɏḀ-ỿ"
SCRIPTS = dict.fromkeys(FUNCTION_WORDS, _LATIN) | {
    "ru": "Ѐ-ӿ",
    "uk": "Ѐ-ӿ",
    "el": "Ͱ-Ͽἀ-῿",
    "ar": "؀-ۿݐ-ݿ",
    "he": "֐-׿",
    "hi": "ऀ-ॿ",
    "ko": "가-힣ᄀ-ᇿ",
    "ja": "぀-ヿ一-鿿",
    "zh": "㐀-䶿一-鿿",
}
# Share of the letters that must be of the language's script: names, quotations and formulas may be of another.
MIN_SCRIPT_SHARE = 0.6
# A turn with fewer letters is no evidence of a script; the row as a whole still is.
MIN_TURN_LETTERS = 6
# Two different function words of another language, and more than of the own one.
MIN_FOREIGN_WORDS = 2
# Repetition of shorter texts is style ("ha ha ha"), and their trigrams are too few for a share.
MIN_REPETITION_WORDS = 30

_LETTERS = re.compile(r"[^\W\d_]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")
_LETTER_RUN = re.compile(r"([^\W\d_])\1{19}")


def check(row: dict, settings: dict) -> None:
    """Raises: RowProblem: too_short, too_long, wrong_language or low_quality."""
    _check_length(row, settings)
    tokens = [words(turn["content"]) for turn in row["messages"]]
    if settings["language"] is not None:
        _check_language(row, tokens, settings["language"])
    _check_quality(row, tokens, settings["max_repetition"])


def _check_length(row: dict, settings: dict) -> None:
    """Characters of all user turns together, and of all assistant turns together."""
    for role, name in (("user", "prompt"), ("assistant", "response")):
        size = sum([len(turn["content"]) for turn in row["messages"] if turn["role"] == role])
        low, high = settings[f"min_{name}_chars"], settings[f"max_{name}_chars"]
        if size < low:
            reason, key, change = "too_short", f"min_{name}_chars", "lower"
        elif size > high:
            reason, key, change = "too_long", f"max_{name}_chars", "raise"
        else:
            continue
        hint = f"remove the record, or {change} filter.{key}"
        raise RowProblem(reason, "messages", hint, f"{size} characters of the {role}, {key} is {settings[key]}")


def _check_language(row: dict, tokens: list[list[str]], language: str) -> None:
    """Each turn, then the row as a whole."""
    texts = [turn["content"] for turn in row["messages"]]
    present = [set(found) for found in tokens]
    hint = f"remove the record, or set filter.language (now {language}; null accepts every language)"
    for i, (text, found) in enumerate(zip([*texts, "\n".join(texts)], [*present, set().union(*present)], strict=True)):
        column, min_letters = (f"messages[{i}].content", MIN_TURN_LETTERS) if i < len(texts) else ("messages", 1)
        letters, share = script_share(text, language)
        if letters >= min_letters and share < MIN_SCRIPT_SHARE:
            detail = f"{share:.0%} of {letters} letters are of the script of {language}"
            raise RowProblem("wrong_language", column, hint, detail)
        if language in FUNCTION_WORDS and len(found & FOREIGN_WORDS[language]) >= MIN_FOREIGN_WORDS:
            other, foreign, own = foreign_words(found, language)
            if len(foreign) >= MIN_FOREIGN_WORDS and len(foreign) > own:
                detail = f"{len(foreign)} function words of {other} ({', '.join(foreign[:5])}), {own} of {language}"
                raise RowProblem("wrong_language", column, hint, detail)


def script_share(text: str, language: str) -> tuple[int, float]:
    """How many letters a text has, and the share of them that belongs to the script of a language."""
    if text.isascii() and SCRIPTS[language] is _LATIN:
        return len(text), 1.0
    found = "".join(_LETTERS.findall(text))
    if not found:
        return 0, 1.0
    return len(found), len("".join(re.findall(f"[{SCRIPTS[language]}]+", found))) / len(found)


def foreign_words(present: set[str], language: str) -> tuple[str, list[str], int]:
    """The other language with most function words among `present`, those words, and how many of its own there are."""
    own = FUNCTION_WORDS[language]
    counted = {other: present & (listed - own) for other, listed in FUNCTION_WORDS.items() if other != language}
    best = max(counted, key=lambda other: len(counted[other]))
    return best, sorted(counted[best]), len(present & own)


def _check_quality(row: dict, tokens: list[list[str]], max_repetition: float) -> None:
    for i, (turn, found) in enumerate(zip(row["messages"], tokens, strict=True)):
        column, text = f"messages[{i}].content", turn["content"]
        if bad := _CONTROL.search(text):
            hint = "remove control and replacement characters; the text was probably decoded with a wrong encoding"
            raise RowProblem("low_quality", column, hint, f"U+{ord(bad[0]):04X} at character {bad.start() + 1}")
        if run_of := _LETTER_RUN.search(text):
            detail = f"the letter {run_of[1]!r} 20 times in a row at character {run_of.start() + 1}"
            raise RowProblem("low_quality", column, "remove the record, or repair the text", detail)
        if (share := repetition(found)) > max_repetition:
            hint = "remove the record, or raise filter.max_repetition"
            raise RowProblem("low_quality", column, hint, f"{share:.0%} of its word trigrams are repeats")


def repetition(tokens: list[str]) -> float:
    """Share of the word trigrams of a text that occurred before in it; 0 for texts of fewer than 30 words."""
    if len(tokens) < MIN_REPETITION_WORDS:
        return 0.0
    return 1 - len(set(zip(tokens, tokens[1:], tokens[2:], strict=False))) / (len(tokens) - 2)


def main(args: argparse.Namespace) -> None:
    started = time.time()
    language = args.settings["language"]
    if language is not None and language not in SCRIPTS:
        raise ValueError(f"filter.language is {language!r}; use null or one of {', '.join(SCRIPTS)}")
    out = fresh_folder(args.out)
    ledger, progress = Ledger(out, "filter"), Progress("filter", None, "rows")
    for done, row in enumerate(read_rows(args.input), 1):
        ledger.enter(row["file"])
        try:
            check(row, args.settings)
            ledger.keep(row)
        except RowProblem as problem:
            ledger.quarantine(row, problem, prompt_of(row))
        if done % 1000 == 0:
            progress.update(done)
    counts = ledger.close()
    if counts["in"] and not counts["kept"]:
        raise ValueError(
            f"{args.input}: filter keeps none of {counts['in']} rows ({counts['quarantined']});"
            " change the section `filter` of the parameters"
        )
    write_manifest(out, step="filter", settings=args.settings, inputs=[args.input], counts=counts, started=started)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--input", type=Path, required=True, help="rows.jsonl of the step before")
    run(main, parser)
