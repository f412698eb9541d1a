"""A network that is linear in its parameters: its training is exactly ridge regression with its empirical NTK."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import kpoison as kp
from kpoison.networks import Architecture, Network, Parameters

RNG = np.random.default_rng(3)
N, D, RIDGE, GAMMA, COUNT = 6, 3, 0.05, 0.4, 3
X, Y = RNG.normal(size=(N, D)), RNG.normal(size=(N, 2))
ZETA, LABEL = RNG.normal(size=D), np.array([1.0, -0.5])
PROBES = np.concatenate([RNG.normal(size=(3, D)), [ZETA, X[1]]])
FACTOR = RNG.normal(size=(D, D))
METRICS = {"identity": None, "full": FACTOR @ FACTOR.T, "rank 1": np.outer(FACTOR[0], FACTOR[0])}
"""M; None for the default."""


class Linearised(Network):
    """f(θ0) + ∇_θ f(θ0) (θ − θ0)."""

    origin: Parameters

    def outputs(self, X):
        def at(parameters):
            return Network(parameters, self.architecture, self.scalar).outputs(X)

        shift = jax.tree.map(jnp.subtract, self.parameters, self.origin)
        value, slope = jax.jvp(at, (self.origin,), (shift,))
        return value + slope


def draw(outputs=None, activation="erf", width=16, seed=0, hidden_layers=1) -> Network:
    return Architecture(width, hidden_layers, activation, 1.5, 0.1).initialise(jax.random.key(seed), D, outputs)


def in_float32(network: Network) -> Network:
    return jax.tree.map(lambda leaf: leaf.astype(np.float32) if eqx.is_array(leaf) else leaf, network)


def linearised(network: Network) -> Linearised:
    return Linearised(network.parameters, network.architecture, network.scalar, network.parameters)


def empirical_ntk(network: Network) -> kp.kernels.Kernel:
    """∇_θ f(x) · ∇_θ f(z) of a scalar network."""

    def features(x):
        def at(parameters):
            return Network(parameters, network.architecture, network.scalar)(x)

        return ravel_pytree(jax.grad(at)(network.parameters))[0]

    return kp.kernels.Custom(lambda x, z: jnp.dot(features(x), features(z), precision="highest"))


class PenalisedFeatures:
    """The penalised problem in the features ∇_θ f(θ0) of a linearised network of C outputs, by NumPy.

    J(s) = (1/2n) Σ w (‖φ(x)ᵀs − y‖² + γ Σ_c ‖∇φ_c(x)ᵀs‖²_M) + (λ/2)‖s‖² = ½ sᵀAs − bᵀs + const., so that the optimum
    is A⁻¹b and the flow from 0 is A⁻¹(1 − e^{−At})b.
    """

    def __init__(self, network, points, targets, weights, total, gamma, metric, ridge=RIDGE):
        flat, unravel = ravel_pytree(network.parameters)
        self.network, self.flat, self.unravel = network, flat, unravel
        phi, slopes = self.features(points)
        M = np.eye(points.shape[1]) if metric is None else metric
        self.A = np.einsum("n,ncp,ncq->pq", weights, phi, phi) / total + ridge * np.eye(len(flat))
        self.A += gamma * np.einsum("n,ncdp,de,nceq->pq", weights, slopes, M, slopes, optimize=True) / total
        self.b = np.einsum("n,ncp,nc->p", weights, phi, targets.reshape(len(points), -1)) / total

    def features(self, points):
        """∇_θ f_c(x) and its derivative in x, shapes (n, C, P) and (n, C, d, P)."""

        def values(parameters, x):
            network = Network(self.unravel(parameters), self.network.architecture, self.network.scalar)
            return jnp.atleast_1d(network(x))

        per_parameter = jax.jacrev(values)
        phi = jax.vmap(lambda x: per_parameter(self.flat, x))(jnp.asarray(points))
        slopes = jax.vmap(lambda x: jax.jacfwd(per_parameter, 1)(self.flat, x))(jnp.asarray(points))
        return np.asarray(phi), np.asarray(slopes).transpose(0, 1, 3, 2)

    def shift(self, time=np.inf):
        rates, modes = np.linalg.eigh(self.A)
        return modes @ (-np.expm1(-rates * time) / rates * (modes.T @ self.b))

    def outputs(self, x, time=np.inf):
        return self.features(x)[0] @ self.shift(time)

    def gradients(self, x, time=np.inf):
        return self.features(x)[1] @ self.shift(time)

    @property
    def condition(self):
        return np.linalg.cond(self.A)
