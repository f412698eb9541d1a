"""The explorer in Chromium: what is drawn and read off are the dataset's numbers, by pointer and by keyboard alone."""

import csv
import shutil

import numpy as np
import pytest
import xarray as xr
from known_grid import isolated_rbf

from kpoison.plotting import explore

pytestmark = pytest.mark.slow

pytest.importorskip("plotly", reason="plotly is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, which is closed at the end."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as driver:
        # The sandbox needs a user that is not root.
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    """A function that opens a dataset's page; at the end there must have been no error, nor a request."""
    trouble = []
    pages = []

    def open_page(dataset: xr.Dataset, **options):
        path = explore(dataset).write(tmp_path_factory.mktemp("page") / "page.html")
        page = browser.new_page(**options)
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: trouble.append(request.url) if request.url.startswith("http") else None)
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not trouble


DATASET = isolated_rbf()


@pytest.fixture(scope="module")
def page(opened):
    """The known grid."""
    return opened(DATASET)


def settled(page) -> None:
    """Wait for the frame in which changes are drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def drawn(page) -> np.ndarray:
    """What the map shows, undone of its logarithm; over m and r_over_l."""
    return 10.0 ** np.array(page.evaluate("document.getElementById('map').data[0].z"), float)


def read_off(page) -> dict[str, float]:
    """The table of values, with all digits."""
    cells = page.locator("#values tr[data-quantity]").evaluate_all(
        "rows => rows.map(row => [row.dataset.quantity, row.querySelector('td').title])"
    )
    return {name: float(digits) for name, digits in cells}


def at(page) -> dict[str, int]:
    """Where the sliders are."""
    return {name: int(page.locator(f"#place-{name}").input_value()) for name in DATASET.dims}


def expected(place: dict[str, int]) -> dict[str, float]:
    """The dataset's numbers there."""
    return {
        str(name): float(variable.isel({dim: place[dim] for dim in variable.dims}))
        for name, variable in DATASET.data_vars.items()
    }


def test_by_keyboard_alone(page):
    """A slider changes the picture, its values are the dataset's, and Tab reaches everything."""
    before = drawn(page)
    np.testing.assert_allclose(before, DATASET.spike.isel(ridge=1).T, rtol=1e-12)
    page.locator("#quantity").focus()
    reached = []
    for _ in range(20):
        reached.append(page.evaluate("document.activeElement.id"))
        if reached[-1] == "place-ridge":
            break
        page.keyboard.press("Tab")
    assert {"across", "up", "scale", "place-r_over_l", "place-m", "place-ridge"} <= set(reached)
    page.keyboard.press("ArrowRight")
    settled(page)
    assert page.evaluate("document.activeElement.id") == "place-ridge"
    assert page.locator("#place-ridge").get_attribute("aria-valuetext") == "0.1 k"
    np.testing.assert_allclose(drawn(page), DATASET.spike.isel(ridge=2).T, rtol=1e-12)
    assert not np.allclose(before, drawn(page))
    assert read_off(page) == expected(at(page))
    page.locator("#quantity").focus()
    page.keyboard.type("eff")
    settled(page)
    np.testing.assert_allclose(drawn(page), DATASET.efficacy.isel(ridge=2).T, rtol=1e-12)


def pixel(page, x: float, y: float) -> tuple[float, float]:
    """Where a point of the map's axes is on the screen."""
    left, top = page.evaluate(
        """([x, y]) => {
            const map = document.getElementById("map"), { xaxis, yaxis } = map._fullLayout;
            const box = map.getBoundingClientRect();
            return [box.left + xaxis._offset + xaxis.c2p(x), box.top + yaxis._offset + yaxis.c2p(y)];
        }""",
        [x, y],
    )
    return left, top


def test_values_under_the_pointer(page):
    place = {"r_over_l": 3, "m": 5, "ridge": at(page)["ridge"]}
    page.locator("#map").scroll_into_view_if_needed()
    page.mouse.move(*pixel(page, float(np.log10(DATASET.r_over_l[3])), float(np.log10(DATASET.m[5]))))
    page.locator("#values caption", has_text="under the pointer").wait_for()
    assert read_off(page) == expected(place)
    page.mouse.down()
    page.mouse.up()
    page.locator("#values caption", has_text="at the cross-hair").wait_for()
    assert at(page) == place
    page.mouse.move(1, 1)


def contour(page, name: str) -> np.ndarray:
    """Points of a threshold's line as it is drawn, in the map's axes."""
    points = page.evaluate(
        """name => {
            const map = document.getElementById("map"), { xaxis, yaxis } = map._fullLayout;
            const order = map.data.filter(({ type }) => type === "contour").findIndex((trace) => trace.name === name);
            const lines = [...map.querySelectorAll(".contour")[order].querySelectorAll(".contourlevel path")];
            return lines.flatMap((line) => {
                const number = Math.ceil(line.getTotalLength());
                return Array.from({ length: number + 1 }, (_, i) => {
                    const { x, y } = line.getPointAtLength(i);
                    return [xaxis.p2c(x), yaxis.p2c(y)];
                });
            });
        }""",
        name,
    )
    assert len(points) > 50
    return np.array(points).reshape(-1, 2)


def test_a_threshold_moves_its_contour(opened):
    """Contours lie where the law has its threshold; between them is what is hatched."""
    page = opened(isolated_rbf(np.geomspace(0.01, 10, 61), np.geomspace(1, 1000, 31)))
    ridge = float(DATASET.ridge[1])

    def margins(points, success, visible):
        """log |Δf|/success and log Λ/visible, by the law itself."""
        r, m = 10.0**points.T
        efficacy = m / ((100 + m) * ridge + m) * np.exp(-(r**2) / 2)
        return np.log(efficacy / success), np.log((r * efficacy) ** 2 / visible)

    def hatched():
        found = page.evaluate("document.getElementById('map').data.filter(t => (t.name ?? '').includes('unseen'))")
        return np.array([found[0]["x"], found[0]["y"]], float).T

    def assert_at(points, margin):
        # Interpolation errs by h²/8 of the second derivative, in log r at most 4r²; in log m 1/2, with h = 0.23.
        bound = np.log(1000) ** 2 / 60**2 * (10.0 ** points[:, 0]) ** 2 / 2 + 0.004
        assert np.all(np.abs(margin) < bound)

    before, success = contour(page, "visible"), contour(page, "success")
    assert_at(success, margins(success, 0.5, 1)[0])
    assert_at(before, margins(before, 1, 1e-3)[1])
    page.locator("#threshold-visible").press("PageUp")
    settled(page)
    level = float(page.locator("#threshold-visible-number").input_value())
    assert 1e-2 < level < 3e-2
    after = contour(page, "visible")
    assert_at(after, margins(after, 1, level)[1])
    assert after[:, 0].min() > before[:, 0].min() + 0.1
    success, visible = margins(hatched(), 0.5, level)
    assert len(success) > 20
    assert success.min() > -0.3  # a stroke may lie anywhere in a cell that counts
    assert visible.max() < 0.3
    assert f"≥ {level:.4g}" in page.evaluate("document.getElementById('map').data.map(t => t.name).join()")


def test_csv_and_png(page, tmp_path):
    place = at(page)
    with page.expect_download() as download:
        page.locator("#csv").click()
    download.value.save_as(tmp_path / "map.csv")
    with (tmp_path / "map.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == DATASET.sizes["m"] * DATASET.sizes["r_over_l"]
    for name, variable in DATASET.isel(ridge=place["ridge"]).data_vars.items():
        full = variable.broadcast_like(DATASET.efficacy.isel(ridge=0)).transpose("m", "r_over_l")
        np.testing.assert_array_equal([float(row[str(name)]) for row in rows], full.values.ravel())
    np.testing.assert_array_equal([float(row["r_over_l"]) for row in rows[:13]], DATASET.r_over_l)
    with page.expect_download() as download:
        page.locator("button[data-picture=map]").click()
    download.value.save_as(tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_no_result_and_never_in_words_on_a_small_dark_screen(opened):
    dataset = DATASET.copy(deep=True)
    dataset["spike"][:4, :2] = np.nan
    dataset["file"] = "file", ["a", "b"]
    page = opened(dataset, viewport={"width": 390, "height": 800}, color_scheme="dark")
    assert page.locator("#notice").inner_text() == "8 of 91 numbers of this map are no result (×)"
    page.locator("#quantity").select_option("m_success")
    settled(page)
    never = int(np.isinf(dataset.m_success).sum())
    assert page.locator("#notice").inner_text() == f"{never} of 39 are never reached (△)"
    page.locator("#place-r_over_l").press("End")
    settled(page)
    assert page.locator("#said").inner_text().startswith("m success: never (∞)")
    assert page.locator("#values tr[data-quantity=m_success] td").inner_text() == "never (∞)"
    page.locator("#place-r_over_l").press("Home")
    page.locator("#place-m").press("Home")
    settled(page)
    assert page.locator("#values tr[data-quantity=spike] td").inner_text() == "no result"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("getComputedStyle(document.querySelector('#map .bg')).fill") != "rgb(255, 255, 255)"


def test_one_dimension_and_names(opened):
    """Without a second dimension there is no map; names have no contour between them, but borders."""
    page = opened(DATASET.isel(m=3, ridge=1))
    assert page.locator("#map-figure").is_hidden()
    assert page.locator("#section-across .scatterlayer").count() > 0
    rates = xr.DataArray([[0.9, 0.1, 0.8], [0.2, 0.9, np.nan]], dims=("attack", "defence"))
    matrix = xr.Dataset({"success": rates, "auroc": 1 - rates}, {"attack": ["a", "b"], "defence": ["none", "d", "e"]})
    page = opened(matrix)
    borders = page.evaluate("document.getElementById('map').data.find(t => t.name === 'success').x")
    # Between 0.9 and 0.1, 0.1 and 0.8 of the first row, 0.2 and 0.9 of the second, and twice between the rows.
    assert borders == [0.5, 0.5, None, 1.5, 1.5, None, -0.5, 0.5, None, 0.5, 0.5, None, 0.5, 1.5, None]
