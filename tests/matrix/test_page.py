"""The matrix as heat maps and as a page: complete, escaped, self-contained, and honest about what is missing."""

import base64
import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from kpoison.matrix.judgement import judge
from kpoison.matrix.page import write_page
from kpoison.plotting import attack_defence_figure, attack_defence_matrix
from kpoison.statistics import over_seeds

ATTACKS = (
    "label-flipping",
    "backdoor-patch",
    "backdoor-blend",
    "feature-collision",
    "bilevel",
    "near-clone",
    "model-replacement",
)
DEFENCES = (
    "none",
    "neighbour-disagreement",
    "centroid-distance",
    "leave-one-out",
    "spectral-signatures",
    "activation-clustering",
    "exclusionary-reclassification",
    "strip",
    "neural-cleanse",
    "partition-aggregation",
    "pidan",
    "input-spectrum",
    "gradient-penalty",
)
QUANTITIES = ("success", "clean_accuracy", "true_positive", "false_positive", "auroc")
PREDICTIONS = ("predicted_success", "predicted_auroc", "predicted_visible")
DIMS = ("attack", "defence", "seed")


def made(attacks=ATTACKS, defences=DEFENCES, seeds=5, *, pictures=True, channels=None) -> xr.Dataset:
    """Numbers like those of a matrix: no detection without a detector, a few predictions, a blind row."""
    rng = np.random.default_rng(0)
    shape = len(attacks), len(defences), seeds
    centre = rng.uniform(size=shape[:2])[..., None]
    spread = 0.03 * rng.normal(size=(len(QUANTITIES), *shape))
    values = {name: np.clip(centre + spread[i], 0, 1) for i, name in enumerate(QUANTITIES)}
    values["clean_accuracy"] = np.clip(0.97 + 0.3 * spread[1], 0, 1)
    values["predicted_success"] = values["success"] + 0.01 * rng.normal(size=shape)
    values["predicted_auroc"] = values["auroc"] + 0.01 * rng.normal(size=shape)
    values["predicted_visible"] = (values["auroc"] > 0.6).astype(float)
    for name in ("true_positive", "false_positive", "auroc", "predicted_auroc", "predicted_visible"):
        values[name][:, 0] = np.nan
    for name in PREDICTIONS:
        values[name][:, 6:8] = np.nan
    result = xr.Dataset(
        {name: (DIMS, array) for name, array in values.items()},
        coords={"attack": list(attacks), "defence": list(defences), "seed": np.arange(seeds)},
        attrs={
            "title": "Every attack against every defence",
            "data": "digits, 2 classes, n = 400",
            "kernel": "ntk-relu",
            "arguments": json.dumps({"attacks": list(attacks), "ridge": 1e-3, "fraction": 0.05, "seed": 0}),
            "assumes": json.dumps({name: f"what {name} takes for granted" for name in defences}),
        },
    )
    if pictures:
        trailing = () if channels is None else (channels,)
        dims = ("attack", "kind", "height", "width", "channel")[: 4 + len(trailing)]
        images = rng.uniform(size=(len(attacks), 4, 8, 8, *trailing))
        images[:, 2] = images[:, 1] - images[:, 0]
        result["picture"] = (dims, images)
        result = result.assign_coords(kind=["victim", "poison", "difference", "eigenvector"])
    return result


class Text(HTMLParser):
    """The page's text, and its elements, which must nest."""

    void = ("meta", "img", "br")

    def __init__(self, page: str):
        super().__init__()
        self.words, self.elements, self.open = "", [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


_DRAWN = 3  # attacks


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("page") / "matrix.html"
    result = made()
    result["picture"][_DRAWN:] = np.nan  # drawing is dear
    assert write_page(result, path) == path
    assert [file.name for file in path.parent.iterdir()] == ["matrix.html"]
    return path.read_text(encoding="utf-8")


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


@pytest.mark.slow
def test_the_page_names_everything_and_needs_nothing(page):
    text = Text(page)
    for defence in DEFENCES:
        assert f"Assumes: what {defence} takes for granted" in text.words
    assert all(name in text.words for name in (*ATTACKS, *DEFENCES, "ridge = 0.001", "ntk-relu", "n = 400"))
    assert "http" not in page
    assert "//" not in re.sub(r"base64,[^']*'", "'", page)
    images = [attributes["src"] for tag, attributes in text.elements if tag == "img"]
    assert len(images) == 3 + _DRAWN
    assert text.words.count("No pictures.") == len(ATTACKS) - _DRAWN
    for source in images:
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    assert not {tag for tag, _ in text.elements} & {"script", "link", "iframe"}


@pytest.mark.slow
def test_every_pair_with_a_prediction_has_a_verdict(page):
    result = made()
    rows = re.findall(r"<tr><th>([^<]*)</th>(.*?)</tr>", page)
    (verdicts,) = re.findall(r"<table class='verdicts'>(.*?)</table>", page)
    assert len(re.findall("<tr><th>", verdicts)) == len(ATTACKS) + 1
    assert len(rows) > len(ATTACKS) * len(DEFENCES)
    for attack in ATTACKS:
        for defence in DEFENCES:
            for judgement in judge(result, attack, defence):
                assert html.escape(judgement.statement.split(": ")[0]) in page
    assert page.count("no prediction") == 2 * len(ATTACKS)


def test_what_was_attacked_is_said_first(tmp_path):
    result = made(("patch",), ("none",), 1, pictures=False)
    told = {"data": "mnist", "classes": [3, 8], "train": 500, "budget": 25, "ridge": 1e-4, "kernel": "rbf"}
    words = Text(write_page(result.assign_attrs(arguments=json.dumps(told)), tmp_path / "m.html").read_text()).words
    assert "mnist, classes 3, 8; kernel rbf; 500 training images, 25 poisons, ridge 0.0001; 1 seed." in words
    assert "for the one defence that has one." in " ".join(words.split())
    untold = Text(write_page(result.assign_attrs(arguments="[]"), tmp_path / "n.html").read_text()).words
    assert "training images" not in untold


def test_text_is_escaped(tmp_path):
    evil = "<script>alert('&')</script>"
    result = made((evil, "b$"), ("$a$", f"d{evil}"), 2)
    result.attrs.update(title=evil, data=evil, kernel=evil, arguments=json.dumps({evil: evil}))
    result.attrs["assumes"] = json.dumps({"$a$": evil})
    written = write_page(result, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in written
    text = Text(written)
    assert text.words.count(evil) > 10
    assert "script" not in {tag for tag, _ in text.elements}


def cell(success, predicted, auroc=np.nan, visible=np.nan) -> xr.Dataset:
    """One attack against one defence."""
    values = np.broadcast_arrays(*(np.asarray(v, float) for v in (success, predicted, auroc, visible)))
    names = ("success", "predicted_success", "auroc", "predicted_visible")
    return xr.Dataset(
        {name: (DIMS, np.reshape(value, (1, 1, -1))) for name, value in zip(names, values, strict=True)},
        coords={"attack": ["a"], "defence": ["d"], "seed": range(values[0].size)},
    )


@pytest.mark.parametrize(
    ("success", "predicted", "verdict"),
    [
        ([0.9, 0.92, 0.91], [0.88, 0.91, 0.9], "agrees"),
        # Paired by seed: both vary widely, their difference does not.
        ([0.1, 0.5, 0.9], [0.12, 0.51, 0.9], "agrees"),
        ([0.9, 0.92, 0.91], [0.5, 0.5, 0.5], "disagrees"),
        ([0.9, 0.5, 0.1], [0.5, 0.5, 0.5], "undecided"),
        ([0.9], [0.85], "agrees"),
        ([0.9], [0.7], "disagrees"),
        ([np.nan], [0.7], "undecided"),
    ],
)
def test_verdict_on_success(success, predicted, verdict):
    (judgement,) = judge(cell(success, predicted), "a", "d")
    assert judgement.agreement == verdict
    assert ("not measured" in judgement.statement) == np.isnan(success[0])


@pytest.mark.parametrize(
    ("auroc", "visible", "verdict"),
    [
        ([0.5, 0.55, 0.45], 0.0, "agrees"),
        ([0.5, 0.55, 0.45], 1.0, "disagrees"),
        ([0.9, 0.95, 0.99], 1.0, "agrees"),
        ([0.9, 0.95, 0.55], 1.0, "undecided"),
        ([0.9, 0.95, 0.55], [1, 1, 0], "agrees"),
        ([np.nan, np.nan, np.nan], 0.0, "undecided"),
    ],
)
def test_verdict_on_blind_spots(auroc, visible, verdict):
    (judgement,) = judge(cell([np.nan] * 3, np.nan, auroc, visible), "a", "d")
    assert judgement.agreement == verdict


def test_without_a_prediction_there_is_no_verdict():
    assert judge(cell([0.9, 0.8], np.nan), "a", "d") == []
    with pytest.raises(ValueError, match="tolerance"):
        judge(cell([0.9, 0.8], np.nan), "a", "d", tolerance=0.0)


def test_interval_over_seeds():
    mean, half_width, count = over_seeds(
        np.array([[1.0, 2.0, 3.0, np.nan], [4.0, np.nan, np.nan, np.nan], [np.nan] * 4])
    )
    np.testing.assert_allclose(mean, [2, 4, np.nan])
    # t(0.975; 2) = 4.302653, standard deviation 1.
    np.testing.assert_allclose(half_width, [4.302653 / np.sqrt(3), np.nan, np.nan], rtol=1e-6)
    assert count.tolist() == [3, 1, 0]


def test_heat_map():
    result = made()
    ax = attack_defence_matrix(result)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(ATTACKS)
    assert [label.get_text() for label in ax.get_xticklabels()] == list(DEFENCES)
    mean, half_width, _ = over_seeds(result["success"].values)
    law = result["predicted_success"].mean("seed").values
    shown = texts(ax)
    for row, column in np.ndindex(mean.shape):
        assert f"{mean[row, column]:.2f}" in shown
        assert f"±{half_width[row, column]:.2f}" in shown
        if np.isfinite(law[row, column]):
            assert f"p {law[row, column]:.2f}" in shown
    blind = result["predicted_visible"].mean("seed").values
    assert len(ax.lines) == (blind < 1).sum()
    assert sum(mark.get_marker() == "v" for mark in ax.lines) == (blind == 0).sum() > 0
    unpredicted = attack_defence_matrix(result, predicted=False)
    assert not unpredicted.lines
    assert not any(text.startswith("p") for text in texts(unpredicted))


def test_cells_without_a_number_are_grey_with_a_dash():
    ax = attack_defence_matrix(made(), "auroc", predicted=False)
    assert texts(ax).count("–") == len(ATTACKS)
    mesh = ax.collections[0]
    mesh.update_scalarmappable()
    colours = mesh.get_facecolors().reshape(len(ATTACKS), len(DEFENCES), 4)
    assert {to_hex(colour) for colour in colours[:, 0]} == {"#e4e4e4"}


def test_axes_of_ones_own_and_figures():
    result = made(ATTACKS[:2], DEFENCES[:3], pictures=False)
    own = Figure().add_subplot()
    assert attack_defence_matrix(result.transpose("seed", "defence", "attack"), "clean_accuracy", own) is own
    assert len(texts(own)) == 2 * 6
    panels = attack_defence_figure(result, ("success", "auroc")).axes
    assert [ax.get_title(loc="left").split("\n")[0] for ax in panels if ax.texts] == ["Attack success", "Detection"]


def test_labels_and_numbers_are_not_cut_and_do_not_overlap():
    figure = attack_defence_matrix(made(), "clean_accuracy").figure
    figure.draw_without_rendering()
    ax = figure.axes[0]
    inside = figure.bbox.padded(1)
    for text in (*ax.get_xticklabels(), *ax.get_yticklabels(), ax.title, ax.get_legend()):
        box = text.get_window_extent()
        assert inside.contains(box.x0, box.y0)
        assert inside.contains(box.x1, box.y1)
    written = [text.get_window_extent() for text in ax.texts]
    cell_width = ax.get_window_extent().width / len(DEFENCES)
    assert max(box.width for box in written) < 0.95 * cell_width
    assert not any(box.overlaps(other) for i, box in enumerate(written) for other in written[i + 1 :])


def test_one_seed_has_no_interval(tmp_path):
    result = made(ATTACKS[:2], DEFENCES[:3], 1, pictures=False)
    assert not any("±" in text for text in texts(attack_defence_matrix(result)))
    text = Text(write_page(result, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "one seed" in text.words
    assert "nan" not in text.words.lower()


@pytest.mark.parametrize("channels", [1, 3])
def test_pages_with_gaps(tmp_path, channels):
    result = made(ATTACKS[:2], DEFENCES[:2], 2, channels=channels)
    result["picture"][0] = np.nan
    result["auroc"][:] = np.nan
    del result["predicted_visible"], result.attrs["assumes"]
    text = Text(write_page(result, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "Not measured: AUROC." in text.words
    assert "Assumes: not stated" in text.words
    assert "No pictures." in text.words
    assert sum(tag == "img" for tag, _ in text.elements) == 2 + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda result: result.drop_vars("success"), "hold success"),
        (lambda result: result.drop_vars("defence"), "coordinates .* defence"),
        (lambda result: result.assign_attrs(assumes="nothing"), "assumes .* JSON"),
        (lambda result: result.assign_attrs(assumes="[1]"), "assumes .* JSON"),
        (lambda result: result.assign_coords(attack=["a", "a"]), "every attack once"),
        (lambda result: result.assign(success=result["success"].mean("seed")), "over attack, defence, seed"),
    ],
)
def test_a_page_of_something_else_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_page(change(made(ATTACKS[:2], DEFENCES[:2], 2, pictures=False)), tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_bad_input(tmp_path):
    result = made(ATTACKS[:2], DEFENCES[:2], 2, pictures=False)
    with pytest.raises(FileNotFoundError, match="path"):
        write_page(result, tmp_path / "nowhere" / "page.html")
    with pytest.raises(ValueError, match="quantity"):
        attack_defence_matrix(result, "efficacy")
    with pytest.raises(ValueError, match="at least one attack"):
        attack_defence_matrix(result.isel(attack=[]))
    with pytest.raises(ValueError, match="quantities"):
        attack_defence_figure(result, ())
