"""Checkpoints of a training run on disk, from which a killed one is continued."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from kpoison.resumable.storage import ChunkStore

__all__ = ["Checkpoints", "arrays_of", "with_arrays"]


class Checkpoints(ChunkStore):
    """A folder with a manifest of what is being trained and the newest checkpoint, in the way of a sweep's chunks.

    Args:
        folder: its path, in a folder that exists.
        manifest: what is being trained, JSON-able; a folder with another one is refused, unless only its epochs are
            fewer, and what was measured in them the same.

    Raises:
        FileExistsError: the folder holds another training run, or something else.
        FileNotFoundError: the folder that it should lie in does not exist.
        ValueError: the manifest or a checkpoint is damaged.
    """

    whole = "training run"
    part = "checkpoint"

    def __init__(self, folder: Path, manifest: Mapping[str, Any]):
        if not folder.parent.is_dir():
            raise FileNotFoundError(f"folder must lie in a folder that exists, got {folder}")
        if folder.exists() and not (folder / "manifest.json").exists() and _holds_something(folder):
            raise FileExistsError(f"folder must be new, or hold the checkpoints of the same training, got {folder}")
        super().__init__(folder, manifest, {})
        self.verify()

    def goes_on(self, known: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
        """Whether there are only more epochs to train, and what is measured up to now is the same."""
        different = {key for key in {*known, *manifest} if known.get(key) != manifest.get(key)}
        reached = self.newest() or 0

        def measured(of: Mapping[str, Any]) -> list[int]:
            return [step for step in of["measure_at"] if step <= reached]

        return (
            different <= {"epochs", "measure_at"}
            and known["epochs"] < manifest["epochs"]
            and measured(known) == measured(manifest)
        )

    def newest(self) -> int | None:
        """The step of the newest checkpoint."""
        return max(map(int, self._finished), default=None)

    def keep(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a checkpoint, then delete the older ones."""
        self.write(step, arrays)
        for name in [name for name in self._finished if int(name) < step]:
            self._finished.pop(name).unlink(missing_ok=True)


def arrays_of(tree: PyTree) -> dict[str, np.ndarray]:
    """The arrays of a tree under numbered names."""
    return {f"leaf_{i:04d}": _plain(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}


def with_arrays(tree: PyTree, arrays: Mapping[str, np.ndarray]) -> PyTree:
    """The tree with the arrays that `arrays_of` took from one of its kind."""

    def restored(index: int, like):
        array = arrays[f"leaf_{index:04d}"]
        if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))
        return jnp.asarray(array)

    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [restored(i, leaf) for i, leaf in enumerate(leaves)])


def _holds_something(folder: Path) -> bool:
    """Anything but what was being written, under a name with a dot, when a run was killed."""
    return not folder.is_dir() or any(not path.name.startswith(".") for path in folder.iterdir())


def _plain(leaf) -> np.ndarray:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)
