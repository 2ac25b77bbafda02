"""The HTML report in a real browser: it opens without errors, and every control does what it says."""

import re
import shutil

import pytest

from tests.case_wtal.evil import evil_report

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, "--window-size=1400,1000", f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return evil_report(tmp_path_factory.mktemp("report"))


@pytest.fixture
def page(browser, report):
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(report[0].as_uri())
    wait(lambda: find(browser, "timeline").get_attribute("data-tracks"))
    yield browser
    assert browser.get_log("browser") == []


def find(browser, name):
    return browser.find_element("id", name)


def wait(condition, seconds=20):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(None, seconds, poll_frequency=0.05).until(lambda _: condition())


def visible_range(browser):
    canvas = find(browser, "timeline")
    return float(canvas.get_attribute("data-from")), float(canvas.get_attribute("data-to"))


def wait_for_change(read):
    before = read()

    def change(action):
        action()
        wait(lambda: read() != before)
        return read()

    return before, change


def hover(browser, right=0, down=0, *, then=lambda actions: actions):
    from selenium.webdriver import ActionChains

    canvas = find(browser, "timeline")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    then(ActionChains(browser, duration=30).move_to_element_with_offset(canvas, right, down)).perform()


def rows(browser):
    return browser.find_elements("css selector", "#recordings button")


def test_page_opens_without_errors_and_runs_no_code_from_names(page, report):
    assert page.title == "CASE, recipe paper on tiny"
    assert page.execute_script("return window.broken") is None
    assert {row.text for row in rows(page)} == {" ".join(r.name.split()) for r in report[1].test}


def test_choosing_a_recording_shows_it(page, report):
    chosen = rows(page)[2]
    name = chosen.text
    chosen.click()
    assert find(page, "name").text == name
    recording = next(r for r in report[1].test if r.name == name)
    assert visible_range(page) == pytest.approx((0, recording.seconds))
    assert page.find_element("css selector", ".chosen").text.startswith(name)


def test_recordings_are_sorted_and_found(page):
    page.find_element("css selector", "[data-sort=ap]").click()
    cells = [cell.text for cell in page.find_elements("css selector", "#recordings td:nth-child(2)")]
    values = [float(cell) for cell in cells]
    assert values == sorted(values)
    find(page, "find").send_keys("test/3")
    assert [row.text for row in rows(page)] == ["test/3"]


def test_zoom_changes_the_visible_range_and_all_shows_it_again(page):
    whole, change = wait_for_change(lambda: visible_range(page))
    start, end = change(find(page, "in").click)
    assert whole[0] < start < end < whole[1]
    assert end - start == pytest.approx((whole[1] - whole[0]) / 1.6, abs=2e-3)
    _, change = wait_for_change(lambda: visible_range(page))
    assert change(find(page, "fit").click) == whole


def test_wheel_zooms_around_the_pointer_once_the_timeline_was_clicked(page):
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    whole, change = wait_for_change(lambda: visible_range(page))
    origin = ScrollOrigin.from_element(find(page, "timeline"), 0, 0)
    hover(page, then=lambda a: a.click())
    start, end = change(lambda: hover(page, then=lambda a: a.scroll_from_origin(origin, 0, -120)))
    assert end - start < whole[1] - whole[0]


def test_dragging_moves_the_zoomed_view(page):
    _, change = wait_for_change(lambda: visible_range(page))
    before = change(find(page, "in").click)
    _, change = wait_for_change(lambda: visible_range(page))
    after = change(lambda: hover(page, then=lambda a: a.click_and_hold().move_by_offset(60, 0).release()))
    assert after[0] < before[0]
    assert after[1] - after[0] == pytest.approx(before[1] - before[0], abs=2e-3)


def test_hover_shows_time_snippet_cluster_and_values(page):
    hover(page, 40)
    wait(lambda: "snippet" in find(page, "readout").text)
    text = find(page, "readout").text
    assert re.search(r"\d+\.\d\d s · snippet \d+ · true: .+ · cluster \d, foreground \d\.\d\d", text)
    assert re.search(r"Pᴬ\s*\d\.\d\d", text)


def test_a_track_can_be_hidden(page):
    canvas = find(page, "timeline")
    assert "attention" in canvas.get_attribute("data-tracks").split()
    high = canvas.size["height"]
    page.find_element("css selector", "#tracks input[data-key=attention]").click()
    wait(lambda: "attention" not in canvas.get_attribute("data-tracks").split())
    assert canvas.size["height"] < high


def test_a_class_can_be_hidden(page):
    boxes = page.find_elements("css selector", "#classes input")
    canvas = find(page, "timeline")
    _, change = wait_for_change(lambda: canvas.size["height"])
    assert change(boxes[0].click) < canvas.size["width"]


def test_score_slider_changes_what_counts_as_found(page):
    before, change = wait_for_change(lambda: find(page, "totals").text)
    move = "arguments[0].value = 0; arguments[0].dispatchEvent(new Event('input'))"
    after = change(lambda: page.execute_script(move, find(page, "score")))
    counts = [int(re.search(r"(\d+) false", text)[1]) for text in (before, after)]
    assert counts[1] >= counts[0]


def test_keys_move_the_cursor_zoom_and_change_the_recording(page):
    from selenium.webdriver.common.keys import Keys

    canvas = find(page, "timeline")
    page.execute_script("arguments[0].focus()", canvas)
    canvas.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    wait(lambda: "snippet 1 " in find(page, "readout").text)
    _, change = wait_for_change(lambda: visible_range(page))
    change(lambda: canvas.send_keys("+"))
    _, change = wait_for_change(lambda: find(page, "name").text)
    change(lambda: canvas.send_keys("]"))


def test_theme_button_goes_through_light_and_dark(page):
    button = find(page, "theme")
    seen = {}
    for _ in range(3):
        button.click()
        ground = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        seen[button.text.split()[-1]] = ground
    assert set(seen) == {"auto", "light", "dark"}
    assert seen["light"] != seen["dark"]


def test_page_fits_a_phone(page):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        page.refresh()
        wait(lambda: find(page, "timeline").get_attribute("data-tracks"))
        assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
