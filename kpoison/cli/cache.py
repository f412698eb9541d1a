"""JAX's cache of compiled programs, which the command line keeps from one run to the next."""

import os
import re
import sys
import tempfile
import warnings
from pathlib import Path

import platformdirs

__all__ = ["keep_compiled_programs"]

LARGEST = 2**30
"""Bytes of the user's cache folder, beyond which the programs go that were not used for the longest time."""

_SETTINGS = {
    # What is worth compiling is worth keeping: reading a program takes a millisecond, compiling one ten or more.
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_TROUBLE = re.compile(r"Error (reading|writing) persistent compilation cache entry for .*?: (?P<reason>.*)", re.DOTALL)


def keep_compiled_programs() -> None:
    """Keep what this process and its children compile, in $JAX_COMPILATION_CACHE_DIR or the user's cache folder.

    To be called before JAX is imported: the settings are variables of the environment, of which those that are set
    stay as they are.  A folder that cannot be written, or programs in it that cannot be read, cost one warning.
    """
    chosen = os.environ.get(_FOLDER)
    folder = Path(chosen) if chosen else platformdirs.user_cache_path("kpoison") / "programs"
    if not (chosen and "://" in chosen):  # or a bucket, which JAX writes to
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            if not chosen:
                _forget_the_oldest(folder)
        except OSError as error:
            _warn(f"compiled programs are not kept, as {folder} cannot be written: {error.strerror or error}")
            os.environ.pop(_FOLDER, None)
            return
    for name, value in {**_SETTINGS, _FOLDER: str(folder)}.items():
        os.environ.setdefault(name, value)
    _warn_once_of_damage(folder)


def _forget_the_oldest(folder: Path) -> None:
    """Bound the folder.

    JAX's own bound (`jax_compilation_cache_max_size`) reads the folder once per program that it writes, and fails for
    good after a run that was killed between the two files of a program.
    """
    programs = []
    for path in folder.iterdir():
        status = path.stat()
        programs.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    left = sum(size for _, size, _ in programs)
    for _, size, path in sorted(programs, key=lambda program: program[0]):
        if left <= LARGEST:
            break
        path.unlink(missing_ok=True)
        left -= size


def _warn_once_of_damage(folder: Path) -> None:
    """One line for all programs that cannot be read or written, in place of JAX's warning for each."""
    show, warned = warnings.showwarning, False

    def shown(message, category, filename, lineno, file=None, line=None):
        nonlocal warned
        trouble = _TROUBLE.match(str(message))
        if trouble is None:
            show(message, category, filename, lineno, file, line)
        elif not warned:
            warned = True
            _warn(
                f"programs kept in {folder} cannot be used and are compiled again ({trouble['reason']}); "
                "delete the folder to be rid of this"
            )

    warnings.showwarning = shown


def _warn(text: str) -> None:
    print(f"kpoison: warning: {text}", file=sys.stderr)
