"""Options as scalars of Python, NumPy (of every width) and JAX: the same result, without a warning.

Integers, fractions and names of every public function, class and method are found in their signatures; each must be
among the calls, with a value.
"""

import ast
import dataclasses
import inspect
import itertools
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from calls import CASES, SLOW, public

import kpoison as kp

FREE_TEXT = {
    "label",
    "title",
    "colour",
    "edge_label",
    "unit",
    "method",
    "path",
    "text",
    "assumes",
    "name",
    "class_names",
}
MADE = {
    "BilevelObjective", "BulkEdge", "Eigenpairs", "Visibility", "FlippedLabels", "PoisonedData", "Federation", "Prior",
    "DefendedTraining", "Detection", "NeuralCleanse", "PartitionAggregation", "SpectrumDetection", "PenaltyChoice",
    "LossGradientFlow", "Attack", "Outcome", "Network", "ConvolutionalNetwork", "Predictor", "Classifier", "PowerLaw",
    "TrainedClassifier", "EmpiricalNTK", "StaxKernel", "ImageDataset", "MovedObjective", "EnsembleCertificate",
    "TypicalKernelRidge", "LawCurve",
}  # fmt: skip
# What a rule or a kernel is asked by kpoison, always with Python's integers.
INNER = {
    "point_shape", "columns of floats_per_product", "clients", "dimension of on_subspace", "size of check",
    "hidden_layers of tangent_kernel", "outputs",
    "first of diagonals", "number of infinite_moments", "d of infinite_moments",
}  # fmt: skip
OTHERS = {
    # Data or folders that a test has not; their names are checked by the same function.
    "download", "load_cifar10", "load_cifar100", "load_digits", "load_mnist", "read_idx", "write_page",
    "attack_defence_matrix", "attack_defence_figure", "against_count", "against_penalty", "along_time", "frontier",
    # Masks, classes and labels: see the tests of these.
    "attack_success_rate", "clean_accuracy", "ImageDataset.subset",
    # Parameters as scikit-learn has them: what came, checked by `fit`, whose own are walked.
    "KernelRidge", "KernelRidgeClassifier",
    # A slice of a result.
    "Flow.at",
    # Numbers of a law or a line, which may be any; a picture of pictures above.
    "LeakyReLU", "draw_sweep", "draw_spectrum_figure", "backdoor_score", "best_strength",
}  # fmt: skip


ARRAY = type(jaxtyping.Float[np.ndarray, ""])


def is_option(annotation):
    """Whether it is an integer, or several, or a name out of a few: not a number, which may be an array."""
    parts = [annotation]
    flat = []
    while parts:
        part = parts.pop()
        if typing.get_origin(part) is not typing.Literal:
            inner = [a for a in typing.get_args(part) if a is not Ellipsis]
            if inner and not isinstance(part, ARRAY):
                parts += inner
                continue
        flat.append(part)
    # Labels, masks and numbers are arrays, too.
    if any(part in (float, complex) or isinstance(part, ARRAY) for part in flat):
        return False
    return int in flat or any(typing.get_origin(part) is typing.Literal for part in flat)


def options_of(thing):
    """Names of options, by annotation or by a default between 0 and 1, which only a fraction or its like has."""
    annotations = {p.name: (p.annotation, p.default) for p in inspect.signature(thing).parameters.values()}
    if inspect.isclass(thing) and dataclasses.is_dataclass(thing):
        # A converter hides the annotation of its field.
        for field in dataclasses.fields(thing):
            if field.name in annotations:
                annotations[field.name] = (field.type, annotations[field.name][1])
    return {
        name
        for name, (annotation, default) in annotations.items()
        if is_option(annotation) or (type(default) is float and 0 < default < 1) or name == "fraction"
    } - FREE_TEXT


def test_every_option_is_here():
    missing = {}
    for name, thing in public().items():
        try:
            wanted = options_of(thing)
        except (TypeError, ValueError):  # no signature
            continue
        method = name.partition(".")[2]
        wanted -= INNER | {w for w in wanted if f"{w} of {method}" in INNER}
        if name.partition(".")[0] in MADE and name not in CASES:
            continue
        wanted -= set(CASES[name][1]) if name in CASES else set()
        if wanted and name not in OTHERS:
            missing[name] = wanted
    assert missing == {}
    assert set(CASES) <= set(public())


def smallest(value):
    return np.min_scalar_type(value).type(value)


WAYS = {
    "int64 and float32": (np.int64, np.float32, np.str_),
    "the narrowest": (smallest, np.float16, np.str_),
    "uint64, arrays of no axis": (lambda v: np.array(v, np.uint64 if v >= 0 else np.int64), np.array, np.str_),
    "JAX": (jnp.asarray, lambda v: jnp.asarray(v, jnp.float32), str),
}


def given(value, way):
    integer, fraction, name = WAYS[way]
    if isinstance(value, tuple | list):
        return type(value)(given(part, way) for part in value)
    if isinstance(value, str):
        return name(value)
    if isinstance(value, bool):
        return np.bool_(value)
    return integer(value) if isinstance(value, int) else fraction(value)


@pytest.fixture(autouse=True)
def what_a_user_sees():
    """Without the tests' type checker, which would refuse some of these before kpoison can say why."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def one_way_each():
    """Every option in one of the ways, quickly, and in all of them."""
    for name, way in zip(CASES, itertools.cycle(WAYS), strict=False):
        if name not in SLOW:
            yield pytest.param(name, [way], id=name)
        yield pytest.param(name, list(WAYS), id=f"{name}, every way", marks=pytest.mark.slow)


@pytest.mark.parametrize(("name", "ways"), list(one_way_each()))
def test_scalars_of_any_library_are_options(name, ways):
    function, options = CASES[name]
    expected = jax.tree.leaves(function(**options))
    assert expected
    for way in ways:
        found = jax.tree.leaves(function(**{key: given(value, way) for key, value in options.items()}))
        for ours, theirs in zip(found, expected, strict=True):
            same = ours == theirs if isinstance(theirs, str) else None
            assert same is not False, way
            if same is None and not callable(theirs):
                np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs), err_msg=way)


@pytest.mark.parametrize("name", ["choose_solver", "NTK", "Polynomial", "one_hot", "Krum", "federate", "partition_of"])
def test_what_is_no_integer_is_refused_by_name(name):
    function, options = CASES[name]
    option = next(key for key, value in options.items() if isinstance(value, int))
    for wrong in (True, np.bool_(True), 2.0, np.float64(2), jnp.asarray(2.0), "2", None, np.array([2]), -7):
        # By default, and a list of classes.
        if (wrong is None and name in ("choose_solver", "one_hot")) or (name == "one_hot" and np.ndim(wrong) == 1):
            continue
        with pytest.raises((TypeError, ValueError), match=f"{option} must be an integer"):
            function(**options | {option: wrong})
    with pytest.raises(TypeError, match=f"{option} must be an integer .*that is known, got a traced one"):
        jax.jit(lambda value: jax.tree.leaves(function(**options | {option: value}))[0])(2)


RETURNING = {
    "check_integer",
    "check_name",
    "check_flag",
    "check_fraction",
    "check_mask",
    "check_classes",
    "known_number",
}


def test_nobody_throws_a_checked_option_away():
    """What these return is to be used in place of what came: a call that stands alone checks, and changes nothing."""
    places = []
    for path in sorted(Path(kp.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                called = getattr(node.value.func, "id", getattr(node.value.func, "attr", None))
                if called in RETURNING:
                    places.append(f"{path.name}:{node.lineno}")
    assert not places


@pytest.mark.parametrize("kind", [float, np.float64, np.float32, np.float16, jnp.float32])
def test_counts_are_those_of_the_fraction_as_it_is_written(kind):
    """⌈0.07 · 100⌉ is 7: as floats the product is a little more."""
    import math

    from kpoison._validation import count_of

    for fraction, number, ceiling, floor in (
        (0.07, 100, 7, 7),
        (0.29, 100, 29, 29),
        (0.1, 41, 5, 4),
        (0.55, 100, 55, 55),
    ):
        assert count_of(kind(fraction), number, math.ceil) == ceiling
        assert count_of(kind(fraction), number, math.floor) == floor
    assert count_of(kind(0.5), 3, round) == 2
    assert count_of(kind(0.5), 5, round) == 2


@pytest.mark.slow
def test_as_many_probes_are_triggered_as_the_fraction_says():
    from kpoison.problems.backdoor import make_backdoor

    patch = kp.Patch(2, (-2, -2), 1.0, clip=(0, 1))
    made = make_backdoor("digits", patch, classes=(0, 1), target=0, train=20, test=100, poisons=2)
    for fraction, number in ((0.07, 7), (0.14, 14), (0.29, 29), (0.071, 8)):
        assert int(jnp.sum(jnp.any(made.probes(fraction) != made.clean, axis=1))) == number
