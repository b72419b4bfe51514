"""The page in a real browser: what a visitor does, in both languages."""

import shutil

import pytest
from tiny_server import Running

from multistride.data.sentences import split_sentences
from multistride.serve.app import Limits

selenium = pytest.importorskip("selenium")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"
)


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--lang=en"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def get(browser, name):
    return browser.find_element(By.ID, name)


def wait(browser, condition):
    WebDriverWait(browser, 20, poll_frequency=0.05).until(lambda _: condition())


def texts(browser):
    return [
        node.get_attribute("textContent")
        for node in browser.find_elements(By.CSS_SELECTOR, ".text")
    ]


def opened(browser, url):
    browser.get(url)
    wait(browser, lambda: len(get(browser, "model").find_elements(By.TAG_NAME, "option")) == 2)
    Select(get(browser, "speed")).select_by_value("1")


def test_a_race_shows_groups_and_both_texts(browser, server, models):
    opened(browser, server.url)
    field = get(browser, "input")
    field.clear()
    field.send_keys("The battle of Hastings", Keys.CONTROL, Keys.ENTER)
    wait(browser, lambda: get(browser, "verdict").text)
    ours, theirs = (
        models["translator"].translate(["The battle of Hastings"], k)[0] for k in (4, 1)
    )
    assert texts(browser) == [ours.text, theirs.text]
    groups = browser.find_elements(By.CSS_SELECTOR, "#lane-groups .group")
    assert len(groups) == len(ours.trace)
    assert "confidence" in groups[0].get_attribute("data-tip")
    assert "K=4" in get(browser, "verdict").text
    get(browser, "language").click()  # what is shown already is told in the other language too
    assert "置信度" in groups[0].get_attribute("data-tip")
    assert get(browser, "verdict").text.startswith("K=4：")
    get(browser, "language").click()
    problems = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not problems


def test_the_slider_goes_as_far_as_the_mode(browser, untrained):
    # Guards: K=1 alone for a model whose drafts need no training, or a size that is refused.
    browser.get(untrained.url)
    wait(browser, lambda: get(browser, "size").get_attribute("max") == "16")
    assert browser.find_element(By.CSS_SELECTOR, "input[value=exact]").is_selected()
    get(browser, "input").clear()
    get(browser, "input").send_keys("The battle", Keys.CONTROL, Keys.ENTER)
    wait(browser, lambda: get(browser, "verdict").text)
    assert not get(browser, "problem").text
    assert "K=4" in get(browser, "verdict").text
    browser.find_element(By.CSS_SELECTOR, "input[value=fast]").click()
    assert get(browser, "size").get_attribute("max") == "1"


SENTENCES = [
    "One. Two!  Three",
    "Dr. No came at 5 p.m. and left. Bye.",
    '"Why?" asked Tom. "Yes." Good',
    "Wait... what? 2.13 is out.",
    "At No. 5 we stop. No. We go. Gen. Lee rode on Jan. 5, 1863. See pp. 7-8.",
    "他来了。你呢？我走了",
    "no mark",
]


def test_a_text_is_asked_for_sentence_by_sentence(browser, server, models):
    # Guards: another cut than the library's, lines that run together, steps that start again.
    opened(browser, server.url)
    found = [browser.execute_script("return sentencesOf(arguments[0])", each) for each in SENTENCES]
    assert [[one for one, _ in each] for each in found] == [*map(split_sentences, SENTENCES)]
    lines = "The battle. He ruled.\n\n They"
    browser.execute_script("arguments[0].value = arguments[1]", get(browser, "input"), lines)
    get(browser, "run").click()
    wait(browser, lambda: get(browser, "verdict").text)
    alone = models["translator"].translate(["The battle.", "He ruled.", "They"], 4)
    assert texts(browser)[0] == f"{alone[0].text} {alone[1].text}\n{alone[2].text}"
    tips = [
        node.get_attribute("data-tip")
        for node in browser.find_elements(By.CSS_SELECTOR, "#lane-groups .group")
    ]
    assert len(tips) == sum(len(each.trace) for each in alone)
    assert tips[-1].startswith(f"step {len(tips)} ")


def test_the_language_changes_and_stays(browser, server):
    opened(browser, server.url)
    get(browser, "language").click()
    assert get(browser, "run").text == "运行"
    browser.refresh()
    wait(browser, lambda: get(browser, "run").text == "运行")
    assert browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "zh-CN"
    get(browser, "language").click()
    assert get(browser, "run").text == "Run"


def test_stop_empty_text_and_another_model(browser, server):
    opened(browser, server.url)
    Select(get(browser, "speed")).select_by_value("20")
    get(browser, "run").click()
    get(browser, "stop").click()
    wait(browser, lambda: get(browser, "verdict").text == "stopped")
    get(browser, "input").clear()
    get(browser, "run").click()
    assert get(browser, "problem").text == "Write some text first."
    Select(get(browser, "model")).select_by_visible_text("generator")
    assert get(browser, "chat-row").is_displayed()


def test_two_tabs_at_once_and_another_group_size(browser, server, models):
    # Guards: state that tabs share, a slider that changes nothing.
    first = browser.current_window_handle
    for size in (2, 4):
        if size == 4:
            browser.switch_to.new_window("tab")
        opened(browser, server.url)
        set_size = (
            "const s = arguments[0]; s.value = arguments[1]; s.dispatchEvent(new Event('input'))"
        )
        browser.execute_script(set_size, get(browser, "size"), size)
        get(browser, "input").clear()
        get(browser, "input").send_keys("The battle of Hastings")
        get(browser, "run").click()
    for handle, size in ((browser.current_window_handle, 4), (first, 2)):
        browser.switch_to.window(handle)
        wait(browser, lambda: get(browser, "verdict").text)
        [alone] = models["translator"].translate(["The battle of Hastings"], size)
        assert texts(browser)[0] == alone.text
        assert f"K={size}" in get(browser, "verdict").text
        if handle != first:
            browser.close()


def test_a_phone_shows_the_page_without_scrolling_sideways(browser, server):
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    opened(browser, server.url)
    get(browser, "run").click()
    wait(browser, lambda: get(browser, "verdict").text)
    width = "return document.documentElement.scrollWidth <= innerWidth"
    assert browser.execute_script(width)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_key_is_asked_for(browser, models):
    with Running(models, Limits(api_key="k")) as running:
        browser.get(running.url)
        wait(browser, lambda: get(browser, "key-row").is_displayed())
        assert "API key" in get(browser, "problem").text
        get(browser, "key").send_keys("k", Keys.TAB)
        wait(browser, lambda: get(browser, "model").find_elements(By.TAG_NAME, "option"))
        assert not get(browser, "metrics").is_displayed()  # a link sends no key
        browser.execute_script("sessionStorage.clear()")
