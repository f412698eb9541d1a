"""Wherever the truth about points is taken as a mask, numbers 0 and 1 do what booleans do, and all else is refused."""

import functools
import inspect

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import kpoison as kp
from kpoison import attacks, curvature, datasets, defences

MASKS = ("is_poison", "attacked", "malicious", "mask", "movable", "suspected", "which")
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(8, 2)), np.where(np.arange(8) % 2, 1.0, -1.0)
TRUTH = np.array([False, False, True, False, True, True, False, False])
CLEAN = kp.fit(kp.kernels.RBF(1.0), X, Y)
FOUND = defences.Detection(np.arange(8.0), np.arange(8) > 5, np.array(5.0), "")


def remaining(mask):
    data = attacks.PoisonedData(jnp.asarray(X), jnp.asarray(Y), mask, jnp.asarray(X[:1]), jnp.zeros(1))
    train = functools.partial(defences.penalised_training, kp.kernels.RBF(1.0), gradient_penalty=0.1)
    return data.is_poison, defences.remaining_efficacy(train, data, 0.1)


def flipped(mask):
    y = jnp.asarray(Y)
    return attacks.FlippedLabels(
        jnp.asarray(X), y, mask, jnp.asarray(X[:1]), jnp.zeros(1), changed=jnp.zeros(1, bool), bound=jnp.asarray(3)
    ).is_poison


def sent(attack):
    weights, theta, key = jnp.full(8, 1 / 8), jnp.zeros(2), kp_key()
    return lambda mask: attack(jnp.asarray(X), mask, weights, theta, key)


def moved(movable):
    return attacks.generalisation_objective(CLEAN, 0.1, probes=X[:2] + 0.1, target=Y[:2], movable=movable)


def kp_key():
    import jax

    return jax.random.key(0)


DATA = datasets.ImageDataset("eight", RNG.random((8, 2, 2, 1)), np.arange(8) % 2, ("a", "b"))
TAKES = {
    "Detection.rates.is_poison": FOUND.rates,
    "PoisonedData.is_poison": remaining,
    "FlippedLabels.is_poison": flipped,
    "input_spectrum_law.attacked": lambda mask: defences.input_spectrum_law(
        CLEAN, kp.Poison(X[0] + 1, 1.0, 2.0), X, mask, 0.1, X[::-1] + 0.1, repeats=4
    ),
    "exclusionary_reclassification.suspected": lambda mask: defences.exclusionary_reclassification(CLEAN, mask, 0.1),
    "generalisation_objective.movable": lambda mask: moved(movable=mask),
    "generalisation_attack.movable": lambda mask: attacks.generalisation_attack(
        CLEAN, 0.1, probes=X[:2] + 0.1, target=Y[:2], ball=0.1, movable=mask, passes=1, steps=1
    ),
    "spike_threshold.attacked": lambda mask: curvature.spike_threshold(X, mask, np.array([1.0, 2.0]), 9.0),
    **{
        f"{name}.guarantees.malicious": functools.partial(
            lambda rule, mask: rule.guarantees(mask, np.arange(1.0, 9)), getattr(attacks, name)(*options)
        )
        for name, options in {
            "Bulyan": (1,),
            "CoordinateMedian": (),
            "GeometricMedian": (),
            "Krum": (1,),
            "Mean": (),
            "TrimmedMean": (1,),
        }.items()
    },
    **{
        f"{type(attack).__name__}.__call__.malicious": sent(attack)
        for attack in (
            attacks.ALittleIsEnough(),
            attacks.ALittleIsEnough(1.0, omniscient=False),
            attacks.FixedUpdates(np.ones(2)),
            attacks.GaussianUpdates(),
            attacks.ModelReplacement(np.ones(2)),
            attacks.SignFlip(),
        )
    },
    **{
        f"{type(attack).__name__}.sent.malicious": functools.partial(
            lambda attack, mask: attack.sent(jnp.asarray(X), mask, jnp.full(8, 1 / 8), jnp.zeros(2), kp_key()), attack
        )
        for attack in (attacks.ALittleIsEnough(), attacks.ModelReplacement(np.ones(2)))
    },
    "ALittleIsEnough.check.malicious": lambda mask: attacks.ALittleIsEnough().check(mask, 2),
}
# These take something else by such a name, or leave the mask to a caller above.
OTHERS = {
    "ImageDataset.subset.which",  # indices too: see below
    "federate.malicious",  # numbers of clients
    "top_eigenpairs.which",  # a name
    "SpectrumDetection.rates.is_poison",  # as of Detection
    *(f"{name}.sent.malicious" for name in ("FixedUpdates", "GaussianUpdates", "SignFlip", "UpdateAttack")),
    *(
        f"{name}.check.malicious"
        for name in ("FixedUpdates", "GaussianUpdates", "ModelReplacement", "SignFlip", "UpdateAttack")
    ),
    *(f"{name}.__call__.malicious" for name in ("UpdateAttack",)),
    "Aggregator.guarantees.malicious",
    "Federation.malicious",  # made by federate
    *(f"{name}.suspected" for name in ("Detection", "NeuralCleanse", "SpectrumDetection")),  # made by detectors
}


def found():
    """Every parameter of such a name of a public function, class or method."""
    for room in (
        kp,
        attacks,
        curvature,
        datasets,
        defences,
        kp.flow,
        kp.kernels,
        kp.laws,
        kp.networks,
        kp.poison,
        kp.ridge,
    ):
        for name in room.__all__:
            thing = getattr(room, name)
            members = [(name, thing)] if callable(thing) else []
            if inspect.isclass(thing):
                public = [m for m in dir(thing) if not m.startswith("_") or m == "__call__"]
                members += [(f"{name}.{m}", getattr(thing, m)) for m in public]
            for label, member in members:
                try:
                    parameters = inspect.signature(member).parameters
                except (TypeError, ValueError):
                    continue
                yield from (f"{label}.{parameter}" for parameter in parameters if parameter in MASKS)


def test_every_mask_is_here():
    assert set(found()) == set(TAKES) | OTHERS


@pytest.fixture(autouse=True)
def what_a_user_sees():
    """Without the tests' type checker, which would refuse some of these before kpoison can say why."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def leaves(result):
    import jax

    return jax.tree.leaves(result)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "input_spectrum_law.attacked" else n for n in TAKES]
)
def test_zeros_and_ones_are_a_mask(name):
    expected = leaves(TAKES[name](TRUTH))
    ways = [TRUTH.astype(dtype) for dtype in (int, np.int8, np.uint8, np.uint64)]
    for mask in [*ways, jnp.asarray(TRUTH), jnp.asarray(TRUTH, int), TRUTH.tolist(), TRUTH.astype(int).tolist()]:
        for ours, theirs in zip(leaves(TAKES[name](mask)), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", TAKES)
def test_all_else_is_refused_by_name(name):
    argument = name.rsplit(".", 1)[1]
    bad = [
        TRUTH * 2,
        TRUTH.astype(int) - 1,
        TRUTH.astype(float),
        np.where(TRUTH, "poison", "clean"),
        np.where(TRUTH, None, 1),
    ]
    for mask in bad:
        with pytest.raises(
            (TypeError, ValueError), match=f"{argument} must be booleans, or integers that are 0 or 1, got"
        ):
            TAKES[name](mask)
    for mask in (TRUTH[:3], TRUTH[:, None]):
        if "check" not in name:
            with pytest.raises(ValueError, match=f"{argument} must have shape"):
                TAKES[name](mask)


def test_rates_of_what_was_found():
    """100 points, the last 10 poison and all found."""
    truth = np.arange(100) >= 90
    detection = defences.Detection(truth.astype(float), truth, np.array(0.5), "")
    for mask in (truth, truth.astype(int), truth.astype(np.uint8)):
        assert detection.rates(mask) == (1.0, 0.0, 1.0)


def test_numbers_that_may_be_a_mask_choose_no_images():
    np.testing.assert_array_equal(DATA.subset(TRUTH).images, DATA.images[TRUTH])
    np.testing.assert_array_equal(DATA.subset([1, 0]).images, DATA.images[[1, 0]])
    with pytest.raises(ValueError, match=r"which must be indices or booleans, got numbers 0 and 1 .*astype\(bool\)"):
        DATA.subset(TRUTH.astype(int))
