"""Data that are no dense, known numbers are refused by the name of the argument; tables and lists are numbers."""

import inspect

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.sparse

import kpoison as kp
from kpoison import attacks, curvature, defences, flow, kernels

RNG = np.random.default_rng(1)
X, Y, Z = RNG.normal(size=(8, 2)), np.where(np.arange(8) % 2, 1.0, -1.0), np.array([0.3, -0.2])
RBF = kernels.RBF(1.0)
CLEAN, POISON = kp.fit(RBF, X, Y), kp.Poison(Z, -1.0, 2.0)
PENALISED = kp.fit(RBF, X[:4], Y[:4], gradient_penalty=0.1)
GRADIENTS = RNG.normal(size=(6, 2))


def slope(x):
    return x @ x / 2


# A good call; every argument in it that is data (an array of two axes, or targets) is replaced in turn.
CALLS = {
    "fit": (kp.fit, {"kernel": RBF, "X": X, "y": Y}),
    **{
        name: (getattr(kp, name), {"clean": CLEAN, "poison": POISON, "x": X[:2], "ridge": 0.1})
        for name in (
            "efficacy",
            "efficacy_gradient",
            "predict",
            "spike",
            "spike_components",
            "spike_efficacy_ratio",
            "coupling_ratio",
        )
    },
    "kernel_ridge": (
        kp.asymptotics.kernel_ridge,
        {"kernel": RBF, "X": X, "y": Y, "weights": None, "n": 5, "ridge": 0.1},
    ),
    "redraw_deviation": (kp.asymptotics.redraw_deviation, {"clean": CLEAN, "x": X[:2], "ridge": 0.1}),
    "efficacy_deviation": (
        kp.asymptotics.efficacy_deviation,
        {"clean": CLEAN, "poison": POISON, "x": X[:2], "ridge": 0.1},
    ),
    "partition_of": (defences.partition_of, {"X": X, "partitions": 3}),
    "partition_aggregation": (
        defences.partition_aggregation,
        {"kernel": RBF, "X": X, "y": Y, "x": X[:2], "ridge": 0.1, "partitions": 2},
    ),
    "ensemble_certificate": (
        defences.ensemble_certificate,
        {"kernel": RBF, "X": X, "y": Y, "x": X[:2], "ridge": 0.1, "partitions": 2},
    ),
    "penalised_training": (defences.penalised_training, {"kernel": RBF, "X": X, "y": Y, "gradient_penalty": 0.1}),
    "kernel_features": (defences.kernel_features, {"kernel": RBF, "X": X}),
    "predicted_visibility": (defences.predicted_visibility, {"clean": X, "poisons": X[:2] + 1}),
    "visible_count": (defences.visible_count, {"clean": X, "poisons": X[:1] + 1}),
    "strip": (defences.strip, {"f": lambda x: x[:, 0], "x": X[:2], "clean": X, "overlays": 2}),
    "input_projection": (defences.input_projection, {"f": slope, "x": X, "targets": Y}),
    "overlap": (curvature.overlap, {"vectors": np.eye(2), "direction": Z}),
    "input_spectrum": (defences.input_spectrum, {"f": slope, "x": X, "reference": X[::-1] + 0.1, "repeats": 2}),
    "feature_collision": (
        attacks.feature_collision,
        {"clean": CLEAN, "bases": X[:2], "labels": Y[:2], "target": Z, "ridge": 0.1, "steps": 1},
    ),
    "bilevel_objective": (
        attacks.bilevel_objective,
        {"clean": CLEAN, "poison": kp.Poison(Z[None], -1.0, 1), "ridge": 0.1, "probes": X[:2], "target": Y[:2]},
    ),
    "generalisation_objective": (
        attacks.generalisation_objective,
        {"clean": CLEAN, "ridge": 0.1, "probes": X[:2], "target": Y[:2], "objective": "error"},
    ),
    "greedy_bases": (
        attacks.greedy_bases,
        {"clean": CLEAN, "candidates": X + 1, "labels": Y, "ridge": 0.1, "number": 1, "probes": X[:2], "target": Y[:2]},
    ),
    "flip_certificate": (attacks.flip_certificate, {"clean": CLEAN, "x": X[:2], "ridge": 0.1}),
    "flip_labels": (attacks.flip_labels, {"clean": CLEAN, "x": X[:2], "ridge": 0.1, "budget": 1}),
    "Poison": (kp.Poison, {"location": X, "label": Y, "count": np.ones(8)}),
    "fisher": (curvature.fisher, {"f": slope, "x": X}),
    "gradient_covariance": (curvature.gradient_covariance, {"f": slope, "x": X, "targets": Y}),
    "input_gradients": (curvature.input_gradients, {"f": slope, "x": X}),
    "bulk_edge_from_clean": (curvature.bulk_edge_from_clean, {"gradients": GRADIENTS, "repeats": 2}),
    "bulk_edge_from_permutations": (curvature.bulk_edge_from_permutations, {"gradients": GRADIENTS, "repeats": 2}),
    "energies": (flow.energies, {"clean": PENALISED, "ridge": 0.1}),
    "loss_gradient_flow": (flow.loss_gradient_flow, {"clean": PENALISED, "ridge": 0.1, "times": np.array([0.1, 0.2])}),
    "predicted_classes": (kp.predicted_classes, {"scores": X, "classes": [3, 5]}),
    "standardise": (kp.datasets.standardise, {"inputs": X, "reference": X}),
    "unit_sphere": (kp.datasets.unit_sphere, {"inputs": X}),
    **{
        f"{name}.__call__": (getattr(attacks, name)(*options), {"updates": X})
        for name, options in (
            ("Mean", ()),
            ("Krum", (1,)),
            ("Bulyan", (1,)),
            ("GeometricMedian", ()),
            ("CoordinateMedian", ()),
        )
    },
}
DATA = [
    (name, argument)
    for name, (_, arguments) in CALLS.items()
    for argument, value in arguments.items()
    if isinstance(value, np.ndarray)
]


@pytest.fixture(autouse=True)
def what_a_user_sees():
    """Without the tests' type checker, which would refuse some of these before kpoison can say why."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def call(name, **changed):
    function, arguments = CALLS[name]
    return function(**arguments | changed)


def test_arguments_are_those_of_the_functions():
    for name, (function, arguments) in CALLS.items():
        assert set(arguments) <= set(inspect.signature(function).parameters), name


@pytest.mark.parametrize(("name", "argument"), DATA)
def test_what_is_no_dense_array_of_known_numbers_is_refused_by_name(name, argument):
    good = CALLS[name][1][argument]
    wrong = {
        "text": np.full(good.shape, "a"),
        "objects": np.full(good.shape, None),
        "masked": np.ma.array(good, mask=good == good.ravel()[0]),
        "dates": np.full(good.shape, 1).astype("datetime64[s]"),
    }
    if good.ndim == 2:
        wrong["sparse"] = scipy.sparse.csr_array(good)
    for kind, value in wrong.items():
        with pytest.raises((TypeError, ValueError)) as caught:
            call(name, **{argument: value})
        message = str(caught.value)
        assert message.startswith(argument), (kind, message)
        assert "must be" in message, (kind, message)
        assert "got" in message, (kind, message)


DEAR = {
    "feature_collision",
    "loss_gradient_flow",
    "input_spectrum",
    "strip",
    "GeometricMedian.__call__",
    "Krum.__call__",
    "CoordinateMedian.__call__",
    "Bulyan.__call__",
    "bulk_edge_from_clean",
    "input_projection",
    "overlap",
}


@pytest.mark.parametrize(
    ("name", "argument"), [pytest.param(*row, marks=[pytest.mark.slow] if row[0] in DEAR else []) for row in DATA]
)
def test_tables_and_lists_are_arrays(name, argument):
    pandas = pytest.importorskip("pandas")
    good = CALLS[name][1][argument]
    expected = jax.tree.leaves(call(name))
    table = pandas.DataFrame(good) if good.ndim == 2 else pandas.Series(good, index=np.arange(len(good)) + 3)
    for value in (table, good.tolist(), np.ma.array(good), jnp.asarray(good)):
        for ours, theirs in zip(jax.tree.leaves(call(name, **{argument: value})), expected, strict=True):
            if not callable(theirs):
                np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
