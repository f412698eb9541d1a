"""`kpoison sweep` from its arguments to its files."""

import numpy as np
import pytest
import xarray as xr

import kpoison as kp
from kpoison.cli import main
from kpoison.problems.setting import make_setting

AXES = ["--r-over-l", "0.01:1:5:log", "--m", "1:100:4:log", "--ridge", "1e-3,1e-2"]


@pytest.mark.slow
def test_file_and_picture(tmp_path, capsys):
    out, plot = tmp_path / "grid.nc", tmp_path / "grid.png"
    assert main(["sweep", *AXES, "--kernel", "rbf", "laplace", "--out", str(out), "--plot", str(plot)]) == 0
    printed = capsys.readouterr()
    assert str(out) in printed.out
    assert "chunk" not in printed.err  # a progress bar on a terminal only
    assert plot.read_bytes().startswith(b"\x89PNG")
    setting = make_setting("laplace")
    clean = kp.fit(setting.kernel, setting.X, setting.y)
    with xr.open_dataset(out) as result:
        assert dict(result.sizes) == {"kernel": 2, "r_over_l": 5, "m": 4, "ridge": 2}
        x = setting.probes(np.array([0.1]))[0]
        expected = kp.spike(clean, setting.poison(100), x, 1e-2)
        np.testing.assert_allclose(
            result.spike.sel(kernel="laplace", m=100, ridge=1e-2).sel(r_over_l=0.1, method="nearest"), expected
        )
    # The same command again changes nothing.
    before = out.stat().st_mtime_ns
    assert main(["sweep", *AXES, "--kernel", "rbf", "laplace", "--out", str(out)]) == 0
    assert out.stat().st_mtime_ns == before


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (
        main(["sweep", "--r-over-l", "0.1", "--m", "1", "--law", "isolated", "--quantities", "gain", "--out=~/s.nc"])
        == 0
    )
    assert (tmp_path / "s.nc").exists()


@pytest.mark.slow
def test_to_the_terminal_in_single_precision(capsys):
    assert main(["sweep", "--r-over-l", "0.1", "--m", "1,10", "--precision", "float32", "--law", "isolated"]) == 0
    assert "float32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--m", "1:2"], "an axis must be .* got '1:2'"),
        (["--m", "5:1:3"], "an axis must rise"),
        (["--ridge", "0"], "ridge must be finite and > 0"),
        (["--kernel"], "--kernel must be of rbf, .* got none"),
        (["--out", "missing/grid.nc"], "out must lie in a folder that exists"),
        (["--out", "grid.txt"], "out must end in .nc"),
        (["--plot", "missing/grid.png"], "--plot must be FILE.png"),
        (["--plot", "grid.png", "--quantities", "gain"], "--plot needs efficacy and spike"),
        (["--plot", "grid.png", "--m", "3"], "--plot needs several values"),
        (["--data", "mnist", "--data-dir", "missing"], "missing"),
    ],
)
def test_wrong_arguments(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "--r-over-l", "0.1,1", "--m", "1,2", *arguments][: 5 + len(arguments)]) == 2
    assert __import__("re").search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_help_says_units_and_defaults(capsys):
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for part in ("length scales", "START:STOP:NUMBER", "1e-3", "mean loss", "netCDF"):
        assert part in text
