"""The page in Chinese: every sentence has its own, and no English is left beside the names of things."""

import csv
import html.parser
import json
import re
from collections import Counter
from pathlib import Path

import pytest

import steps
from steps.diagnosis.section import catalogue as learning
from steps.distillation.section import catalogue as distillation
from steps.reinforcement.section import catalogue as rl
from steps.report.language import ENGLISH, catalogue, drawing, speaking, tr
from steps.report.sentences import FILE, SHARED, macros
from steps.settings import stages
from steps.stability.section import catalogue as stability
from tests.report.test_report import fake_run, make

STEPS = Path(steps.__path__[0])
# Folders that the page's sentences lie in; a model card is English.
FOLDERS = sorted(path.parent for path in STEPS.rglob(FILE) if path.parent.name != "delivery")
# What is called so in Chinese too.
TERMS = set(
    """Temper SVG CSV Markdown JSONL MiB Wilson Fleiss Cohen Jensen Shannon Spearman Pearson Procrustes Gram CKA GPU CPU
    Chen Wang Xue et al ACL delta Snakemake git python torch SFT CPT RL OPD GRPO KL SE n k T s""".split()
)


def test_every_sentence_has_its_chinese_with_the_same_facts():
    for folder, file in [(folder, FILE) for folder in FOLDERS] + [(SHARED, "wording.j2")]:
        english, chinese = macros(folder, file), macros(folder, file, "zh")
        asked = [
            {name: tuple(macro.arguments) for name, macro in vars(said).items() if hasattr(macro, "arguments")}
            for said in (english, chinese)
        ]
        assert asked[0] == asked[1], folder


def test_every_heading_of_the_templates_has_its_chinese():
    """What a template says by `_("…")`, and in Python `tr("…")`, where it is one literal."""
    said = set()
    for path in [*STEPS.rglob("*.j2"), *STEPS.rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        said |= {match.replace('\\"', '"') for match in re.findall(r'\b_\("((?:[^"\\]|\\.)*)"', text)}
        said |= set(re.findall(r'\btr\(\s*"([^"]*)"[,)]', text))
    known = catalogue("zh")
    assert len(said) > 150 and sorted(said - known.keys()) == []


def chinese(text: str) -> bool:
    return re.search(r"[一-鿿]", text) is not None


# Column heads that are names of things, or of formulas.
NAMES = {"n", "alpha", "kappa", "Cohen's kappa", "F1 %", "pass@1 %", "PEFT-Arena, Pearson / Spearman"}


def test_every_head_of_a_column_and_every_claim_has_its_chinese():
    heads = set()
    for path in [*STEPS.rglob("section/*.py"), *STEPS.rglob("report/**/*.py")]:
        heads |= set(re.findall(r"""Column\([^,()]+, "([^"]+)""", path.read_text(encoding="utf-8")))
    with speaking("zh"):
        assert len(heads) > 150 and sorted(head for head in heads - NAMES if not chinese(tr(head))) == []
        claims = [claim for own in (learning.CLAIMS, rl.CLAIMS, distillation.CLAIMS) for claim in own]
        for claim in (*claims, *stability.catalogue()):
            assert chinese(tr(claim.text)) and chinese(tr(claim.decides)), claim.name
            # Numbers alone are as they are.
            assert chinese(tr(claim.published)) or tr(claim.published).endswith("。"), claim.name


def test_a_phrase_has_one_home_and_keeps_its_facts():
    homes = Counter()
    for path in STEPS.rglob("zh.csv"):
        with open(path, encoding="utf-8", newline="") as file:
            homes.update(row["en"] for row in csv.DictReader(file))
    assert [phrase for phrase, n in homes.items() if n > 1] == []
    for english, chinese in catalogue("zh").items():
        assert sorted(re.findall(r"{\w+}", english)) == sorted(re.findall(r"{\w+}", chinese)), english


def test_labels_are_said_word_by_word_and_names_never():
    assert tr("gain, points") == "gain, points"
    with speaking("zh", {"merge", "sft"}):
        assert tr("gain, points") == "提升，百分点"
        assert tr("sft: target 14.0 [9.9, 19.5] %") == "sft: 目标 14.0 [9.9, 19.5] %"
        for name in ("merge", "kept_by_nobody", "a word that no catalogue has", "12.5 %"):
            assert tr(name) == name
        assert drawing("<svg><text x='1'>target</text></svg>") == "<svg><text x='1'>目标</text></svg>"
    assert tr("merge") == "merge"


class Told(html.parser.HTMLParser):
    """The words of a page that are its own: not of rows and models, no code, no settings."""

    VOID = {"meta", "br", "hr", "img", "input", "link", "path", "rect", "use"}
    NOT_OURS = {"code", "pre", "script", "style", "quoted"}

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.said: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            kind = dict(attrs).get("class")  # on a paragraph, `told` is the first screen's
            quoted = kind == "text" or (kind == "told" and tag == "bdi")
            self.open.append("quoted" if quoted else tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            self.open.pop()

    def handle_data(self, data):
        if not self.NOT_OURS & set(self.open):
            self.said.append(data)


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> dict[str, tuple[dict, Path]]:
    pages = {}
    for language in (ENGLISH, "zh"):
        root = tmp_path_factory.mktemp(language)
        settings = fake_run(root, grid=True)
        settings["report"]["language"] = language
        pages[language] = settings, make(root, settings)
    return pages


def test_no_english_is_left_beside_names(both):
    settings, out = both["zh"]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert '<html lang="zh">' in page
    nodes = settings["graph"]["nodes"]
    names = {"fable", "base", "foundation", "problems", *stages.STAGES, *(node["recipe"] for node in nodes)}
    names |= {key for node in nodes for key in (*node["settings"], *node["settings"].get("adapter", {}))}
    names |= {"lora", "full", "data", "weights", "threads", "response", "contradiction"}  # values, metrics, reasons
    ours = " ".join(Told(page).said)
    ours = re.sub(r"[\w-]+(?:\.\w+)+|[\w.=-]*[_\d@=][\w@.=-]*", " ", ours)  # files, tasks, nodes, settings
    left = set(re.findall(r"[A-Za-z]+", ours)) - names - TERMS
    assert len(re.findall(r"[一-鿿]", ours)) > 1500 and left == set()


def test_files_are_the_same_bytes_in_every_language(both):
    (_, english), (_, chinese) = both[ENGLISH], both["zh"]
    files = sorted(
        path.relative_to(english) for folder in ("tables", "figures") for path in (english / folder).iterdir()
    )
    assert len(files) > 20
    for file in [*files, Path("metrics.json"), Path("headline.json"), Path("summary.txt")]:
        if file.stem != "timing":
            there = json.dumps((chinese / file).read_text(encoding="utf-8"))
            assert there == json.dumps((english / file).read_text(encoding="utf-8")), file
