"""The command line: `kpoison verify`, `paper`, `sweep`, `spectrum`, `flow`, `tradeoff`, `matrix`, `experiment`, ….

Help, version, completion and wrong arguments load no JAX: commands import what they need in `run`.
"""

import dataclasses
import functools
import operator
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import subcommand

from kpoison._version import __version__
from kpoison.cli.asymptotics import Asymptotics
from kpoison.cli.download import Download
from kpoison.cli.experiment import Experiment
from kpoison.cli.explore import Explore
from kpoison.cli.flow import Flow, Tradeoff
from kpoison.cli.matrix import Matrix
from kpoison.cli.spectrum import Spectrum
from kpoison.cli.sweep import Sweep

__all__ = [
    "Asymptotics",
    "Download",
    "Experiment",
    "Explore",
    "Flow",
    "Matrix",
    "Spectrum",
    "Sweep",
    "Tradeoff",
    "main",
]


_COMMANDS = {
    "sweep": Sweep,
    "spectrum": Spectrum,
    "flow": Flow,
    "tradeoff": Tradeoff,
    "asymptotics": Asymptotics,
    "experiment": Experiment,
    "matrix": Matrix,
    "explore": Explore,
    "download": Download,
}


def _command_line() -> type:
    """What is parsed: commands of this package, and those that others offer as entry points `kpoison.commands`."""
    offered = {point.name: point.load() for point in entry_points(group="kpoison.commands")}
    commands = [Annotated[command, subcommand(name)] for name, command in (offered | _COMMANDS).items()]

    kept = "Keep compiled programs for the next run, in $JAX_COMPILATION_CACHE_DIR or the user's cache folder."
    line = dataclasses.make_dataclass(
        "CommandLine",
        [
            ("command", functools.reduce(operator.or_, commands)),
            ("cache", Annotated[bool, tyro.conf.arg(help=kept)], True),
        ],
    )
    line.__doc__ = "Theory of data poisoning in the kernel regime.  `kpoison --version` prints the version."
    return line


def _at_home(command: Any) -> Any:
    """The command with ~ resolved in its paths: shells leave it alone in --out=~/FILE."""
    given = {field.name: getattr(command, field.name) for field in dataclasses.fields(command)}
    paths = {name: value.expanduser() for name, value in given.items() if isinstance(value, Path)}
    return dataclasses.replace(command, **paths)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run.

    Args:
        arguments: by default those of the process.  Only then is JAX's cache of compiled programs turned on: who calls
            this from Python keeps their own settings.

    Returns:
        The exit status of the command: 0, 1 where `verify` finds a statement that fails, 2 for wrong arguments.

    Raises:
        SystemExit: after help (0), and where the arguments cannot be read (2).
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given == ["--version"]:
        print(f"kpoison {__version__}")
        return 0
    asked = tyro.cli(
        _command_line(),
        prog="kpoison",
        args=given,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.CascadeSubcommandArgs),
    )
    try:
        if arguments is None and asked.cache and not isinstance(asked.command, Download):
            from kpoison.cli.cache import keep_compiled_programs

            keep_compiled_programs()
        return _at_home(asked.command).run()
    except (ValueError, OSError) as error:
        print(f"kpoison: {error}", file=sys.stderr)
        return 2
