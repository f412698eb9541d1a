"""Clean data, poisons and networks that train in milliseconds."""

import jax
import numpy as np

from kpoison.networks import (
    Architecture,
)
from kpoison.poison import Poison

RIDGE = 0.1
COUNT = 8.0


def problem(points=32, inputs=8, probes=2, scale=1.0, seed=0):
    """Clean data, poison and probes near it."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((points, inputs))
    y = scale * np.sign(X[:, 0])
    location = rng.standard_normal(inputs)
    directions = rng.standard_normal((probes, inputs))
    x = location + 0.5 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return X, y, Poison(location, -scale * float(np.sign(location[0])), COUNT), x


def small(activation="erf", width=16, seed=0, **options):
    """A network and a problem that train in milliseconds."""
    X, y, poison, x = problem(points=6, inputs=3)
    return Architecture(width, 1, activation, **options).initialise(jax.random.key(seed), 3), X, y, poison, x
