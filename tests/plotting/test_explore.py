"""The explorer without a browser: the page holds what the dataset holds, and refuses what it cannot show."""

import base64
import json
import re
import sys

import numpy as np
import pytest
import xarray as xr
from known_grid import isolated_rbf

from kpoison.cli import main
from kpoison.plotting import Explorer, explore
from kpoison.plotting.explorer import LARGEST
from kpoison.plotting.explorer._numbers import dimension

pytest.importorskip("plotly", reason="plotly is not installed")


def held(page: Explorer) -> dict:
    """What the page's program reads."""
    (text,) = re.findall(r"<script type='application/json' id='held'>(.*?)</script>", page.html, re.DOTALL)
    return json.loads(text)


def numbers(page: Explorer, name: str) -> np.ndarray:
    """A quantity, decoded as the program does."""
    found = held(page)
    (quantity,) = (quantity for quantity in found["quantities"] if quantity["name"] == name)
    sizes = {dim["name"]: len(dim["values"]) for dim in found["dimensions"]}
    data = np.frombuffer(base64.b64decode(quantity["data"]), np.dtype(quantity["dtype"]).newbyteorder("<"))
    return data.reshape([sizes[dim] for dim in quantity["dims"]])


def test_the_page_holds_every_bit_of_the_dataset():
    dataset = isolated_rbf()
    dataset["efficacy"][0, 1, 0], dataset["spike"][2, 0, 1] = np.nan, np.inf
    page = explore(dataset)
    assert len(page.html.encode()) < LARGEST
    for name, variable in dataset.data_vars.items():
        found = numbers(page, str(name))
        assert found.dtype == variable.dtype
        np.testing.assert_array_equal(found, variable.values)
    for dim in held(page)["dimensions"]:
        np.testing.assert_array_equal(np.array(dim["values"], dataset[dim["name"]].dtype), dataset[dim["name"]].values)
    # Nothing is fetched from elsewhere, and what the dataset says is text.
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page.html)


def test_words_of_a_dataset_are_text():
    nasty = "</script><script>alert(1)</script>"
    dataset = isolated_rbf().assign_attrs(data=nasty, title=nasty)
    dataset.efficacy.attrs["long_name"] = nasty
    html = explore(dataset).html
    assert nasty not in html
    assert held(Explorer(html))["quantities"][0]["label"] == nasty


def test_axes():
    dataset = xr.Dataset(
        {"f": (("log", "even", "stopped", "penalty", "kernel", "bare"), np.zeros((3, 3, 3, 4, 2, 2)))},
        {"log": [0.01, 0.1, 10.0], "even": [1.0, 2.0, 4.0], "stopped": [10.0, 100.0, np.inf],
         "penalty": [0.0, 1e-4, 1e-2, 1.0], "kernel": ["rbf", "laplace"]},
    )  # fmt: skip
    found = {name: dimension(dataset, name) for name in dataset.dims}
    scales = {name: dim["scale"] for name, dim in found.items()}
    assert scales == {"log": "log", "even": "linear", "stopped": "steps", "penalty": "steps", "kernel": "steps",
                      "bare": "linear"}  # fmt: skip
    np.testing.assert_allclose(found["log"]["positions"], [-2, -1, 1])
    assert found["log"]["ticks"] == [[-2.0, -1.0, 0.0, 1.0], ["0.01", "0.1", "1", "10"]]
    assert found["even"]["positions"] == [1, 2, 4]
    assert found["stopped"]["ticks"] == [[0, 1, 2], ["10", "100", "∞"]]
    assert found["bare"]["ticks"] == [[0, 1], ["0", "1"]]
    assert found["kernel"]["values"] == ["rbf", "laplace"]


def test_single_precision_where_there_is_no_room_for_more():
    values = np.random.default_rng(0).normal(size=(2, 400, 500))
    page = explore(xr.Dataset({"f": (("a", "b", "c"), values), "whole": ("a", [1, 2])}))
    assert len(page.html.encode()) < LARGEST
    (f, _) = held(page)["quantities"]
    assert (f["rounded"], f["dtype"]) == (True, "float32")
    np.testing.assert_array_equal(numbers(page, "f"), values.astype(np.float32))


def test_a_notebook_shows_it_in_a_frame():
    shown = explore(isolated_rbf())._repr_html_()
    assert shown.startswith("<iframe title='explorer' srcdoc='&lt;!doctype html&gt;")
    assert "'" not in shown[shown.index("srcdoc='") + 8 : shown.rindex("' style=")]


@pytest.mark.parametrize(
    ("dataset", "error", "said"),
    [
        (np.zeros(3), TypeError, "dataset must be an xarray.Dataset, got ndarray"),
        (xr.Dataset(), ValueError, "variables of real numbers, got no variable"),
        (xr.Dataset({"name": ("a", ["x", "y"])}), ValueError, "variables of real numbers, got name"),
        (xr.Dataset({"f": (("a", "b"), [[1.0]])}), ValueError, "got one point"),
        (xr.Dataset({"f": 1.0}), ValueError, "got one point"),
        (xr.Dataset({"f": ("a", [])}), ValueError, "must hold numbers, got the sizes {'a': 0}"),
        (xr.Dataset({"f": ("a", [np.nan, np.inf])}), ValueError, "got only NaN or ∞ in f"),
        (xr.Dataset({"f": (("a", "b", "c"), np.zeros((9, 100, 1000)))}), ValueError,
         r"takes 4.8 MB in single precision.*\(a 9, b 100, c 1000\).*room for 5 of the 9 values of a, or 6\d of"),
        (xr.Dataset({"f": ("a", np.full(400_000, 1e60))}), ValueError, r"takes 4.3 MB, a page"),
    ],
    ids=["no dataset", "empty", "words", "one point", "no dimension", "no size", "not finite", "large", "vast"],
)  # fmt: skip
def test_what_cannot_be_shown(dataset, error, said):
    with pytest.raises(error, match=said):
        explore(dataset)


def test_quantities_are_names():
    assert [q["name"] for q in held(explore(isolated_rbf(), quantities=["spike"]))["quantities"]] == ["spike"]
    with pytest.raises(ValueError, match="quantities must be of efficacy, spike, gain, m_success, got 'spikes'"):
        explore(isolated_rbf(), quantities=["spikes"])
    with pytest.raises(TypeError, match="sequence of names, got 'spike'"):
        explore(isolated_rbf(), quantities="spike")


# --- The command ---


@pytest.fixture
def file(tmp_path):
    """A file such as `kpoison sweep` writes."""
    path = tmp_path / "grid.nc"
    isolated_rbf().assign_attrs(kpoison_version="0.1.0", law="isolated").to_netcdf(path, engine="h5netcdf")
    return path


def test_the_command_writes_a_page_beside_the_file(file, capsys):
    assert main(["explore", str(file)]) == 0
    page = file.with_suffix(".html")
    assert capsys.readouterr().out == f"page: {page}\n"
    np.testing.assert_array_equal(numbers(Explorer(page.read_text("utf-8")), "spike"), isolated_rbf().spike.values)


def test_the_command_takes_a_part_and_lays_files_beside_each_other(file, tmp_path, capsys):
    other, out = tmp_path / "other.nc", tmp_path / "both.html"
    (2 * isolated_rbf()).assign_attrs(kpoison_version="0.1.0").to_netcdf(other, engine="h5netcdf")
    arguments = [str(file), str(other), "--out", str(out), "--select", "ridge=0.009", "r_over_l=0.05:2"]
    assert main(["explore", *arguments, "--quantities", "spike"]) == 0
    assert "ridge = 0.01\n" in capsys.readouterr().out
    dataset = isolated_rbf().spike.sel(ridge=[0.01], r_over_l=slice(0.05, 2)).values
    found = held(Explorer(out.read_text("utf-8")))
    assert found["dimensions"][0]["values"] == ["grid", "other"]
    np.testing.assert_array_equal(numbers(Explorer(out.read_text("utf-8")), "spike"), [dataset, 2 * dataset])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "FILE must be one or several, got none"),
        (["missing.nc"], "FILE must exist, got missing.nc"),
        (["text.nc"], "FILE must be a result of kpoison, text.nc cannot be read"),
        (["text.txt"], "FILE must end in .nc or .zarr, got text.txt"),
        (["foreign.nc"], "foreign.nc holds temperature: of any dataset of numbers kpoison.plotting.explore"),
        (["grid.nc", "--out", "page.pdf"], "--out must be FILE.html"),
        (["grid.nc", "--quantities", "spikes"], "quantities must be of efficacy, spike"),
        (["grid.nc", "--select", "ridge"], "--select must be NAME=VALUE or NAME=LOWEST:LARGEST of r_over_l, m, ridge"),
        (["grid.nc", "--select", "ridge=small"], "--select ridge must be a number or LOWEST:LARGEST, got 'small'"),
        (["grid.nc", "--select", "m=2000:3000"], "--select m must hold one of 1.0 to 1000.0, got 2000:3000"),
        (["grid.nc", "coarse.nc"], "files must be of one grid and the same quantities"),
    ],
    ids=" ".join,
)
def test_wrong_arguments(file, arguments, said, capsys, monkeypatch):
    monkeypatch.chdir(file.parent)
    for name in ("text.nc", "text.txt"):
        (file.parent / name).write_text("no numbers")
    xr.Dataset({"temperature": ("day", [1.0, 2.0])}).to_netcdf("foreign.nc", engine="h5netcdf")
    coarse = isolated_rbf().isel(m=slice(None, None, 2)).assign_attrs(kpoison_version="0.1.0")
    coarse.to_netcdf("coarse.nc", engine="h5netcdf")
    assert main(["explore", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not list(file.parent.glob("*.html"))


def test_without_the_extra_it_says_what_to_install(file, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert main(["explore", str(file)]) == 2
    assert capsys.readouterr().err == "kpoison: plotly is not installed: pip install 'kpoison[explore]'\n"
    with pytest.raises(ImportError, match="kpoison\\[explore\\]"):
        explore(isolated_rbf())
