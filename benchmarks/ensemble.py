"""Certificates of an ensemble on hashed partitions beside as many of single sets: `python -m benchmarks ensemble`.

Asked: all of MNIST's test points, 50 partitions of 2,000, in at most 2.5 times 50 certificates of 2,000 (C1).  MNIST
has 60,000 training images; the other 40,000 are copies of its first, shifted by a pixel.  The ensemble hashes all of
them, pads partitions, which differ in size, and joins their costs by a knapsack; runs once, as it takes minutes.
"""

import jax
import jax.numpy as jnp
import numpy as np

import kpoison as kp
from benchmarks.timing import Comparison, seconds
from kpoison.attacks import flip_certificate
from kpoison.datasets import load_mnist
from kpoison.defences import EnsembleCertificate, ensemble_certificate

__all__ = ["run"]

_RIDGE, _LENGTH, _SINGLE = 1e-3, 9.0, 5


def _problem(number: int, q: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images and whether they show a digit below 5, test images and the same of them."""
    train, test = load_mnist(None, "train"), load_mnist(None, "test")
    images = np.concatenate([train.images, np.roll(train.images[: max(number - len(train.images), 0)], 1, axis=2)])
    labels = np.concatenate([train.labels, train.labels])[: len(images)]
    X, x = (np.asarray(part, np.float64).reshape(len(part), -1) for part in (images[:number], test.images[:q]))
    return X, np.where(labels[:number] < 5, 1.0, -1.0), x, np.where(test.labels[:q] < 5, 1, -1)


def run(size: int = 2000, partitions: int = 50, q: int = 10_000) -> list[Comparison]:
    """Of two classes, an RBF kernel."""
    X, y, x, labels = _problem(size * partitions, q)
    kernel, probes = kp.kernels.RBF(_LENGTH), jnp.asarray(x)

    def single(k: int) -> jax.Array:
        own = slice(k * size, (k + 1) * size)
        return flip_certificate(kp.fit(kernel, X[own], y[own], solver=kp.Cholesky()), probes, _RIDGE)

    def ensemble(number: int) -> EnsembleCertificate:
        own = slice(number * size)
        return ensemble_certificate(kernel, X[own], y[own], x, _RIDGE, partitions=number)

    jax.block_until_ready(single(0))
    ensemble(2)  # compiles
    alone = [seconds(lambda k=k: single(k)) for k in range(min(_SINGLE, partitions))]
    found: list[EnsembleCertificate] = []
    total = seconds(lambda: found.append(ensemble(partitions)))
    accuracies = {flips: round(found[0].certified_accuracy(labels, flips), 4) for flips in (0, 50, 200, 500)}
    return [
        Comparison(
            f"certificates of {q:,} points by {partitions} partitions of {size:,}",
            f"{partitions} certificates of {size:,} points",
            "at most 2.5",
            [total / (partitions * one) for one in alone],
            partitions * float(np.median(alone)),
            {"partitions": partitions, "n_c": size, "q": q, "d": X.shape[1]},
            {"seconds": round(total, 1), "certified accuracy after so many flips": accuracies},
        )
    ]
