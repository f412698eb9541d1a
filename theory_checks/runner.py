"""Runs the checks: which statements, on which kernels and data."""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import jax.numpy as jnp
from tqdm import tqdm

from theory_checks import (
    classifiers,
    d1_spectral_signatures,
    l1_gain,
    l2_efficacy,
    l3_rank_one_spike,
    l4_averaged_hessian,
    l4_spike_efficacy,
    l5_near_clone,
    l6_coupling_floor,
    l7_clusters,
    l8_backdoor,
    l8_lag,
    l8_training,
    n1_finite_width,
    t1_gradient_penalty,
    t2_flow,
    t3_contraction,
    t4_tradeoff,
    t5_length_scale,
)
from theory_checks.record import Record
from theory_checks.setting import KERNELS, Data, Laws, Scale, Setting, make_setting

__all__ = ["CHECKS", "MEASURED", "run"]

CHECKS: dict[str, Callable[[Setting, Laws], Record | None]] = {
    "L1": l1_gain.check,
    "L2": l2_efficacy.check,
    "L3": l3_rank_one_spike.check,
    "L4": l4_spike_efficacy.check,
    "L4-Hessian": l4_averaged_hessian.check,
    "L5": l5_near_clone.check,
    "L6": l6_coupling_floor.check,
    "L7": l7_clusters.check,
    "L8": l8_lag.check,
    "L8-images": l8_backdoor.check,
    "L8-training": l8_training.check,
    "N1": n1_finite_width.check,
    "T1": t1_gradient_penalty.check,
    "T2": t2_flow.check,
    "T3": t3_contraction.check,
    "T4": t4_tradeoff.check,
    "T5": t5_length_scale.check,
    "D1": d1_spectral_signatures.check,
    "T6": classifiers.check_joint_defence,
    "L8-classifiers": classifiers.check_lag,
    "collapse": classifiers.check_collapse,
}
"""Every statement's check, by its number."""

MEASURED = ("T6", "L8-classifiers", "collapse")
"""Statements that are measured on trained classifiers, not proved: checked only when named, as they take minutes."""

_EVERY_STATEMENT = ("rbf", "laplace", "ntk-relu", "ntk-erf")
_QUICK = {
    "D1": ("rbf",),
    "L4-Hessian": ("rbf",),
    "L8": ("rbf",),
    "L8-images": ("rbf",),
    "L8-training": ("ntk-erf",),
    **dict.fromkeys(MEASURED, ("ntk-relu",)),
    **dict.fromkeys(("T1", "T2", "T3", "T4", "T5"), ("rbf",)),
}
"""Kernels on which a quick run does its dearest checks."""
_NEAR_CLONE_ONLY = tuple(name for name in KERNELS if name not in _EVERY_STATEMENT)


def _plan(only: Sequence[str], kernels: Sequence[str], scale: Scale) -> list[tuple[str, list[str]]]:
    """Kernels, each with its statements; by default the quick run checks only L5, which is about them, on all."""
    if kernels:
        return [(kernel, list(only)) for kernel in kernels]
    if scale == "full":
        return [(kernel, list(only)) for kernel in KERNELS]
    plan = [(kernel, [s for s in only if kernel in _QUICK.get(s, (kernel,))]) for kernel in _EVERY_STATEMENT]
    return plan + [(kernel, ["L5"]) for kernel in _NEAR_CLONE_ONLY if "L5" in only]


def run(
    only: Sequence[str] = (),
    kernels: Sequence[str] = (),
    data: Data = "synthetic",
    *,
    scale: Scale = "quick",
    data_dir: str | None = None,
    seed: int = 0,
) -> Iterator[Record]:
    """Check statements one after the other.

    Args:
        only: statements such as ("L3", "L5"); by default all but those of MEASURED.
        kernels: names from `setting.KERNELS`; by default a representative choice, with "full" all.
        data: "synthetic", "digits" (embedded) or "mnist" (from `data_dir` or KPOISON_DATA).
        scale: "quick" or "full".
        data_dir: folder with the official MNIST files.
        seed: of everything random.

    Yields:
        A record per statement and kernel that it applies to, as it finishes.

    Raises:
        ValueError: for unknown names, or without double precision, which verification needs.
    """
    for name, values, known in (("only", only, CHECKS), ("kernels", kernels, KERNELS)):
        unknown = [value for value in values if value not in known]
        if unknown:
            raise ValueError(f"{name} must be among {', '.join(known)}, got {', '.join(unknown)}")
    if jnp.result_type(float) != jnp.float64:
        raise ValueError('verification needs double precision: jax.config.update("jax_enable_x64", True)')
    plan = _plan(only or [name for name in CHECKS if name not in MEASURED], kernels, scale)
    total = sum(len(statements) for _, statements in plan)
    with tqdm(total=total, disable=not sys.stderr.isatty(), unit="check", leave=False) as bar:
        for kernel, statements in plan:
            setting = make_setting(kernel, data, scale=scale, data_dir=data_dir, seed=seed)
            for statement in statements:
                bar.set_description(f"{statement} {kernel}")
                start = time.perf_counter()
                record = CHECKS[statement](setting, Laws())
                bar.update()
                if record is not None:
                    yield dataclasses.replace(record, seconds=time.perf_counter() - start)
