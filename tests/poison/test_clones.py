"""What a `Poison` may be: clones or a cluster; shapes of labels and counts; a pytree of numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp

Z = np.arange(6.0).reshape(2, 3)


def observations(poison, outputs=1, point_shape=(3,)):
    return poison.observations(point_shape, outputs, jnp.float64)


def test_clones_are_one_observation():
    locations, labels, counts = observations(kp.Poison(Z[0], -1.0, 2.5))
    np.testing.assert_array_equal(locations, Z[:1])
    np.testing.assert_array_equal(labels, [[-1.0]])
    np.testing.assert_array_equal(counts, [2.5])


@pytest.mark.parametrize(
    ("label", "outputs", "expected"),
    [
        (-1.0, 1, [[-1.0], [-1.0]]),
        (np.array([-1.0]), 1, [[-1.0], [-1.0]]),
        (np.array([-1.0, 2.0]), 1, [[-1.0], [2.0]]),
        (np.array([[-1.0], [2.0]]), 1, [[-1.0], [2.0]]),
        (np.array([-1.0, 2.0]), 2, [[-1.0, 2.0], [-1.0, 2.0]]),  # one label of two outputs, for both
        (np.array([[-1.0, 2.0], [3.0, 4.0]]), 2, [[-1.0, 2.0], [3.0, 4.0]]),
        (np.array([-1.0, 2.0, 0.0]), 3, [[-1.0, 2.0, 0.0]] * 2),
    ],
)
def test_labels_of_a_cluster(label, outputs, expected):
    np.testing.assert_array_equal(observations(kp.Poison(Z, label, 1.0), outputs)[1], expected)


@pytest.mark.parametrize(("label", "outputs"), [(np.array([1.0]), 1), (np.array([1.0, 2.0]), 2)])
def test_labels_of_clones(label, outputs):
    np.testing.assert_array_equal(observations(kp.Poison(Z[0], label, 1.0), outputs)[1], label[None])


def test_counts_of_a_cluster():
    np.testing.assert_array_equal(observations(kp.Poison(Z, 1.0, 3))[2], [3.0, 3.0])
    np.testing.assert_array_equal(observations(kp.Poison(Z, 1.0, np.array([0, 2])))[2], [0.0, 2.0])


def test_images():
    images = np.zeros((2, 4, 4, 1))
    assert observations(kp.Poison(images[0], 1.0, 1.0), 1, (4, 4, 1))[0].shape == (1, 4, 4, 1)
    assert observations(kp.Poison(images, 1.0, 1.0), 1, (4, 4, 1))[0].shape == (2, 4, 4, 1)


def test_everything_takes_the_dtype_of_the_location():
    poison = kp.Poison(Z[0].astype(np.float32), 1, 5)
    assert poison.location.dtype == poison.label.dtype == poison.count.dtype == jnp.float32
    poison = kp.Poison(Z[0], np.int8(1), 5)
    assert poison.location.dtype == poison.label.dtype == poison.count.dtype == jnp.float64


def test_a_poison_is_a_pytree_of_three_arrays():
    poison = kp.Poison(Z, np.array([1.0, -1.0]), 2.0)
    assert [leaf.shape for leaf in jax.tree.leaves(poison)] == [(2, 3), (2,), ()]
    doubled = jax.tree.map(lambda a: 2 * a, poison)
    np.testing.assert_array_equal(doubled.count, 4.0)


def test_traced_numbers_make_a_poison():
    made = jax.jit(lambda z, y, m: kp.Poison(z, y, m).observations((3,), 1, jnp.float64))(Z[0], 1.0, -1.0)
    np.testing.assert_array_equal(made[2], [-1.0])  # the laws refuse the count at run time
