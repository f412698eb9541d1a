"""The spike that lifts an eigenvalue to an edge, in a bulk as it is: against the eigenvalue itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kpoison import curvature

RNG = np.random.default_rng(11)


def problem(number, dimension):
    """Anisotropic gradients with repeated rows, the attacked probes, and a direction."""
    gradients = RNG.normal(size=(number, dimension)) * np.linspace(0.2, 2, dimension)
    gradients[:3] = gradients[0]
    return gradients, np.arange(number) < 4, RNG.normal(size=dimension)


def leading(gradients):
    return np.linalg.norm(gradients, 2) ** 2 / len(gradients)


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (15, 15)])
@pytest.mark.parametrize("above", [1.01, 1.5, 10.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_with_that_spike_the_eigenvalue_is_at_the_edge(shape, above, sign):
    gradients, attacked, direction = problem(*shape)
    direction *= sign
    edge = above * leading(gradients)
    spike = float(curvature.spike_threshold(gradients, attacked, direction, edge))
    unit = direction / np.linalg.norm(direction)
    for part, over in ((0.999, False), (1.001, True)):
        assert (leading(gradients + np.sqrt(part * spike) * np.outer(attacked, unit)) > edge) == over
    assert leading(gradients + np.sqrt(spike) * np.outer(attacked, unit)) == pytest.approx(edge, rel=1e-12)


def test_a_bulk_beyond_the_edge_needs_no_spike():
    gradients, attacked, direction = problem(10, 6)
    assert float(curvature.spike_threshold(gradients, attacked, direction, 0.9 * leading(gradients))) == 0


@pytest.mark.slow
def test_an_isotropic_bulk_is_that_of_marchenko_and_pastur():
    """θ = εΛ solves the outlier's law for its place, for any place beyond the edge."""
    number, dimension, share = 3000, 750, 0.1
    gradients, attacked = RNG.normal(size=(number, dimension)), np.arange(number) < share * number
    for size in (1.0, 2.0):
        place = float(curvature.outlier_eigenvalue(size, 1.0, dimension / number))
        spike = float(curvature.spike_threshold(gradients, attacked, RNG.normal(size=dimension), place))
        # The place of an outlier fluctuates by about √(2θ/N).
        assert share * spike == pytest.approx(size, abs=5 * np.sqrt(2 * (1 + size) ** 2 / number))


@pytest.mark.slow
def test_transforms():
    gradients, attacked, direction = problem(14, 6)
    edge = 1.4 * leading(gradients)

    def threshold(scale):
        return curvature.spike_threshold(scale * jnp.asarray(gradients), jnp.asarray(attacked), direction, edge)

    value, slope = jax.jit(jax.value_and_grad(threshold))(jnp.asarray(1.0))
    assert float(value) == pytest.approx(float(threshold(1.0)), rel=1e-12)
    step = 1e-6
    assert float(slope) == pytest.approx(float(threshold(1 + step) - threshold(1 - step)) / (2 * step), rel=1e-6)
    many = jax.vmap(threshold)(jnp.array([0.5, 1.0]))
    assert float(many[1]) == pytest.approx(float(value), rel=1e-12)
    single = curvature.spike_threshold(
        jnp.asarray(gradients, jnp.float32), attacked, jnp.asarray(direction, jnp.float32), edge
    )
    assert single.dtype == jnp.float32
    assert float(single) == pytest.approx(float(value), rel=1e-4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"gradients": np.ones(3)}, ValueError, r"gradients must have shape \(N, D\)"),
        ({"gradients": np.full((14, 6), np.nan)}, ValueError, "gradients must be finite"),
        ({"gradients": np.ones((14, 6), int)}, TypeError, "gradients must be a floating-point array"),
        (
            {"attacked": np.ones(14)},
            TypeError,
            "attacked must be booleans, or integers that are 0 or 1, got dtype float64",
        ),
        ({"attacked": np.zeros(14, bool)}, ValueError, "attacked must mark at least one probe"),
        (
            {"attacked": np.ones(3, bool)},
            ValueError,
            r"attacked must have shape \(14,\), one for each probe, got \(3,\)",
        ),
        ({"direction": np.ones(3)}, ValueError, r"direction must have shape \(6,\)"),
        ({"direction": np.zeros(6)}, ValueError, "direction must not be 0"),
        ({"edge": 0.0}, ValueError, "edge must be finite and > 0"),
    ],
)
def test_bad_input(change, error, message):
    gradients, attacked, direction = problem(14, 6)
    arguments = {"gradients": gradients, "attacked": attacked, "direction": direction, "edge": 10.0} | change
    with pytest.raises(error, match=message):
        curvature.spike_threshold(**arguments)
