"""The examples of the README and of the guide run, in order, as they stand."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"


GUIDE = README.parent / "docs" / "guide.md"


@pytest.mark.slow
def test_examples_run():
    """Those of the guide, which begins with the README's."""
    namespace: dict = {}
    text = GUIDE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == text.count("```python") > 0
    for block in blocks:
        *body, last = block.strip().split("\n")
        exec("\n".join(body), namespace)
        result = eval(last.split("  #")[0], namespace)
        for part in result if isinstance(result, tuple) else (result,):
            assert np.all(np.isfinite(np.asarray(part)))


def test_the_guide_has_the_examples_of_the_readme():
    first, second, third = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    guide = GUIDE.read_text(encoding="utf-8")
    assert first in guide
    assert second in guide
    assert third in guide


def test_names_the_commands_that_ci_runs():
    ci = (README.parent / ".ci" / "run").read_text(encoding="utf-8")
    assert "uv run pytest" in ci
    assert "uv run pytest" in README.read_text(encoding="utf-8")


def test_is_an_entrance_of_a_hundred_lines():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 100


def test_has_no_broken_link_on_a_package_index():
    project = tomllib.loads((README.parent / "pyproject.toml").read_text(encoding="utf-8"))
    text = README.read_text(encoding="utf-8")
    for change in project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    assert re.findall(r"\]\((?!https?:)[^)]*\)", text) == []
    assert "![" not in text
    assert "*Left:" not in text
    assert "the theory, where each" in text
    assert "https://arxiv.org" in text
