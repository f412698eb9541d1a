"""The same predictions by the libraries that people use today: `python -m benchmarks peers`.

Each peer does what its user would write for the same task on MNIST; accuracy, the largest relative difference
to a dense solve in float64, stands beside each ratio.  GPyTorch is asked through an interpreter of its own, that of
the environment variable KPOISON_GPYTORCH, as it needs PyTorch; without one its lines are left out.
"""

import functools
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from sklearn.kernel_ridge import KernelRidge

import kpoison as kp
from benchmarks.krylov import problem
from benchmarks.timing import Comparison, compare
from kpoison.kernels._neural_tangents import load_neural_tangents

__all__ = ["run"]

_COUNT = 10.0
_PROBES = 20


def run(dense: int = 4000, network: int = 2000, krylov: int = 4000) -> list[Comparison]:
    """Dense: one poisoned prediction; networks: one clean prediction; Krylov: the poison at many ridges."""
    return [*_dense(dense), _neural_tangents(network), *_gpytorch(krylov)]


def _difference(found: Any, expected: Any) -> str:
    found, expected = np.asarray(found), np.asarray(expected)
    return f"{float(np.abs(found - expected).max() / np.abs(expected).max()):.0e}"


def _dense(n: int, ridge: float = 1e-3) -> list[Comparison]:
    kernel, X, y, poison, _ = problem(n, "rbf")
    probes, poison = X[:_PROBES] + 0.1, kp.Poison(poison.location, poison.label, _COUNT)
    rho, gamma = (n + _COUNT) * ridge, 0.5 / float(kernel.length_scale) ** 2
    points = np.concatenate([X, poison.location[None]])
    targets, weights = np.append(y, float(poison.label)), np.append(np.ones(n), _COUNT)

    def ours() -> Any:
        return kp.predict(kp.fit(kernel, X, y, solver=kp.Cholesky()), probes, ridge, poison)

    def scikit_learn() -> Any:
        model = KernelRidge(alpha=rho, kernel="rbf", gamma=gamma)  # pyright: ignore[reportArgumentType]
        return model.fit(points, targets, sample_weight=weights).predict(np.asarray(probes))

    def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None] - 2 * a @ b.T

    def scipy_cholesky() -> Any:
        gram = np.exp(-gamma * squared_distances(points, points))
        gram[np.diag_indices_from(gram)] += rho / weights
        dual = scipy.linalg.cho_solve(scipy.linalg.cho_factor(gram, lower=True, overwrite_a=True), targets)
        return np.exp(-gamma * squared_distances(np.asarray(probes), points)) @ dual

    expected, sizes = scipy_cholesky(), {"n_c": n, "d": X.shape[1], "dtype": "float64", "kernel": "RBF"}
    return [
        _against("fit and predict with a poison, Cholesky()", ours, name, peer, expected, sizes)
        for name, peer in (
            ("scikit-learn's KernelRidge", scikit_learn),
            ("NumPy with SciPy's Cholesky", scipy_cholesky),
        )
    ]


def _neural_tangents(n: int, ridge: float = 1e-3) -> Comparison:
    nt = load_neural_tangents()
    _, X, y, _, _ = problem(n, "relu-ntk")
    probes = X[:_PROBES] + 0.1
    dense = nt.stax.Dense(1, 2**0.5, 0.0)
    kernel_fn = nt.stax.serial(dense, nt.stax.Relu(), dense, nt.stax.Relu(), dense)[2]
    kernel = kp.kernels.NTK(hidden_layers=2, activation="relu", weight_std=2**0.5, bias_std=0.0)

    def ours() -> Any:
        return kp.predict(kp.fit(kernel, X, y, solver=kp.Cholesky()), probes, ridge)

    def theirs() -> Any:
        predict = nt.predict.gradient_descent_mse_ensemble(
            kernel_fn, X, y[:, None], diag_reg=n * ridge, diag_reg_absolute_scale=True
        )
        return predict(x_test=probes, get="ntk")[:, 0]

    rho = n * ridge
    matrix = np.asarray(kernel(X)) + rho * np.eye(n)
    expected = np.asarray(kernel(probes, X)) @ scipy.linalg.solve(matrix, np.asarray(y), assume_a="pos")
    sizes = {"n_c": n, "d": X.shape[1], "dtype": "float64", "kernel": "NTK, 2 hidden layers of ReLU"}
    return _against("fit and predict, Cholesky()", ours, "neural-tangents' predict", theirs, expected, sizes)


def _gpytorch(n: int, ridges: int = 4) -> list[Comparison]:
    """The poison's change of the predictions at several ridges: A⁻¹[k(X, ζ), y] is all that costs."""
    interpreter = os.environ.get("KPOISON_GPYTORCH")
    if interpreter is None:
        return []
    kernel, X, y, poison, _ = problem(n, "rbf")
    probes, label = X[:_PROBES] + 0.1, float(poison.label)
    lambdas = np.geomspace(1e-3, 1, ridges)
    poison = kp.Poison(poison.location, label, _COUNT)
    dense = kp.fit(kernel, X, y, solver=kp.Tridiagonal())

    def at_ridges(clean: kp.Posterior, number: int) -> Any:
        return np.stack([kp.efficacy(clean, poison, probes, ridge) for ridge in lambdas[:number]])

    def ours(number: int) -> Any:
        clean = kp.fit(kernel, X, y, solver=kp.Krylov(tolerance=1e-5))
        return at_ridges(kp.prepare(clean, poison, lambdas[:number]), number)

    expected, found = at_ridges(dense, ridges), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problem.npz"
        np.savez(
            path,
            X=np.asarray(X),
            y=np.asarray(y),
            zeta=np.asarray(poison.location),
            label=label,
            count=_COUNT,
            probes=np.asarray(probes),
            rhos=(n + _COUNT) * lambdas,
            length_scale=float(kernel.length_scale),
        )
        with subprocess.Popen(
            [interpreter, "-c", _WORKER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as worker:
            for number in (1, ridges):

                def theirs(number=number, worker=worker) -> Any:
                    assert worker.stdin is not None
                    assert worker.stdout is not None
                    print(number, file=worker.stdin, flush=True)
                    return np.array(json.loads(worker.stdout.readline()))

                name = f"fit and efficacy at {number} ridge{'s' if number > 1 else ''}, Krylov(tolerance=1e-5)"
                sizes = {"n_c": n, "d": X.shape[1], "dtype": "float64", "kernel": "RBF"}
                peer = "GPyTorch's preconditioned conjugate gradients"
                found.append(
                    _against(name, functools.partial(ours, number), peer, theirs, expected[:number], sizes, repeats=1)
                )
            assert worker.stdin is not None
            worker.stdin.close()
    return found


def _against(
    name: str,
    ours: Callable[[], Any],
    peer: str,
    theirs: Callable[[], Any],
    expected: Any,
    sizes: dict[str, Any],
    repeats: int = 5,
) -> Comparison:
    timed = compare(name, ours, peer, theirs, sizes=sizes, repeats=repeats)
    timed.notes["error of ours"] = _difference(ours(), expected)
    timed.notes["error of theirs"] = _difference(theirs(), expected)
    return timed


# The same two right-hand sides at each ridge; a rank of the preconditioner that suits these data.
_WORKER = """
import json, sys
import gpytorch, linear_operator, numpy as np, torch
torch.set_num_threads(2)
data = {name: torch.tensor(value, dtype=torch.float64) for name, value in np.load(sys.argv[1]).items()}
X, zeta, probes = data["X"], data["zeta"][None], data["probes"]
kernel = gpytorch.kernels.RBFKernel().double()
kernel.lengthscale = float(data["length_scale"])
settings = gpytorch.settings
with torch.no_grad(), settings.cg_tolerance(1e-4), settings.max_cg_iterations(500), \\
        settings.max_preconditioner_size(300), settings.min_preconditioning_size(10), \\
        settings.max_cholesky_size(10), settings.fast_computations(solves=True):
    for line in sys.stdin:
        operator = linear_operator.to_linear_operator(kernel(X).to_dense())
        here, there, self_ = kernel(X, zeta).to_dense(), kernel(probes, X).to_dense(), kernel(zeta, zeta).to_dense()
        cross = kernel(probes, zeta).to_dense()
        found = []
        for rho in data["rhos"][: int(line)]:
            solved = operator.add_diagonal(rho.expand(len(X))).solve(torch.cat([here, data["y"][:, None]], 1))
            left = self_ - here.T @ solved[:, :1]
            s = (data["label"] - here.T @ solved[:, 1:]) / (left + rho / data["count"])
            found.append(((cross - there @ solved[:, :1]) * s)[:, 0].tolist())
        print(json.dumps(found), flush=True)
"""
