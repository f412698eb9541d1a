"""Files and folders that a command writes: refused before anything is calculated."""

from pathlib import Path

__all__ = ["check_output", "made_folder"]


def check_output(option: str, path: Path | None, suffix: str) -> None:
    """Refuse a file of another kind, or in a folder that does not exist.

    Args:
        option: its name on the command line, such as "--plot".
        path: the file; None for none.
        suffix: its kind, such as ".png".

    Raises:
        ValueError: naming the option.
    """
    if path is not None and (path.suffix != suffix or not path.parent.is_dir()):
        raise ValueError(f"{option} must be FILE{suffix} in a folder that exists, got {path}")


def made_folder(option: str, path: Path | None) -> None:
    """Make a folder that files are written to, and those above it.

    Args:
        option: its name on the command line, such as "--out".
        path: the folder; None for none.

    Raises:
        ValueError: for a file, naming the option.
    """
    if path is None:
        return
    if path.exists() and not path.is_dir():
        raise ValueError(f"{option} must be a folder, got the file {path}")
    path.mkdir(parents=True, exist_ok=True)
