"""Signatures against brute force and the Adversarial Robustness Toolbox; their prediction against what they find."""

import importlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kpoison.defences import (
    isotropic_visibility,
    kernel_features,
    predicted_visibility,
    spectral_signatures,
    visible_count,
)
from kpoison.kernels import RBF

RNG = np.random.default_rng(0)
LABELS = np.repeat([7, -1], [23, 15])
FEATURES = RNG.normal(size=(38, 20)) * np.linspace(0.3, 2, 20) + LABELS[:, None]
CLEAN = RNG.normal(size=(25, 8)) * np.linspace(0.4, 2, 8)
PLACE = CLEAN.mean(axis=0) + 2.5 * np.eye(8)[2] + np.eye(8)[7]


@pytest.fixture
def toolbox(monkeypatch, tmp_path):
    monkeypatch.setenv("ART_DATA_PATH", str(tmp_path))
    pytest.importorskip("art")
    with warnings.catch_warnings():
        # Of frameworks that are not installed.
        warnings.filterwarnings("ignore", message=".*not found.*", module="art")
        return importlib.import_module("art.defences.detector.poison")


def by_hand(rows):
    """Squared projections on the first right singular vector."""
    centred = rows - rows.mean(axis=0)
    return (centred @ np.linalg.svd(centred)[2][0]) ** 2


@pytest.mark.parametrize("columns", [20, 5])
def test_scores_are_squared_projections_of_each_class(columns):
    found = spectral_signatures(FEATURES[:, :columns], LABELS)
    for label in (7, -1):
        members = label == LABELS
        np.testing.assert_allclose(found.scores[members], by_hand(FEATURES[members, :columns]), rtol=1e-9, atol=1e-12)


def test_removes_one_and_a_half_times_the_fraction_of_each_class():
    found = spectral_signatures(FEATURES, LABELS, fraction=0.1)
    assert [int(found.suspected[label == LABELS].sum()) for label in (7, -1)] == [4, 3]  # of 3.45 and 2.25, from above
    for label in (7, -1):
        scores, suspected = found.scores[label == LABELS], found.suspected[label == LABELS]
        assert scores[suspected].min() > scores[~suspected].max()


def test_as_the_toolbox_has_it(toolbox):
    defence = toolbox.SpectralSignatureDefense
    found = spectral_signatures(FEATURES, LABELS, fraction=0.1)
    for label in (7, -1):
        members = label == LABELS
        # Theirs are |φ·v| of features that are not centred, the paper's are ((φ − μ)·v)²: the same order for μ = 0.
        centred = FEATURES[members] - FEATURES[members].mean(axis=0)
        theirs = defence.spectral_signature_scores(centred)[:, 0] ** 2
        np.testing.assert_allclose(found.scores[members], theirs, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(found.suspected[members], theirs >= np.quantile(theirs, 1 - 1.5 * 0.1))


def test_clones_go_together_and_equal_points_stay():
    rows = np.concatenate([CLEAN, np.repeat(CLEAN.mean(axis=0)[None] + 30, 5, axis=0)])
    rows = rows + 1e-9 * RNG.normal(size=rows.shape)
    found = spectral_signatures(rows, np.zeros(30, int), fraction=0.1)  # 5 of 4.5, from above
    np.testing.assert_array_equal(found.suspected, np.arange(30) >= 25)
    # Fewer may go than there are clones: the threshold lies among them, and more than the share may not go.
    assert not spectral_signatures(rows, np.zeros(30, int), fraction=0.05).suspected.any()
    same = spectral_signatures(np.full((6, 3), 0.1), np.array([0, 0, 0, 0, 0, 1]))
    np.testing.assert_array_equal(same.scores, np.zeros(6))
    assert not same.suspected.any()


def test_float32_stays():
    found = spectral_signatures(FEATURES.astype(np.float32), LABELS)
    assert found.scores.dtype == found.threshold.dtype == np.float32
    np.testing.assert_allclose(found.scores, spectral_signatures(FEATURES, LABELS).scores, rtol=1e-4, atol=1e-5)


def poisoned(clean, places, count):
    """The class with the poisons in it, and which they are."""
    rows = np.concatenate([clean, np.repeat(places, count, axis=0)])
    return rows, np.arange(len(rows)) >= len(clean)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("number", [1, 3])
def test_the_prediction_is_what_is_found(wide, number):
    clean = np.random.default_rng(1).normal(size=(20, 40)) * np.linspace(0.3, 2, 40) if wide else CLEAN
    away = np.random.default_rng(2).normal(size=(number, clean.shape[1]))
    seen = set()
    for distance in (0.4, 2.5, 8.0):
        places = clean.mean(axis=0) + distance * np.eye(clean.shape[1])[:1] + (0.3 * away if number > 1 else 0)
        for count in (1, 6):
            predicted = predicted_visibility(clean, places, count)
            rows, is_poison = poisoned(clean, places, count)
            values, vectors = np.linalg.eigh(np.cov(rows.T, bias=True))
            delta = places.mean(axis=0) - clean.mean(axis=0)
            found = spectral_signatures(rows, np.zeros(len(rows), int))
            scores = np.concatenate([predicted.clean_scores, np.repeat(predicted.poison_scores, count)])
            assert float(predicted.eigenvalue) == pytest.approx(values[-1], rel=1e-12)
            assert float(predicted.overlap) == pytest.approx((vectors[:, -1] @ delta) ** 2 / (delta @ delta), abs=1e-9)
            np.testing.assert_allclose(scores, found.scores, rtol=1e-8, atol=1e-10)
            rates = found.rates(is_poison)
            assert float(predicted.auroc) == pytest.approx(rates.auroc, abs=1e-12)
            assert float(predicted.true_positive) == pytest.approx(rates.true_positive, abs=1e-12)
            seen.add(bool(predicted.visible))
    assert seen == {False, True}


def test_the_visible_count_is_where_the_spike_crosses():
    count = float(visible_count(CLEAN, PLACE))
    assert 0 < count < 100
    at = predicted_visibility(CLEAN, PLACE, count)
    assert float(at.spike) == pytest.approx(float(at.threshold), rel=1e-12)
    leading = np.linalg.eigh(np.cov(CLEAN.T, bias=True))[1][:, -1]
    shares = []
    for part in (0.5, 1.0, 3.0):
        share = part * count / (len(CLEAN) + part * count)
        delta = PLACE - CLEAN.mean(axis=0)
        mixed = (1 - share) * np.cov(CLEAN.T, bias=True) + share * (1 - share) * np.outer(delta, delta)
        shares.append((np.linalg.eigh(mixed)[1][:, -1] @ leading) ** 2)
    assert shares[0] > shares[1] >= 0.5 > shares[2]


def test_near_clones_of_the_mean_are_never_visible():
    assert float(visible_count(CLEAN, CLEAN.mean(axis=0) + 0.1)) == np.inf
    predicted = predicted_visibility(CLEAN, CLEAN.mean(axis=0) + 0.1, 1e6)
    assert not predicted.visible
    assert float(predicted.auroc) < 0.5
    there = predicted_visibility(jnp.zeros((4, 2)), jnp.zeros(2), 3.0)  # no variance, no displacement
    assert (float(there.eigenvalue), float(there.overlap), bool(there.visible)) == (0, 0, False)
    assert float(there.auroc) == 0.5
    assert bool(predicted_visibility(jnp.zeros((4, 2)), jnp.ones(2), 3.0).visible)


@pytest.mark.slow
def test_in_the_feature_space_of_a_kernel_and_float32():
    X = RNG.normal(size=(20, 2))
    features = kernel_features(RBF(2.0), jnp.asarray(np.concatenate([X, [[4.0, 4.0]]])))
    exact = predicted_visibility(features[:-1], features[-1], 6.0)
    rough = predicted_visibility(features[:-1].astype(jnp.float32), features[-1], np.float32(6.0))
    assert rough.eigenvalue.dtype == jnp.float32
    # Sums over every feature of every point, each addition rounded in its turn.
    rounding = features.size * float(np.finfo(np.float32).eps)
    assert float(rough.eigenvalue) == pytest.approx(float(exact.eigenvalue), rel=rounding)
    assert float(rough.auroc) == float(exact.auroc)


def test_derivative_in_the_count_and_nowhere_else():
    def eigenvalue(count):
        return predicted_visibility(CLEAN, PLACE, count).eigenvalue

    slope = float(jax.jit(jax.grad(eigenvalue))(4.0))
    assert slope == pytest.approx(float(eigenvalue(4.0 + 1e-5) - eigenvalue(4.0 - 1e-5)) / 2e-5, rel=1e-6)
    with pytest.raises(TypeError, match="no derivative"):
        jax.grad(lambda place: predicted_visibility(CLEAN, place, 4.0).eigenvalue)(PLACE)
    with pytest.raises(TypeError, match="no derivative"):
        jax.grad(lambda count: predicted_visibility(CLEAN, CLEAN[:2], count).eigenvalue)(4.0)


def test_isotropic_closed_forms():
    # n_c = 400, m = 100, σ² = 5/4: s = 1; k = 100: c = 1/4, θ_c = 1/2 + 1/4, and at θ = 1.25: 1.25·2, 1 − 1/4.
    clones = isotropic_visibility(400, 100, 1.25, 100.0, (1.25 / 0.16) ** 0.5)
    assert [float(value) for value in (clones.threshold, clones.edge, clones.spike)] == pytest.approx(
        [0.75, 2.25, 1.25]
    )
    assert [float(clones.eigenvalue), float(clones.overlap)] == pytest.approx([2.5, 0.75])
    # A population: c = 1/5, the threshold is lower.
    population = isotropic_visibility(400, 100, 1.25, 100.0, 3.0, scattered=True)
    assert float(population.threshold) == pytest.approx(1.25 * 0.2**0.5)
    for scattered in (False, True):
        below = isotropic_visibility(400, 100, 1.25, 100.0, 0.5, scattered=scattered)
        assert (bool(below.visible), float(below.overlap), float(below.eigenvalue)) == (
            False,
            0,
            pytest.approx(float(below.edge)),
        )
        far = isotropic_visibility(400, 100, 1.25, 100.0, 50.0, scattered=scattered)
        assert float(far.auroc) == pytest.approx(1)
    # Below, clones have no projection at all, and a population that of anyone.
    assert float(isotropic_visibility(400, 100, 1.25, 100.0, 0.5).auroc) == 0
    assert float(isotropic_visibility(400, 100, 1.25, 100.0, 0.5, scattered=True).auroc) == 0.5


def test_a_drawn_class_has_the_eigenpair_of_the_limit():
    clean = np.random.default_rng(3).normal(size=(400, 100))
    # Far above the threshold: near it single draws differ.
    place = clean.mean(axis=0) + 5.0 * np.eye(100)[0]
    limit = isotropic_visibility(400, 100, 1.0, 50.0, 5.0)
    drawn = predicted_visibility(clean, place, 50.0)
    assert float(drawn.overlap) == pytest.approx(float(limit.overlap), abs=0.1)
    assert float(drawn.eigenvalue) == pytest.approx(float(limit.eigenvalue), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("distance", [2.0, 3.0])
def test_drawn_populations_have_the_auroc_of_the_limit(distance):
    number, dimension, count = 1200, 300, 300
    is_poison, found = np.arange(number + count) >= number, []
    for seed in range(6):
        features = np.random.default_rng(seed).normal(size=(number + count, dimension))
        features[is_poison, 0] += distance
        found.append(spectral_signatures(features, np.zeros(len(features), int)).rates(is_poison).auroc)
    limit = isotropic_visibility(number, dimension, 1.0, float(count), distance, scattered=True)
    # Four standard errors of the mean; the finite size itself moves it by less than one.
    assert float(limit.auroc) == pytest.approx(np.mean(found), abs=4 * np.std(found, ddof=1) / 6**0.5)
    assert np.std(found) < 0.04


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": FEATURES[:, 0]}, "features must have shape"),
        ({"features": np.zeros((0, 3)), "labels": np.zeros(0, int)}, "features must have shape"),
        ({"features": np.where(np.arange(20) == 3, np.nan, FEATURES)}, "features must be finite"),
        ({"labels": LABELS[:-1]}, "labels must have shape"),
        ({"fraction": 0.0}, "fraction must be finite and > 0"),
        ({"fraction": 1.0}, "fraction must lie between 0 and 1"),
        ({"fraction": 0.5, "multiplier": 2.0}, "multiplier · fraction"),
    ],
)
def test_bad_input(change, message):
    arguments = {"features": FEATURES, "labels": LABELS} | change
    with pytest.raises(ValueError, match=message):
        spectral_signatures(**arguments)


def test_bad_predictions():
    with pytest.raises(TypeError, match="labels must be integers"):
        spectral_signatures(FEATURES, LABELS.astype(float))
    with pytest.raises(ValueError, match="poisons must have shape"):
        predicted_visibility(CLEAN, PLACE[:-1])
    with pytest.raises(ValueError, match="clean must have shape"):
        predicted_visibility(CLEAN[0], PLACE)
    with pytest.raises(ValueError, match="poisons must be finite"):
        predicted_visibility(CLEAN, PLACE * np.inf)
    with pytest.raises(ValueError, match="count must be finite and > 0"):
        predicted_visibility(CLEAN, PLACE, 0)
    with pytest.raises(ValueError, match="poisons must be one place"):
        visible_count(CLEAN, CLEAN[:2])
    with pytest.raises(ValueError, match="dimension must be an integer"):
        isotropic_visibility(10, 0, 1.0, 1.0, 1.0)
