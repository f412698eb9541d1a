"""Imports point one way: a room uses what stands before it in this list, and nothing of what stands behind."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1] / "kpoison"
ROOMS = (
    "ground", "kernels", "datasets", "poison", "ridge", "laws", "asymptotics", "tuning", "estimators", "curvature",
    "flow", "resumable", "sweep", "networks", "attacks", "defences", "plotting", "problems", "matrix", "experiments",
    "cli",
)  # fmt: skip
"""Where data flow; `ground` are the modules beside the rooms."""


def room_of(module: str) -> str:
    """The room of a module `kpoison.…`, or the ground."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "ground"


def imported(path: Path):
    """What a file imports, wherever in it: modules, or the names that it takes from `kpoison`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            if node.module == "kpoison":
                yield from (f"kpoison.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_every_room_is_in_the_list():
    assert {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()} == set(ROOMS) - {"ground"}


def test_rooms_use_only_what_stands_before_them():
    wrong = []
    for path in sorted(ROOT.glob("**/*.py")):
        parts = path.relative_to(ROOT).parts
        here = ROOMS.index(parts[0] if len(parts) > 1 else "ground")
        for module in imported(path):
            upward = module.startswith("kpoison.") and ROOMS.index(room_of(module)) > here
            # The face of the whole, which has every room behind it.
            face = module == "kpoison" and here < ROOMS.index("problems")
            if upward or face or module.split(".")[0] == "theory_checks":
                wrong.append((str(path.relative_to(ROOT)), module))
    assert not wrong
