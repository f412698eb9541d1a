"""Labelled images as NumPy arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Integer, Num

from kpoison._reports import cell, escaped, table
from kpoison._validation import plain_array

__all__ = ["ImageDataset", "check_labels", "floating_dtype"]


@dataclass(frozen=True, eq=False, repr=False)
class ImageDataset:
    """Labelled images, channel last.

    Attributes:
        name: where the images come from, such as ``"mnist-train"``.
        images: (n, height, width, channels), scaled to [0, 1].  Bytes are divided by 255, and images (n, height, width)
            have one channel.
        labels: (n,) int64, indices into `class_names`.
        class_names: one name per class, whether or not the class occurs.

    Raises:
        ValueError: empty data, shapes that do not fit, a pixel outside [0, 1] (or NaN), a label without name.
    """

    name: str
    images: Num[np.ndarray, "..."]
    labels: Integer[np.ndarray, " n"]
    class_names: tuple[str, ...]

    def __post_init__(self):
        images, labels = (np.asarray(plain_array(name, getattr(self, name))) for name in ("images", "labels"))
        if images.dtype == np.uint8:
            images = images / 255
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim != 4 or images.size == 0 or not np.issubdtype(images.dtype, np.floating):
            raise ValueError(
                "images must be floating or uint8, non-empty and of shape (n, height, width, channels) or (n, height, "
                f"width), got {self.images.dtype} of shape {np.shape(self.images)}"
            )
        if not (images.min() >= 0 and images.max() <= 1):  # so written, NaN fails too
            raise ValueError(f"images must lie in [0, 1], got values from {images.min()} to {images.max()}")
        if labels.shape != images.shape[:1]:
            raise ValueError(f"labels must have shape ({len(images)},) as images do, got {labels.shape}")
        check_labels("labels", labels, len(self.class_names))
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels.astype(np.int64))

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        shape = "x".join(str(size) for size in self.images.shape[1:])
        return f"ImageDataset({self.name}: {len(self):,} images of {shape}, {len(self.class_names)} classes)"

    def _repr_html_(self) -> str:
        """In a notebook: how many images each class has."""
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        rows = [
            (cell(escaped(name)), cell(f"{count:,}", "number"))
            for name, count in zip(self.class_names, counts, strict=True)
        ]
        return f"<p>{escaped(repr(self))}</p>{table(('class', 'images'), rows)}"

    @property
    def inputs(self) -> Float[np.ndarray, "n d"]:
        """The images as rows of length d = height * width * channels."""
        return self.images.reshape(len(self), -1)

    def subset(self, which: Integer[np.ndarray, " k"] | Bool[np.ndarray, " n"] | Sequence[int]) -> "ImageDataset":
        """Copy the images at these indices, in this order.

        Args:
            which: indices (k,), or a mask (n,) of booleans.  Numbers 0 and 1, one for each image, may be either, and
                are refused.

        Raises:
            ValueError: not one-dimensional, none chosen, an index out of range, a mask of another length.
        """
        chosen = np.asarray(plain_array("which", which))
        if chosen.dtype == bool and chosen.shape == (len(self),):
            chosen = np.flatnonzero(chosen)
        if chosen.shape == (len(self),) and len(self) > 2 and chosen.dtype.kind in "iu" and np.all(chosen >> 1 == 0):
            raise ValueError(
                f"which must be indices or booleans, got numbers 0 and 1 for each of the {len(self)} images: if they "
                "are a mask, give which.astype(bool)"
            )
        if chosen.ndim != 1 or chosen.size == 0 or not np.issubdtype(chosen.dtype, np.integer):
            raise ValueError(
                f"which must be a non-empty list of indices or a mask of shape ({len(self)},) with a True, "
                f"got {np.asarray(which).dtype} of shape {np.shape(which)}"
            )
        if chosen.min() < 0 or chosen.max() >= len(self):
            raise ValueError(f"which must lie in 0..{len(self) - 1}, got {chosen.min()}..{chosen.max()}")
        return replace(self, images=self.images[chosen], labels=self.labels[chosen])


def check_labels(name: str, labels: np.ndarray, classes: int) -> None:
    """Refuse labels outside 0..classes − 1."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name}: expected integer labels, got {labels.dtype}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"{name}: expected labels in 0..{classes - 1}, got values from {labels.min()} to {labels.max()}"
        )


def floating_dtype(dtype: npt.DTypeLike) -> np.dtype:
    """The dtype, refused unless floating."""
    if not np.issubdtype(np.dtype(dtype), np.floating):
        raise ValueError(f"dtype must be floating, got {np.dtype(dtype)}")
    return np.dtype(dtype)
