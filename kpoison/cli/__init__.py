"""The command line: `kpoison verify`, `sweep`, `spectrum`, `flow`, `tradeoff`, `matrix`, `experiment`, `download`."""

import sys
from collections.abc import Sequence

import tyro

from kpoison.cli.download import Download
from kpoison.cli.experiment import Experiment
from kpoison.cli.flow import Flow, Tradeoff
from kpoison.cli.matrix import Matrix
from kpoison.cli.spectrum import Spectrum
from kpoison.cli.sweep import Sweep
from kpoison.cli.verify import Verify

__all__ = ["Download", "Experiment", "Flow", "Matrix", "Spectrum", "Sweep", "Tradeoff", "Verify", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run; the entry point of `kpoison`."""
    command = tyro.extras.subcommand_cli_from_dict(
        {
            "verify": Verify,
            "sweep": Sweep,
            "spectrum": Spectrum,
            "flow": Flow,
            "tradeoff": Tradeoff,
            "experiment": Experiment,
            "matrix": Matrix,
            "download": Download,
        },
        prog="kpoison",
        args=arguments,
        description="Theory of data poisoning in the kernel regime.",
    )
    try:
        return command.run()
    except (ValueError, OSError) as error:
        print(f"kpoison: {error}", file=sys.stderr)
        return 2
