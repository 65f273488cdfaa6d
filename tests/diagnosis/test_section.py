"""The report's section on incomplete learning, from an invented study: rates, claims, truth, seeds, hostile rows."""

import json
import math
import random
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from steps.core.files import write_jsonl, write_text
from steps.core.hashes import sha256_file
from steps.diagnosis.causes import CAUSES, UNASSIGNED
from steps.diagnosis.section import SECTION
from steps.diagnosis.section import facts as learning
from steps.diagnosis.section import statistics as learning_stats
from steps.diagnosis.section.catalogue import CLAIMS
from steps.diagnosis.section.tables import examined_table
from steps.report import figures, tables
from steps.report.candidates import Candidate, Checkpoint
from steps.report.claims import verdict
from steps.report.gather import gather
from tests.manifests import seal
from tests.report.test_page import BROWSER, ask
from tests.report.test_report import HOSTILE as HOSTILE_TEXT
from tests.report.test_report import Page, fake_run, lead, make, node, read_table, write_checkpoint, write_evaluation

# Parquet holds no lone surrogates.
HOSTILE = HOSTILE_TEXT.replace("\udc80", "")
# Rows planted per cause; the others are learnable.
PLANTED = dict(zip(CAUSES, (80, 50, 60, 70, 40), strict=True))
LEARNABLE_ROWS = 700
DOMAINS = dict(zip(CAUSES, ("facts", "facts", "facts", "codes", "problems"), strict=True))
# Recipe → (settings, treatment, causes it cures).
RECIPES = {
    "plain": ({"order": "sources", "epochs": 2, "trajectory": 8}, None, ()),
    "longer": ({"order": "sources", "epochs": 10}, None, ("insufficient_optimisation",)),
    "knowledge": ({}, {"causes": ["missing_knowledge", "base_conflict"], "at_random": False}, ()),
    "knowing": ({"order": "sources"}, None, ("missing_knowledge", "base_conflict")),
    "knowledge_random": ({}, {"causes": ["missing_knowledge", "base_conflict"], "at_random": True}, ()),
    "knowing_random": ({"order": "sources"}, None, ()),
    "shuffled": ({"order": "shuffle"}, None, ("left_side_forgetting",)),
    "treated": ({"order": "shuffle"}, {"causes": ["data_conflict"], "at_random": False}, CAUSES[:4]),
    "together": ({"order": "shuffle"}, {"causes": ["insufficient_optimisation"], "at_random": False}, CAUSES),
}
PARENTS = {"knowing": "knowledge", "treated": "knowledge", "together": "treated", "knowing_random": "knowledge_random"}
CPT = ("knowledge", "knowledge_random")


def write_parquet(path: Path, rows: list[dict], keep: bool = True) -> None:
    """Without `keep` the file has the columns of the rows and none of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    pq.write_table(table if keep else table.slice(0, 0), path)


def lessons() -> list[dict]:
    rows = []
    for cause in (*PLANTED, None):
        for index in range(PLANTED.get(cause, LEARNABLE_ROWS)):
            domain = DOMAINS.get(cause, "problems")
            rows.append(
                {
                    "id": f"row{len(rows):04d}", "file": f"data/{domain}.jsonl", "line": len(rows) + 1,
                    "prompt": HOSTILE if cause == "base_conflict" and index < 20 else f"What is pet {len(rows)}?",
                    "response": "owl", "kind": "short", "answer": "owl", "truth": cause,
                }
            )  # fmt: skip
    return rows


def write_detected(results: Path, name: str, rows: list[dict], right: dict[str, int]) -> list[dict]:
    """`right`: row id → of 5 runs; rows of less than one are unlearned."""
    found = []
    for row in rows:
        n = right[row["id"]]
        found.append(
            {key: row[key] for key in ("id", "file", "line", "prompt", "response", "kind", "answer")}
            | {
                "answers": ["owl"] * n + ["</script><b>fox"] * (5 - n), "pass_n": n / 5, "severity": (5 - n) / 5,
                "unlearned": n == 0,
            }
        )  # fmt: skip
    folder = results / "detect" / name
    write_parquet(folder / "detected.parquet", found)
    unlearned = [row for row in found if row["unlearned"]]
    write_parquet(folder / "unlearned.parquet", unlearned or found, keep=bool(unlearned))
    hint = "end the response with '#### <number>'"
    without = [{"id": f"x{i}", "file": "f", "line": 1, "reason": "unverifiable", "hint": hint} for i in range(7)]
    write_jsonl(folder / "excluded.jsonl", without)
    counts = {"in": len(found) + 7, "examined": len(found), "excluded": {"unverifiable": 7, "truncated": 0}}
    seal(
        folder / "manifest.json",
        {
            "step": "detect",
            "settings": {"samples": 5, "threshold": 0.2},
            "counts": counts | {"unlearned": len(unlearned), "by_file": {}},
            "outputs": {"unlearned.parquet": "ef" * 32},
        },
    )
    return found


def write_attribution(results: Path, name: str, found: list[dict], truth: dict, draw: random.Random) -> None:
    """Causes of the unlearned rows, nine in ten as planted."""
    evidence, attribution = [], []
    unlearned = [row for row in found if row["unlearned"]]
    for row in unlearned or found:
        planted = truth[row["id"]]
        cause = planted if planted and draw.random() < 0.9 else draw.choice([*CAUSES, UNASSIGNED])
        rival = found[0]["id"] if cause == "data_conflict" else ""
        evidence.append(
            {
                "id": row["id"], "domain": Path(row["file"]).stem, "base_pass": 0.1, "base_answer": "fox",
                "base_agreement": 0.6, "options": ["owl", HOSTILE[:60], "hen"],
                "base_options": [0.1, 0.7, 0.2], "tuned_options": [0.3, 0.5, 0.2], "js": 0.041, "rival": rival,
                "rival_similarity": 0.93, "rival_answer": "hen" if rival else "", "support": 3, "rival_support": 1,
                "trajectory": [False, True, True, False], "domain_peak": 0.9, "domain_final": 0.2, "loss": 1.2,
                "loss_slope": -0.031, "rarity": 0.4,
            }
        )  # fmt: skip
        tests = ["I failed: the base is right in 10 %", "II passed: <i>fox</i> with 70 %"]
        attribution.append(
            {"id": row["id"], "cause": cause, "reason": "The base says fox & <b>owl</b>.", "tests": tests}
        )
    for step, file, content in (
        ("evidence", "evidence.parquet", evidence),
        ("attribute", "attribution.parquet", attribution),
    ):
        write_parquet(results / step / name / file, content, keep=bool(unlearned))
        seal(results / step / name / "manifest.json", {"step": step, "outputs": {file: "cd" * 32}})


def study_run(root: Path, *, seeds=(0,), truth=True, unlearned=True, recipes=tuple(RECIPES)) -> dict:
    """An invented run with a study of incomplete learning; returns the settings for the report."""
    settings = fake_run(root, data=False)
    results, draw = root / "results/fable", random.Random(11)
    rows = lessons()
    planted = {row["id"]: row["truth"] for row in rows}
    nodes, detected = [], []
    for recipe in recipes:
        own, treatment, cured = RECIPES[recipe]
        for seed in seeds:
            tail = "" if len(seeds) == 1 else f"-s{seed}"
            stage, name = "cpt" if recipe in CPT else "sft", recipe + tail
            parent = PARENTS.get(recipe)
            made = node(name, stage, [parent + tail if parent else "base"], recipe=recipe, seed=seed, root=root, **own)
            made |= {
                "treatment": treatment and treatment | {"diagnosis": f"plain{tail}"},
                "study": "incomplete_learning",
                "data": "lessons" if stage == "sft" else None,
            }
            nodes.append(made)
            write_checkpoint(Path(made["folder"]), name, draw, True, 3.0)
            write_evaluation(results, name, (0.5, 0.2, 0.6, 0.5), draw, sampled=False)
            if stage == "cpt":
                continue
            detected.append(name)
            right = {}
            for row in rows:
                cause = row["truth"]
                chance = 0.9 if cause and cause not in cured else 0.1 if cause else 0.02
                right[row["id"]] = 0 if unlearned and draw.random() < chance else draw.randint(1, 5)
            found = write_detected(results, name, rows, right)
            if recipe == "plain":
                write_attribution(results, name, found, planted, draw)
            if truth:
                kinds = {i: f"{cause}_{index % 2}" if cause else "" for index, (i, cause) in enumerate(planted.items())}
                lines = ["id,truth,kind", *(f"{i},{c or 'learnable'},{kinds[i]}" for i, c in planted.items())]
                write_text(results / f"score_causes/{name}/rows.csv", "\n".join(lines) + "\n")
    settings["seeds"] = list(seeds)
    settings["graph"]["nodes"] += nodes
    settings["graph"]["checkpoints"] += [n["name"] for n in nodes]
    plain = [name for name in detected if name.split("-")[0] == "plain"]
    settings["graph"] |= {"detect": {"incomplete_learning": "lessons"}, "detected": detected, "diagnosed": plain}
    return settings


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("learning")
    settings = study_run(root, seeds=(0, 1, 2))
    return root, settings, make(root, settings)


def parquet(root: Path, path: str) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(root / "results/fable" / path).to_pylist()


def marks(root: Path, node_name: str) -> dict[str, bool]:
    return {row["id"]: row["unlearned"] for row in parquet(root, f"detect/{node_name}/detected.parquet")}


def causes(root: Path, seed: int) -> dict[str, str]:
    return {row["id"]: row["cause"] for row in parquet(root, f"attribute/plain-s{seed}/attribution.parquet")}


# --- rates and differences -----------------------------------------------------------------------


def test_cross_table_counts_the_rows_of_each_cause(made):
    root, _, out = made
    row = next(r for r in read_table(out, "incomplete_learning_by_cause") if r["checkpoint"] == "knowing")
    shares, sizes = [], []
    for seed in (0, 1, 2):
        after = marks(root, f"knowing-s{seed}")
        own = [after[i] for i, cause in causes(root, seed).items() if cause == "missing_knowledge"]
        shares.append(np.mean(own))
        sizes.append(len(own))
    value = np.average(shares, weights=sizes)
    assert float(row["missing_knowledge"]) == pytest.approx(value, abs=1e-5)
    assert int(row["missing_knowledge_n"]) == round(np.mean(sizes))
    assert float(row["missing_knowledge_seed_sd"]) == pytest.approx(np.std(shares, ddof=1), abs=1e-5)
    n, z = round(np.mean(sizes)), 1.959964
    edge = (value + z * z / (2 * n) + z * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))) / (1 + z * z / n)
    items, seeds = ((edge - value) / z) ** 2, np.var(shares, ddof=1) / 3
    half = t((items + seeds) ** 2 * 2 / seeds**2).ppf(0.975) * math.sqrt(items + seeds)
    assert float(row["missing_knowledge_high"]) == pytest.approx(value + half, abs=1e-5)


def test_plain_leads_and_its_own_attributed_rows_are_all_unlearned(made):
    _, _, out = made
    first, *others = read_table(out, "incomplete_learning_by_cause")
    assert first["checkpoint"] == "plain"
    assert {float(first[cause]) for cause in (*CAUSES, UNASSIGNED)} == {1.0}
    assert float(first["learned"]) == 0.0
    assert [row["checkpoint"] for row in others] == [name for name in RECIPES if name not in ("plain", *CPT)]


def test_tokens_are_those_of_the_whole_chain(made):
    """Each training of the invented run ends at 54,000 tokens; `together` is the third of its chain."""
    _, _, out = made
    rows = {row["checkpoint"]: int(row["tokens"]) for row in read_table(out, "incomplete_learning_by_cause")}
    assert (rows["plain"], rows["knowing"], rows["together"]) == (54_000, 108_000, 162_000)


def study_of(marks_by_node: dict[str, list[bool]], cause: list[int]) -> learning.Study:
    """One seed, plain first; rows in the order given."""
    n = len(cause)
    ones = np.ones(n, dtype=bool)
    detected = {
        name: learning.Detected(ones, np.array(found, dtype=bool), {}, ones) for name, found in marks_by_node.items()
    }
    study = learning.Study("s", [str(i) for i in range(n)], detected, {"plain": np.array(cause)}, None, None, [])
    study.candidates = [
        learning.StudyCandidate(
            Candidate(name, [Checkpoint(name, name, "s", "sft", [], 0, {}, {})]), (), (), [(name, "plain")]
        )
        for name in marks_by_node
    ]
    return study


def test_kinds_of_planted_rows_have_their_own_rates(made):
    root, _, out = made
    kinds = [i for index, i in enumerate(row["id"] for row in lessons()) if index < 80 and index % 2]
    found = [np.mean([marks(root, f"plain-s{seed}")[i] for i in kinds]) for seed in (0, 1, 2)]
    first = read_table(out, "incomplete_learning_by_kind")[0]
    assert float(first["missing_knowledge_1"]) == pytest.approx(np.mean(found), abs=1e-5)
    assert int(first["missing_knowledge_1_n"]) == 40


def test_differences_are_paired_by_row():
    """The interval over rows agrees with the normal one of the paired differences."""
    draw = np.random.default_rng(3)
    ours, theirs = draw.random(400) < 0.3, draw.random(400) < 0.6
    study = study_of({"plain": [True] * 400, "a": ours, "b": theirs}, [0] * 400)
    _, a, b = study.candidates
    lower = learning_stats.contrast(study, a, b, study.group("missing_knowledge"))
    each = theirs.astype(float) - ours.astype(float)
    stderr = each.std(ddof=1) / 20
    found = each.mean()
    assert lower.value == pytest.approx(found)
    assert lower.stderr == pytest.approx(stderr, rel=0.06)
    assert (lower.low, lower.high) == pytest.approx(
        (each.mean() - 1.96 * stderr, each.mean() + 1.96 * stderr), abs=0.01
    )
    relative = learning_stats.contrast(study, a, b, study.group("missing_knowledge"), relative=True)
    assert relative.value == pytest.approx(1 - ours.mean() / theirs.mean())


def test_samples_scored_with_either_label_give_the_same(tmp_path):
    """`treated` answers as `plain` does; twenty of its rows have the label of those that contradict them."""
    settings = study_run(tmp_path, recipes=("plain", "knowledge", "treated"))
    results = tmp_path / "results/fable"
    rows = parquet(tmp_path, "detect/plain/detected.parquet")
    planted = {row["id"] for row in lessons() if row["truth"] == "data_conflict"}
    relabelled = [row["id"] for row in rows if row["id"] in planted and row["unlearned"]][:20]
    write_parquet(
        results / "detect/treated/detected.parquet",
        [row | ({"answer": "fox", "unlearned": False} if row["id"] in relabelled else {}) for row in rows],
    )
    (study,) = SECTION.read(gather(settings, results, tmp_path))
    plain, treated = study.candidates
    for by_truth in (False, True):
        group = study.group("data_conflict", by_truth)
        assert learning_stats.rate(study, treated, group) == learning_stats.rate(study, plain, group)
        lower = learning_stats.contrast(study, treated, plain, group, relative=True)
        assert lower.value == 0 and lower.low < 0 < lower.high
    # The diagnosed arm alone is told with all of its rows, and what is left out is told.
    assert learning_stats.rate(study, plain, study.group("all"), alone=True).n == len(rows)
    assert learning_stats.rate(study, plain, study.group("all")).n == len(rows) - 20
    assert {row["relabelled"] for row in examined_table(study).rows} == {20}


def test_a_group_that_changed_whole_is_no_certainty():
    """10 of 10 rows learned and none lost: by Wilson's intervals of 10/10 and 0/10, both may be 0.2775 off."""
    study = study_of({"plain": [True] * 10, "a": [False] * 10}, [1] * 10)
    plain, a = study.candidates
    found = learning_stats.contrast(study, a, plain, study.group("base_conflict"), relative=True)
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1 - math.hypot(0.2775, 0.2775), 1.0), abs=1e-4)
    assert learning_stats.contrast(study, a, plain, study.group("data_conflict"), relative=True) is None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.51, 0.9, "held"), (0.5, 0.9, "undecided"), (0.4, 0.6, "undecided"), (0.1, 0.49, "not held")],
)
def test_verdicts(low, high, expected):
    assert verdict(tables.Estimate(0.5, low, high, 0.1, 10), 0.5) == expected


def test_claims_rest_on_own_causes_and_controls(made):
    _, _, out = made
    claims = read_table(out, "incomplete_learning_claims")
    own = {(r["checkpoint"], r["cause"]) for r in claims if r["by"] == "attribution"}
    assert {cause for name, cause in own if name == "knowing"} == {"missing knowledge", "conflict with the base"}
    assert {cause for name, cause in own if name == "shuffled"} == {"left-side forgetting"}
    assert not [name for name, _ in own if name in ("plain", "longer", "knowing_random")]
    overall = [r for r in claims if r["by"] == "–"]
    assert [(r["checkpoint"], r["bar"], r["reached"]) for r in overall] == [("together", "60 %", "held")]
    # The largest of its controls has two thirds of its tokens.
    assert (overall[0]["control"], overall[0]["beats"]) == ("longer", "other budgets")
    assert overall[0]["why"] == "no control has as many tokens: together 162,000, the largest knowing_random 108,000."
    beaten = next(r for r in claims if r["checkpoint"] == "knowing" and r["by"] == "attribution")
    assert (beaten["beats"], beaten["why"]) == ("held", "")
    # `longer` cures insufficient optimisation as well as the treatment does, and is a control.
    last = next(r for r in claims if r["cause"] == "insufficient optimisation" and r["by"] == "truth")
    assert (last["control"], last["reached"]) == ("longer", "held")
    assert last["beats"] != "held"
    differences = read_table(out, "incomplete_learning_differences")
    controls = {r["control"] for r in differences if r["checkpoint"] == "shuffled"}
    assert controls == {"plain", "longer"}
    controls = {r["control"] for r in differences if r["checkpoint"] == "knowing"}
    assert controls == {"plain", "longer", "shuffled", "knowing_random"}


def test_shares_stand_beside_what_was_planted(made):
    _, _, out = made
    rows = read_table(out, "incomplete_learning_causes")
    found = [float(row["planted"]) for row in rows if row["planted"]]
    assert found == pytest.approx([80 / 300, 50 / 300, 60 / 300, 70 / 300, 40 / 300, 300 / 1000], abs=1e-5)


def test_findings_of_the_paper(made):
    """Scores of the invented run differ by chance alone, so that nothing but agreement over seeds is sure."""
    _, _, out = made
    found = {row["claim"]: row for row in read_table(out, "incomplete_learning_findings")}
    assert set(found) == {claim.text for claim in CLAIMS}
    assert found["The same rows are left unlearned over seeds and sampling."]["reading"] == "held"
    epochs = found["Many more epochs hardly raise the target score."]
    assert epochs["here"].startswith("target longer ")
    assert found["About 15 % of the rows are left unlearned."]["verdict"] == "not measured"
    for cause in ("missing knowledge", "conflicts with the base"):
        row = found[f"Continued pre-training on {cause} raises the target score."]
        assert row["here"].startswith("target knowing ") and "knowing_random" in row["here"]
    assert found["Progressive epochs raise the target score."]["verdict"] == "not measured"  # no control at random
    assert found["Continued pre-training costs general score."]["here"].startswith("general base ")


def test_fewer_seeds_leave_promises_open(tmp_path):
    out = make(tmp_path, study_run(tmp_path, recipes=("plain", "longer", "shuffled")))
    rows = read_table(out, "incomplete_learning_claims")
    assert rows and {row["reached"] for row in rows} == {"one seed"} and all(row["why"] for row in rows)


def test_who_treats_what_follows_from_the_graph_not_from_names():
    def made_node(name, parent, settings, treatment=None):
        return {"name": name, "stage": "sft", "parents": [parent], "settings": settings, "treatment": treatment}

    def treat(*causes, at_random=False):
        return {"diagnosis": "x", "causes": list(causes), "at_random": at_random}

    ordered, shuffled = {"order": "sources", "resample": None}, {"order": "shuffle", "resample": None}
    nodes = [
        made_node("x", "base", ordered),
        made_node("y", "base", shuffled),
        made_node("z", "base", ordered | {"resample": {"every": 5}}),
        made_node("u", "base", {}, treat("base_conflict", "missing_knowledge")),
        made_node("v", "u", ordered),
        made_node("w", "v", shuffled, treat("data_conflict", at_random=True)),
        made_node("t", "x", shuffled, treat("insufficient_optimisation")),
    ]
    nodes = {n["name"]: n for n in nodes}
    found = {name: learning.treated(n, nodes["x"], nodes) for name, n in nodes.items()}
    assert found["x"] == ((), ())
    assert learning.treated(nodes["y"], nodes["y"], nodes) == ((), ())  # a shuffle is no change to a shuffle
    assert found["y"] == found["z"] == (("left_side_forgetting",), ())
    assert found["t"] == (("insufficient_optimisation",), ())  # passes over some rows only, after an ordered run
    assert found["v"] == (("missing_knowledge", "base_conflict"), ())
    assert found["w"] == (("missing_knowledge", "base_conflict", "left_side_forgetting"), ("data_conflict",))


# --- truth and seeds -----------------------------------------------------------------------------


def test_scores_against_the_truth(made):
    """Precision, recall and macro F1 of one seed, counted row by row."""
    root, _, out = made
    planted = {row["id"]: row["truth"] for row in lessons()}
    found, given = marks(root, "plain-s0"), causes(root, 0)
    hits = sum(found[i] and planted[i] is not None for i in planted)
    rows = {(r["what"], r["of"], r["seeds"]): r for r in read_table(out, "incomplete_learning_truth")}
    row = rows["detection", "planted rows", "0"]
    assert float(row["precision"]) == pytest.approx(hits / sum(found.values()), abs=1e-5)
    assert float(row["recall"]) == pytest.approx(hits / sum(PLANTED.values()), abs=1e-5)
    each = []
    for cause in CAUSES:
        both = [(given[i], planted[i]) for i in given if planted[i]]
        right = sum(g == t == cause for g, t in both)
        each.append(2 * right / (sum(g == cause for g, _ in both) + sum(t == cause for _, t in both)))
    assert float(rows["attribution", "macro mean", "0"]["f1"]) == pytest.approx(np.mean(each), abs=1e-5)
    assert ("detection", "planted rows", "0 1 2") in rows
    pairs = [(g, planted[i]) for seed in (0, 1, 2) for i, g in causes(root, seed).items() if planted[i]]
    right = pairs.count(("base_conflict", "base_conflict"))
    row = rows["attribution", "II conflict with the base", "0 1 2"]
    assert float(row["precision"]) == pytest.approx(right / sum(g == "base_conflict" for g, _ in pairs), abs=1e-5)
    assert float(row["recall"]) == pytest.approx(right / sum(t == "base_conflict" for _, t in pairs), abs=1e-5)


def test_f1_by_hand():
    """Hits 6, wrong 2, missed 4: F1 = 12/18. Wilson of 5/5 is [0.5655, 1], which makes F1 [0.7225, 1]."""
    assert learning_stats.f1_of([(6, 2, 4)]).value == pytest.approx(2 / 3)
    found = learning_stats.f1_of([(5, 0, 0)])
    assert (found.value, found.low, found.high, found.n) == pytest.approx((1.0, 0.7225, 1.0, 5), abs=1e-4)
    assert learning_stats.f1_of([(0, 0, 0)]) is None
    counts = dict.fromkeys(CAUSES, (0, 0, 0)) | {CAUSES[0]: (5, 0, 0), CAUSES[1]: (0, 0, 3), CAUSES[2]: (0, 4, 0)}
    macro = learning_stats.macro_f1_of([counts])  # the third cause has no rows
    assert macro.value == pytest.approx(0.5)
    assert macro.low < 0.4
    assert macro.high > 0.6


def test_confusion_adds_up_to_the_examined_rows(made):
    _, _, out = made
    rows = read_table(out, "incomplete_learning_confusion")
    assert [float(row["n"]) for row in rows] == pytest.approx([*PLANTED.values(), LEARNABLE_ROWS])


def test_kappa_of_seeds_has_an_interval():
    found = learning_stats.kappa_estimate(np.array([[1, 1, 1], [1, 1, 0], [0, 0, 0], [0, 1, 0]], dtype=bool))
    assert found.value == pytest.approx(1 / 3)
    assert found.low < 1 / 3 < found.high <= 1


def test_rows_by_number_of_seeds(made):
    root, _, out = made
    times = np.sum([list(marks(root, f"plain-s{seed}").values()) for seed in (0, 1, 2)], axis=0)
    rows = read_table(out, "incomplete_learning_seeds")
    assert [int(row["rows"]) for row in rows] == np.bincount(times, minlength=4).tolist()


# --- pages ---------------------------------------------------------------------------------------


def test_pages_are_self_contained_and_links_lead_somewhere(made):
    root, _, out = made
    index = (out / "index.html").read_text(encoding="utf-8")
    assert Page(index).tags.count("script") == 1
    for name in ("index.html", "rows.html"):
        text = (out / name).read_text(encoding="utf-8")
        page = Page(text)
        assert not {"link", "img", "iframe", "object"} & set(page.tags)
        assert not re.search(r"@import|url\((?!#)", text)
        assert not {value for key, value in page.attributes if "://" in value and not key.startswith("xmlns")}
        for key, value in page.attributes:
            if key == "href" and not value.startswith("#"):
                assert (out / value.split("#")[0]).is_file(), value
    hashes = {value for key, value in Page(index).attributes if key == "title"}
    diagnosed = [path.parent.name for path in (root / "results/fable/attribute").glob("*/attribution.parquet")]
    written = [root / "results/fable/detect" / node / "unlearned.parquet" for node in diagnosed]
    written += [root / "results/fable/attribute" / node / "attribution.parquet" for node in diagnosed]
    assert diagnosed and {f"sha256 {sha256_file(path)}" for path in written} <= hashes


def test_hostile_rows_are_shown_and_do_nothing(made):
    _, _, out = made
    for name in ("index.html", "rows.html"):
        text = (out / name).read_text(encoding="utf-8")
        assert "&lt;script&gt;alert(" in text
        assert "&lt;/script&gt;&lt;b&gt;fox" in text
        assert "The base says fox &amp; &lt;b&gt;owl&lt;/b&gt;." in text
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    tags = Page(text).tags
    assert tags.count("script") == 1
    assert "</script>" not in text[text.index("<script>") : text.rindex("</script>")]


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here: apt-get install chromium")
def test_rows_that_are_shown_are_saved_for_repair_and_the_link_shows_them_again(made, tmp_path):
    root, settings, out = made
    (study,) = SECTION.read(gather(settings, root / "results/fable", root))
    cause = study.rows[0]["label"]
    script = f"""(() => {{
      window.Blob = function(lines) {{ window.saved = lines.join(""); }};
      URL.createObjectURL = () => "data:,";
      HTMLAnchorElement.prototype.click = () => {{}};  // a download may keep a headless browser from ending
      const cause = document.getElementById("cause");
      cause.value = "{cause}";
      cause.dispatchEvent(new Event("input", {{bubbles: true}}));
      document.getElementById("save").click();
      return {{text: window.saved, link: location.hash}};
    }})()"""
    seen = ask(out / "rows.html", tmp_path, script)
    saved = [json.loads(line) for line in seen["text"].splitlines()]
    expected = [row for row in study.rows if row["label"] == cause]
    assert 0 < len(expected) < len(study.rows)
    assert [row["id"] for row in saved] == [row["id"] for row in expected]
    assert [(row["prompt"], row["response"], row["cause"]) for row in saved] == [
        (row["prompt"], row["response"], cause) for row in expected
    ]
    count = "document.getElementById('count').textContent"
    assert ask(out / "rows.html", tmp_path, count, link=seen["link"]) == f"{len(expected)} rows"


def test_figures_are_whole_xml_and_themable(made):
    _, _, out = made
    drawn = sorted((out / "figures").glob("incomplete_learning_*.svg"))
    assert [path.stem.removeprefix("incomplete_learning_") for path in drawn] == [
        "by_cause", "by_truth", "causes", "confusion"
    ]  # fmt: skip
    for path in drawn:
        inlined = figures.themed(path.read_text(encoding="utf-8"))
        ElementTree.fromstring(inlined)
        assert "var(--blue)" in inlined


def test_all_unlearned_rows_can_be_browsed(made):
    root, _, out = made
    page = Page((out / "rows.html").read_text(encoding="utf-8"))
    given = causes(root, 0)
    assert sum(key == "data-cause" for key, _ in page.attributes) == len(given)
    text = " ".join(page.text)
    assert f"missing knowledge ({sum(c == 'missing_knowledge' for c in given.values())})" in text


def test_the_folded_part_and_metrics_tell_the_study(made):
    root, settings, out = made
    rates = [np.mean(list(marks(root, f"plain-s{seed}").values())) for seed in (0, 1, 2)]
    assert f"After plain, {100 * np.mean(rates):.1f} % [" in lead(out, "Never learned")
    assert "of the 1,000 rows examined are unlearned" in lead(out, "Never learned")
    (found,) = SECTION.unlearned(SECTION.read(gather(settings, root / "results/fable", root)))
    assert found.checkpoint == "plain"
    assert (found.number, found.unit) == (str(round(1000 * np.mean(rates))), "of 1,000 training rows after plain")
    assert "With together, which treats 5 of 5 causes:" in found.text
    told = json.loads((out / "metrics.json").read_text())["unlearned"]["incomplete_learning"]
    assert told["plain"] == pytest.approx(np.mean(rates), abs=1e-6)
    text = " ".join(Page((out / "index.html").read_text(encoding="utf-8")).text)
    assert "7 rows could not be examined" in " ".join(text.split())


def test_a_user_without_truth_gets_the_rest(tmp_path):
    out = make(tmp_path, study_run(tmp_path, truth=False, recipes=("plain", "knowledge", "treated", "together")))
    names = {path.stem for path in (out / "tables").glob("incomplete_learning_*.csv")}
    expected = ("by_cause", "claims", "differences", "causes", "findings", "examined", "files")
    assert {f"incomplete_learning_{name}" for name in expected} == names
    text = " ".join(Page((out / "index.html").read_text(encoding="utf-8")).text)
    assert "how stable the set of unlearned rows is over seeds is not measured" in text
    assert "planted" not in text.lower()


def test_nothing_unlearned_is_a_valid_study(tmp_path):
    out = make(tmp_path, study_run(tmp_path, unlearned=False, truth=False, recipes=("plain", "shuffled")))
    text = " ".join(Page((out / "index.html").read_text(encoding="utf-8")).text)
    assert "none of the 1,000 rows examined is unlearned: nothing to attribute" in " ".join(text.split())


# The page, and what the report says of itself: when it was made of what, and the hashes of what differs.
VARYING = ("index.html", "manifest.json", ".manifest.json", "provenance.json")


def test_equal_studies_give_equal_bytes(tmp_path):
    contents = []
    for name in ("a", "b"):
        out = make(tmp_path / name, study_run(tmp_path / name, recipes=("plain", "longer", "shuffled")))
        paths = [p for p in out.rglob("*") if p.is_file() and p.name not in VARYING]
        contents.append({str(p.relative_to(out)): p.read_bytes() for p in paths})
    assert contents[0] == contents[1]


def test_an_unfinished_study_is_left_out(tmp_path):
    settings = study_run(tmp_path, recipes=("plain", "shuffled"))
    (tmp_path / "results/fable/attribute/plain/manifest.json").unlink()
    out = make(tmp_path, settings)
    assert 'id="learning"' not in (out / "index.html").read_text(encoding="utf-8")
    assert not (out / "rows.html").exists()
