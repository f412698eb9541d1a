"""`kpoison spectrum` from its arguments to its files."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import kpoison as kp
from kpoison import networks
from kpoison.cli import main
from kpoison.plotting import draw_image, draw_spectrum, draw_spectrum_figure
from kpoison.problems import KERNELS, TriggerArguments, make_trigger
from kpoison.problems.backdoor import make_backdoor

SMALL = ["spectrum", "--train", "40", "--test", "30", "--count", "8", "--top", "4"]


@pytest.fixture(scope="module")
def backdoor():
    jax.config.update("jax_enable_x64", True)
    return make_backdoor("digits", kp.Patch(2, (-2, -2), clip=(0, 1)), train=40, test=30, poisons=8)


@pytest.fixture(scope="module")
def predictors(backdoor):
    posterior = kp.fit(kp.kernels.RBF(backdoor.median_distance), backdoor.X, backdoor.y)
    return kp.predictor(posterior, 1e-3), kp.predictor(posterior, 1e-3, backdoor.poison(8))


def check(result, outcome, before, direction):
    """The file against the library's own numbers."""
    assert result["success"] == outcome.success
    assert result["accuracy"] == outcome.accuracy
    assert result["clean"]["success"] == before.success
    for name, spectrum in ((result, outcome.spectrum), (result["clean"], before.spectrum)):
        np.testing.assert_allclose(name["eigenvalues"], spectrum.values, rtol=1e-9)
        assert all(name["converged"])
        assert max(name["residuals"]) < 1e-8
    # By hand: the projections on the trigger's mean displacement.
    for name, spectrum in ((result, outcome.spectrum), (result["clean"], before.spectrum)):
        cosines = np.asarray(spectrum.vectors) @ np.asarray(direction) / np.linalg.norm(direction)
        np.testing.assert_allclose(name["cos2"], cosines**2, rtol=1e-5, atol=1e-9)
    assert result["cos2_by_chance"] == 1 / 64
    seen = outcome.visibility
    np.testing.assert_allclose(result["edge"], seen.edge, rtol=1e-9)
    np.testing.assert_allclose(result["z_score"], seen.z_score, rtol=1e-6)
    np.testing.assert_allclose(result["alignment"], seen.alignment, rtol=1e-6)
    assert result["visible"] == bool(seen.visible)
    assert result["method"] == seen.method


@pytest.mark.slow
def test_kernel(tmp_path, capsys, backdoor, predictors):
    out, plot = tmp_path / "a.json", tmp_path / "a.png"
    assert main([*SMALL, "--out", str(out), "--plot", str(plot)]) == 0
    printed = capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG")
    result = json.loads(out.read_text())
    edge = backdoor.clean_edge(predictors[0], key=jax.random.key(0))
    before, after = backdoor.judge(predictors[0], edge, 0.0, k=4), backdoor.judge(predictors[1], edge, 0.1, k=4)
    check(result, after, before, backdoor.direction)
    assert result["arguments"]["count"] == 8
    assert result["arguments"]["out"] == str(out)
    assert result["environment"]["kpoison"] == kp.__version__
    assert result["triggered_probes"] == 3
    times = float(after.spectrum.values[0] / edge.edge)
    assert (
        result["verdict"]
        == f"visible: the leading eigenvalue is {times:.3g} times the edge of the bulk (clean reference)"
    )
    for part in (
        result["verdict"],
        f"success rate {after.success:.3f}",
        "converged",
        "z-score",
        "alignment",
        "cos²",
        "by chance 0.016",
        str(out),
    ):
        assert part in printed


@pytest.mark.slow
@pytest.mark.parametrize("trigger", ["additive", "warp"])
def test_triggers(tmp_path, trigger):
    """What is attacked is what the trigger of this name and seed makes of the images."""
    out = tmp_path / "a.json"
    assert main([*SMALL, "--trigger", trigger, "--count", "0", "--seed", "3", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    made = make_trigger(TriggerArguments(trigger=trigger), (8, 8, 1), seed=3)
    backdoor = make_backdoor("digits", made, train=40, test=30, poisons=8, seed=3)
    posterior = kp.fit(kp.kernels.RBF(backdoor.median_distance), backdoor.X, backdoor.y)
    outcome = backdoor.judge(kp.predictor(posterior, 1e-3), jnp.asarray(1.0), 0.1, k=4)
    assert result["arguments"]["trigger"] == trigger
    assert result["success"] == outcome.success
    np.testing.assert_allclose(result["eigenvalues"], outcome.spectrum.values, rtol=1e-9)
    np.testing.assert_allclose(result["alignment"], outcome.visibility.alignment, rtol=1e-6)


@pytest.mark.slow
def test_edge_by_permutations_without_poison(tmp_path, backdoor, predictors):
    out = tmp_path / "a.json"
    assert main([*SMALL, "--null", "permutation", "--count", "0", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    gradients = kp.curvature.input_gradients(predictors[0], backdoor.probes(0.1))
    edge = kp.curvature.bulk_edge_from_permutations(gradients, key=jax.random.key(0))
    after, before = (backdoor.judge(predictors[0], edge, fraction, k=4) for fraction in (0.1, 0.0))
    check(result, after, before, backdoor.direction)
    assert result["verdict"].startswith("visible" if result["visible"] else "hidden")


@pytest.mark.slow
def test_hessian_of_networks(tmp_path, capsys, backdoor):
    out = tmp_path / "a.json"
    arguments = ["--kernel", "ntk-erf", "--network", "16", "--ridge", "0.01", "--matrix", "hessian"]
    assert main([*SMALL, *arguments, "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    network = networks.Architecture.matching(KERNELS["ntk-erf"](1.0), 16).initialise(jax.random.key(0), 64)
    pair = networks.train_pair(network, backdoor.X, backdoor.y, backdoor.poison(8), 0.01, reference="clean")
    targets = jnp.where(backdoor.labels == 1, 1.0, -1.0)
    before, after = (
        kp.curvature.top_eigenpairs(kp.curvature.input_hessian(f, x, targets), 4)
        for f, x in zip(pair, (backdoor.clean, backdoor.probes(0.1)), strict=True)
    )
    np.testing.assert_allclose(result["eigenvalues"], after.values, rtol=1e-9)
    np.testing.assert_allclose(result["clean"]["eigenvalues"], before.values, rtol=1e-9)
    np.testing.assert_allclose(result["edge"], before.values[0], rtol=1e-9)
    np.testing.assert_allclose(result["alignment"], abs(after.vectors[0] @ backdoor.direction), rtol=1e-6)
    outcome = backdoor.judge(pair[1], before.values[0], 0.1, k=1)
    assert (result["success"], result["accuracy"]) == (outcome.success, outcome.accuracy)
    assert result["method"] == "clean predictor"
    assert result["z_score"] is None
    assert max(result["training"]["gradient_norm"]) < 1e-8
    assert "z-score none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "16"], "--network needs --kernel ntk-relu or ntk-erf, got rbf"),
        (["--network", "16", "--kernel", "nngp-relu"], "--network needs .* got nngp-relu"),
        (["--network", "0", "--kernel", "ntk-erf"], "--network must be an integer >= 1"),
        (["--plot", "a.jpg"], "--plot must be FILE.png in a folder that exists, got a.jpg"),
        (["--plot", "missing/a.png"], "--plot must be FILE.png"),
        (["--out", "missing/a.json"], "--out must be FILE.json"),
        (["--top", "65"], "--top must be from 1 to 64, the pixels of digits, got 65"),
        (["--top", "0"], "--top must be from 1 to 64"),
        (["--fraction", "0"], r"--fraction must lie in \(0, 1\], got 0.0"),
        (["--fraction", "1.5"], "--fraction must lie in"),
        (["--fraction", "nan"], "--fraction must lie in"),
        (["--ridge", "-1"], "--ridge must be finite and > 0"),
        (["--count", "-1"], "--count must be an integer >= 0"),
        (["--classes", "0", "1", "12"], "--classes must be of 0 to 9, got 0 1 12"),
        (["--classes", "3"], "classes must be two or more"),
        (["--target", "2"], "target must be an index into classes"),
        (["--position", "7", "7"], "--trigger patch: position and size must lie within images"),
        (["--size", "9"], "--trigger patch: position and size"),
        (["--size", "0"], "--trigger patch: size must be"),
        (["--opacity", "2"], r"--trigger patch: opacity must lie in \[0, 1\]"),
        (["--trigger", "blend", "--opacity", "0"], "--trigger blend: images must be changed by the trigger"),
        (["--trigger", "sinusoid", "--frequency", "-1"], "--trigger sinusoid: frequency"),
        (["--trigger", "blend", "--opacity", "1"], "--trigger blend: nothing is left of the images"),
        (["--trigger", "additive", "--size", "4"], "--trigger additive: size must be odd"),
        (["--trigger", "additive", "--amplitude", "0"], "--trigger additive: images must be changed by the trigger"),
        (["--trigger", "warp", "--strength", "2"], "--trigger warp: strength must keep the warp within the image"),
        (["--trigger", "warp", "--strength", "0"], "--trigger warp: images must be changed by the trigger"),
        (["--trigger", "warp", "--grid", "7"], "--trigger warp: grid must be at most"),
        (["--matrix", "hessian", "--null", "permutation"], "--null permutation needs --matrix fisher"),
        (["--count", "1000"], "count must be between 0 and"),
        (["--train", "1000"], "train and test must fit digits"),
        (["--data", "mnist", "--data-dir", "missing"], "missing"),
    ],
)
def test_wrong_arguments(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kp, "fit", None)  # nothing is solved
    assert main(["spectrum", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_unconverged_training_is_refused(capsys, monkeypatch):
    def fail(*_, **__):
        raise networks.UnconvergedError("2 of 2 training runs have not converged")

    monkeypatch.setattr(networks, "train_pair", fail)
    assert main([*SMALL, "--kernel", "ntk-erf", "--network", "16"]) == 2
    assert "--network: 2 of 2 training runs have not converged" in capsys.readouterr().err


def test_help_says_units_and_defaults(capsys):
    with pytest.raises(SystemExit):
        main(["spectrum", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for part in (
        "in pixels",
        "periods per width",
        "label² per standardised input²",
        "mean loss",
        "0.001",
        "99 % quantile",
    ):
        assert part in text


def test_pictures_refuse_what_does_not_fit():
    ax = Figure().subplots()
    with pytest.raises(ValueError, match=r"eigenvalues must have shape \(k,\)"):
        draw_spectrum(ax, np.zeros((2, 2)), label="a")
    with pytest.raises(ValueError, match="eigenvalues must be finite"):
        draw_spectrum(ax, np.array([1.0, np.nan]), label="a")
    with pytest.raises(ValueError, match=r"vector must have one number for each of \(2, 2, 1\), got shape \(3,\)"):
        draw_image(ax, np.zeros(3), (2, 2, 1))


def test_pictures_show_what_they_are_given():
    ax = draw_spectrum(Figure().subplots(), np.array([0.0, 2.0, 1.0]), 1.5, label="clean")
    marks, edge = ax.get_lines()
    np.testing.assert_array_equal(marks.get_xydata(), [[1, 2], [2, 1]])
    np.testing.assert_array_equal(edge.get_ydata(), [1.5, 1.5])
    assert marks.get_label() == "clean (2 of 3 above 0)"
    figure = draw_spectrum_figure(
        np.array([1.0]), np.array([2.0]), 1.5, np.array([1.0, -2.0]), np.array([0.0, 1.0]), (1, 2, 1), method="test"
    )
    (shown,) = figure.axes[1].get_images()
    np.testing.assert_array_equal(shown.get_array(), [[-1, 2]])  # of two signs the one along the trigger
