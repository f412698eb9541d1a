"""Kernels on a torus: a stationary kernel summed over the images of a point."""

import itertools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kpoison._typing import Numbers
from kpoison._validation import between_points, check_integer, check_positive, is_concrete
from kpoison.kernels.base import Kernel, Traits, WithTraits, check_kernel

__all__ = ["Periodic"]

_MOST_IMAGES = 100_000


class Periodic(WithTraits):
    """Σ_s k(x − z + s) over all vectors s of the lattice of periods: the kernel k on a torus.

    So many images are summed that what is left out is below the rounding of float64.  Where a length scale later grows
    beyond what they cover, values are NaN.

    Args:
        kernel: k: RBF, Laplace, Matern32 or Matern52, or made of these by scaling, sums and products.  A rational
            quadratic falls too slowly for a sum.
        period: side lengths of the torus > 0, shape (d,), or one number for all axes.
        images: how many images are summed on each side, for each period; needed only where the length scale is traced.

    Raises:
        TypeError: for another kernel.
        ValueError: for a period that is not positive, or so short that more than 100,000 images count.

    >>> import jax.numpy as jnp
    >>> from kpoison.kernels import RBF
    >>> kernel = Periodic(RBF(length_scale=0.3), period=2.0)
    >>> bool(jnp.isclose(kernel.evaluate(jnp.array([0.1]), jnp.array([1.9])), jnp.exp(-0.5 * (0.2 / 0.3) ** 2)))
    True
    """

    kernel: Kernel
    period: Numbers
    images: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, kernel: Kernel, period: Numbers, images: tuple[int, ...] | int | None = None):
        check_kernel("kernel", kernel)
        reach = kernel.reach()
        period = np.asarray(period, float) if is_concrete(period) and not hasattr(period, "dtype") else period
        check_positive("period", period, scalar=False)
        if np.ndim(period) > 1 or np.size(period) == 0:
            raise ValueError(f"period must be a number or have shape (d,), got shape {np.shape(period)}")
        sides = np.size(period)
        if images is not None:
            each: Any = (images,) * sides if np.ndim(images) == 0 else images
            if len(each) != sides:
                raise ValueError(f"images must be one number or {sides}, one for each period, got {len(each)}")
            images = tuple(check_integer("images", number, 0) for number in each)
        elif reach is None or not is_concrete(period):
            raise ValueError(
                "images must be given where a length scale or a period is traced: how many count depends on them"
            )
        else:
            images = tuple(max(0, math.ceil(reach / side - 0.5)) for side in np.ravel(np.asarray(period)))
        if math.prod(2 * number + 1 for number in images) > _MOST_IMAGES:
            raise ValueError(
                f"period must be longer against the length scale: {images} images on each side count, more than "
                f"{_MOST_IMAGES} in all, and the kernel is constant to rounding"
            )
        self.kernel = kernel
        self.period = period
        self.images = images

    @between_points
    def evaluate(self, x: Float[Array, " d"], z: Float[Array, " d"]) -> Float[Array, ""]:
        """Σ k(x − z + s) over the images, the nearest in the middle."""
        sides = len(self.images)
        if x.ndim != 1 or (np.ndim(self.period) == 1 and len(x) != sides):
            raise ValueError(f"points of a torus of {sides} periods must have shape ({sides},), got {x.shape}")
        period = jnp.broadcast_to(jnp.asarray(self.period, x.dtype), x.shape)
        images = self.images if np.ndim(self.period) == 1 else self.images * len(x)
        difference = x - z
        difference = difference - period * jnp.round(difference / period)
        steps = np.array(list(itertools.product(*(range(-number, number + 1) for number in images))))
        shifts = jnp.asarray(steps, x.dtype) * period[None]
        origin = jnp.zeros_like(x)
        total = jnp.sum(jax.vmap(lambda shift: self.kernel.evaluate(difference + shift, origin))(shifts))
        return jnp.where(self._covered(period, images), total, jnp.nan)

    def _covered(self, period: Float[Array, " d"], images: tuple[int, ...]) -> Array:
        """Whether the nearest image that is left out is below rounding."""
        period = jax.lax.stop_gradient(period)
        kernel = jax.lax.stop_gradient(self.kernel)
        nearest = jnp.diag(period * (jnp.asarray(images, period.dtype) + 0.5))
        origin = jnp.zeros_like(period)
        left_out = jax.vmap(lambda point: kernel.evaluate(point, origin))(nearest)
        return jnp.all(left_out <= 0.1 * jnp.finfo(period.dtype).eps * kernel.evaluate(origin, origin))

    @property
    def traits(self) -> Traits:
        """As smooth as the kernel, and no more than that."""
        return Traits(self.kernel.smoothness)
