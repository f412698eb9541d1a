"""The input-spectrum detector on gradients that are known, and the law of what it sees beside what it sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison.defences import input_spectrum, input_spectrum_law

NUMBER, DIMENSION, SHARE = 300, 20, 0.1
DRAW = np.random.default_rng(0)
CLEAN, REFERENCE = DRAW.normal(size=(NUMBER, DIMENSION)), DRAW.normal(size=(NUMBER, DIMENSION))
ATTACKED = np.arange(NUMBER) < SHARE * NUMBER
# Population spikes ε Λ that the isotropic bulk shows from √c on (Baik, Ben Arous, Péché).
AXIS = np.full(DIMENSION, DIMENSION**-0.5)
THRESHOLD = np.sqrt(DIMENSION / NUMBER) / SHARE


def slope_is_x(x):
    """Its input gradient is the point itself."""
    return 0.5 * jnp.sum(x * x)


def with_spike(size):
    x = CLEAN.copy()
    x[ATTACKED] += np.sqrt(size) * AXIS
    return x


@pytest.mark.slow
@pytest.mark.parametrize("null", ["reference", "permutations"])
def test_scores_are_squared_projections_and_visibility_is_that_of_the_theory(null):
    reference = REFERENCE if null == "reference" else None
    strong = input_spectrum(slope_is_x, with_spike(6 * THRESHOLD), reference)
    values, vectors = np.linalg.eigh(with_spike(6 * THRESHOLD).T @ with_spike(6 * THRESHOLD) / NUMBER)
    assert bool(strong.visibility.visible)
    assert float(strong.visibility.eigenvalue) == pytest.approx(values[-1], rel=1e-12)
    np.testing.assert_allclose(strong.scores, (with_spike(6 * THRESHOLD) @ vectors[:, -1]) ** 2, rtol=1e-9)
    assert float(jnp.mean(strong.scores)) == pytest.approx(values[-1], rel=1e-12)
    np.testing.assert_array_equal(strong.suspected, np.asarray(strong.scores) > float(strong.visibility.edge))
    assert abs(float(strong.direction @ AXIS)) > 0.9
    assert strong.rates(ATTACKED).true_positive > 0.9
    assert strong.rates(ATTACKED).auroc > 0.95
    blind = input_spectrum(slope_is_x, with_spike(0.2 * THRESHOLD), reference)
    assert not bool(blind.visibility.visible)
    np.testing.assert_array_equal(blind.scores, 0)
    assert not np.any(blind.suspected)
    assert blind.rates(ATTACKED).auroc == 0.5


@pytest.mark.slow
def test_outputs_losses_and_dtypes():
    x = with_spike(40.0)
    scalar = input_spectrum(slope_is_x, x, REFERENCE)
    # Two outputs that are the first turned by 30 degrees, and nothing: the same Fisher matrix.
    turned = input_spectrum(lambda p: slope_is_x(p) * jnp.array([0.75**0.5, 0.5]), x, REFERENCE)
    np.testing.assert_allclose(turned.scores, scalar.scores, rtol=1e-9)
    # With targets the rows are (f − y)∇f, here of one sign and size.
    weighted = input_spectrum(
        slope_is_x, x, REFERENCE, targets=jax.vmap(slope_is_x)(x) - 2,
        reference_targets=jax.vmap(slope_is_x)(REFERENCE) - 2,
    )  # fmt: skip
    np.testing.assert_allclose(weighted.scores, 4 * scalar.scores, rtol=1e-9)
    np.testing.assert_array_equal(weighted.suspected, scalar.suspected)
    single = input_spectrum(slope_is_x, x.astype(np.float32), REFERENCE.astype(np.float32))
    assert single.scores.dtype == np.float32
    np.testing.assert_allclose(single.scores, scalar.scores, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_no_gradient_anywhere():
    found = input_spectrum(lambda x: 0 * jnp.sum(x), CLEAN, REFERENCE)
    assert not bool(found.visibility.visible)
    np.testing.assert_array_equal(found.scores, 0)
    assert not np.any(found.suspected)


def problem(distance, outputs=1, count=20.0):
    """Clones far from the clean data, and triggered probes that lie all but in one direction from them."""
    draw = np.random.default_rng(4)
    X = draw.normal(size=(40, 6))
    y = np.sign(X[:, 0]) if outputs == 1 else np.eye(outputs)[np.argmax(X[:, :outputs], axis=1)]
    clean = kp.fit(kp.kernels.RBF(1.5), X, y)
    zeta = np.array([0.0, 12.0, 0.0, 0.0, 0.0, 0.0])
    # Labels so large that at a length scale the spike is above the bulk of the clean gradients.
    poison = kp.Poison(zeta, -10.0 if outputs == 1 else 10 * np.eye(outputs)[1], count)
    probes, attacked = draw.normal(size=(60, 6)), np.arange(60) < 12
    ray = np.array([0.0, 0.0, 0.6, 0.8, 0.0, 0.0])
    probes[attacked] = zeta + distance * (ray + 1e-4 * draw.normal(size=(12, 6)))
    return clean, poison, probes, attacked, draw.normal(size=(60, 6))


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_law_is_visible_at_a_length_scale_and_blind_to_near_clones(outputs):
    efficacies = []
    for distance, visible in ((1.5, True), (0.01, False)):
        clean, poison, x, attacked, reference = problem(distance, outputs)
        law = input_spectrum_law(clean, poison, x, attacked, 1e-3, reference)
        spikes = kp.spike(clean, poison, x[attacked], 1e-3)
        assert float(law.spike) == pytest.approx(float(jnp.sum(spikes) / 12), rel=1e-12)
        assert float(law.coherence) == pytest.approx(1, abs=1e-4)
        # Clones and probes on one ray: the law is the measured spectrum.
        assert float(law.eigenvalue) == pytest.approx(float(law.measured.visibility.eigenvalue), rel=1e-4)
        assert bool(law.visible) == bool(law.measured.visibility.visible) == visible
        assert bool(law.visible) == (float(law.coherence * law.spike) > float(law.threshold) > 0)
        assert (law.measured.rates(attacked).auroc > 0.9) == visible
        efficacies.append(float(jnp.max(jnp.abs(kp.efficacy(clean, poison, x[attacked], 1e-3)))))
    # The attack that is not seen is the stronger one.
    assert efficacies[1] > efficacies[0] > 0.2


@pytest.mark.slow
def test_the_threshold_is_where_the_eigenvalue_reaches_the_edge():
    clean, poison, x, attacked, reference = problem(1.5, outputs=3)
    law = input_spectrum_law(clean, poison, x, attacked, 1e-3, reference)
    n = len(clean.X) + 20.0
    rows = kp.curvature.input_gradients(kp.predictor(clean, 1e-3 * n / len(clean.X)), jnp.asarray(x))
    bent = kp.laws.efficacy_gradient(clean, poison, x[attacked], 1e-3)[0]
    left = np.linalg.svd(bent)[0][:, 0]
    left = left * np.sign(left @ bent @ np.asarray(law.direction))
    spiked = np.array(rows)
    spiked[attacked] += np.sqrt(float(law.threshold)) * left[None, :, None] * np.asarray(law.direction)[None, None]
    stacked = spiked.reshape(-1, 6)
    assert np.linalg.eigvalsh(stacked.T @ stacked / len(x))[-1] == pytest.approx(
        float(law.measured.visibility.edge), rel=1e-4
    )


@pytest.mark.slow
def test_no_poison_no_spike():
    clean, poison, x, attacked, reference = problem(1.5, count=0.0)
    law = input_spectrum_law(clean, poison, x, attacked, 1e-3, reference)
    assert float(law.spike) == float(law.coherence) == 0
    assert not bool(law.visible)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"reference": REFERENCE[:0]}, ValueError, "reference must not be empty"),
        ({"reference": REFERENCE[:1]}, ValueError, "reference must hold at least two"),
        ({"reference": REFERENCE[:, :3]}, ValueError, "reference must hold points of shape"),
        ({"x": CLEAN[:1]}, ValueError, "x must hold at least two probes"),
        ({"targets": CLEAN[:, 0]}, ValueError, "reference_targets must be given"),
        ({"level": 1.0}, ValueError, "level must lie between"),
        ({"f": lambda x: jnp.outer(x, x)}, ValueError, "f must return"),
        ({"f": lambda x: jnp.sum(x) / 0}, ValueError, "f has non-finite"),
        ({"seed": -1}, ValueError, "seed must be"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {"f": slope_is_x, "x": CLEAN, "reference": REFERENCE} | change
    with pytest.raises(error, match=message):
        input_spectrum(arguments.pop("f"), arguments.pop("x"), arguments.pop("reference"), **arguments)


def test_bad_attacked_probes():
    clean, poison, x, attacked, _ = problem(1.5)
    for wrong in (attacked[:3], np.zeros(60, bool), 2 * attacked.astype(int), attacked.astype(float)):
        with pytest.raises((ValueError, TypeError), match="attacked"):
            input_spectrum_law(clean, poison, x, wrong, 1e-3)
