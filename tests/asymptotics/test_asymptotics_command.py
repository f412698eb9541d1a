"""`kpoison asymptotics` from its arguments to its files."""

import json

import numpy as np
import pytest

from kpoison.asymptotics import backdoor_mixture, ridge_regression
from kpoison.asymptotics._simulation import simulated_ridge_regression
from kpoison.cli import main


@pytest.mark.slow
def test_figures_hold_the_laws_and_what_is_trained(tmp_path, capsys):
    command = [
        "asymptotics",
        "--figures",
        "lag",
        "count",
        "images",
        "--dimension",
        "8",
        "--draws",
        "3",
        "--train",
        "40",
    ]
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert "exponent" in capsys.readouterr().out
    for name in ("lag", "count", "images"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    figures = json.loads((tmp_path / "numbers.json").read_text())["figures"]
    law, trained = figures["lag"][0]["curves"][:2]
    axes = np.eye(8)
    for x, y in list(zip(law["x"], law["y"], strict=True))[::5]:
        attack = backdoor_mixture(1.5 * axes[1], np.linspace(0.5, 1.5, 8), axes[0], x, 2.0)
        assert y == pytest.approx(float(ridge_regression(attack, 16, 0.1).attack_success_rate()), rel=1e-12)
    assert set(trained["x"]) <= set(law["x"])
    for kinds in figures["images"][0]["curves"]:
        assert np.all(np.diff(kinds["y"]) > -0.1)


def test_simulated_sets_have_the_fractions_on_average():
    """Against a model of the same sets by the normal equations of their moments, n → ∞."""
    axes = np.eye(4)
    attack = backdoor_mixture(axes[1], np.ones(4), axes[0], 0.1, 2.0)
    found = simulated_ridge_regression(attack, 4001, 0.1, 6, (0,), axes[0])
    model = ridge_regression(attack, 4001, 0.1)
    pairs = (("success", model.attack_success_rate()), ("accuracy", model.accuracy()), ("error", model.error))
    for name, value in pairs:
        assert np.mean(found[name]) == pytest.approx(float(value), abs=0.02)
    assert np.mean(found["overlap"]) == pytest.approx(float(model.overlap(axes[0])), abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dimension", "2"], "--dimension must be an integer >= 3"),
        (["--draws", "1"], "--draws must be an integer >= 2"),
        (["--fraction", "0.5"], r"--fraction must lie in (0, 0.5), got 0.5"),
        (["--train", "4"], "--train must be an integer >= 20"),
        (["--ridge", "0"], "--ridge must be finite and > 0"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    assert main(["asymptotics", *arguments]) == 2
    assert message in capsys.readouterr().err
