"""Training steps with and without the penalty on input gradients: `python -m benchmarks training`."""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from benchmarks.timing import Comparison, compare, seconds
from kpoison.networks import MLP, LeNet, train_classifier

__all__ = ["run"]

_SHAPE, _CLASSES = (32, 32, 3), 10
_RATE, _PENALTY = 0.01, 0.1
# Of a plain step: forward, backward in weights and, but in the first layer, in inputs.  With the penalty backward in
# inputs everywhere and backward through both passes: six products a layer, five in the first.
_FLOORS = {MLP: 2.47, LeNet: 2.15}
_UNROLLED = 4  # steps in one program of the user's other loop


def _losses(model: Any, images: Array, labels: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(images), labels)


def _objective(model: Any, images: Array, labels: Array, penalty: float) -> Array:
    if penalty == 0:
        return jnp.mean(_losses(model, images, labels))
    total, gradients = jax.value_and_grad(lambda x: jnp.sum(_losses(model, x, labels)))(images)
    return (total + 0.5 * penalty * jnp.sum(gradients**2)) / len(images)


def _user(model: Any, images: Array, labels: Array, batch: int, steps: int, penalty: float, at_once: int) -> Callable:
    """The loop that a user would write: a jitted step with donated buffers, or a few of them by `lax.scan`."""
    optimiser = optax.sgd(_RATE, momentum=0.9)

    def step(state, chosen):
        model, moments = state
        value, gradient = jax.value_and_grad(_objective)(model, images[chosen], labels[chosen], penalty)
        changes, moments = optimiser.update(gradient, moments)
        return (optax.apply_updates(model, changes), moments), value

    trained, rest = eqx.partition(model, eqx.is_inexact_array)

    def several(state, chosen):
        def one(state, chosen):
            (whole, moments), value = step((eqx.combine(state[0], rest), state[1]), chosen)
            return (eqx.filter(whole, eqx.is_inexact_array), moments), value

        return jax.lax.scan(one, state, chosen) if at_once > 1 else one(state, chosen[0])

    compiled = jax.jit(several, donate_argnums=0)

    def loop() -> Any:
        state = jax.tree.map(jnp.copy, (trained, optimiser.init(trained)))
        generator = np.random.default_rng(0)
        values = []
        while len(values) * at_once < steps:
            order = generator.permutation(len(images))[: len(images) // batch * batch].reshape(-1, at_once, batch)
            for chosen in order[: steps // at_once - len(values)]:
                state, value = compiled(state, chosen)
                values.append(value)
        return state, values

    return loop


def run(number: int = 1024, repeats: int = 3) -> Iterator[Comparison]:
    """MLP and LeNet on images of CIFAR's shape, in float32, at two sizes of a batch."""
    generator = np.random.default_rng(0)
    images = jnp.asarray(generator.uniform(size=(number, *_SHAPE)), jnp.float32)
    labels = jnp.asarray(generator.integers(0, _CLASSES, number), jnp.int32)
    steps_of = {MLP: 1024, LeNet: 64}
    for create in (MLP, LeNet):
        model = create(_SHAPE, _CLASSES, key=jax.random.key(0), dtype=jnp.float32)
        for batch in (32, 128):
            # So many that what a call costs but once, such as the hash of the data, is little.
            epochs = batch * steps_of[create] // number
            steps = epochs * (number // batch)
            optimiser = optax.sgd(_RATE, momentum=0.9)

            def ours(penalty: float, model=model, batch=batch, epochs=epochs, optimiser=optimiser) -> Any:
                return train_classifier(
                    model, images, labels, epochs=epochs, batch_size=batch, optimiser=optimiser,
                    gradient_penalty=penalty, progress=False,
                ).loss  # fmt: skip

            sizes = {"images": number, "shape": _SHAPE, "batch": batch, "steps": steps, "dtype": "float32"}
            what = f"{create.__name__}, batches of {batch}"
            for penalty, named in ((0.0, "step"), (_PENALTY, "penalised step")):
                loops = {
                    text: _user(model, images, labels, batch, steps, penalty, at_once)
                    for text, at_once in (("a Python loop", 1), (f"lax.scan over {_UNROLLED}", _UNROLLED))
                }
                for loop in loops.values():
                    jax.block_until_ready(loop())
                best = min(loops, key=lambda text: min(seconds(loops[text]) for _ in range(2)))
                found = compare(
                    f"a {named} of train_classifier, {what}",
                    lambda penalty=penalty, ours=ours: ours(penalty),
                    f"a user's optax loop ({best})",
                    loops[best],
                    asked="at most 1.1",
                    sizes=sizes,
                    repeats=repeats,
                )
                found.notes["user's step"] = f"{found.baseline_seconds / steps * 1e3:.3g} ms"
                yield found
            yield compare(
                f"a penalised step of train_classifier, {what}",
                lambda ours=ours: ours(_PENALTY),
                f"one without the penalty (floor {_FLOORS[create]} in products of layers)",
                lambda ours=ours: ours(0.0),
                asked="at most 2.3",
                sizes=sizes,
                repeats=repeats,
            )
