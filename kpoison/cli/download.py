"""`kpoison download`."""

import dataclasses
from typing import Annotated

import tyro

from kpoison._names import Downloadable

__all__ = ["Download"]


@dataclasses.dataclass(frozen=True)
class Download:
    """Download the official files of a data set into the data directory, and check them.

    An interrupted download is continued by the same command.  Exit status 0, or 2 where it failed.
    """

    name: Annotated[Downloadable, tyro.conf.Positional]
    """mnist (11.6 MB), cifar10 (170 MB) or cifar100 (169 MB)."""

    data_dir: str | None = None
    """Folder to put the data set's own folder in; by default $KPOISON_DATA."""

    def run(self) -> int:
        """Run the download; returns the exit status."""
        from kpoison.datasets import download

        try:
            print(f"data: {download(self.name, self.data_dir)}")
        except ImportError as error:
            raise ValueError(error) from error
        return 0
