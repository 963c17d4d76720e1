"""The page in a real browser, opened from the disk: sort, filter, compare, follow links, and nothing leaves it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait
from site_records import HOSTILE, REQUIRED, entries, read, write_records

from iml_bench.board import Board, compare_models, words
from iml_bench.site.build import build_site
from iml_bench.site.write import write_site

BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no Chromium with chromedriver here (apt-get install chromium chromium-driver)"
)
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--force-prefers-reduced-motion", "--window-size=1400,1000"),
)


@pytest.fixture(scope="module")
def board_and_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Board, Path]:
    """A board and the folder of its page; the name of the folder needs quoting."""
    root = tmp_path_factory.mktemp("browser")
    write_records(root / "records")
    stored, board, left_out = read(root / "records")
    write_site(build_site(board, stored, entries(), REQUIRED, left_out), root / "a page")
    return board, root / "a page"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Headless Chromium with a profile of its own."""
    options = ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = Chrome(options=options, service=ChromeService(DRIVER))
    yield found
    found.quit()


@pytest.fixture
def board(board_and_page: tuple[Board, Path]) -> Board:
    """The board."""
    return board_and_page[0]


@pytest.fixture
def page(board_and_page: tuple[Board, Path], browser: Chrome) -> Iterator[Chrome]:
    """The page as it was opened anew; whatever a test does there, nothing may go wrong or out."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get("about:blank")  # its start page, which asks for much, is gone
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(board_and_page[1].joinpath("index.html").as_uri())
    _ready(browser)
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    asked = [url for url in _requests(browser) if not url.startswith(("file:", "data:", "blob:", "about:"))]
    assert asked == []


def _requests(browser: Chrome) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def _ready(browser: Chrome, what: str = "document.documentElement.dataset.ready === 'table'") -> None:
    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(f"return {what}"))


def _shown(browser: Chrome) -> list[Any]:
    return browser.find_elements(By.CSS_SELECTOR, "#board tbody tr[data-model]")


def _values(browser: Chrome, column: str) -> list[Any]:
    cells = browser.find_elements(By.CSS_SELECTOR, f"#board tbody td[data-column={column}]")
    return [json.loads(cell.get_attribute("data-value") or "") for cell in cells]


def _names(browser: Chrome) -> list[str]:
    return [row.find_element(By.CSS_SELECTOR, "th a").text for row in _shown(browser)]


def _choose(browser: Chrome, field: str, label: str) -> None:
    Select(browser.find_element(By.NAME, field)).select_by_visible_text(label)


def test_the_table_opens_at_the_first_task_best_first(page: Chrome, board: Board) -> None:
    expected = [row.model for row in board.rows if row.label == "vision@2" and row.internalised and not row.reference]
    assert _names(page)[: len(expected)] == expected
    assert Select(page.find_element(By.NAME, "task")).first_selected_option.text == "vision@2"


def _sort(browser: Chrome, heading: str) -> Any:
    """Click a heading and wait until the rows are sorted anew."""
    found = {cell.text.strip(): cell for cell in browser.find_elements(By.CSS_SELECTOR, "#board thead th")}[heading]
    browser.execute_script("iml.sorted = false; iml.table.one('draw', () => { iml.sorted = true; })")
    found.click()
    _ready(browser, "iml.sorted")
    return found


def test_sorting_by_a_column(page: Chrome) -> None:
    before = _values(page, "parameters")
    heading = _sort(page, "param.")
    after = _values(page, "parameters")
    known = [value for value in after if value is not None]
    assert known == sorted(known, reverse=True) and after != before
    assert after[len(known) :] == [None] * (len(after) - len(known)) and len(known) < len(after)
    assert heading.get_attribute("aria-sort") == "descending"
    page.execute_script("iml.sorted = false; iml.table.one('draw', () => { iml.sorted = true; })")
    heading.find_element(By.CSS_SELECTOR, "[role=button]").send_keys(Keys.ENTER)
    _ready(page, "iml.sorted")
    assert [value for value in _values(page, "parameters") if value is not None] == sorted(known)
    assert _values(page, "parameters")[-1] is None


def test_a_score_that_means_nothing_is_last_either_way(page: Chrome) -> None:
    for reverse in (True, False):
        _sort(page, "IML [95 %]")
        names, scores = _names(page), _values(page, "iml")
        assert set(names[-2:]) == {"vit-plain", "convnet-m"}, "no uptake, failed"
        assert scores[:-2] == sorted(scores[:-2], reverse=reverse) and len(scores) > 8


def test_filters(page: Chrome, board: Board) -> None:
    everything = len(_shown(page))
    _choose(page, "family", "mlp")
    assert _names(page) == ["mlp-l", "mlp-m", "mlp-s"]
    _choose(page, "task", "vision@2 alpha=0.5")
    assert _names(page) == [r.model for r in board.rows if r.changes and not r.reference]
    _choose(page, "task", "all tasks")
    assert len(_shown(page)) == 5
    _choose(page, "family", "any")
    _choose(page, "size", "under 100k")
    small = [r for r in board.rows if not r.reference and r.parameters is not None and r.parameters < 10**5]
    assert len(_shown(page)) == len(small)
    _choose(page, "size", "any")
    _choose(page, "task", "vision@2")
    page.find_element(By.NAME, "text").send_keys("convnet hidden")
    assert set(_names(page)) == {"convnet-s", "convnet-m"}
    assert page.execute_script("return location.hash") == "#text=convnet+hidden"
    page.find_element(By.NAME, "text").clear()
    page.find_element(By.NAME, "text").send_keys(" ")
    assert len(_shown(page)) == everything


def test_two_models_side_by_side(page: Chrome, board: Board, board_and_page: tuple[Board, Path]) -> None:
    rows = [row for row in board.rows if row.label == "vision@2"]
    (wanted,) = compare_models(rows, ["mlp-m", "mlp-s"])
    for name in ("mlp-m", "mlp-s"):
        box = page.find_element(By.CSS_SELECTOR, f"#board input[name=compare][value='{name}']")
        page.execute_script("arguments[0].focus()", box)
        box.send_keys(Keys.SPACE)
    _ready(page, "document.querySelector('#comparison td[data-column=difference]')")
    shown = page.find_element(By.CSS_SELECTOR, "#comparison td[data-column=difference]")
    assert json.loads(shown.get_attribute("data-value") or "") == wanted.difference.mean
    assert shown.text == words.with_interval(wanted.difference)
    p = page.find_element(By.CSS_SELECTOR, "#comparison td[data-column=p]")
    assert (p.text, json.loads(p.get_attribute("data-value") or "")) == (words.p_value(wanted.p), wanted.p)
    row = next(row for row in rows if row.model == "mlp-s")
    scores = page.find_elements(By.CSS_SELECTOR, "#comparison table.scores td[data-column=iml]")
    assert scores[1].text == words.score(row)
    assert "2 selected: mlp-m, mlp-s" in page.find_element(By.ID, "selection").text
    linked = page.execute_script("return location.href")
    assert linked.endswith("#compare=mlp-m%2Cmlp-s")
    page.get("about:blank")
    page.get(linked)
    _ready(page, "document.querySelector('#comparison td[data-column=difference]')")
    assert len(page.find_elements(By.CSS_SELECTOR, "#board input[name=compare]:checked")) == 2


def test_a_hostile_name_is_compared_as_text(page: Chrome) -> None:
    for row in _shown(page):
        if row.find_element(By.CSS_SELECTOR, "th a").text in HOSTILE[:3]:
            row.find_element(By.NAME, "compare").send_keys(Keys.SPACE)
    _ready(page, "document.querySelectorAll('#comparison td[data-column=difference]').length === 3")
    said = page.find_element(By.ID, "comparison").text
    assert all(name in said for name in HOSTILE[:3])
    _ready(page, "document.documentElement.dataset.charts === 'drawn'")
    assert page.execute_script("return document.querySelectorAll('img, #main script').length") == 0


def test_charts_are_drawn_for_the_chosen_task_and_scheme(page: Chrome) -> None:
    _ready(page, "document.documentElement.dataset.charts === 'drawn'")
    charts = page.find_elements(By.CSS_SELECTOR, ".chart svg.marks")
    assert len(charts) == 2
    named = page.find_elements(By.CSS_SELECTOR, ".chart[aria-label], .chart [role=graphics-document]")
    assert [element.get_attribute("aria-label") for element in named] == [
        "IML against parameters by family, vision@2; see the table",
        "Uptake under the reliable, unreliable and fresh tag by model, vision@2; see the table",
    ]
    color = "return getComputedStyle(document.body).backgroundColor"
    before = page.execute_script(color)
    page.execute_script("document.querySelector('.chart svg.marks').id = 'old'")
    page.find_element(By.ID, "scheme").click()
    assert page.execute_script(color) != before
    _ready(page, "!document.getElementById('old') && document.querySelectorAll('.chart svg.marks').length === 2")
    page.refresh()
    _ready(page)
    assert page.execute_script(color) != before, "the scheme is remembered"
    page.find_element(By.ID, "scheme").click()


def test_links_lead_to_the_model_the_task_and_the_record(page: Chrome, board: Board) -> None:
    page.find_element(By.LINK_TEXT, "mlp-m").click()
    assert page.find_element(By.TAG_NAME, "h1").text == "mlp-m"
    _ready(page, "document.documentElement.dataset.charts === 'drawn'")
    assert len(page.find_elements(By.CSS_SELECTOR, ".chart svg.marks")) == 1, "its learning curve"
    seed = page.find_element(By.CSS_SELECTOR, "tr[data-seed='1']")
    shown = json.loads(seed.find_element(By.CSS_SELECTOR, "td[data-column=iml]").get_attribute("data-value") or "")
    seed.find_element(By.LINK_TEXT, "record").click()
    record = json.loads(page.find_element(By.TAG_NAME, "body").text)
    assert (record["cell"]["seed"], record["scores"]["iml"]) == (1, shown)
    page.back()
    page.find_element(By.LINK_TEXT, "vision@2").click()
    assert page.find_element(By.TAG_NAME, "h1").text == "vision"
    assert page.execute_script("return document.querySelector('.examples img').naturalWidth") > 0
    assert page.find_elements(By.TAG_NAME, "h1")


@pytest.mark.parametrize(
    "name", ["index.html", "guide.html", "models/mlp-m.html", "tasks/vision.html", "tasks/text.html"]
)
def test_no_page_scrolls_sideways_on_a_phone(page: Chrome, board_and_page: tuple[Board, Path], name: str) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    page.get(board_and_page[1].joinpath(name).as_uri())
    if name == "index.html":
        _ready(page, "document.documentElement.dataset.charts === 'drawn'")
    assert page.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [390, 390]


def test_what_a_screen_reader_needs(page: Chrome) -> None:
    unnamed = """return [...document.querySelectorAll('input, select, button, a')].filter((e) => e.offsetParent
        && !(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label'))).map((e) => e.outerHTML)"""
    assert page.execute_script(unnamed) == []
    assert page.execute_script("return [...document.querySelectorAll('table')].filter((t) => !t.caption).length") == 0
    assert page.execute_script("return document.querySelectorAll('th:not([scope])').length") == 0
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert page.execute_script("return document.activeElement.className") == "skip"
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert Select(page.find_element(By.NAME, "task")).first_selected_option.text == "vision@2"
