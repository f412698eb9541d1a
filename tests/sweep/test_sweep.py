"""Every cell of a sweep is what the law says there, whichever axes, kernels and outputs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from problem import (
    AXES,
    DIRECTION,
    KERNEL,
    Y2,
    ZETA,
    X,
    Y,
    assert_as_for_another_shape,
    clean,
    points,
    poison,
    probe,
)

import kpoison as kp
from kpoison._failures import checked_result

KERNELS = {
    "rbf": KERNEL,
    "laplace": kp.kernels.Laplace(1.5),
    "matern52": 2.0 * kp.kernels.Matern52(1.5),
    "linear": kp.kernels.Linear(),
    "ntk-relu": kp.kernels.NTK(2, "relu", 1.4, 0.1),
    "ntk-erf": kp.kernels.NTK(1, "erf", 1.4, 0.1),
}


def swept(posterior, **options):
    return kp.sweep(posterior, options.pop("poison", poison()), direction=DIRECTION, **(AXES | options))


SLOW = ("rbf", "ntk-relu", "ntk-erf", "matern52", "laplace")


@pytest.mark.parametrize(
    ("name", "law"),
    [
        *(pytest.param(name, "exact", marks=[pytest.mark.slow] if name in SLOW else []) for name in KERNELS),
        ("rbf", "isolated"),
        pytest.param("ntk-erf", "isolated", marks=pytest.mark.slow),
    ],
)
def test_every_cell_is_the_law(name, law):
    kernel = KERNELS[name]
    posterior = clean(kernel)
    names = ("gain", "efficacy", "spike", "spike_efficacy_ratio", "prediction")
    result = swept(posterior, quantities=names, law=law)
    assert dict(result.sizes) == {"r_over_l": 5, "m": 4, "ridge": 3}
    x = jnp.stack([probe(kernel, r) for r in AXES["r_over_l"]])
    prior = np.asarray(kernel.pairwise(x, ZETA[None]))[:, 0]
    worst = dict.fromkeys(names, 0.0)

    @jax.jit
    def one_by_one(m, ridge):
        p, rho = poison(count=m), (len(X) + m) * ridge
        expected = {
            "gain": kp.gain(posterior, p, ridge, law),
            "efficacy": kp.efficacy(posterior, p, x, ridge, law),
            "spike": kp.spike(posterior, p, x, ridge, law),
            "spike_efficacy_ratio": kp.spike_efficacy_ratio(posterior, p, x, ridge, law),
            "prediction": kp.predict(posterior, x, ridge, p),
        }
        covariance = posterior.at(rho).covariance(jnp.concatenate([x, ZETA[None]]))[:-1, -1]
        return expected, posterior.condition_number(rho), covariance

    for j, m in enumerate(AXES["m"]):
        for k, ridge in enumerate(AXES["ridge"]):
            cells = result.isel(m=j, ridge=k)
            expected, condition, covariance = one_by_one(m, ridge)
            # Both sides solve with the same matrix: they differ by its condition number times eps, twice for squares.
            tolerance = 100 * np.finfo(float).eps * float(condition)
            # Where k̃(x, ζ) is a small difference, its relative error grows by as much.
            cancellation = 1.0 if law == "isolated" else np.maximum(1, np.abs(prior / np.asarray(covariance)))
            for quantity, law_value in expected.items():
                got, value = np.asarray(cells[quantity]), np.asarray(law_value)
                error = np.abs(got - value) / np.where(value == 0, 1, np.abs(value))
                if quantity != "gain":
                    error = error / cancellation
                worst[quantity] = max(worst[quantity], float(np.max(error)) / tolerance)
    assert max(worst.values()) < 1, worst


@pytest.mark.slow
def test_images():
    """Points, location and direction of shape (height, width, channels); r_over_l in units of ‖ζ‖."""
    images = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3, 3, 1)))
    kernel = kp.kernels.ConvolutionalNTK(1, "erf", 1.4, 0.1, readout="flatten")
    posterior = kp.fit(kernel, images[:6], Y[:6])
    zeta, direction = images[6], images[7]
    axes = {"r_over_l": [0.0, 0.1, 1.0], "m": [2.0], "ridge": [1e-2]}
    attack = kp.Poison(zeta, 1.0, 1.0)
    found = kp.sweep(
        posterior, attack, location=zeta[None], direction=direction, quantities=("gain", "efficacy"), **axes
    )
    assert dict(found.efficacy.sizes) == {"location": 1, "r_over_l": 3, "m": 1, "ridge": 1}
    np.testing.assert_array_equal(found.location_point, zeta[None])
    shift = direction / jnp.linalg.norm(direction) * jnp.linalg.norm(zeta)
    x = jnp.stack([zeta + r * shift for r in axes["r_over_l"]])
    poisons = kp.Poison(zeta, 1.0, 2.0)
    np.testing.assert_allclose(found.gain.squeeze(), kp.gain(posterior, poisons, 1e-2), rtol=1e-12)
    np.testing.assert_allclose(found.efficacy.squeeze(), kp.efficacy(posterior, poisons, x, 1e-2), rtol=1e-11)


@pytest.mark.slow
def test_outputs_labels_locations_and_directions():
    posterior = clean(y=Y2)
    locations, directions = jnp.stack([ZETA, ZETA + 1]), jnp.eye(4)[:3]
    labels = np.array([[1.0, 0.0], [0.0, 1.0]])
    axes = {"r_over_l": [0.1, 1.0], "m": [2.0, 7.0], "ridge": [1e-2]}
    result = kp.sweep(posterior, poison(labels[0]), location=locations, label=labels, **axes, direction=directions)
    assert dict(result.efficacy.sizes) == {
        "location": 2, "direction": 3, "label": 2, "r_over_l": 2, "m": 2, "ridge": 1, "output": 2,
    }  # fmt: skip
    assert result.gain.dims == ("location", "direction", "label", "m", "ridge")
    np.testing.assert_array_equal(result.location_point, locations)
    np.testing.assert_array_equal(result.label_point, labels)
    for a, zeta in enumerate(locations):
        for b, direction in enumerate(directions):
            for c, label in enumerate(labels):
                for (i, j, k), (r, m, ridge) in points(axes):
                    x, p = probe(KERNEL, r, zeta, direction), kp.Poison(zeta, label, m)
                    cell = result.isel(location=a, direction=b, label=c, r_over_l=i, m=j, ridge=k)
                    np.testing.assert_allclose(cell.efficacy, kp.efficacy(posterior, p, x, ridge), rtol=1e-10)
                    np.testing.assert_allclose(cell.spike, kp.spike(posterior, p, x, ridge), rtol=1e-10)
                    np.testing.assert_allclose(cell.gain, kp.gain(posterior, p, ridge), rtol=1e-10)


@pytest.mark.slow
def test_kernels_and_hyperparameters_are_refitted():
    axes = {"r_over_l": [0.1, 1.0], "m": [3.0], "ridge": [1e-2]}
    kernels = {"rbf": kp.kernels.RBF(1.0), "matern": kp.kernels.Matern32(1.0)}
    result = swept(clean(), kernels=kernels, hyperparameters={"length_scale": [0.5, 2.0]}, **axes)
    assert result.efficacy.dims == ("kernel", "length_scale", "r_over_l", "m", "ridge")
    for name, kernel in kernels.items():
        for length_scale in (0.5, 2.0):
            made = type(kernel)(length_scale)
            posterior = clean(made)
            for i, r in enumerate(axes["r_over_l"]):
                cell = result.sel(kernel=name, length_scale=length_scale).isel(r_over_l=i, m=0, ridge=0)
                x = probe(made, r)
                np.testing.assert_allclose(
                    cell.efficacy, kp.efficacy(posterior, poison(count=3.0), x, 1e-2), rtol=1e-10
                )
    networks = {"hidden_layers": [1, 2], "weight_std": [1.0]}
    depth = swept(clean(kp.kernels.NTK(1, "erf")), hyperparameters=networks, quantities=["efficacy"], **axes)
    posterior = clean(kp.kernels.NTK(2, "erf", 1.0))
    expected = kp.efficacy(posterior, poison(count=3.0), probe(posterior.kernel, 0.1), 1e-2)
    np.testing.assert_allclose(depth.efficacy.sel(hidden_layers=2).squeeze()[0], expected, rtol=1e-10)


@pytest.mark.slow
def test_a_function_of_the_user():
    def curvature_along(clean, poison, x, ridge):
        """Second derivative of the efficacy along the first axis."""
        step = jnp.eye(4)[0]
        along = lambda t: kp.efficacy(clean, poison, x + t * step, ridge)  # noqa: E731
        return jax.grad(jax.grad(along))(0.0)

    posterior = clean()
    result = swept(posterior, quantities=["gain", curvature_along])
    assert result.curvature_along.long_name.startswith("Second derivative")
    for (i, j, k), (r, m, ridge) in list(points(AXES))[::7]:
        expected = curvature_along(posterior, poison(count=m), probe(KERNEL, r), ridge)
        np.testing.assert_allclose(result.curvature_along[i, j, k], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_m_success_and_the_coupling_ratio():
    posterior, label = clean(), -float(jnp.sign(kp.predict(clean(), ZETA, 1e-3)))
    result = swept(posterior, poison=poison(label), quantities=["m_success", "coupling_ratio", "coupling_floor"])
    assert result.m_success.dims == ("r_over_l", "ridge")
    assert result.coupling_floor.dims == ("m", "ridge")
    for i, r in enumerate(AXES["r_over_l"]):
        for k, ridge in enumerate(AXES["ridge"]):
            expected = kp.m_success(posterior, poison(label), probe(KERNEL, r), ridge)
            np.testing.assert_allclose(result.m_success[i, k], expected, rtol=1e-8)
    ratio = kp.coupling_ratio(posterior, poison(count=3.0), probe(KERNEL, 1.0), 1e-3)
    np.testing.assert_allclose(result.coupling_ratio.sel(r_over_l=1.0, m=3.0, ridge=1e-3), ratio, rtol=1e-9)
    floor = kp.coupling_floor(posterior, poison(count=3.0), 1e-3)
    np.testing.assert_allclose(result.coupling_floor.sel(m=3.0, ridge=1e-3), floor, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [kp.Tridiagonal(), kp.Cholesky()])
def test_either_solver(solver):
    results = [swept(clean(solver=s)) for s in (solver, kp.Spectral())]
    xr.testing.assert_allclose(*results, rtol=1e-8)


@pytest.mark.slow
def test_float32():
    single = kp.fit(kp.kernels.RBF(1.5), X.astype(jnp.float32), Y.astype(jnp.float32))
    axes = {"r_over_l": [0.1, 1.0], "m": [1.0, 10.0], "ridge": [1e-3, 1e-1]}
    result = kp.sweep(single, kp.Poison(ZETA.astype(jnp.float32), 1.0, 1.0), direction=DIRECTION, **axes)
    assert result.spike.dtype == np.float32
    assert result.attrs["dtype"] == "float32"
    xr.testing.assert_allclose(result.astype(float), swept(clean(), **axes), rtol=2e-3)


def test_the_manifest_is_enough_to_repeat_it():
    result = swept(clean(), metadata={"seed": 7, "data": "synthetic"})
    for key in ("kpoison_version", "jax_version", "dtype", "law", "kernels", "n_c", "d", "data_hash", "device"):
        assert result.attrs[key] not in (None, "")
    assert '"seed": 7' in result.attrs["metadata"]
    assert result.r_over_l.units == "length scale"
    assert result.spike.units == "y²/input²"
    other = kp.sweep(clean(y=Y + 1), poison(), direction=DIRECTION, **AXES)
    assert other.attrs["identity"] != result.attrs["identity"]
    assert swept(clean(), metadata={"seed": 7, "data": "synthetic"}).identical(result)


@pytest.mark.slow
def test_chunks_change_nothing():
    whole = swept(clean(), quantities=("gain", "efficacy", "spike", "m_success"))
    cut = swept(clean(), quantities=("gain", "efficacy", "spike", "m_success"), memory=8_000)
    for name in whole:
        assert_as_for_another_shape(cut[name], whole[name], name)


def test_what_fails_is_nan_with_status_and_the_rest_is_kept():
    """A user's law that refuses one multiplicity: no error, and every other cell as it is."""

    def picky(clean, poison, x, ridge):
        return checked_result(kp.efficacy(clean, poison, x, ridge), [(poison.count == 3, "three is refused")])

    with pytest.warns(UserWarning, match="picky: three is refused for 3 of 12 pairs"):
        found = swept(clean(), quantities=("efficacy", picky))
    refused = np.asarray(AXES["m"]) == 3
    assert np.isnan(found.picky.values[:, refused]).all()
    np.testing.assert_array_equal(found.status.values[:, refused], 1)
    np.testing.assert_array_equal(found.status.values[:, ~refused], 0)
    assert np.isfinite(found.efficacy.values).all()
    np.testing.assert_allclose(found.picky.values[:, ~refused], found.efficacy.values[:, ~refused], rtol=1e-10)


# --- Hyper-parameters, and what r is measured in -------------------------------------------------------------------


def test_a_real_hyperparameter_is_not_cut_to_what_the_kernel_happens_to_hold():
    values = [1, 1.5, 2, 2.9]
    result = kp.sweep(
        clean(kp.kernels.RBF(1)), poison(), direction=DIRECTION, r_over_l=[0.5], m=[2.0], ridge=[1e-2],
        quantities=("gain",), kernels={"k": kp.kernels.RBF(1)}, hyperparameters={"length_scale": values},
    )  # fmt: skip
    np.testing.assert_array_equal(result.length_scale, values)
    for value in values:
        right = float(kp.gain(clean(kp.kernels.RBF(value)), poison(count=2.0), 1e-2))
        assert float(result.gain.sel(length_scale=value).squeeze()) == pytest.approx(right, rel=1e-9)


class Degrees(kp.kernels.Kernel):
    """(1 + x·z)^degree, with an integer and a real number, told apart by what the class declares."""

    degree: int = eqx.field(static=True)
    offset: "float | int" = 1

    def __check_init__(self):
        assert type(self.degree) is int
        assert type(self.offset) is not int or self.offset == 1

    def evaluate(self, x, z):
        return (jnp.sum(x * z) + self.offset) ** self.degree

    @property
    def smoothness(self):
        return np.inf


def test_the_declared_type_of_a_hyperparameter_decides():
    posterior = clean(Degrees(2))
    options = {"direction": DIRECTION, "r_over_l": [0.5], "m": [1.0], "ridge": [1e-2], "quantities": ("gain",)}
    result = kp.sweep(posterior, poison(), hyperparameters={"degree": [1, 2], "offset": [0.5, 2.0]}, **options)
    for degree, offset in ((1, 0.5), (2, 0.5), (1, 2.0)):
        right = float(kp.gain(clean(Degrees(degree, offset)), poison(count=1.0), 1e-2))
        assert float(result.gain.sel(degree=degree, offset=offset).squeeze()) == pytest.approx(right, rel=1e-8)
    with pytest.raises(ValueError, match=r"degree of Degrees among hyperparameters must be integers, got 1\.5"):
        kp.sweep(posterior, poison(), hyperparameters={"degree": [1, 1.5]}, **options)


class ARD(kp.kernels.Kernel):
    """A Gaussian kernel with a length scale for each coordinate."""

    length_scale: jax.Array

    def evaluate(self, x, z):
        return jnp.exp(-0.5 * jnp.sum(((x - z) / self.length_scale) ** 2))

    @property
    def smoothness(self):
        return np.inf


def test_a_length_scale_for_each_coordinate():
    kernel = ARD(jnp.array([1.0, 2.0, 0.5, 3.0]))
    options = {"direction": DIRECTION, "r_over_l": [0.3], "m": [2.0], "ridge": [1e-2], "quantities": ("efficacy",)}
    for length_scale, unit in ((None, float(jnp.linalg.norm(ZETA))), (0.7, 0.7)):
        found = kp.sweep(clean(kernel), poison(), length_scale=length_scale, **options).efficacy.squeeze()
        x0 = ZETA + 0.3 * unit * DIRECTION / jnp.linalg.norm(DIRECTION)
        right = kp.efficacy(clean(kernel), poison(count=2.0), x0, 1e-2)
        assert float(found) == pytest.approx(float(right), rel=1e-9)
    with pytest.raises(
        ValueError, match=r"hyperparameters must be fields that hold one number, but length_scale .*\(4,"
    ):
        kp.sweep(clean(kernel), poison(), hyperparameters={"length_scale": [1.0, 2.0]}, **options)
