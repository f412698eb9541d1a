"""`kpoison verify`: exit status, what it writes, and what it refuses."""

import json
import re

import pytest

from kpoison.cli import main
from theory_checks import runner
from theory_checks.record import Record, Verdict, compare
from theory_checks.runner import run


def record(passed: bool) -> Record:
    comparison = compare("number", "refit", [1.0], [1.0 if passed else 2.0], 0.5, "made up for this test")
    return Record("L1", "Title", "Claim.", "rbf", "synthetic", [comparison], [], [], {})


def test_a_record_without_comparisons_does_not_hold():
    empty = Record("L1", "Title", "Claim.", "rbf", "synthetic", [], [], [], {})
    assert empty.verdict is Verdict.FAILS


def test_nan_fails():
    assert not compare("number", "refit", [float("nan")], [1.0], 10.0, "").passed
    assert not compare("number", "refit", [1.0], [1.0 + 1e-9], 0.0, "").passed


@pytest.mark.parametrize(("passed", "status"), [(True, 0), (False, 1)])
def test_exit_status_tells_whether_all_hold(monkeypatch, capsys, passed, status):
    monkeypatch.setitem(runner.CHECKS, "L1", lambda setting, laws: record(passed))
    assert main(["verify", "--only", "L1", "--kernel", "rbf"]) == status
    assert ("FAILS" in capsys.readouterr().out) is not passed


@pytest.mark.slow
def test_writes_json_figures_and_a_self_contained_page(tmp_path, capsys):
    assert main(["verify", "--only", "L5", "--kernel", "linear", "--out", str(tmp_path), "--verbose"]) == 0
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["environment"]["dtype"] == "float64"
    (written,) = results["records"]
    assert written["verdict"] == "holds"
    assert all(c["passed"] and len(c["law"]) == len(c["tolerance"]) for c in written["comparisons"])
    assert (tmp_path / "L5-linear-synthetic.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert "http" not in page.replace("http-equiv", "")
    assert "near-clone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernel", "rbff"], "kernels must be among rbf, .*, got rbff"),
        (["--quick", "--full"], "--quick and --full exclude each other"),
        (["--data", "mnist", "--data-dir", "/nowhere", "--only", "L1"], "/nowhere"),
        (["--data", "mnist", "--only", "L1"], "KPOISON_DATA"),
    ],
)
def test_refuses_bad_arguments(monkeypatch, capsys, arguments, message):
    monkeypatch.delenv("KPOISON_DATA", raising=False)
    assert main(["verify", *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error


def test_unknown_statement_is_refused():
    with pytest.raises(ValueError, match=r"only must be among L1.*got L9"):
        list(run(only=["L9"]))


@pytest.mark.slow
def test_mnist_is_read_from_its_official_files(data_dir):
    (found,) = run(only=["L1"], kernels=["linear"], data="mnist", data_dir=str(data_dir))
    assert found.verdict is Verdict.HOLDS
    assert found.arguments["n_c"] == 1000
    assert found.arguments["d"] == 784


def test_the_command_knows_every_statement():
    from typing import get_args

    from kpoison.cli.verify import Statement
    from theory_checks.runner import CHECKS

    assert get_args(Statement) == tuple(CHECKS)
