"""The page in Chromium, from disk: drawn, silent, sortable, reached by keyboard, on a phone, in the dark and on paper."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from support import made_up_adaptation, made_up_comparison
from support.colours import contrast, luminance
from support.made_up_results import MadeUp

from reporting.render.test_page import hostile_study, wait
from tuneport.reporting.run import report
from tuneport.reporting.tables.report_tables import Findings
from tuneport.results.schema import LOSS

pytestmark = pytest.mark.skipif(
    os.environ.get("TUNEPORT_NO_BROWSER") == "1", reason="TUNEPORT_NO_BROWSER=1: the page is not tried in a browser"
)
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium as the system brings it, or as Playwright has fetched it."""
    from playwright.sync_api import Error, sync_playwright

    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        try:
            # Chromium's own sandbox does not start for root, as whom CI runs; the page is ours, and has a policy.
            opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        except Error as error:
            pytest.fail(
                "There is no Chromium to try the page in. Install it (apt-get install chromium, or playwright install "
                f"chromium), or set TUNEPORT_NO_BROWSER=1 to go without knowingly. ({str(error).splitlines()[0]})"
            )
        yield opened
        opened.close()


@dataclass
class Seen:
    """A page that is open, and whatever it complained of or asked for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def opened(browser: Any, file: Path, **options: Any) -> Seen:
    seen = Seen(browser.new_page(**{"viewport": DESK, **options}))
    seen.page.on("console", lambda message: seen.complaints.append(f"{message.type}: {message.text}"))
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.on("request", lambda request: seen.requests.append(request.url))
    seen.page.goto(file.as_uri())
    seen.page.wait_for_selector("html[data-drawn=yes]", timeout=60_000)
    return seen


@pytest.fixture(scope="module")
def desk(browser: Any, page_file: Path) -> Iterator[Seen]:
    """The page on a desk; tests leave it as they found it."""
    seen = opened(browser, page_file)
    yield seen
    seen.page.close()


def accessible(seen: Seen) -> list[tuple[str, str]]:
    """What axe-core has against the page as it stands: the rule and the first place."""
    seen.page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
    found = seen.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_screen_reader_finds_nothing_amiss_with_all_folds_open(desk: Seen, scheme: str) -> None:
    desk.page.emulate_media(color_scheme=scheme)
    opened_here = desk.page.evaluate_handle(
        "[...document.querySelectorAll('details:not([open])')].map(each => { each.open = true; return each; })"
    )
    assert accessible(desk) == []
    opened_here.evaluate("all => all.forEach(each => { each.open = false; })")
    desk.page.emulate_media(color_scheme="light")


def test_a_study_that_runs_and_a_page_of_many_tasks_are_as_accessible(browser: Any, tmp_path: Path) -> None:
    tasks = tuple(f"task {number}" for number in range(5))
    root = MadeUp(tmp_path / "study", families=(0,), tasks=tasks).write()
    wait(root, "M5 + Δ(M2)")
    report(root)
    for size in (DESK, PHONE):
        seen = opened(browser, root / "report.html", viewport=size)
        assert accessible(seen) == [] and seen.complaints == []
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        seen.page.close()


def test_a_comparisons_page_is_as_accessible_on_a_desk_on_a_phone_and_in_the_dark(browser: Any, tmp_path: Path) -> None:
    file = made_up_comparison.write(tmp_path / "compared.json", pairs=2)
    report(file)
    for options in ({"viewport": DESK}, {"viewport": PHONE}, {"viewport": DESK, "color_scheme": "dark"}):
        seen = opened(browser, tmp_path / "compared.html", **options)
        seen.page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        assert accessible(seen) == [] and seen.complaints == []
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= options["viewport"]["width"]
        paper = luminance(seen.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        seen.page.locator(".plot .cbaxis text").first.wait_for(timeout=20_000)
        fill = seen.page.locator(".plot .cbaxis text").first.evaluate("e => getComputedStyle(e).fill")
        assert contrast(luminance(fill), paper) >= 4.5
        seen.page.close()


@pytest.mark.parametrize(("chosen", "measure"), [("distil", "quality"), ("add", "agreement")])
def test_an_adaptations_page_is_as_accessible_on_a_desk_on_a_phone_and_in_the_dark(
    browser: Any, tmp_path: Path, chosen: str, measure: str
) -> None:
    report(made_up_adaptation.write(tmp_path / "adapted.json", chosen, measure))
    for options in ({"viewport": DESK}, {"viewport": PHONE, "color_scheme": "dark"}):
        seen = opened(browser, tmp_path / "adapted.html", **options)
        seen.page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        assert accessible(seen) == [] and seen.complaints == []
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= options["viewport"]["width"]
        assert seen.page.locator(".plot .main-svg .points path").count() > 3
        seen.page.close()


def test_the_first_screen_has_the_answer_and_its_three_numbers(desk: Seen) -> None:
    for what in (".lead", ".facts > div:nth-child(3)", "#answer table.matrix thead"):
        box = desk.page.locator(what).first.bounding_box()
        assert box["y"] + box["height"] <= DESK["height"], what


def test_a_link_to_a_folded_section_opens_it(browser: Any, tmp_path: Path) -> None:
    root = MadeUp(tmp_path / "study", families=(0,), failed=None, tasks=tuple("abcd")).write()
    report(root)
    seen = opened(browser, root / "report.html")
    assert not seen.page.locator("#scores > details").evaluate("fold => fold.open")
    seen.page.locator("nav a[href='#scores']").click()
    seen.page.locator("#scores > details[open]").wait_for(timeout=5_000)
    seen.page.close()


def rows_of(table: Any) -> list[str]:
    return table.evaluate("t => [...t.tBodies[0].rows].map(row => row.cells[0].textContent)")


def numbers_of(table: Any, column: int) -> list[float | None]:
    cells = table.evaluate("(t, c) => [...t.tBodies[0].rows].map(row => row.cells[c].dataset.by ?? null)", column)
    return [None if cell is None else float(cell) for cell in cells]


def test_it_opens_from_disk_draws_every_figure_and_says_and_asks_nothing(desk: Seen, page_file: Path) -> None:
    assert desk.page.title() == "made-up · tuneport report"
    places = desk.page.locator(".plot").count()
    assert places > 20 and desk.page.locator(".plot .main-svg").count() >= places
    assert desk.complaints == []
    assert desk.requests == [page_file.as_uri()]


def test_the_loss_of_answers_is_folded_and_drawn_when_it_is_opened_or_printed(browser: Any, tmp_path: Path) -> None:
    made = MadeUp(tmp_path / "study", families=(0,), failed=None, tasks=("sums", f"sums{LOSS}"))
    report(made.write())
    seen = opened(browser, made.root / "report.html")
    folds = seen.page.locator("details.task:has(.plot)")  # long tables are folded too
    assert folds.count() >= 4 and {
        *folds.locator("summary h3").evaluate_all("all => all.map(h => h.firstChild.data.trim())")
    } == {f"sums{LOSS}"}
    drawn = folds.locator(".main-svg")
    assert drawn.count() == 0 and seen.page.locator("section > div > h3").count() > 0
    folds.first.locator("summary").click()
    folds.first.locator(".main-svg").first.wait_for(timeout=5_000)
    assert folds.first.locator(".plot").first.bounding_box()["width"] > 300
    seen.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert folds.evaluate_all("all => all.every(fold => fold.open)")
    assert folds.locator(".plot:not(:has(.main-svg))").count() == 0
    seen.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert folds.evaluate_all("all => all.filter(fold => fold.open).length") == 1, "as its reader left it"
    assert seen.complaints == []
    seen.page.close()


def test_the_cells_of_the_heat_map_show_their_numbers_when_pointed_at(desk: Seen, found: Findings) -> None:
    matrix = found.transfers[0]
    cell = next(c for c in matrix.deltas if (c.model.source, c.model.target) == ("M4", "M5"))
    area = desk.page.locator(".plot .plot .heatmaplayer, .plot .heatmaplayer").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    # The fifth column, and the fifth row of seven: + Δ(M4).
    desk.page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + (4.5 / 7) * box["height"])
    hover = desk.page.locator(".hoverlayer .hovertext").first
    hover.wait_for(timeout=5_000)
    words = hover.text_content()
    assert cell.shown is not None and cell.recovered is not None
    assert "M5 + Δ(M4)" in words and f"{100 * cell.shown.value:.1f}\u00a0%" in words and "n = 200" in words
    assert "over M5" in words and f"recovered gain {cell.recovered.value:.2f}" in words
    desk.page.mouse.move(0, 0)


def test_the_numbers_in_the_heat_map_stand_out_from_their_cells(desk: Seen) -> None:
    area = desk.page.locator(".plot").first
    area.scroll_into_view_if_needed()
    labels = area.locator(".heatmap-label tspan")
    assert labels.count() == 30
    fills = labels.evaluate_all("all => all.map(text => getComputedStyle(text).fill)")
    assert {luminance(fill) for fill in fills} == {0.0, 1.0}, "black on light cells, white on dark ones"


def test_a_heading_sorts_its_column_down_then_up_then_as_it_was(desk: Seen) -> None:
    table = desk.page.locator("table.matrix").first
    first = rows_of(table)
    heading = table.locator("thead th").nth(5)
    button = heading.locator("button")
    button.click()
    down = numbers_of(table, 5)
    known = [number for number in down if number is not None]
    assert heading.get_attribute("aria-sort") == "descending"
    assert known == sorted(known, reverse=True) and len(known) == 6 and down[-1] is None, "what is empty comes last"
    button.click()
    up = [number for number in numbers_of(table, 5) if number is not None]
    assert heading.get_attribute("aria-sort") == "ascending" and up == sorted(up)
    button.click()
    assert heading.get_attribute("aria-sort") == "none" and rows_of(table) == first


def test_sorting_and_reading_need_no_mouse(desk: Seen) -> None:
    page = desk.page
    page.evaluate("window.scrollTo(0, 0)")
    page.mouse.click(1, 1)  # the keyboard goes on from where the mouse was last
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["y"] >= 0, "the skip link shows itself when it is reached"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "results"
    page.keyboard.press("Tab")
    reached = []
    for _ in range(12):
        reached.append(page.evaluate("document.activeElement.tagName"))
        if reached[-1] == "BUTTON":
            break
        page.keyboard.press("Tab")
    assert reached[-1] == "BUTTON", reached
    heading = page.evaluate_handle("document.activeElement.closest('th')")
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none", "where the keyboard is can be seen"
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "none"


def test_other_models_answers_can_be_chosen(desk: Seen) -> None:
    select = desk.page.locator(".choosers select").nth(1)
    before = select.input_value()
    select.select_option(label="M5 + Δ(M4) → FT")
    heads = desk.page.locator("table.answers").first.locator("thead th").all_text_contents()
    assert heads[2:] == ["M5", "M5 + Δ(M4) → FT", "FT(M5)"]
    select.select_option(value=before)
    assert desk.page.locator("table.answers thead th").nth(3).text_content() == "M5 + Δ(M4)"


def test_a_record_is_one_link_away(desk: Seen) -> None:
    link = desk.page.locator("#failures a[href^='#step-']").first
    link.click()
    record = desk.page.locator(str(link.get_attribute("href")).replace("#", "details#"))
    assert record.evaluate("details => details.open") and record.locator("pre").first.is_visible()
    desk.page.evaluate("history.replaceState(null, '', location.pathname)")


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_letters_are_readable_in_light_and_in_dark(desk: Seen, scheme: str) -> None:
    desk.page.emulate_media(color_scheme=scheme)
    paper = luminance(desk.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (paper < 0.1) == (scheme == "dark")
    for what, property in (
        ("p", "color"),
        ("figcaption", "color"),
        (".interval", "color"),
        (".worse .gain", "color"),
        (".mark", "color"),
        ("nav a", "color"),
        (".plot .xtick text", "fill"),
        (".plot .ytick text", "fill"),
        (".plot .legendtext", "fill"),
        (".plot .g-ytitle text", "fill"),
    ):
        colour = desk.page.locator(what).first.evaluate("(e, p) => getComputedStyle(e)[p]", property)
        assert contrast(luminance(colour), paper) >= 4.5, (what, colour)
    lines = desk.page.locator(".scatterlayer .js-line").evaluate_all("all => all.map(l => getComputedStyle(l).stroke)")
    assert len(lines) > 50
    assert min(contrast(luminance(colour), paper) for colour in lines) >= 3


def test_on_a_phone_nothing_hangs_out_of_the_page(browser: Any, page_file: Path) -> None:
    seen = opened(browser, page_file, viewport=PHONE, has_touch=True, is_mobile=True)
    seen.page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360
    wide = seen.page.evaluate(
        "[...document.querySelectorAll('.plot, p, pre, figure, select, .scroller')]"
        ".filter(e => e.getBoundingClientRect().right > 361).map(e => e.className || e.tagName)"
    )
    assert wide == []
    assert seen.page.locator(".plot .main-svg").first.bounding_box()["width"] <= 360
    seen.page.close()


def test_on_paper_it_has_pages_with_figures_as_wide_as_the_paper(desk: Seen) -> None:
    seen = desk
    seen.page.emulate_media(color_scheme="dark")
    printed = seen.page.pdf(format="A4")
    assert printed.startswith(b"%PDF-") and len(re.findall(rb"/Type\s*/Page\b", printed)) >= 10
    seen.page.emulate_media(media="print")
    assert luminance(seen.page.evaluate("getComputedStyle(document.body).backgroundColor")) == 1.0, "paper is white"
    assert not seen.page.locator("nav").is_visible()
    seen.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    widths = seen.page.locator(".plot .main-svg").evaluate_all("all => all.map(s => s.getBoundingClientRect().width)")
    assert max(widths) <= 645
    seen.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    seen.page.emulate_media(media="screen", color_scheme="light")
    assert seen.complaints == []


def test_nothing_that_a_study_holds_is_ever_run(browser: Any, tmp_path: Path) -> None:
    file = Path(report(hostile_study(tmp_path / "study"))["out"])
    seen = opened(browser, file)
    assert "script" in seen.page.title() and seen.page.title() != "owned"
    assert seen.page.locator("img").count() == 0
    select = seen.page.locator(".choosers select").first
    select.select_option(index=3)
    assert seen.page.locator("img").count() == 0 and seen.complaints == []
    assert [url for url in seen.requests if url != file.as_uri()] == []
    seen.page.close()
