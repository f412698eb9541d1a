"""neural-tangents 0.6.5 on current JAX, without TensorFlow.

The last release of neural-tangents imports names that JAX has since moved or removed. They are lent to JAX
while neural-tangents is being imported and taken back afterwards; what it calls later is replaced inside its
own modules. JAX itself is left as it was found, and only its public interface is used.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import jax.core
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import scipy
import scipy.linalg
from jax.interpreters import ad

__all__ = ["StructuredDerivativesError", "load_neural_tangents"]

_LOCK = threading.RLock()
_ADAPTED = "_adapted_by_kpoison"


class StructuredDerivativesError(NotImplementedError):
    """Implementation 3 of the empirical NTK fails for this function; implementations 1 and 2 may do."""


def load_neural_tangents() -> ModuleType:
    """Import neural-tangents, adapted to the JAX at hand. Later calls return the same module.

    Returns:
        The module `neural_tangents`, without its `experimental` part, which needs TensorFlow.

    Raises:
        ImportError: neural-tangents is not installed, or cannot be adapted to this version of JAX.
    """
    with _LOCK:
        module = sys.modules.get("neural_tangents")
        if module is not None and _ADAPTED in vars(module):
            return module
        fresh = "neural_tangents" not in sys.modules
        try:
            if fresh:
                _forget()  # parts left behind by an import that failed outside this function
            with _names_lent_to_jax(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"neural_tangents\b")
                module = importlib.import_module("neural_tangents")
            _adapt(module)
        except Exception as error:
            if fresh:
                _forget()
            if isinstance(error, ModuleNotFoundError) and error.name == "neural_tangents":
                message = "neural-tangents is not installed: pip install 'kpoison[neural-tangents]'"
            else:
                message = f"{_versions()} do not work together: {type(error).__name__}: {error}"
            raise ImportError(message, name="neural_tangents") from error
        setattr(module, _ADAPTED, True)
        return module


def _forget() -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == "neural_tangents":
            del sys.modules[name]


def _versions() -> str:
    try:
        version = importlib.metadata.version("neural-tangents")
    except importlib.metadata.PackageNotFoundError:
        version = "(unknown version)"
    return f"neural-tangents {version} and JAX {jax.__version__}"


# --- While it is being imported -----------------------------------------------------------------------------


@contextlib.contextmanager
def _names_lent_to_jax() -> Iterator[None]:
    # Only structured derivatives need these, so an empty class will do for one that JAX no longer has.
    moved = ("Jaxpr", "JaxprEqn", "Literal", "Primitive", "Var", "Value", "AbstractValue")
    lent = [(jax.core, name, getattr(jax.extend.core, name, type(name, (), {}))) for name in moved]
    lent.append((ad, "zeros_like_p", jax.extend.core.Primitive("zeros_like")))
    util = ModuleType("jax.util")
    vars(util)["safe_map"] = lambda function, *xs: [function(*items) for items in zip(*xs, strict=True)]
    vars(util)["safe_zip"] = lambda *xs: list(zip(*xs, strict=True))
    experimental = ModuleType("neural_tangents.experimental", "Left out by kpoison: it needs TensorFlow.")

    with contextlib.ExitStack() as undo:
        for owner, name, value in lent:
            if name not in vars(owner):  # `hasattr` would trip JAX's deprecation warnings
                setattr(owner, name, value)
                undo.callback(delattr, owner, name)
        for stand_in in (util, experimental):
            if (previous := sys.modules.pop(stand_in.__name__, None)) is None:
                undo.callback(sys.modules.pop, stand_in.__name__, None)
            else:
                undo.callback(sys.modules.__setitem__, stand_in.__name__, previous)
            sys.modules[stand_in.__name__] = stand_in
        yield


# --- After it has been imported -----------------------------------------------------------------------------


class _Overlay(ModuleType):
    """A module as neural-tangents is to see it: some names replaced, the others those of the real module."""

    def __init__(self, real: ModuleType, **names: Any):
        super().__init__(real.__name__)
        vars(self).update(names, _real=real)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_real"], name)


def _adapt(module: ModuleType) -> None:
    predict, empirical, linear = (
        importlib.import_module(f"{module.__name__}._src.{part}") for part in ("predict", "empirical", "stax.linear")
    )
    # `eval_context` computed with concrete arrays under a trace, and let tracers pass; today it would not.
    _replace(
        predict,
        jax=_Overlay(jax, core=_Overlay(jax.core, eval_context=contextlib.nullcontext)),
        sp=_Overlay(scipy, linalg=_Overlay(scipy.linalg, eigvalsh=_eigvalsh)),
        _get_cho_solve=_early(predict._get_cho_solve),
        _get_fns_in_eigenbasis=_early(predict._get_fns_in_eigenbasis),
    )
    # There it computes with static shapes alone.
    _replace(
        linear,
        jax=_Overlay(jax, core=_Overlay(jax.core, eval_context=jax.ensure_compile_time_eval)),
        lax=_Overlay(
            jax.lax,
            conv_general_dilated=_of_kernels(linear, jax.lax.conv_general_dilated, _correlation),
            conv_transpose=_of_kernels(linear, jax.lax.conv_transpose, _transposed_correlation),
        ),
    )
    # `jax.numpy` no longer takes abstract arrays in `shape` and `size`, nor arrays in `dtype`.
    no_names = SimpleNamespace(transform_name_stack=contextlib.nullcontext)
    _replace(
        empirical,
        ad=_Overlay(ad, source_info_util=no_names),
        jnp=_Overlay(jnp, shape=np.shape, size=lambda x: math.prod(np.shape(x)), dtype=jnp.result_type),
        _get_flops=_get_flops,
        _get_df_dys_and_dy_dws=_guarded(empirical._get_df_dys_and_dy_dws),
        _get_primals_out_and_pullback=functools.partial(_primals_out_and_pullback, empirical._backward_pass),
        _eqn_jvp_fn=_equation_jvp,
        _eqn_vjp_fn=_equation_vjp,
        _read_primal=_read_primal,
        _write_cotangent=_write_cotangent,
    )


def _replace(module: ModuleType, **names: Any) -> None:
    for name, value in names.items():
        if not hasattr(module, name):
            raise AttributeError(f"{module.__name__} has no {name}")
        setattr(module, name, value)


def _early(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let `function` compute at once, even under a trace, if its arguments are concrete: its result is cached."""

    def early(*args: Any) -> Any:
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args))
        with contextlib.nullcontext() if traced else jax.ensure_compile_time_eval():
            return function(*args)

    return early


def _eigvalsh(matrix: Any, *, eigvals: tuple[int, int] | None = None) -> Any:
    return scipy.linalg.eigvalsh(matrix, subset_by_index=eigvals)


# --- Kernels of convolutions --------------------------------------------------------------------------------
# In float64 on CPUs with AVX-512, XLA's code for a padded convolution may read outside its operand and end the
# process (jaxlib 0.8.2 to 0.10.2); derivatives of kernels are such convolutions. As sums of shifted copies, without
# any convolution, they cannot, take less time, and keep float32's digits on accelerators.


def _of_kernels(linear: ModuleType, function: Callable[..., Any], instead: Callable[..., Any]) -> Callable[..., Any]:
    """`instead` where the operand is a kernel; neural-tangents marks these calls by the same tuple. Else `function`."""
    marker = linear._CONV_KERNEL_DIMENSION_NUMBERS

    def chosen(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("dimension_numbers") is not marker:
            return function(*args, **kwargs)
        covariance, diagonal, strides, padding = args
        return instead(covariance, diagonal.shape[-1], strides[0], padding)

    return chosen


def _correlation(covariance: Any, size: int, stride: int, padding: Any) -> Any:
    """The mean of `size` positions (p, p') along the diagonal of the last two axes; `padding` is SAME or VALID."""
    pads = jax.lax.padtype_to_pads(covariance.shape[-2:], (size, size), (stride, stride), padding)
    return _diagonal_mean(jnp.pad(covariance, [(0, 0), (0, 0), *pads]), size, stride)


def _transposed_correlation(covariance: Any, size: int, stride: int, padding: str) -> Any:
    """The same for a transposed convolution, with `jax.lax.conv_transpose`'s padding."""
    if padding == "SAME":
        total = size + stride - 2
        low = size - 1 if stride > size - 1 else -(-total // 2)
    else:
        total, low = size + stride - 2 + max(size - stride, 0), size - 1
    config = [(0, 0, 0), (0, 0, 0), *[(low, total - low, stride - 1)] * 2]
    return _diagonal_mean(jax.lax.pad(covariance, jnp.zeros((), covariance.dtype), config), size, 1)


def _diagonal_mean(padded: Any, size: int, stride: int) -> Any:
    ends = [length - size + 1 for length in padded.shape[-2:]]
    shifted = (padded[..., i : i + ends[0] : stride, i : i + ends[1] : stride] for i in range(size))
    return functools.reduce(jnp.add, shifted) / size


# --- Empirical NTK: structured derivatives, and the choice of an implementation -----------------------------


def _get_flops(function: Callable[..., Any], optimize: bool, *args: Any, **kwargs: Any) -> float:
    try:
        lowered = jax.jit(function).lower(*args, **kwargs)
    except StructuredDerivativesError:
        return math.inf
    cost: Any = (lowered.compile() if optimize else lowered).cost_analysis()
    return (cost or {}).get("flops", math.inf)


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise StructuredDerivativesError(
                "The empirical NTK by structured derivatives (implementation 3) failed for this function with "
                f"{_versions()}; use implementation 1 or 2. {type(error).__name__}: {error}"
            ) from error

    return guarded


def _primals_out_and_pullback(backward_pass: Callable[..., Any], fn: Callable[..., Any], mode: Any, *rest: Any) -> Any:
    *rules, params = rest
    # Primitives that hold a jaxpr have no rules, hence no `jit` inside.
    with jax.disable_jit():
        out, tangent_map = jax.linearize(fn, params)
        closed = jax.make_jaxpr(tangent_map)(params)
    jaxpr, consts = _without_known_equations(closed)

    def pullback(cotangent: Any) -> Any:
        unknown = [ad.UndefinedPrimal(var.aval) for var in jaxpr.invars]
        found = backward_pass(jaxpr, mode, consts, unknown, tuple(jax.tree.leaves(cotangent)), *rules)
        return (jax.tree.unflatten(jax.tree.structure(params), found),)

    return out, pullback


def _without_known_equations(closed: Any) -> tuple[Any, list[Any]]:
    """Evaluate what does not depend on the inputs: the backward pass would take it for unknown."""
    known = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    unknown = []
    for equation in closed.jaxpr.eqns:
        operands = [_read_primal(known, var) for var in equation.invars]
        if any(isinstance(operand, ad.UndefinedPrimal) for operand in operands):
            unknown.append(equation)
        else:
            known.update(zip(equation.outvars, _bind(equation, operands), strict=True))
    parts = {"constvars": list(known), "invars": closed.jaxpr.invars, "outvars": closed.jaxpr.outvars}
    return SimpleNamespace(**parts, eqns=unknown), list(known.values())


def _bind(equation: Any, operands: list[Any]) -> list[Any]:
    # Where only the shape of an operand is known, its value does not matter to the derivative asked for.
    avals = [x.aval if isinstance(x, ad.UndefinedPrimal) else x for x in operands]
    values = [jnp.zeros(x.shape, x.dtype) if isinstance(x, jax.core.ShapedArray) else x for x in avals]
    out = equation.primitive.bind(*values, **equation.params)
    return out if equation.primitive.multiple_results else [out]


def _equation_jvp(equation: Any, index: int, tangent: Any, *operands: Any) -> Any:
    # Linear in what is unknown, an equation is its own derivative. None is the identity.
    values = [*operands[:index], tangent, *operands[index + 1 :]]
    return tangent if equation is None else _bind(equation, values)[0]


def _equation_vjp(equation: Any, cotangent: Any, *operands: Any) -> tuple[Any, ...]:
    unknown = {i: x.aval for i, x in enumerate(operands) if isinstance(x, ad.UndefinedPrimal)}
    if equation is None or isinstance(cotangent, ad.Zero):
        return tuple(cotangent if equation is None else None for _ in operands)

    def forward(values: dict[int, Any]) -> Any:
        return _bind(equation, [values.get(i, operand) for i, operand in enumerate(operands)])[0]

    shapes = {i: jax.ShapeDtypeStruct(aval.shape, aval.dtype) for i, aval in unknown.items()}
    (cotangents,) = jax.linear_transpose(forward, shapes)(cotangent)
    return tuple(cotangents.get(i) for i in range(len(operands)))


def _read_primal(known: dict[Any, Any], var: Any) -> Any:
    if isinstance(var, jax.extend.core.Literal):
        return var.val
    return known[var] if var in known else ad.UndefinedPrimal(var.aval)


def _write_cotangent(_: Any, cotangents: dict[Any, Any], var: Any, value: Any) -> None:
    if value is not None and not isinstance(value, ad.Zero) and not isinstance(var, jax.extend.core.Literal):
        cotangents[var] = ad.add_tangents(cotangents[var], value) if var in cotangents else value
