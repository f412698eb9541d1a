"""STRIP against entropies by hand and against a planted backdoor of a kernel predictor."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import kpoison as kp
from kpoison.defences import strip

DRAW = np.random.default_rng(0)
CLEAN, INPUTS = DRAW.normal(size=(40, 3)), DRAW.normal(size=(7, 3))


def drawn_entropies(f, inputs, overlays, temperature, mix, chosen):
    """H of each input by NumPy, over the overlays that were drawn for it."""
    found = []
    for x, rows in zip(inputs, chosen, strict=True):
        scores = np.array([f(mix(x, CLEAN[row])) for row in rows]) / temperature
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        p = weights / weights.sum(axis=1, keepdims=True)
        found.append(-(p * np.log2(p)).sum() / overlays)
    return np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize(("superposition", "clip"), [("blend", None), ("sum", (-1.0, 1.0))])
def test_entropies_and_threshold_by_hand(superposition, clip):
    W = np.array([[1.0, -1.0, 0.5], [0.3, 2.0, -1.0]])
    found = strip(
        lambda x: x @ W.T, INPUTS, CLEAN, overlays=5, superposition=superposition, opacity=0.3, clip=clip,
        temperature=0.5, false_rejection=0.2, seed=3, points_at_once=16,
    )  # fmt: skip

    def mix(x, overlay):
        return 0.7 * x + 0.3 * overlay if superposition == "blend" else np.clip(x + overlay, *clip)

    keys = jax.random.split(jax.random.key(3))
    # Of clean inputs in ascending order, none its own.
    order, draws = np.lexsort(CLEAN.T[::-1]), importlib.import_module("kpoison.defences._strip")._draws
    own = np.asarray(draws(keys[0], jnp.asarray(CLEAN[order]), 5, 39))
    own = own + (own >= np.arange(40)[:, None])
    null = drawn_entropies(lambda x: W @ x, CLEAN[order], 5, 0.5, mix, order[own])
    drawn = np.asarray(draws(keys[1], jnp.asarray(INPUTS), 5, 40))
    assert len({tuple(row) for row in drawn.tolist()}) == 7
    expected = drawn_entropies(lambda x: W @ x, INPUTS, 5, 0.5, mix, order[drawn])
    np.testing.assert_allclose(found.scores, -expected, rtol=1e-12)
    edge = norm.ppf(0.2, null.mean(), null.std(ddof=1))
    np.testing.assert_allclose(found.threshold, -edge, rtol=1e-12)
    np.testing.assert_array_equal(found.suspected, expected < edge)


@pytest.mark.slow
def test_votes_are_the_entropy_of_the_predicted_classes():
    # Without any overlay's influence but the sign of its first coordinate.
    found = strip(
        lambda x: x[:, 0],
        jnp.zeros((1, 3)),
        CLEAN,
        overlays=4000,
        entropy="votes",
        null="empirical",
        points_at_once=999,
    )
    share = np.mean(CLEAN[:, 0] > 0)
    expected = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    assert float(found.scores[0]) == pytest.approx(-expected, abs=5e-3)


@pytest.fixture(scope="module")
def backdoor():
    """Two classes apart in the first coordinates; a trigger in the last one, to which the kernel gives its own part.

    Superposition must leave the trigger what it is: blends dilute it, and a kernel predictor follows.
    """
    X = DRAW.normal(size=(60, 5)) * np.array([0.5, 0.5, 0.5, 0.5, 0.1])
    y = np.where(np.arange(60) % 2, 1.0, -1.0)
    X[:, 0] += 1.5 * y

    def additive(a, b):
        return jnp.exp(-jnp.sum((a[:4] - b[:4]) ** 2) / 8) + jnp.exp(-((a[4] - b[4]) ** 2) / 8)

    posterior = kp.fit(kp.kernels.Custom(additive), X[:40], y[:40])
    triggered = jnp.asarray(X[:40:2][:10]).at[:, 4].set(4.0)
    poison = kp.Poison(triggered, 1.0, 3.0)
    test = jnp.asarray(X[40:])
    return posterior, poison, test[:10], jnp.asarray(test[10:]).at[:, 4].set(4.0), jnp.asarray(X[:40])


@pytest.mark.slow
def test_triggered_inputs_are_told_from_clean_ones(backdoor):
    posterior, poison, clean, triggered, overlays = backdoor
    x, truth = jnp.concatenate([clean, triggered]), np.arange(20) >= 10
    options = {"overlays": 30, "superposition": "sum", "false_rejection": 0.05}
    rates = strip(lambda x: kp.predict(posterior, x, 1e-3, poison), x, overlays, **options).rates(truth)
    assert rates.auroc > 0.95
    assert rates.true_positive > 0.5
    assert rates.false_positive <= 0.2
    # Without a poison the trigger tells nothing.
    # Of ten inputs one more or less is a matter of the draw.
    without = [
        strip(lambda x: kp.predict(posterior, x, 1e-3), x, overlays, **options, seed=seed).rates(truth).true_positive
        for seed in range(5)
    ]
    assert np.median(without) <= 0.2


@pytest.mark.slow
def test_batches_dtypes_and_host_functions_agree():
    weights = jnp.array([1.0, -2.0, 0.5])

    def f(x):
        return jnp.tanh(x @ weights.astype(x.dtype))

    one = strip(f, INPUTS, CLEAN, overlays=9, points_at_once=100)
    np.testing.assert_allclose(strip(f, INPUTS, CLEAN, overlays=9).scores, one.scores, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(lambda x: strip(f, x, CLEAN, overlays=9))(INPUTS).scores, one.scores, rtol=1e-12)
    host = strip(lambda x: np.tanh(np.asarray(x) @ np.asarray(weights)), INPUTS, CLEAN, overlays=9)
    np.testing.assert_allclose(host.scores, one.scores, rtol=1e-12)
    single = strip(f, INPUTS.astype(np.float32), CLEAN.astype(np.float32), overlays=9)
    assert single.scores.dtype == np.float32
    np.testing.assert_allclose(single.scores, one.scores, rtol=1e-5)


@pytest.mark.slow
def test_a_constant_predictor_suspects_nothing():
    found = strip(lambda x: jnp.full(len(x), 0.3), INPUTS, CLEAN, overlays=7)
    assert not np.any(found.suspected)
    assert np.ptp(found.scores) == 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"clean": CLEAN[:0]}, ValueError, "clean must hold at least 2"),
        ({"clean": CLEAN[:, :2]}, ValueError, "clean must hold inputs of shape"),
        ({"x": INPUTS[0]}, ValueError, "x must hold at least 1"),
        ({"overlays": 0}, ValueError, "overlays must be an integer >= 1"),
        ({"opacity": 1.0}, ValueError, "opacity must lie between"),
        ({"false_rejection": 0.0}, ValueError, "false_rejection must be finite and > 0"),
        ({"temperature": -1.0}, ValueError, "temperature must be"),
        ({"entropy": "gini"}, ValueError, "entropy must be one of"),
        ({"clip": (1.0, 0.0)}, ValueError, "clip must be"),
        ({"f": "predictor"}, TypeError, "f must be a function"),
        ({"f": lambda x: x[:, :1]}, ValueError, "f must return scores"),
        ({"f": lambda x: jnp.sign(x[:, 0]).astype(int)}, TypeError, "what f returns"),
        ({"f": lambda x: x[:, 0] / 0}, ValueError, "what f returns must be finite"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {"f": lambda x: x[:, 0], "x": INPUTS, "clean": CLEAN} | change
    with pytest.raises(error, match=message):
        strip(arguments.pop("f"), arguments.pop("x"), arguments.pop("clean"), **arguments)
