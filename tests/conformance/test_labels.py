"""Wherever labels are classes: integers of any width, booleans and text are told apart, and count the same."""

import inspect

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import kpoison as kp
from kpoison import defences

RNG = np.random.default_rng(3)
NUMBERS = np.repeat([0, 1], [14, 12])[RNG.permutation(26)]
FEATURES = RNG.normal(size=(26, 3)) + 2 * NUMBERS[:, None]
FEATURES[:3] += 9
WAYS = {
    "int8": NUMBERS.astype(np.int8),
    "uint64": NUMBERS.astype(np.uint64) + np.uint64(2**63),
    "beyond 32 bits": 5 * 10**9 + NUMBERS.astype(np.int64) * 2**32,
    "negative": -NUMBERS[::1] * 2**40 + 7,
    "booleans": NUMBERS == 1,
    "text": np.where(NUMBERS, "dog", "cat"),
    "bytes": np.where(NUMBERS, b"dog", b"cat"),
    "objects": np.where(NUMBERS, "dog", "cat").astype(object),
    "beyond 64 bits": np.array([10**30 + int(number) for number in NUMBERS], dtype=object),
    "a list of text": np.where(NUMBERS, "dog", "cat").tolist(),
    "a list of integers": NUMBERS.tolist(),
    "JAX": jnp.asarray(NUMBERS),
}
OPTIONS = {"neighbour_disagreement": {"neighbours": 3}, "pidan": {"decision": "likelihood"}}
DETECTORS = [
    name
    for name in defences.__all__
    if inspect.isfunction(getattr(defences, name))
    and {"features", "labels"} <= set(inspect.signature(getattr(defences, name)).parameters)
]


def detect(name, features=FEATURES, labels=NUMBERS, **options):
    return getattr(defences, name)(features, labels, **OPTIONS.get(name, {}), **options)


@pytest.fixture(autouse=True)
def what_a_user_sees():
    """Without the tests' type checker, which would refuse some of these before kpoison can say why."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_detectors_are_found():
    assert len(DETECTORS) >= 5


@pytest.mark.parametrize("x64", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", DETECTORS)
def test_labels_of_any_kind_are_classes(name, x64):
    with jax.enable_x64(x64):
        expected = detect(name)
        for kind, labels in WAYS.items():
            found = detect(name, labels=labels)
            # Classes may be numbered the other way round.
            np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6, atol=1e-6, err_msg=kind)
            np.testing.assert_array_equal(found.suspected, expected.suspected, err_msg=kind)


def test_references_name_classes_as_labels_do():
    text = WAYS["text"]
    known = defences.pidan(FEATURES, text, reference=FEATURES, reference_labels=text, decision="likelihood")
    plain = defences.pidan(FEATURES, NUMBERS, reference=FEATURES, reference_labels=NUMBERS, decision="likelihood")
    np.testing.assert_array_equal(known.scores, plain.scores)
    more = np.where(np.arange(26) < 2, "cow", text)
    defences.pidan(FEATURES, text, reference=FEATURES, reference_labels=more, decision="likelihood")
    with pytest.raises(ValueError, match="reference must have points of every class, got none labelled cow"):
        defences.pidan(FEATURES, more, reference=FEATURES, reference_labels=text)


BAD_LABELS = {
    "floats": (
        NUMBERS.astype(float),
        TypeError,
        "labels must be integers, booleans or text, one for each point, got ndarray",
    ),
    "a column": (
        NUMBERS[:, None],
        ValueError,
        r"labels must have shape \(26,\), as there are 26 features, got \(26, 1\)",
    ),
    "too few": (NUMBERS[:3], ValueError, r"labels must have shape \(26,\)"),
    "none": (None, ValueError, r"labels must have shape \(26,\)"),
    "missing": ([None] * 26, TypeError, "labels must be integers, booleans or text"),
    "dates": (NUMBERS.astype("datetime64[s]"), TypeError, "labels must be integers, booleans or text"),
    "masked": (
        np.ma.array(NUMBERS, mask=NUMBERS == 1),
        ValueError,
        "labels must be known everywhere, got a masked array",
    ),
}


@pytest.mark.parametrize("case", BAD_LABELS)
@pytest.mark.parametrize("name", DETECTORS)
def test_other_labels_are_refused_by_name(name, case):
    labels, error, message = BAD_LABELS[case]
    with pytest.raises(error, match=message):
        detect(name, labels=labels)


def sparse(rows):
    import scipy.sparse

    return scipy.sparse.csr_matrix(rows)


BAD_FEATURES = {
    "sparse": (sparse(FEATURES), TypeError, "features must be a dense array, got the sparse matrix csr_matrix"),
    "text": (FEATURES.astype(str), TypeError, "features must be real, got ndarray of dtype <U"),
    "objects": (FEATURES.astype(object), TypeError, "features must be real, got ndarray of dtype object"),
    "complex": (FEATURES + 1j, TypeError, "features must be real, got dtype complex128"),
    "masked": (
        np.ma.array(FEATURES, mask=FEATURES > 9),
        ValueError,
        "features must be known everywhere, got a masked array",
    ),
    "ragged": ([[1.0], [1.0, 2.0]], ValueError, "features must be an array"),
    "a row": (FEATURES[:, 0], ValueError, r"features must have shape \(n, k\)"),
    "none": (None, TypeError, "features must be real, got NoneType"),
}


@pytest.mark.parametrize("case", BAD_FEATURES)
@pytest.mark.parametrize("name", DETECTORS)
def test_other_features_are_refused_by_name(name, case):
    features, error, message = BAD_FEATURES[case]
    with pytest.raises(error, match=message):
        detect(name, features=features)


@pytest.mark.parametrize("name", DETECTORS)
def test_tables_and_lists_are_arrays(name):
    pandas = pytest.importorskip("pandas")
    expected = detect(name)
    table = pandas.DataFrame(FEATURES, columns=["a", "b", "c"])
    for features in (table, FEATURES.tolist(), np.ma.array(FEATURES), np.asfortranarray(FEATURES)):
        np.testing.assert_array_equal(detect(name, features=features).scores, expected.scores)
    for labels in (pandas.Series(WAYS["text"]), pandas.Series(NUMBERS, index=np.arange(26) + 5), np.ma.array(NUMBERS)):
        np.testing.assert_array_equal(detect(name, labels=labels).scores, expected.scores)
    whole = np.round(FEATURES * 10).astype(np.int64)
    np.testing.assert_allclose(detect(name, features=whole).scores, detect(name, features=whole.astype(float)).scores)


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize(
    "kind", ["int8", "uint64", "beyond 32 bits", "negative", "booleans", "text", "objects", "a list of text"]
)
def test_rates_of_predicted_classes(kind, x64):
    with jax.enable_x64(x64):
        labels = WAYS[kind]
        predictions = np.roll(np.asarray(labels), 3) if not isinstance(labels, list) else labels[-3:] + labels[:-3]
        given, wanted = np.roll(NUMBERS, 3), NUMBERS
        target = np.asarray(labels)[int(np.flatnonzero(wanted == 1)[0])]
        target = target.item() if hasattr(target, "item") else target
        assert float(kp.clean_accuracy(predictions, labels)) == pytest.approx(np.mean(given == wanted))
        rate = np.mean(given[wanted != 1] == 1)
        assert float(kp.attack_success_rate(predictions, labels, target)) == pytest.approx(rate)


def test_classes_that_wrap_around_are_two():
    """Without x64 both are 705032704 in 32 bits."""
    with jax.enable_x64(False):
        labels = np.array([5 * 10**9, 5 * 10**9 + 2**32])
        assert float(kp.clean_accuracy(labels[::-1].copy(), labels)) == 0
        assert float(kp.attack_success_rate(labels[::-1].copy(), labels, int(labels[0]))) == 1
        rows = np.array([[0.0], [5.0], [0.1], [5.1], [0.2], [5.2]])
        found = defences.centroid_distance(rows, np.tile(labels, 3))
        np.testing.assert_allclose(found.scores, [0.1, 0.1, 0.0, 0.0, 0.1, 0.1], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("column", [False, True])
def test_targets_in_a_column_are_one_output(column):
    X, y = RNG.normal(size=(6, 2)), np.where(np.arange(6) % 2, 1.0, -1.0)
    clean, x = kp.fit(kp.kernels.RBF(1.0), X, y[:, None] if column else y), X[:2] + 0.1
    poison = kp.Poison(x[0], np.array([-1.0]) if column else -1.0, 5.0)
    signs = np.array([1, 1])
    frontier = kp.flow.tradeoff(
        clean, poison, x, 0.1, gradient_penalty=[0.0], labels=signs, held_out=(X, y.astype(int)), modes=1
    )
    wanted = np.asarray(kp.predict(clean, x, 0.1, poison)).ravel() < 0
    assert float(frontier.attack_success_rate.squeeze()) == np.mean(wanted)
    found = kp.attacks.bilevel(
        clean, kp.Poison(x[:1], poison.label, 1), 0.1, probes=x[:1], target=poison.label, ball=0.1, steps=1
    )
    assert found.data.target == -1
