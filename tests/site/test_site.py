"""The built site, opened from disk in Chromium as a reader would; skipped, with the reason, where there is none.

`uv run --group docs sphinx-build -W --keep-going docs build/site` builds it, in `.ci/run` before these tests.
"""

import functools
import importlib
import inspect
import os
import re
import shutil
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import kpoison

ROOT = Path(__file__).parents[2]
SITE = Path(os.environ.get("KPOISON_SITE", ROOT / "build" / "site"))
# Two of them share their names with a function.
ROOMS = [*(name for name in kpoison.__all__ if inspect.ismodule(getattr(kpoison, name))), "sweep", "tuning"]

if not (SITE / "index.html").is_file():
    pytest.skip(f"no site has been built in {SITE} (sphinx-build docs {SITE})", allow_module_level=True)


@functools.cache
def pages() -> list[Path]:
    return sorted(path for path in SITE.rglob("*.html") if "_static" not in path.parts)


class Links(HTMLParser):
    """Where a page leads, what can be linked to in it, and its pictures."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.anchors, self.pictures = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if attributes.get("id"):
            self.anchors.add(attributes["id"])
        if tag == "a" and attributes.get("href"):
            self.targets.append(attributes["href"])
        if tag == "img":
            self.pictures.append(attributes)


@functools.cache
def links(page: Path) -> Links:
    return Links(page.read_text(encoding="utf-8"))


def resolved(page: Path, target: str) -> tuple[Path, str]:
    path, _, anchor = target.partition("#")
    there = (page.parent / unquote(path)).resolve() if path else page
    return there, unquote(anchor)


def internal(page: Path) -> list[str]:
    return [target for target in links(page).targets if not re.match(r"[a-z]+:", target)]


def test_links_lead_somewhere_and_external_ones_are_listed():
    broken, external = [], set()
    for page in pages():
        external |= {target for target in links(page).targets if re.match(r"https?:", target)}
        for target in internal(page):
            there, anchor = resolved(page, target)
            anchored = anchor and there.suffix == ".html"
            if not there.is_file() or (anchored and anchor not in links(there).anchors):
                broken.append((page.name, target))
    assert broken == []
    (SITE.parent / "external-links.txt").write_text("\n".join(sorted(external)) + "\n", encoding="utf-8")
    assert not {target for target in external if "localhost" in target or "127.0.0.1" in target}


def test_every_picture_has_an_alternative_text():
    bare = [(page.name, picture["src"]) for page in pages() for picture in links(page).pictures
            if len(picture.get("alt") or "") < 20]  # fmt: skip
    assert bare == []
    assert sum(len(links(page).pictures) for page in pages()) >= 15


def inventory() -> set[str]:
    """Names with an entry in the reference."""
    data = (SITE / "objects.inv").read_bytes()
    lines = zlib.decompress(data.split(b"\n", 4)[4]).decode().splitlines()
    return {line.split(" ", 1)[0] for line in lines if " py:" in line}


def test_every_public_function_and_class_is_in_the_reference():
    entries, missing = inventory(), []
    for name in kpoison.__all__:
        if not inspect.ismodule(getattr(kpoison, name)) and name != "__version__" and f"kpoison.{name}" not in entries:
            missing.append(name)
    for name in ROOMS:
        room = importlib.import_module(f"kpoison.{name}")
        for public in room.__all__:
            if not {f"kpoison.{public}", f"kpoison.{name}.{public}"} & entries:
                thing = getattr(room, public)
                # The same thing may be another room's.
                home = {f"kpoison.{other}.{public}" for other in ROOMS} & entries
                if not home or not callable(thing):
                    missing.append(f"{name}.{public}")
    assert missing == []
    assert len(entries) > 500


@pytest.mark.parametrize(
    ("wanted", "anchor"),
    [
        ("how-to/own-kernel.html", ""),
        ("theory/penalty.html", "t8-the-residual-under-a-penalty"),
        ("how-to/sweep.html", "resume"),
        ("sharp-bits.html", "what-ridge-means"),
        ("reference/laws.html", "kpoison.efficacy"),
    ],
)
def test_is_found_from_the_front_page_in_three_clicks(wanted, anchor):
    goal, start = (SITE / wanted).resolve(), (SITE / "index.html").resolve()
    assert not anchor or anchor in links(goal).anchors
    reached = [{start}]
    while goal not in reached[-1] and len(reached) <= 3:
        reached.append({resolved(page, target)[0] for page in reached[-1] for target in internal(page)})
        reached[-1] = {page for page in reached[-1] if page.suffix == ".html"}
    assert len(reached) - 1 + bool(anchor) <= 3


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no Chromium (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.slow
def test_every_page_opens_from_disk_on_a_telephone_and_on_a_desk(browser):
    complaints, formulas = [], 0
    page = browser.new_page()
    page.on("console", lambda message: message.type == "error" and complaints.append((page.url, message.text)))
    page.on("pageerror", lambda error: complaints.append((page.url, str(error))))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or complaints.append(request.url))
    for path in pages():
        page.set_viewport_size({"width": 1280, "height": 900})
        page.goto(path.as_uri(), wait_until="load")
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            across = page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth")
            if across > 0:
                complaints.append((path.name, f"{across} pixels too wide at {width}"))
        # A picture that is not there has no width; a formula that is not rendered has none, or shows its TeX.
        broken = page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)")
        sizes = page.evaluate("[...document.querySelectorAll('math')].map(m => m.getBoundingClientRect().width)")
        text = page.evaluate("[...document.querySelectorAll('article p, article li')].map(p => p.innerText).join(' ')")
        complaints += [(path.name, source) for source in broken]
        complaints += [(path.name, "empty formula") for width in sizes if not width > 0]
        complaints += [
            (path.name, found) for found in re.findall(r"\$[^$]{0,40}\\[a-z]+|\\(?:frac|tilde|lambda)", text)
        ]
        formulas += len(sizes)
    page.close()
    assert complaints == []
    assert formulas > 300
    assert len(pages()) > 40


@pytest.mark.slow
def test_search_finds_the_blind_radius_without_a_network(browser):
    page = browser.new_page()
    page.goto((SITE / "index.html").as_uri())
    page.fill("input[name=q]", "blind radius")
    page.press("input[name=q]", "Enter")
    page.wait_for_selector("ul.search li a", timeout=20_000)
    page.wait_for_timeout(500)
    found = page.eval_on_selector_all("ul.search li a", "links => links.map(link => link.getAttribute('href'))")
    assert any("theory/poison.html" in target for target in found)
    assert any("laws.html" in target for target in found)
    page.click("ul.search li a >> nth=0")
    assert "blind" in page.inner_text("article").lower()
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_follows_the_colours_of_the_system(browser, scheme):
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto((SITE / "theory" / "penalty.html").as_uri())

    def brightness(selector, part="color"):
        colour = page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{part}")
        return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 765

    paper, ink, formula = brightness("body", "backgroundColor"), brightness("article p"), brightness("math")
    assert (paper > 0.8) == (scheme == "light")
    assert abs(paper - ink) > 0.5
    assert abs(paper - formula) > 0.5
    context.close()
