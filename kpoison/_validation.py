"""Checks at the public boundary: which argument, what came, what was expected.

Shapes and dtypes are always known and always checked.  Values are checked where they are concrete; under a trace
`_failures.checked_result` carries the same conditions into the compiled program.

Options come as scalars of Python, NumPy or JAX and go on as Python's: what `check_integer`, `check_name` and their like
return is to be used, in place of what came (`check_integers` and `check_numbers` replace it in the arguments).
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, ParamSpec, TypeVar, cast, no_type_check

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

__all__ = [
    "between_points",
    "boundary",
    "check_classes",
    "check_finite",
    "check_finite_scalar",
    "check_flag",
    "check_floating",
    "check_fraction",
    "check_integer",
    "check_integers",
    "check_mask",
    "check_name",
    "check_number",
    "check_numbers",
    "check_points",
    "check_positive",
    "check_range",
    "check_real",
    "choice",
    "count_of",
    "exact_fraction",
    "flag",
    "in_dtype",
    "integer",
    "is_concrete",
    "is_integer",
    "is_text",
    "known_number",
    "plain_array",
    "public",
]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
P = ParamSpec("P")


def boundary(check: Callable[[dict[str, Any]], None]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorator: `check` sees the arguments by name, raises or replaces them, before the function runs."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            check(bound.arguments)
            return function(*bound.args, **bound.kwargs)

        return checked

    return decorate


def public(function: F) -> F:
    """Decorator: a function that checks its own arguments, and can say more of what is wrong than a type checker."""
    return no_type_check(function)


def is_concrete(value: Any) -> bool:
    """Whether the numbers are known now, rather than being traced."""
    return not isinstance(value, jax.core.Tracer)


def in_dtype(value: Any, dtype: Any) -> Any:
    """Numbers as an array of a dtype, without a call to the device where they are none of JAX yet."""
    if isinstance(value, jax.Array):
        return value if value.dtype == dtype else value.astype(dtype)
    return np.asarray(value, dtype)


def plain_array(name: str, value: Any) -> Any:
    """The value as an array of NumPy or JAX: lists, tables of pandas and masked arrays that mask nothing are welcome.

    Raises:
        TypeError: for a sparse matrix, whose zeros would have to be made.
        ValueError: for a list that is no array, or numbers that are masked, which NumPy would let through.
    """
    if isinstance(value, jax.Array):
        return value
    if isinstance(value, np.ndarray) and type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value):
            number = int(np.sum(np.ma.getmaskarray(value)))
            raise ValueError(f"{name} must be known everywhere, got a masked array with {number} entries masked")
        return np.asarray(value.data)
    if hasattr(value, "toarray") and hasattr(value, "nnz"):
        raise TypeError(
            f"{name} must be a dense array, got the sparse matrix {type(value).__name__} of shape {value.shape}: "
            "give .toarray()"
        )
    try:
        return np.asarray(value)
    except jax.errors.TracerArrayConversionError:  # a list of traced numbers
        return jnp.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be an array: {error}") from None


def check_finite(name: str, value: Any) -> None:
    """Refuse NaN and infinities, where the value is known."""
    if is_concrete(value):
        bad = ~np.isfinite(np.asarray(value))
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            where = f", the first at index {first}" if first else ""
            raise ValueError(f"{name} must be finite, got {int(bad.sum())} non-finite value(s){where}")


def _is_real(dtype: Any) -> bool:
    # Of text, objects and pandas NumPy has dtypes that JAX does not know.
    known = isinstance(dtype, np.dtype) and dtype.kind not in "OSUMm"
    return known and (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer))


def check_real(name: str, value: Any) -> None:
    """Refuse what is neither a real number nor a real array."""
    dtype = (value if isinstance(value, jax.ShapeDtypeStruct) else plain_array(name, value)).dtype
    if not _is_real(dtype):
        raise TypeError(f"{name} must be real, got {type(value).__name__} of dtype {dtype}")


def check_positive(name: str, value: Any, *, zero: bool = False, scalar: bool = True) -> None:
    """Refuse what is not finite, real and > 0 (or >= 0), where the value is known."""
    check_real(name, value)
    if scalar and np.shape(value) != ():
        raise ValueError(f"{name} must be a single number, got shape {np.shape(value)}")
    if is_concrete(value):
        number = np.asarray(value)
        if not np.all(np.isfinite(number)) or np.any(number < 0) or (not zero and np.any(number == 0)):
            raise ValueError(f"{name} must be finite and {'>= 0' if zero else '> 0'}, got {value}")


def check_finite_scalar(name: str, value: Any) -> None:
    """Refuse what is not one finite real number."""
    check_real(name, value)
    if np.shape(value) != ():
        raise ValueError(f"{name} must be a single number, got shape {np.shape(value)}")
    check_finite(name, value)


def check_range(name: str, value: Any) -> tuple[float, float] | None:
    """The range as floats; refuse what is no pair of finite numbers low < high.  None stands for no range."""
    if value is None:
        return None
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"{name} must be None or (low, high), got {value!r}")
    for end in value:
        check_finite_scalar(name, end)
    low, high = float(value[0]), float(value[1])
    if low >= high:
        raise ValueError(f"{name} must be (low, high) with low < high, got {value!r}")
    return low, high


# --- Options: scalars of Python, NumPy or JAX that become Python's ---


def is_integer(value: Any) -> bool:
    """Whether it is one integer, of Python, NumPy or JAX, traced or not; booleans are none."""
    if isinstance(value, bool | np.bool_):
        return False
    if isinstance(value, int | np.integer):
        return True
    return isinstance(value, np.ndarray | jax.Array) and value.ndim == 0 and jnp.issubdtype(value.dtype, jnp.integer)


def check_integer(name: str, value: Any, least: int | None) -> int:
    """The value as a Python integer, for use in its place; refuse what is no known integer >= `least`.

    Of any width, of Python, NumPy or JAX.  As an option that a program is compiled for, an array would fail in it.
    """
    expected = f"{name} must be an integer" + ("" if least is None else f" >= {least}")
    if is_integer(value) and not is_concrete(value):
        raise TypeError(f"{expected} that is known, got a traced one: give it outside of jit, vmap and grad")
    if not is_integer(value) or (least is not None and value < least):
        raise ValueError(f"{expected}, got {value!r}")
    return int(value)


def check_integers(arguments: dict[str, Any], /, *, optional: bool = False, **least: int) -> None:
    """Replace each of these arguments by a Python integer >= the given one, or say what is wrong.

    Those that are `optional` may be None.
    """
    for name, lowest in least.items():
        if not (optional and arguments[name] is None):
            arguments[name] = check_integer(name, arguments[name], lowest)


def integer(name: str, least: int, *, optional: bool = False) -> Callable[[Any], Any]:
    """A converter of fields, `eqx.field(converter=...)`: `check_integer`; an `optional` one may be None."""
    return lambda value: None if optional and value is None else check_integer(name, value, least)


def flag(name: str, *, optional: bool = False) -> Callable[[Any], Any]:
    """A converter of fields: `check_flag`; an `optional` one may be None."""
    return lambda value: None if optional and value is None else check_flag(name, value)


def choice(name: str, known: Sequence[str], *, optional: bool = False) -> Callable[[Any], Any]:
    """A converter of fields: `check_name`; an `optional` one may be None."""
    return lambda value: None if optional and value is None else check_name(name, value, known)


def known_number(value: Any) -> Any:
    """A real scalar as Python's number, the decimal of its own precision: 0.2 of float32 is 0.2; what is traced stays.

    So that a share of a hundred points is the same count whichever library the share is of.
    """
    if not is_concrete(value) or isinstance(value, int | str) or type(value) is float:
        return value
    array = np.asarray(value)
    if array.ndim or not _is_real(array.dtype):
        return value
    return float(str(array[()])) if jnp.issubdtype(array.dtype, jnp.floating) else int(array)


def check_number(name: str, value: Any, *, zero: bool = False) -> Any:
    """The value for use in its place, Python's number if known; refuse what is not finite and > 0 (or >= 0)."""
    check_positive(name, value, zero=zero)
    return known_number(value)


def check_numbers(arguments: dict[str, Any], *names: str, zero: bool = False) -> None:
    """Replace each of these arguments, finite and > 0 (or >= 0), by Python's number where it is known."""
    for name in names:
        arguments[name] = check_number(name, arguments[name], zero=zero)


def check_fraction(name: str, value: Any, *, one: bool = False) -> Any:
    """The value for use in its place, Python's number if known; refuse what is not in (0, 1), with `one` in (0, 1]."""
    check_positive(name, value)
    if is_concrete(value) and not (float(value) <= 1 if one else float(value) < 1):
        raise ValueError(f"{name} must lie {'in (0, 1]' if one else 'between 0 and 1'}, got {value}")
    return known_number(value)


def exact_fraction(value: Any) -> Fraction:
    """The number as it is written: 7/100 for 0.07, which as a float is a little more."""
    return Fraction(str(known_number(value)))


def count_of(fraction: Any, number: int, rounding: Callable[[Fraction], int]) -> int:
    """How many a fraction of so many is, rounded by `math.ceil`, `math.floor` or `round`: ⌈0.07 · 100⌉ is 7, not 8."""
    return rounding(exact_fraction(fraction) * number)


def check_flag(name: str, value: Any) -> bool:
    """The value as a Python boolean, for use in its place; refuse what is neither True nor False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__}")
    return bool(value)


def check_name(name: str, value: Any, known: Sequence[str]) -> Any:
    """The value as a Python string, for use in its place; refuse an unknown name."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    return str(value)


# --- Arrays ---


def check_mask(name: str, value: Any, shape: tuple[int, ...], each: str) -> Any:
    """Which of the given things, as booleans; numbers 0 and 1, as other libraries mark them, are welcome.

    As an index integers would choose the first two things instead of marking any.

    Args:
        name: of the argument.
        value: the mask.
        shape: that it must have.
        each: what has an entry of it, for the message.

    Raises:
        TypeError: for other dtypes.
        ValueError: for another shape, or integers that are not 0 or 1 (where they are known).
    """
    mask = plain_array(name, value)
    if mask.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, one for each {each}, got {mask.shape}")
    if mask.dtype == bool:
        return mask
    if mask.dtype.kind not in "iu":
        raise TypeError(f"{name} must be booleans, or integers that are 0 or 1, got dtype {mask.dtype}")
    if is_concrete(mask):
        wrong = (np.asarray(mask) != 0) & (np.asarray(mask) != 1)
        if wrong.any():
            raise ValueError(f"{name} must be booleans, or integers that are 0 or 1, got {np.asarray(mask)[wrong][0]}")
    return mask != 0


def is_text(array: np.ndarray) -> bool:
    """Whether it holds text, of whichever of NumPy's dtypes or as Python's own."""
    return array.dtype.kind in "TUS" or (
        array.dtype.kind == "O" and all(isinstance(entry, str) for entry in array.flat)
    )


def check_classes(name: str, value: Any, number: int, like: str) -> tuple[Any, np.ndarray | None]:
    """Classes as numbers from 0, and what each number stands for.

    Classes are integers of any width, booleans or text.  They are told apart here, by NumPy: in JAX without x64
    5 · 10⁹ and 5 · 10⁹ + 2³² are one number.  Traced ones, which can only be integers, stay as they are.

    Args:
        name: of the argument.
        value: classes of so many points, shape (n,).
        number: n.
        like: what there are n of, for the message.

    Returns:
        Numbers (n,), and the classes in ascending order; None for traced ones.

    Raises:
        TypeError: for classes of another kind, such as floating-point numbers.
        ValueError: for another shape.
    """
    labels = plain_array(name, value)
    if labels.shape != (number,):
        raise ValueError(f"{name} must have shape ({number},), as there are {number} {like}, got {labels.shape}")
    known = isinstance(labels, np.ndarray)
    if known and is_text(labels):
        labels = labels.astype(str)
    # Objects: a list of Python integers beyond 64 bits.
    fitting = known and (labels.dtype.kind == "U" or (labels.dtype.kind == "O" and all(map(is_integer, labels))))
    if not fitting and labels.dtype != bool and not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"{name} must be integers, booleans or text, one for each point, got {type(value).__name__} of dtype "
            f"{labels.dtype}"
        )
    if not is_concrete(labels):
        return labels, None
    classes, numbers = np.unique(np.asarray(labels), return_inverse=True)
    return numbers.reshape(number), classes


def check_floating(name: str, value: Any) -> jax.Array:
    """The value as a JAX array of a floating dtype."""
    value = plain_array(name, value)
    dtype = value.dtype
    if not (_is_real(dtype) and jnp.issubdtype(dtype, jnp.floating)):
        raise TypeError(f"{name} must be a floating-point array, got dtype {dtype}")
    if jnp.finfo(dtype).bits < 32:
        raise TypeError(f"{name} must be float32 or float64, in which its Gram matrix can be solved, got dtype {dtype}")
    return jnp.asarray(value)


def check_points(
    name: str,
    value: Any,
    point_ndim: int,
    *,
    like: jax.Array | None = None,
    like_name: str = "X",
    single: bool = False,
) -> jax.Array:
    """Points (n, ...) with `point_ndim` axes each, as a JAX array; with `like`, of its point shape and dtype.

    With `single` one point without the first axis is welcome too.  Points without axes are indices: they come as
    integers and go on in a floating dtype, as all points do.
    """
    points = check_floating(name, value) if point_ndim else _indices(name, value)
    shape = (1, *points.shape) if single and points.ndim == point_ndim else points.shape
    if len(shape) != point_ndim + 1:
        expected = {0: "(n,)", 1: "(n, d)"}.get(point_ndim) or f"(n, {', '.join(['...'] * point_ndim)})"
        raise ValueError(f"{name} must have shape {expected}, got {points.shape}")
    if points.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {points.shape}")
    if like is not None:
        if shape[1:] != like.shape[1:]:
            raise ValueError(f"{name} must hold points of shape {like.shape[1:]}, as {like_name} does, got {shape[1:]}")
        if points.dtype != like.dtype:
            points = points.astype(like.dtype)
    check_finite(name, points)
    return points


def _indices(name: str, value: Any) -> jax.Array:
    indices = plain_array(name, value)
    if indices.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, the indices of points, got dtype {indices.dtype}")
    return jnp.asarray(indices, float)


def between_points(evaluate: F) -> F:
    """Decorator of a kernel's `evaluate`: two single points of one shape, which nothing may broadcast."""

    @functools.wraps(evaluate)
    def checked(self, x, z):
        x, z = check_floating("x", x), check_floating("z", z)
        if x.shape != z.shape:
            raise ValueError(f"z must have the shape of x, {x.shape}, got {z.shape}")
        return evaluate(self, x, z)

    return cast(F, checked)
