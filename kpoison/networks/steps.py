"""The compiled steps of a classifier's training, on the device."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from kpoison._identity import lowered_hash
from kpoison.curvature.losses import loss_value

if TYPE_CHECKING:
    import optax

__all__ = ["Setup", "State", "advance", "batch_objective", "epoch_order", "program_hash"]

_ORDER, _AUGMENTATION, _POISONING = 0, 1, 2  # streams of random numbers


class Setup(eqx.Module):
    """What does not change during training.

    Attributes:
        rest: the model without what is trained.
        optimiser: the optax transformation.
        poisoning: (image, label, key) → image, label, or None; before the augmentation.
        augmentation: (image, key) → image, or None.
        penalty: γ, or None.
        key: of everything random.
        batch_size: B.
        steps_per_epoch: ⌊n/B⌋.
    """

    rest: PyTree
    optimiser: "optax.GradientTransformation"
    poisoning: Callable[[Array, Array, PRNGKeyArray], tuple[Array, Array]] | None
    augmentation: Callable[[Array, PRNGKeyArray], Array] | None
    penalty: Float[Array, ""] | None
    key: PRNGKeyArray
    batch_size: int = eqx.field(static=True)
    steps_per_epoch: int = eqx.field(static=True)


class State(NamedTuple):
    """What does.

    Attributes:
        trained: the floating-point arrays of the model.
        optimiser: the optimiser's state.
        step: steps taken.
        loss, penalty: of each step's batch, shape (steps,).
        failed: the number of the first step, from 1 on, whose loss or gradient was not finite; 0 for none.
    """

    trained: PyTree
    optimiser: PyTree
    step: Int[Array, ""]
    loss: Float[Array, " steps"]
    penalty: Float[Array, " steps"]
    failed: Int[Array, ""]

    @classmethod
    def initial(cls, trained: PyTree, optimiser: "optax.GradientTransformation", steps: int, dtype) -> "State":
        """Before the first step."""
        zero, record = jnp.zeros((), jnp.int32), jnp.zeros(steps, dtype)
        state = cls(trained, optimiser.init(trained), zero, record, record, zero)
        # No weak types: a restored state would be compiled anew.
        return jax.tree.map(lambda leaf: lax.convert_element_type(leaf, leaf.dtype), state)

    def recording(self, steps: int) -> "State":
        """With room for the losses of so many steps, no fewer than now."""
        more = (0, steps - len(self.loss))
        return self._replace(loss=jnp.pad(self.loss, more), penalty=jnp.pad(self.penalty, more))


def batch_objective(
    model: Callable[[Array], Array], images: Array, labels: Array, penalty: Array | None
) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Float[Array, ""]]]:
    """(1/B) Σ [ℓ_i + (γ/2)‖∇_x ℓ_i‖²] of a batch, and its two terms."""

    def total(batch: Array) -> Array:
        def at(image: Array, label: Array) -> Array:
            logits = model(image)
            return loss_value("softmax", logits, jax.nn.one_hot(label, len(logits), dtype=logits.dtype))

        return jnp.sum(jax.vmap(at)(batch, labels))

    if penalty is None:
        loss = total(images) / len(images)
        return loss, (loss, jnp.zeros_like(loss))
    # Each loss depends on its own image alone, so that the gradient of their sum holds the gradient of each.
    losses, gradients = jax.value_and_grad(total)(images)
    loss, extra = losses / len(images), 0.5 * penalty * jnp.sum(gradients**2) / len(images)
    return loss + extra, (loss, extra)


def _step(setup: Setup, state: State, order: Int[Array, " n"], images: Array, labels: Array) -> State:
    """One step on the next batch of the epoch's order."""
    import optax

    place = state.step % setup.steps_per_epoch * setup.batch_size
    chosen = lax.dynamic_slice(order, (place,), (setup.batch_size,))
    batch, classes = images[chosen], labels[chosen]
    if setup.poisoning is not None:
        own = jax.random.fold_in(jax.random.fold_in(setup.key, _POISONING), state.step)
        batch, classes = jax.vmap(setup.poisoning)(batch, classes, jax.random.split(own, setup.batch_size))
    if setup.augmentation is not None:
        own = jax.random.fold_in(jax.random.fold_in(setup.key, _AUGMENTATION), state.step)
        batch = jax.vmap(setup.augmentation)(batch, jax.random.split(own, setup.batch_size))

    def objective(trained: PyTree):
        return batch_objective(eqx.combine(trained, setup.rest), batch, classes, setup.penalty)

    (value, (loss, penalty)), gradient = jax.value_and_grad(objective, has_aux=True)(state.trained)
    updates, optimiser = setup.optimiser.update(gradient, state.optimiser, state.trained)
    finite = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(gradient))
    return State(
        trained=optax.apply_updates(state.trained, updates),
        optimiser=optimiser,
        step=state.step + 1,
        loss=state.loss.at[state.step].set(loss.astype(state.loss.dtype)),
        penalty=state.penalty.at[state.step].set(penalty.astype(state.penalty.dtype)),
        failed=jnp.where((state.failed == 0) & ~finite, state.step + 1, state.failed),
    )


@eqx.filter_jit
def _one_step(setup: Setup, state: State, order: Array, images: Array, labels: Array) -> State:
    return _step(setup, state, order, images, labels)


class _Fixed:
    """What a step's program is compiled for, hashed once: at every step that was a fifth of a small network's time."""

    def __init__(self, tree: PyTree):
        self.tree = tree
        leaves, structure = jax.tree.flatten(tree)
        self._key = tuple(leaves), structure
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, _Fixed) and self._key == other._key)


@jax.jit
def _copied(state: State) -> State:
    return jax.tree.map(jnp.copy, state)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _next(fixed: _Fixed, state: State, numbers: PyTree) -> State:
    setup, order, images, labels = eqx.combine(numbers, fixed.tree)
    return _step(setup, state, order, images, labels)


@eqx.filter_jit
def _steps_until(setup: Setup, state: State, order: Array, images: Array, labels: Array, end: Array) -> State:
    def unfinished(current: State) -> Array:
        return (current.step < end) & (current.failed == 0)

    return lax.while_loop(unfinished, lambda current: _step(setup, current, order, images, labels), state)


def advance(setup: Setup, state: State, order: Array, images: Array, labels: Array, end: int) -> State:
    """Train until step `end`, which lies in the epoch of this order.

    In one loop on the device, but step by step on a CPU, where XLA runs convolutions inside of loops by a single thread
    (4 times slower than outside of them, for LeNet on two cores).  There each step writes over the state before it;
    that of the caller is copied first.
    """
    if jax.default_backend() != "cpu":
        return _steps_until(setup, state, order, images, labels, jnp.asarray(end, jnp.int32))
    numbers, rest = eqx.partition((setup, order, images, labels), eqx.is_array)
    fixed, steps = _Fixed(rest), end - int(state.step)
    state = _copied(state)
    for _ in range(steps):
        state = _next(fixed, state, numbers)
    return state


@eqx.filter_jit
def epoch_order(key: PRNGKeyArray, epoch: Int[Array, ""], number: int) -> Int[Array, " n"]:
    """The images' order in an epoch."""
    own = jax.random.fold_in(jax.random.fold_in(key, _ORDER), epoch)
    return jax.random.permutation(own, number)


def program_hash(setup: Setup, state: State, images: Array, labels: Array) -> str:
    """Hash of the program of a step: of model, loss, augmentation and optimiser with all their constants."""
    order = jnp.zeros(len(images), jnp.int32)
    lowered = _one_step.lower(setup, state, order, images, labels)  # pyright: ignore[reportFunctionMemberAccess]
    return lowered_hash(lowered)
