"""Label-flip certificates of MNIST's test points beside one Cholesky factorisation: `python -m benchmarks certificate`.

Asked: all q = 10,000 test points, n = 2,000, in at most 3 factorisations.  Counted in flops that is out of reach for
exact certificates in float64, whatever the code:

    Cholesky            n³/3            = 2.7e9
    k(X, x), d = 784    2nqd            = 3.1e10    12 factorisations (and 2·10⁷ arc cosines for each hidden layer)
    w = A⁻¹k(X, x)      2n²q            = 8.0e10    30
    A⁻¹                 2n³             = 1.6e10     6
    the certificates    about 20 passes over 2·10⁷ influences, which a sort takes 11 comparisons each for

All but the last are matrix products, which run somewhat faster per flop than a factorisation.  So the ratio is reported
beside that of two products alone, the floor: X xᵀ and A⁻¹k, as any exact method that takes raw test points needs them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import kpoison as kp
from benchmarks.timing import Comparison, compare
from kpoison.attacks import flip_certificate
from kpoison.datasets import load_mnist

__all__ = ["run"]

_RIDGE = 1e-3


def _problem(n: int, q: int, dtype) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Training images, whether they show a digit below 5, and test images."""
    train, test = load_mnist(None, "train"), load_mnist(None, "test")
    chosen = np.random.default_rng(0).permutation(len(train.images))[:n]
    X, x = (part.reshape(len(part), -1) for part in (train.images[chosen], test.images[:q]))
    return jnp.asarray(X, dtype), jnp.asarray(np.where(train.labels[chosen] < 5, 1, -1), dtype), jnp.asarray(x, dtype)


def _cholesky(matrix: np.ndarray) -> np.ndarray:
    import scipy.linalg

    return scipy.linalg.cholesky(matrix, lower=True, check_finite=False)


def run(n: int = 2000, q: int = 10_000) -> list[Comparison]:
    """Certificates in float64, the two products that they need at least, and certificates in float32."""
    kernel = kp.kernels.NTK(hidden_layers=2)
    X, y, x = _problem(n, q, jnp.float64)
    gram = kernel(X)
    matrix = np.asarray(gram + n * _RIDGE * jnp.eye(n))
    clean = kp.fit(kernel, X, y, solver=kp.Cholesky())
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))
    cross = kernel(X, x)

    def beside(name, function, asked=""):
        return compare(
            name,
            function,
            "scipy.linalg.cholesky of K + ρI",
            functools.partial(_cholesky, matrix),
            asked=asked,
            sizes={"n_c": n, "q": q, "d": X.shape[1], "hidden_layers": 2},
            repeats=5,
        )

    found = beside(f"certificates of {q:,} points", lambda: flip_certificate(clean, x, _RIDGE), "at most 3")
    certificates = np.asarray(flip_certificate(clean, x, _RIDGE))
    found.notes["quartiles of the certificates"] = np.quantile(certificates, [0.25, 0.5, 0.75]).tolist()
    floor = beside("X xᵀ and A⁻¹k(X, x) alone", lambda: (product(X, x.T), product(gram, cross)))
    single = kp.fit(kernel, X.astype(jnp.float32), y.astype(jnp.float32), solver=kp.Cholesky())
    faster = beside("certificates in float32", lambda: flip_certificate(single, x.astype(jnp.float32), _RIDGE))
    differing = np.mean(np.asarray(flip_certificate(single, x.astype(jnp.float32), _RIDGE)) != certificates)
    faster.notes["fraction that differs from float64"] = f"{differing:.1e}"
    return [found, floor, faster]
