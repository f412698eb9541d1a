"""What `kpoison verify` and `kpoison paper` refuse, with exit status 2 and a word on the argument."""

import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from kpoison import cli

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"

REFUSED = {
    "verify": [
        (["--kernel", "rbff"], "rbff"),
        (["--only", "L99"], "L99"),
        (["--quick", "--full"], "--quick and --full exclude each other"),
        (["--data", "mnist", "--data-dir", "/nowhere", "--only", "L1"], "/nowhere"),
        (["--data", "mnist", "--only", "L1"], "KPOISON_DATA"),
        (["--out", str(PYPROJECT)], "--out must be a folder"),
    ],
    "paper": [
        (["--only", "3.8"], "3.8"),
        (["--data", "cifar100"], "cifar100"),
        (["--data-dir", "/nowhere"], "--data-dir must come with --data"),
        (["--data", "mnist", "--data-dir", "/nowhere"], "/nowhere"),
        (["--only", "3.9", "--figures", str(PYPROJECT)], "--figures must be a folder"),
    ],
}
BOTH = [
    (["--jobs", "0"], "jobs must be >= 1, got 0"),
    (["--jobs", "-3"], "jobs must be >= 1, got -3"),
    (["--jobs", "many"], "many"),
]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        pytest.param(command, *case, marks=pytest.mark.slow if "mnist" in case[0] and command == "verify" else ())
        for command, cases in REFUSED.items()
        for case in [*cases, *BOTH]
    ],
)
def test_refuses_bad_arguments(monkeypatch, capsys, command, arguments, message):
    """With the commands that pyproject.toml offers, as after an installation."""
    offered = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["entry-points"]["kpoison.commands"]
    points = [EntryPoint(name, value, "kpoison.commands") for name, value in offered.items()]
    monkeypatch.setattr(cli, "entry_points", lambda group: points)
    monkeypatch.delenv("KPOISON_DATA", raising=False)
    try:
        status = cli.main([command, *arguments])
    except SystemExit as ended:  # by the parser
        status = ended.code
    assert status == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err + captured.out), captured
