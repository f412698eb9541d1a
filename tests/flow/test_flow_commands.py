"""`kpoison flow` and `kpoison tradeoff` from their arguments to their files."""

import numpy as np
import pytest
import xarray as xr

import kpoison as kp
from kpoison.cli import main
from kpoison.problems.setting import make_setting

SMALL = ["--points", "8", "--probes", "3", "--m", "4"]


@pytest.mark.slow
def test_flow_keeps_and_draws_what_the_laws_say(tmp_path, capsys):
    out, plot = tmp_path / "flow.nc", tmp_path / "flow.png"
    command = ["flow", *SMALL, "--gradient-penalty", "0,0.1", "--time", "1:100:3:log"]
    assert main([*command, "--out", str(out), "--plot", str(plot)]) == 0
    assert str(out) in capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG")
    setting = make_setting("rbf")
    with xr.open_dataset(out, engine="h5netcdf") as result:
        assert dict(result.efficacy.sizes) == {"gradient_penalty": 2, "time": 3, "probe": 3}
        clean = kp.fit(setting.kernel, setting.X[:8], setting.y[:8], gradient_penalty=0.1 * setting.length_scale**2)
        stopped = kp.flow.early_stopped(clean, 10.0)
        found = result.isel(gradient_penalty=1, time=1)
        parts = kp.flow.energies(stopped, 1e-2, setting.poison(4))
        np.testing.assert_allclose(found.penalty_energy, parts.penalty, rtol=1e-9)
        np.testing.assert_allclose(found.training_fit, parts.fit, rtol=1e-9)


@pytest.mark.slow
def test_images_are_penalised_in_their_span(tmp_path, capsys):
    out = tmp_path / "t.nc"
    command = ["tradeoff", *SMALL, "--data", "digits", "--gradient-penalty", "0.1,1", "--target", "0.5"]
    assert main([*command, "--out", str(out), "--plot", str(tmp_path / "t.png")]) == 0
    assert "penalty" in capsys.readouterr().out
    setting = make_setting("rbf", "digits")
    with xr.open_dataset(out, engine="h5netcdf") as result:
        assert result.gradient_penalty.values[0] == 0
        clean = kp.fit(setting.kernel, setting.X[:8], setting.y[:8], gradient_penalty=0.1 * setting.length_scale**2)
        parts = kp.flow.energies(clean, 1e-2, setting.poison(4))
        found = result.isel(gradient_penalty=1).sel(time=np.inf)
        # The metric of the command is the projector on the span of the data, that of `clean` the identity.
        np.testing.assert_allclose(found.penalty_energy, parts.penalty, rtol=1e-8)
        np.testing.assert_allclose(found.objective, parts.unpenalised(1e-2), rtol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["flow", "--kernel", "laplace"], "twice continuously differentiable", marks=pytest.mark.slow),
        (["flow", "--out", "flow.txt"], "--out must be FILE.nc"),
        (["flow", "--plot", "flow.pdf"], "--plot must be FILE.png"),
        (["flow", "--points", "1"], "--points must be >= 2"),
        (["flow", "--points", "200"], "--points must be below the 200"),
        (["flow", "--time", "1", "--plot", "x.png"], "--plot needs several finite values of --time"),
        (["tradeoff", "--gradient-penalty", "1", "--plot", "x.png"], "--plot needs several values of"),
        (["tradeoff", "--gradient-penalty", "one"], "an axis must be"),
        (["tradeoff", "--ridge", "0"], "ridge must be"),
    ],
)
def test_wrong_arguments_end_with_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
