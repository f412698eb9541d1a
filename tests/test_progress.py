"""Progress bars: shown where they are asked for or somebody looks, on a terminal or in a notebook."""

import sys
import types

import pytest

from kpoison._progress import progress_bar


@pytest.mark.parametrize(
    ("progress", "notebook", "shown"),
    [(None, False, False), (None, True, True), (True, False, True), (False, True, False)],
)
def test_a_bar_is_shown_where_somebody_looks(monkeypatch, capsys, progress, notebook, shown):
    if notebook:
        monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    else:
        monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with progress_bar(progress, unit="step")(total=3) as bar:
        bar.update(3)
    assert ("3/3" in capsys.readouterr().err) == shown
