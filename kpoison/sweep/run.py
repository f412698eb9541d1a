"""The sweep: every cell of a labelled grid, by the laws that a user calls."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float

from kpoison._progress import progress_bar
from kpoison._typing import Law, Numbers, Scalar
from kpoison._validation import check_name, check_positive, check_real, known_number
from kpoison.kernels import Kernel
from kpoison.poison import Poison, check_poison
from kpoison.ridge import Fitted, check_fitted
from kpoison.sweep._evaluate import MESH_AXIS
from kpoison.sweep.axes import Grid, Places, Training, numbers
from kpoison.sweep.job import Job
from kpoison.sweep.quantities import as_quantities

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["sweep"]


def sweep(
    clean: Fitted,
    poison: Poison,
    *,
    direction: Float[ArrayLike, "..."],
    r_over_l: Numbers,
    m: Numbers,
    ridge: Numbers,
    quantities: Sequence[str | Callable[..., Array]] = ("gain", "efficacy", "spike"),
    law: Law = "exact",
    location: Float[ArrayLike, "..."] | None = None,
    label: Numbers | None = None,
    kernels: Mapping[str, Kernel] | None = None,
    hyperparameters: Mapping[str, Numbers] | None = None,
    length_scale: Scalar | None = None,
    gradient_penalty: Numbers | None = None,
    metric: Float[ArrayLike, "D D"] | None = None,
    time: Numbers | None = None,
    out: str | os.PathLike[str] | None = None,
    metadata: Mapping[str, str | int | float] | None = None,
    mesh: Mesh | None = None,
    memory: int | None = None,
    progress: bool | None = None,
) -> "xr.Dataset":
    """Any law over a grid of distances, multiplicities, ridges, and of what else an axis is given for.

    The probes are x0 = ζ + r u.  Every kernel costs one factorisation; all multiplicities and ridges together cost one
    small restriction of it for each ζ (see `kpoison.ridge.Factor.restricted`), and every probe a few products.

    Args:
        clean: the fitted clean posterior; other kernels are fitted to its data.
        poison: clones; its count is not used, its location and label where no axis is given for them.
        direction: u, shape (d,), or (N, d) for an axis `direction`; normalised.
        r_over_l: distances r in units of the kernel's length scale (see `length_scale`), >= 0.
        m: multiplicities, real and >= 0.
        ridge: λ > 0 of the mean loss; ρ = (n_c + m)λ.
        quantities: names out of `quantity_names`, and functions (clean, poison, x, ridge) → () or (C,) of a single
            probe x (d,), traceable by JAX.
        law: "exact" or "isolated".
        location: several ζ, shape (N, d), for an axis `location`.
        label: several labels y_t, shape (N,), or (N, C) for C outputs, for an axis `label`.
        kernels: several kernels by name, for an axis `kernel`.
        hyperparameters: several values by name of a field of the kernel, such as {"hidden_layers": [1, 2, 3]}, for an
            axis of that name; every kernel must have it.
        length_scale: unit of r for kernels that have no length scale of their own, or one for each coordinate; by
            default ‖ζ‖.
        gradient_penalty: several γ >= 0 (T1), for an axis of that name; one factorisation of n_c(1 + r) numbers each.
        metric: M of these penalties, see `kpoison.fit`.
        time: several training times t >= 0 of the gradient flow (T2), ∞ for its end, for an axis `time`; see
            `kpoison.flow.early_stopped` for what can be asked of them.
        out: a file FILE.nc (netCDF) or FILE.zarr (needs the package zarr).  Finished chunks are kept in FILE.parts, so
            that a killed sweep is continued by the same call.
        metadata: anything that describes the data, kept with the result.
        mesh: devices to divide the probes among, any `jax.sharding.Mesh` of this process's devices; by default all.
        memory: bytes that a chunk may take; by default a quarter of what is available, at most 1 GiB.
        progress: a progress bar; by default on a terminal and in a notebook.

    Returns:
        A dataset with dimensions r_over_l, m, ridge, before them those of the axes above that were given, after them
        `output` where y has several; each variable has those that it depends on.  Its attributes hold what is needed to
        repeat it.  With `out`, it is read from the file where it is used.

    Raises:
        TypeError, ValueError: naming the argument that does not fit.
        FileExistsError: where `out` holds another sweep, finished or not.
        OSError: where `out` cannot be written or the disk is full; finished chunks are kept.

    Several processes (`jax.distributed`) share the chunks; each gets the whole result, and with `out` they must see the
    same folder.

    >>> import jax.numpy as jnp
    >>> import kpoison as kp
    >>> clean = kp.fit(kp.kernels.RBF(1.0), jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.array([1.0, -1.0]))
    >>> poison = kp.Poison(jnp.array([1.0, 1.0]), label=-1.0, count=1)
    >>> result = kp.sweep(clean, poison, direction=jnp.array([1.0, 0.0]), r_over_l=[0.1, 1], m=[1, 10], ridge=1e-2)
    >>> dict(result.efficacy.sizes)
    {'r_over_l': 2, 'm': 2, 'ridge': 1}
    """
    check_fitted("clean", clean)
    check_poison(poison)
    law = check_name("law", law, get_args(Law))
    chosen = as_quantities(quantities)
    shape = clean.X.shape[1:]
    if clean.kernel.point_ndim == 0:
        raise ValueError(
            "clean must be fitted with a kernel of points, from which probes x0 = ζ + r u lie in a direction, got "
            f"{type(clean.kernel).__name__}, whose points are indices"
        )
    if location is None and poison.location.shape != shape:
        raise ValueError(
            f"poison must be clones at one location, shape {shape}, got a cluster of shape {poison.location.shape}; "
            "several locations are given as location="
        )
    if length_scale is not None:
        length_scale = float(np.asarray(length_scale))
        numbers("length_scale", length_scale, "", "", zero=False)
    inner = (
        numbers("r_over_l", r_over_l, "distance of the probe from the poison", "length scale", zero=True),
        numbers("m", m, "multiplicity of the poison", "training points", zero=True),
        numbers("ridge", ridge, "ridge λ of the mean loss", "k", zero=False),
    )
    training = Training.of(clean, kernels, hyperparameters, length_scale, gradient_penalty, metric, time)
    grid = Grid(*inner, training, Places.of(clean, poison, location, direction, label))
    for key, value in (metadata or {}).items():
        if not isinstance(value, str):
            check_real(f"metadata[{key!r}]", value)
    mesh = _checked_mesh(mesh)
    if memory is not None:
        check_positive("memory", memory)
        memory = known_number(memory)
    _check_processes(clean)
    job = Job(clean, grid, chosen, law, mesh, dict(metadata or {}), memory)
    bar = progress_bar(progress, unit="chunk")
    if out is None:
        return job.in_memory(bar)
    return job.to_disk(Path(out).expanduser(), bar)


def _check_processes(clean: Fitted) -> None:
    """Processes share the chunks, so that none may need another for a solve."""
    mesh = clean.factor.solver.devices
    if mesh is not None and not set(mesh.devices.flat) <= set(jax.local_devices()):
        raise ValueError(
            "clean was fitted by Krylov with a mesh over several processes, but a sweep's processes work each for "
            "itself: give Krylov a mesh of this process's devices, or evaluate laws on what kpoison.prepare returns"
        )


def _checked_mesh(mesh: Mesh | None) -> Mesh:
    local = jax.local_devices()
    if mesh is None:
        return Mesh(np.array(local), (MESH_AXIS,))
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh, got {type(mesh).__name__}")
    if not set(mesh.devices.flat) <= set(local):
        raise ValueError(f"mesh must hold devices of this process, {local}, got {list(mesh.devices.flat)}")
    return Mesh(mesh.devices.reshape(-1), (MESH_AXIS,))
