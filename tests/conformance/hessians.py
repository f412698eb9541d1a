"""Values, gradients and Hessians of named numbers, by every order of modes."""

import jax
import numpy as np

import kpoison as kp

MODES = {
    "forward over reverse": (jax.jacfwd, jax.jacrev),
    "reverse over reverse": (jax.jacrev, jax.jacrev),
    "forward over forward": (jax.jacfwd, jax.jacfwd),
}


def derivatives(function, at, mode):
    """Values, gradients and Hessians of what `function` gives by name, in one program."""
    outer, inner = MODES[mode]

    def stacked(p):
        # Failures beside the result: errors at run time are most of what would be compiled.
        values, _ = kp.with_failures(function)(p)
        return values, values

    def gradients(p):
        gradient, value = inner(stacked, has_aux=True)(p)
        return gradient, (value, gradient)

    hessians, (values, first) = jax.jit(outer(gradients, has_aux=True))(at)
    return values, first, hessians


def assert_equal(found, expected):
    for order, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for name, exact in theirs.items():
            atol = 1e-8 * max(1, np.max(np.abs(exact)))
            np.testing.assert_allclose(ours[name], exact, rtol=0, atol=atol, err_msg=f"{name}, order {order}")
