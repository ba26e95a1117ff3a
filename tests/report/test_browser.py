"""The page in a real browser: quiet, alone, readable on a phone, dark and printed."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.long
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a headless Chromium: Playwright's own, or the one of the system."""
    with playwright.sync_playwright() as driver:
        own = Path(driver.chromium.executable_path)
        found = str(own) if own.exists() else next(filter(None, map(shutil.which, BROWSERS)), None)
        if found is None:
            pytest.skip(
                "no browser: install Chromium, or run `python -m playwright install chromium`"
            )
        # Containers often run as root, where Chromium's sandbox refuses to start.
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(page: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(page)
    return file.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_opens_quietly(browser: Any, address: str, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    assert not said
    assert [url for url in asked if not url.startswith("data:")] == [address]
    # Nothing but tables may be wider than the window, and those scroll by themselves.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    images = page.locator("[role=img]").all()
    boxes = [image.bounding_box() for image in images]
    assert len(boxes) > 8
    for box in boxes:
        assert box["width"] > 250
        assert box["height"] > 150
    for image in images:
        assert len(image.get_attribute("aria-label")) > 30
    page.close()


def test_letters_stand_out_from_the_page(browser: Any, address: str) -> None:
    """Text and the letters inside pictures have the contrast that WCAG asks for (4.5)."""
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(address)
        colours = page.evaluate(
            """() => {
                const style = (s, what) => getComputedStyle(document.querySelector(s))[what];
                return {page: style("body", "backgroundColor"), text: style("body", "color"),
                        note: style(".note", "color"), link: style("a", "color"),
                        letters: style("figure svg g[id*=text] use", "fill")};
            }"""
        )
        ground = colours.pop("page")
        for name, colour in colours.items():
            assert contrast(colour, ground) > 4.5, (scheme, name, colour, ground)
        page.close()


def contrast(first: str, second: str) -> float:
    """Return the contrast of two CSS colours by the formula of WCAG 2."""

    def luminance(colour: str) -> float:
        channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_tables_have_headers_and_captions(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    for table in page.locator("table").all():
        assert table.locator("caption").count() == 1
        assert table.locator("thead th[scope=col]").count() > 1
        rows = table.locator("tbody tr").count()
        assert rows
        assert table.locator("tbody th[scope=row]").count() == rows
    page.close()


def test_it_prints(browser: Any, address: str) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(address)
    assert page.pdf().startswith(b"%PDF")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    page.close()
