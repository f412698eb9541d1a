"""`kpoison verify`: exit status, what it writes, how it uses processes, and what it refuses."""

import dataclasses
import html
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest

from kpoison.cli import main
from theory_checks import runner, workers
from theory_checks.catalogue import KERNEL_NAMES, STATEMENTS, Statement
from theory_checks.record import Panel, Record, Verdict, compare, curve
from theory_checks.report import as_text, table, write
from theory_checks.runner import run
from theory_checks.words import WORDS
from theory_checks.worker import Problem

HERE = str(Path(__file__).parent)


def record(passed: bool, number: str = "L1", kernel: str = "rbf") -> Record:
    comparison = compare("number", "refit", [1.0], [1.25 if passed else 2.0], 0.5, "made up for this test")
    return Record(STATEMENTS[number], kernel, "synthetic", [comparison], [], [], {})


def broken(*functions: str, shares: str = "") -> dict[str, Statement]:
    """Statements of `broken_checks`, by the name of the function."""
    return {
        name: Statement(name, "Title", "Claim.", "broken_checks", ("rbf",), shares=shares, function=name)
        for name in functions
    }


@pytest.fixture
def importable(monkeypatch):
    """Workers import as this process does."""
    monkeypatch.syspath_prepend(HERE)


def test_a_record_without_comparisons_does_not_hold():
    empty = Record(STATEMENTS["L1"], "rbf", "synthetic", [], [], [], {})
    assert empty.verdict is Verdict.FAILS
    assert "nothing was compared" in as_text(empty)


def test_nan_fails():
    assert not compare("number", "refit", [float("nan")], [1.0], 10.0, "").passed
    assert not compare("number", "refit", [1.0], [1.0 + 1e-9], 0.0, "").passed


def test_a_law_that_is_zero_has_no_relative_error():
    comparison = compare("spread", "refit", [0.0, 0.0], [1e-12, 0.0], 1e-9, "")
    assert comparison.worst_relative_error is None
    zero = Record(STATEMENTS["L1"], "rbf", "synthetic", [comparison], [], [], {})
    assert "relative error –, error/tolerance 0.001" in as_text(zero, verbose=True)


@pytest.mark.parametrize(("passed", "status"), [(True, 0), (False, 1)])
def test_exit_status_tells_whether_all_hold(monkeypatch, capsys, passed, status):
    monkeypatch.setattr(runner, "run", lambda *_, **__: iter([record(passed)]))
    assert main(["verify", "--only", "L1", "--kernel", "rbf"]) == status
    assert ("FAILS" in capsys.readouterr().out) is not passed


def test_the_table_has_the_worst_of_each_statement():
    found = table([record(True), record(True, "L2"), record(False, "L1", "linear")]).splitlines()
    assert found[0].split() == ["statement", "error/tolerance", "verdict", "kernels"]
    assert found[1].split() == ["L1", "2", "FAILS", "not", "on", "linear"]
    assert found[2].split() == ["L2", "0.5", "holds", "rbf"]


@pytest.mark.slow
def test_writes_json_figures_and_a_self_contained_page(tmp_path, capsys):
    assert main(["verify", "--only", "L5", "--kernel", "linear", "--out", str(tmp_path), "--verbose"]) == 0
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["environment"]["dtype"] == "float64"
    (written,) = results["records"]
    assert (written["statement"], written["title"]) == ("L5", "Near-clone regime")
    assert written["verdict"] == "holds"
    assert all(c["passed"] and len(c["law"]) == len(c["tolerance"]) for c in written["comparisons"])
    assert (tmp_path / "L5-linear-synthetic.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert "http" not in page.replace("http-equiv", "")
    printed = capsys.readouterr().out
    assert "near-clone" in printed
    assert "a statement holds while it is at most 1" in printed


def test_a_failure_is_reported_everywhere(tmp_path):
    failure = Record.of_failure(STATEMENTS["L1"], "rbf", "synthetic", "ValueError: <odd>", "Traceback of it")
    write([failure], tmp_path)
    (written,) = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["records"]
    assert (written["verdict"], written["error"]) == ("FAILS", "ValueError: <odd>")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "ValueError: &lt;odd&gt;" in page
    assert "Traceback of it" in page
    assert "ValueError: <odd>" in as_text(failure)
    assert "Traceback of it" in as_text(failure, verbose=True)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"only must be among L1.*got L99"):
        list(run(only=["L99"]))
    with pytest.raises(ValueError, match=r"kernels must be among rbf.*got rbff"):
        list(run(kernels=["rbff"]))


def test_lists_each_statement_with_its_claim(capsys):
    assert main(["verify", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(STATEMENTS)
    assert all(statement.claim in line for line, statement in zip(lines, STATEMENTS.values(), strict=True))


def test_the_catalogue_is_light():
    """Help and lists need no JAX, nor does the process that waits for the workers."""
    code = "import sys, theory_checks.runner, theory_checks.report; print(*({'jax', 'matplotlib'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not found.stdout.split()


@pytest.mark.parametrize("number", STATEMENTS)
def test_every_statement_has_its_check(number):
    statement = STATEMENTS[number]
    assert callable(statement.load())
    assert set(statement.quick) <= set(KERNEL_NAMES)


def test_the_catalogue_names_every_kernel():
    from kpoison.problems import KERNELS

    assert set(KERNEL_NAMES) == set(KERNELS)


def tasks_of(monkeypatch, **arguments) -> list[tuple[str, str]]:
    """What a run would check."""
    submitted = []

    def submit(_, group: Iterable) -> list:
        submitted.extend((task.statement.number, task.problem.kernel) for task in group)
        raise InterruptedError

    monkeypatch.setattr(runner.Workers, "submit", submit)
    monkeypatch.setattr(runner, "_groups", lambda tasks: [tasks])
    with pytest.raises(InterruptedError):
        list(run(**arguments))
    return submitted


def test_what_is_measured_is_checked_only_when_named(monkeypatch):
    measured = {number for number, statement in STATEMENTS.items() if statement.measured}
    assert {number for number, _ in tasks_of(monkeypatch)} == set(STATEMENTS) - measured
    assert tasks_of(monkeypatch, only=["T6"]) == [("T6", "ntk-relu")]
    full = tasks_of(monkeypatch, only=["L1"], scale="full")
    assert full == [("L1", kernel) for kernel in KERNEL_NAMES]


@pytest.mark.slow
def test_records_do_not_depend_on_the_number_of_jobs():
    def found(jobs: int) -> list:
        records = run(["L1", "L6"], ["linear", "rbf"], jobs=jobs)
        return [
            (r.statement.number, r.kernel, [(c.law, c.reference, c.tolerance) for c in r.comparisons]) for r in records
        ]

    alone = found(1)
    assert [(number, kernel) for number, kernel, _ in alone] == [
        ("L1", "linear"), ("L6", "linear"), ("L1", "rbf"), ("L6", "rbf"),
    ]  # fmt: skip
    assert found(2) == alone


@pytest.mark.slow
@pytest.mark.parametrize(
    ("jobs", "death", "said"), [(1, "leaves", "exit status 3"), (2, "is_killed", "SIGKILL (out of memory?)")]
)
def test_a_check_that_raises_or_dies_fails_alone(importable, capfd, jobs, death, said):
    statements = broken("raises", death, "prints")
    found = {r.statement.number: r for r in run(statements=statements, jobs=jobs)}
    assert list(found) == list(statements)
    assert found["raises"].error == "ZeroDivisionError: of this test"
    assert "broken_checks.py" in found["raises"].traceback
    assert said in found[death].error
    assert [r.verdict for r in found.values()] == [Verdict.FAILS, Verdict.FAILS, Verdict.HOLDS]
    assert "noise" in capfd.readouterr().err


def test_what_shares_work_is_checked_by_one_process(importable):
    statements = broken("holds", "prints", shares="pid")
    first, second = run(statements=statements, jobs=2)
    assert first.arguments["pid"] == second.arguments["pid"]


class PretendedProcess:
    """In place of a worker's."""

    ended = False

    def kill(self):
        self.ended = True

    def wait(self):
        assert self.ended


class Pretended:
    """In place of `Workers`: every check is about another kernel."""

    number = 0

    def __init__(self, number: int):
        type(self).number = number

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, group: Sequence) -> list[Future]:
        futures = [Future() for _ in group]
        for future in futures:
            future.set_result(None)
        return futures


@pytest.mark.parametrize(
    ("asked", "affordable", "used", "said"),
    [(2, 1, 1, "1 jobs instead of 2"), (3, 9, 3, ""), (10_000, 9, 4, ""), (None, 9, min(workers.cores(), 4), "")],
)
def test_jobs_are_bounded_by_memory_with_a_word_and_by_tasks(monkeypatch, capsys, asked, affordable, used, said):
    monkeypatch.setattr(runner, "Workers", Pretended)
    monkeypatch.setattr(runner, "affordable", lambda scale: affordable)
    assert list(run(statements=broken("holds", "prints", "leaves", "raises"), jobs=asked)) == []
    assert Pretended.number == used
    assert said in (error := capsys.readouterr().err)
    assert bool(said) is bool(error)


def test_memory_bounds_the_jobs(monkeypatch):
    class Memory:
        available = 4.9e9

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    assert workers.affordable("full") == 1
    assert workers.affordable("quick") == 1
    Memory.available = 0
    assert workers.affordable("quick") == 1


@pytest.mark.parametrize(
    ("problem", "flags", "expected"),
    [
        (("rbf", "synthetic", "quick"), "", "--xla_backend_optimization_level=0"),
        (("ntk-erf", "synthetic", "quick"), "", "--xla_backend_optimization_level=1"),
        (("rbf", "digits", "quick"), "--xla_dump_to=x", "--xla_dump_to=x --xla_backend_optimization_level=1"),
        (("rbf", "synthetic", "quick"), "--xla_backend_optimization_level=3", "--xla_backend_optimization_level=3"),
        (("rbf", "synthetic", "full"), "", ""),
    ],
)
def test_quick_checks_compile_fast_unless_told_otherwise(monkeypatch, problem, flags, expected):
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert workers._environment(Problem(*problem, None, 0))["XLA_FLAGS"] == expected


def test_another_environment_is_another_process(monkeypatch):
    started = []
    monkeypatch.setattr(workers, "_started", lambda environment: started.append(PretendedProcess()) or started[-1])
    worker = workers._Worker()
    first = worker._running({"XLA_FLAGS": "a"})
    assert worker._running({"XLA_FLAGS": "a"}) is first
    assert worker._running({"XLA_FLAGS": "b"}) is not first
    assert first.ended
    worker.end()
    assert [process.ended for process in started] == [True, True]


def test_an_interrupt_ends_the_workers(tmp_path):
    code = (
        # A process started in the background may have been told to ignore it.
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from theory_checks.catalogue import Statement\nfrom theory_checks.runner import run\n"
        "s = {n: Statement(n, '', '', 'broken_checks', ('rbf',), function='never_ends') for n in 'ab'}\n"
        "list(run(statements=s, jobs=2))"
    )
    started = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": HERE})
    children: list[psutil.Process] = []
    end = time.monotonic() + 60
    while len(children) < 2 and time.monotonic() < end:
        children = psutil.Process(started.pid).children()
        time.sleep(0.05)
    assert len(children) == 2
    started.send_signal(signal.SIGINT)
    started.wait(30)
    gone, alive = psutil.wait_procs(children, 30)
    assert not alive
    assert len(gone) == 2


@pytest.mark.slow
def test_mnist_is_read_from_its_official_files(data_dir):
    (found,) = run(only=["L1"], kernels=["linear"], data="mnist", data_dir=str(data_dir))
    assert found.verdict is Verdict.HOLDS
    assert found.arguments["n_c"] == 1000
    assert found.arguments["d"] == 784


def test_the_page_has_a_section_for_each_statement_and_a_panel_for_each_kernel(tmp_path):
    panels = [Panel("Gain", "m", "S", [curve("law", "line", [1.0, 2.0], [1.0, 2.0])]) for _ in range(2)]
    records = [
        dataclasses.replace(record(passed, "L1", kernel), panels=panels[:number])
        for passed, kernel, number in ((True, "rbf", 1), (False, "linear", 2))
    ]
    write([*records, record(True, "L2")], tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"<section id='(.*?)'", page) == ["L1", "L2"]
    first, second = page[page.index("<section id='L1'") :].split("<section id='L2'")
    assert first.count("<figure>") == 2
    assert "rbf on synthetic" in first
    assert "<h2>L1 · Gain of the clone poison <span class='FAILS'>FAILS</span></h2>" in page
    assert "<h2>L2 · Efficacy of the clone poison <span class='holds'>holds</span></h2>" in page
    for number, part in (("L1", first), ("L2", second)):
        assert html.escape(WORDS[number].plain) in part
        assert html.escape(WORDS[number].formula) in part
    assert "What error/tolerance means" in page
    assert "http" not in page


def test_every_statement_has_its_words():
    assert list(WORDS) == list(STATEMENTS)
    assert all(words.formula and words.plain.endswith(".") for words in WORDS.values())
