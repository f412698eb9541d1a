"""Progress bars, where somebody looks."""

import functools
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["progress_bar"]


def progress_bar(progress: bool | None = None, **options: Any) -> Callable[..., Any]:
    """A maker of tqdm's bars, which are widgets in a notebook.

    Args:
        progress: whether they are shown; by default on a terminal and in a notebook.
        **options: of `tqdm`.
    """
    from tqdm.auto import tqdm

    # A notebook's stderr is no terminal.
    looked_at = sys.stderr.isatty() or "ipykernel" in sys.modules
    return functools.partial(tqdm, disable=not (looked_at if progress is None else progress), **options)
