"""`python -m benchmarks [NAME ...] [--out FILE.json]`: every claim about speed, as a ratio in the same run."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro

from benchmarks import (
    bilevel,
    certificate,
    convolutional,
    derivatives,
    device,
    ensemble,
    flow,
    gram,
    krylov,
    memory,
    peers,
    penalty,
    scaling,
    spectrum,
    startup,
    sweep,
    training,
    tuning,
)
from benchmarks.timing import machine, write

_ALL = {
    "sweep": sweep.run,
    "gram": gram.run,
    "convolutional": convolutional.run,
    "krylov": krylov.run,
    "peers": peers.run,
    "scaling": scaling.run,
    "memory": memory.run,
    "spectrum": spectrum.run,
    "penalty": penalty.run,
    "flow": flow.run,
    "bilevel": bilevel.run,
    "certificate": certificate.run,
    "derivatives": derivatives.run,
    "device": device.run,
    "ensemble": ensemble.run,
    "startup": startup.run,
    "training": training.run,
    "tuning": tuning.run,
}


def main(
    names: Annotated[
        tuple[
            Literal[
                "sweep",
                "gram",
                "convolutional",
                "krylov",
                "peers",
                "scaling",
                "memory",
                "spectrum",
                "penalty",
                "flow",
                "bilevel",
                "certificate",
                "derivatives",
                "device",
                "ensemble",
                "startup",
                "training",
                "tuning",
            ],
            ...,
        ],
        tyro.conf.Positional,
    ] = (),
    out: Path | None = None,
) -> int:
    """Run benchmarks and print median and spread of every ratio.

    Args:
        names: which; by default all.
        out: file for the results with machine, versions and sizes, as JSON.
    """
    jax.config.update("jax_enable_x64", True)
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    results = []
    for name in names or tuple(_ALL):
        for result in _ALL[name]():
            print(result, flush=True)
            results.append(result)
    if out is not None:
        write(out, results)
    return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
