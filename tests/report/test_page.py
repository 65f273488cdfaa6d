"""The report's page in a real browser: what its first screen holds, that it fits, sorts, searches, folds and points."""

import contextlib
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from tests.report import test_report
from tests.report.test_report import fake_run, make

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here: apt-get install chromium")
# An own profile, so that the browser of whoever runs the tests stays as it is.
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=4000", "--dump-dom")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("page")
    return make(root, fake_run(root)) / "index.html"


def browse(address: str, folder: Path, *flags: str) -> str:
    """The document after its scripts have run. A browser that hangs, as one in hundreds does here, is started again."""
    for attempt in range(3):
        command = [BROWSER, *FLAGS, f"--user-data-dir={folder / f'profile-{attempt}'}", *flags, address]
        with contextlib.suppress(subprocess.TimeoutExpired):
            return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    raise AssertionError(f"{BROWSER} hangs at {address}")


def ask(page: Path, folder: Path, script: str, width: int = 1400, height: int = 900, link: str = "") -> dict:
    """What an expression says of the page in a frame of this size, in CSS pixels.

    A window cannot be as narrow as a phone, a frame can.
    """
    asking = f"<script>setTimeout(() => parent.postMessage(JSON.stringify({script}), '*'), 300)</script>"
    asked = page.with_name(f"asked_{page.name}")
    asked.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{asking}</body>"), encoding="utf-8")
    frame = folder / "frame.html"
    size = f"width: {width}px; height: {height}px; border: 0"
    frame.write_text(
        f"<iframe src='file://{asked}{link}' style='{size}'></iframe><pre id='said'></pre>"
        "<script>addEventListener('message', e => { document.getElementById('said').textContent = e.data; })</script>"
    )
    document = browse(f"file://{frame}", folder, f"--window-size={max(width, 600)},{height}")
    said = re.search(r'<pre id="said">(.*?)</pre>', document, flags=re.DOTALL)[1]
    assert said, "the page said nothing: a script of it failed"
    return json.loads(unescape(said))


BOXES = """(() => {
  const box = one => { const b = document.querySelector(one).getBoundingClientRect(); return [b.top, b.bottom]; };
  return {verdict: box(".verdict"), picture: box(".first svg"), answers: box(".answers"),
          count: document.querySelectorAll(".answer").length, wide: document.documentElement.scrollWidth,
          tall: document.documentElement.scrollHeight};
})()"""


def test_the_first_screen_holds_verdict_picture_and_four_answers(page, tmp_path):
    seen = ask(page, tmp_path, BOXES)
    assert seen["count"] == 4
    for part in ("verdict", "picture", "answers"):
        top, bottom = seen[part]
        assert 0 < top < bottom < 900, (part, seen[part])
    assert seen["wide"] <= 1400 and seen["tall"] < 6000
    assert page.stat().st_size < 5e6


def test_nothing_but_tables_and_pictures_scrolls_sideways_on_a_phone(page, tmp_path):
    everything = BOXES.replace(
        "(() => {", '(() => { document.querySelectorAll("details").forEach(d => d.open = true);', 1
    )
    assert ask(page, tmp_path, everything, width=390)["wide"] <= 390


def test_text_of_pictures_is_never_small(page, tmp_path):
    smallest = """(() => {
      document.querySelectorAll("details").forEach(d => d.open = true);
      const texts = [...document.querySelectorAll(".drawing svg text")].filter(text => text.getClientRects().length);
      const heights = texts.map(text => {
        const scale = text.ownerSVGElement.getScreenCTM().a;
        return parseFloat(getComputedStyle(text).fontSize) * scale;
      });
      return {least: Math.min(...heights), n: heights.length};
    })()"""
    for width in (1400, 390):
        seen = ask(page, tmp_path, smallest, width=width)
        assert seen["n"] > 50 and seen["least"] >= 10.9, (width, seen)


def test_a_phone_has_a_picture_that_fits_and_a_wide_page_another(page, tmp_path):
    script = """[...document.querySelectorAll(".first .drawing")].map(one => {
      const box = one.querySelector("svg").getBoundingClientRect();
      return {name: one.className, width: box.width, scrolls: one.scrollWidth > one.clientWidth};
    })"""
    for width, shown in ((1400, "drawing broad"), (390, "drawing narrow")):
        pictures = [one for one in ask(page, tmp_path, script, width=width) if one["width"]]
        assert [one["name"] for one in pictures] == [shown]
        assert 300 < pictures[0]["width"] <= width and not pictures[0]["scrolls"]


COLUMN = """const table = document.querySelector("table.find"), heads = [...table.tHead.rows[0].cells];
  const column = heads.findIndex(head => head.textContent.startsWith("target"));
  const shown = () => [...table.tBodies[0].rows].filter(row => !row.hidden);
  const names = () => shown().map(row => row.cells[0].textContent.trim());"""


def test_checkpoints_are_sorted_by_a_click_and_the_link_keeps_it(page, tmp_path):
    script = f"""(() => {{ {COLUMN}
      const before = names(), button = heads[column].querySelector("button");
      button.click();
      const once = names(), order = heads[column].getAttribute("aria-sort");
      button.click();
      return {{before, once, order, twice: names(), link: location.hash, reached: button.tabIndex}};
    }})()"""
    seen = ask(page, tmp_path, script)
    rows = test_report.read_table(page.parent, "checkpoints")
    ranked = [row["checkpoint"] for row in sorted(rows, key=lambda row: -float(row["target"])) if row["target"]]
    assert seen["before"] == [row["checkpoint"] for row in rows]
    assert (seen["order"], seen["reached"]) == ("descending", 0)
    assert seen["once"][: len(ranked)] == ranked
    assert seen["twice"][: len(ranked)] == sorted(ranked, key=lambda name: -ranked.index(name))
    again = ask(page, tmp_path, f"(() => {{ {COLUMN} return names(); }})()", link=seen["link"])
    assert again == seen["twice"]


def test_checkpoints_are_searched(page, tmp_path):
    script = f"""(() => {{ {COLUMN}
      const search = document.querySelector("input.find");
      search.value = "lora"; search.dispatchEvent(new Event("input"));
      return {{left: names(), label: search.getAttribute("aria-label"), link: location.hash}};
    }})()"""
    seen = ask(page, tmp_path, script)
    every = [row["checkpoint"] for row in test_report.read_table(page.parent, "checkpoints")]
    assert seen["label"] and seen["left"] and set(seen["left"]) < set(every)
    assert set(seen["left"]) >= {name for name in every if "lora" in name}
    assert ask(page, tmp_path, f"(() => {{ {COLUMN} return names(); }})()", link=seen["link"]) == seen["left"]


def test_points_and_rows_show_each_other_and_say_their_numbers(page, tmp_path):
    script = """(() => {
      const marks = [...document.querySelectorAll(".first .mark")];
      const rows = [...document.querySelectorAll("table.find tbody tr")];
      const row = name => rows.find(one => one.cells[0].textContent.trim() === name);
      return marks.map(mark => {
        const name = mark.dataset.name;
        mark.dispatchEvent(new Event("mouseenter"));
        const there = row(name).classList.contains("pointed");
        mark.dispatchEvent(new Event("mouseleave"));
        row(name).dispatchEvent(new Event("mouseenter"));
        const back = mark.classList.contains("pointed") && row(name).classList.contains("pointed");
        return {name, there, back, told: mark.querySelector("title").textContent};
      });
    })()"""
    seen = ask(page, tmp_path, script)
    assert len(seen) > 3 and all(one["there"] and one["back"] for one in seen)
    assert all(
        re.fullmatch(rf"{one['name']}: target [\d.]+ \[.*\] %, general [\d.]+ \[.*\] %", one["told"]) for one in seen
    )


def test_parts_are_folded_opened_by_the_navigation_and_kept_by_the_link(page, tmp_path):
    script = """(() => {
      const parts = [...document.querySelectorAll("details.part")];
      const open = () => parts.filter(part => part.open).map(part => part.parentElement.id);
      const before = open(), last = [...document.querySelectorAll("nav a")].pop();
      last.click();
      const sticky = getComputedStyle(document.querySelector("nav")).position;
      return {before, after: open(), last: last.getAttribute("href").slice(1), sticky};
    })()"""
    seen = ask(page, tmp_path, script)
    assert seen["before"] == ["scores"] and seen["after"] == ["scores", seen["last"]]
    assert seen["sticky"] == "sticky"
    opened = """[...document.querySelectorAll("details.part")].filter(p => p.open).map(p => p.parentElement.id)"""
    assert ask(page, tmp_path, opened, link=f"#open=scores+{seen['last']}") == ["scores", seen["last"]]
    assert ask(page, tmp_path, opened, link="#open=") == []


def test_all_is_there_without_scripts(page, tmp_path):
    """The page without its script: every row and answer has a place on it once its part is opened."""
    still = page.with_name("still.html")
    still.write_text(re.sub(r"<script>.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    script = """(() => {
      document.querySelectorAll("details").forEach(d => d.open = true);
      const shown = one => one.getBoundingClientRect().height > 0;
      const rows = [...document.querySelectorAll("table tr")];
      return {rows: rows.length, hidden: rows.filter(row => !shown(row)).length, scripts: document.scripts.length,
              answers: [...document.querySelectorAll(".answer")].filter(shown).length,
              names: [...document.querySelectorAll("table.find tbody tr")].map(row => row.cells[0].textContent.trim())};
    })()"""
    seen = ask(still, tmp_path, script)
    assert (seen["answers"], seen["hidden"], seen["scripts"]) == (4, 0, 1)  # the script that asks
    assert seen["names"] == [row["checkpoint"] for row in test_report.read_table(page.parent, "checkpoints")]


def test_everything_that_can_be_used_has_a_name(page, tmp_path):
    script = """(() => {
      const named = one => (one.getAttribute("aria-label") || one.textContent).trim() !== "";
      const every = [...document.querySelectorAll("a, button, input, summary, svg[role=img], [role=region], nav")];
      return {n: every.length, nameless: every.filter(one => !named(one)).map(one => one.outerHTML.slice(0, 80)),
              requests: performance.getEntriesByType("resource").map(one => one.name)};
    })()"""
    seen = ask(page, tmp_path, script)
    assert seen["n"] > 30 and seen["nameless"] == [] and seen["requests"] == []
