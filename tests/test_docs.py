"""What the documentation tells the reader to type runs as it stands."""

import re
from pathlib import Path

import jax
import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ["explore.md", "extending.md"]


def blocks_of(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == text.count("```python") > 0
    return blocks


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_from_top_to_bottom(page):
    namespace: dict = {"__name__": "extending"}
    for number, block in enumerate(blocks_of(page)):
        exec(compile(block, f"{page}, block {number}", "exec"), namespace)


WORKFLOWS = re.findall(
    r"```python\n(.*?)```\n\n```text\n(.*?)```", (DOCS / "workflows.md").read_text(encoding="utf-8"), flags=re.DOTALL
)


def test_every_workflow_has_its_result():
    assert len(WORKFLOWS) == len(blocks_of("workflows.md")) == 5


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(WORKFLOWS)))
def test_a_workflow_prints_what_the_page_says(number, capsys):
    block, expected = WORKFLOWS[number]
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):  # as the reader's JAX is set
        exec(compile(block, f"workflows.md, block {number}", "exec"), {"__name__": "workflows"})
    assert capsys.readouterr().out == expected
