"""The official files of MNIST, CIFAR-10 and CIFAR-100, downloaded on request by pooch."""

import errno
import os
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from kpoison._memory import in_words
from kpoison._names import Downloadable
from kpoison._progress import progress_bar
from kpoison._validation import check_name, check_positive
from kpoison.datasets.files import FOLDERS, data_directory

__all__ = ["Downloadable", "download"]

_PART = ".part"
_CHUNK = 2**16
_ATTEMPTS = 5  # without a new byte in between


@dataclass(frozen=True)
class _Source:
    """Where the files of a data set are.

    Attributes:
        addresses: folders of the files on the web; the next one is tried where one fails.
        checksums: MD5 of every file to download, as its publisher gives it.
        members: bytes of every file to take out of a downloaded archive; empty where there is none.
    """

    addresses: tuple[str, ...]
    checksums: Mapping[str, str]
    members: Mapping[str, int]


_TORONTO = ("https://www.cs.toronto.edu/~kriz/",)
_SOURCES: dict[str, _Source] = {
    # Y. LeCun's own page no longer serves them; the first is PyTorch's mirror, the second that of CVDF.
    "mnist": _Source(
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        {},
    ),
    "cifar10": _Source(
        _TORONTO,
        {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
        dict.fromkeys([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"], 10_000 * 3073),
    ),
    "cifar100": _Source(
        _TORONTO,
        {"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"},
        {"train.bin": 50_000 * 3074, "test.bin": 10_000 * 3074},
    ),
}


def download(
    name: Downloadable,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    base_url: str | None = None,
    timeout: float = 30.0,
) -> Path:
    """Download the official files of a data set, where they are not there yet, for `load_mnist` and its like.

    Args:
        name: ``"mnist"`` (11.6 MB), ``"cifar10"`` (170 MB) or ``"cifar100"`` (169 MB); unpacked, CIFAR takes 184 MB.
        data_dir: the data directory, made where it does not exist; by default ``$KPOISON_DATA``.
        base_url: address of a folder with the files, instead of the official ones.
        timeout: seconds of silence after which a server is given up, > 0.

    Returns:
        The folder of the files.

    A file gets its name only when it is whole and its checksum fits. One that was interrupted stays as ``NAME.part``,
    and the next call continues it. Of CIFAR's archive the binary files alone are taken, and it is deleted; a file of
    that name with another number of records is replaced.

    Raises:
        ImportError: pooch is not installed (``pip install "kpoison[download]"``).
        FileNotFoundError: no directory given.
        OSError: no network, an answer that is none of the file, a silent server, or a full disk.
        ValueError: unknown `name`, or a checksum that does not fit.
    """
    name = check_name("name", name, get_args(Downloadable))
    check_positive("timeout", timeout)
    source, folder = _SOURCES[name], data_directory(data_dir) / FOLDERS[name]
    if source.members and all(_has_size(folder / member, size) for member, size in source.members.items()):
        return folder
    try:
        import pooch
    except ImportError as error:
        raise ImportError("pooch is not installed: pip install 'kpoison[download]'", name="pooch") from error
    folder.mkdir(parents=True, exist_ok=True)
    addresses = source.addresses if base_url is None else (base_url.rstrip("/") + "/",)
    for file, checksum in source.checksums.items():
        # An archive is there together with what it holds.
        fetch: Any = _Fetch(folder / (file + _PART), timeout, sum(source.members.values()))
        for place, address in enumerate(addresses):
            try:
                pooch.retrieve(address + file, f"md5:{checksum}", file, folder, downloader=fetch)
                break
            except (OSError, ValueError) as error:
                if place == len(addresses) - 1 or getattr(error, "errno", None) == errno.ENOSPC:
                    raise
    if source.members:
        (archive,) = source.checksums
        _extract(folder / archive, folder, source.members)
        (folder / archive).unlink()
    return folder


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


@dataclass(frozen=True)
class _Fetch:
    """A downloader for pooch that continues a partial file.

    pooch hands it a temporary file, checks that and then gives it its name; a partial file must outlive the process,
    so it lies beside under a name of its own until it is whole.
    """

    part: Path
    timeout: float
    unpacked: int

    def __call__(self, url: str, output_file: str | os.PathLike[str], _: Any) -> None:
        failures, problem = 0, None
        while failures < _ATTEMPTS:
            before = self._have()
            problem = self._continue(url)
            if problem is None:
                self.part.replace(output_file)
                return
            failures = 0 if self._have() > before else failures + 1
        raise OSError(f"{url}: {problem}; {self._have():,} bytes are kept, and the next download continues them")

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _continue(self, url: str) -> str | None:
        """Ask for what is missing; returns why it is not whole."""
        import requests

        have = self._have()
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
        try:
            with requests.get(url, headers=headers, stream=True, timeout=(self.timeout, self.timeout)) as answer:
                if answer.status_code == requests.codes.requested_range_not_satisfiable:
                    self.part.unlink(missing_ok=True)  # longer than the file: not a part of it
                    return "the partial file did not fit"
                answer.raise_for_status()
                if answer.status_code != requests.codes.partial_content:
                    have = 0  # the server sends all of it
                elif _start(answer.headers) != have:
                    self.part.unlink(missing_ok=True)
                    return "the server sent another part than it was asked for"
                length = answer.headers.get("Content-Length", "")
                total = have + int(length) if length.isdigit() else None
                self._check_space(url, (total or have) - have)
                with (
                    self.part.open("ab" if have else "wb") as file,
                    progress_bar(unit="B", unit_scale=True)(
                        desc=url.rsplit("/", 1)[-1], initial=have, total=total
                    ) as bar,
                ):
                    for chunk in answer.iter_content(_CHUNK):
                        bar.update(file.write(chunk))
        except requests.HTTPError:
            raise  # no second answer will be another
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            return f"the server fell silent or could not be reached ({type(error).__name__}: {error})"
        if total is not None and self._have() < total:
            return f"the answer was truncated, {self._have():,} of {total:,} bytes"
        return None

    def _check_space(self, url: str, missing: int) -> None:
        needed, free = missing + self.unpacked, shutil.disk_usage(self.part.parent).free
        if needed > free:
            raise OSError(
                errno.ENOSPC,
                f"{url} takes {in_words(needed)} more on the disk, of which {in_words(free)} are free",
                str(self.part.parent),
            )


def _start(headers: Mapping[str, str]) -> int | None:
    """The first byte of a partial answer."""
    unit, _, interval = headers.get("Content-Range", "").partition(" ")
    first = interval.partition("-")[0]
    return int(first) if unit == "bytes" and first.isdigit() else None


def _extract(archive: Path, folder: Path, members: Mapping[str, int]) -> None:
    """Take the named files out; no path in the archive is followed."""
    wanted = {f"{folder.name}/{name}": folder / name for name in members}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            path = wanted.get(member.name.removeprefix("./"))
            if path is None:
                continue
            content = tar.extractfile(member) if member.isreg() else None
            if content is None or member.size != members[path.name]:
                raise ValueError(
                    f"{archive}: expected {member.name} to be a file of {members[path.name]} bytes, got {member.size}"
                )
            part = path.with_name(path.name + _PART)
            with content, part.open("wb") as file:
                shutil.copyfileobj(content, file)
            part.replace(path)
            del wanted[member.name.removeprefix("./")]
    if wanted:
        raise ValueError(f"{archive}: {', '.join(wanted)} not among its files")
