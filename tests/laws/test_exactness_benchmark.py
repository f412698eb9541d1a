"""The benchmark of exactness runs, says how many it tried, and fails where a law is wrong."""

import pytest

import kpoison as kp
from benchmarks import exactness


@pytest.fixture(autouse=True)
def one_kernel(monkeypatch):
    monkeypatch.setattr(exactness, "FAMILIES", {"matern32": exactness.FAMILIES["matern32"]})
    monkeypatch.setattr(exactness, "SHAPES", exactness.SHAPES[:1])


def test_right_laws_pass(capsys):
    assert exactness.main(configurations=25, seed=3) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("25 configurations, seed 3, float64")
    name, tried, *worst, above = lines[-1].split()
    assert (name, tried, above) == ("all", "25", "0")
    assert len(worst) == 3
    assert all(0 < float(ratio) <= 1 for ratio in worst)


@pytest.mark.parametrize("law", ["gain", "efficacy", "efficacy_gradient"])
def test_a_wrong_law_fails(law, monkeypatch, capsys):
    right = getattr(kp, law)
    monkeypatch.setattr(kp, law, lambda *arguments: 1.01 * right(*arguments))
    assert exactness.main(configurations=25, seed=3) == 1
    above = int(capsys.readouterr().out.split()[-1])
    assert above > 20  # 1 % is far outside of 10·eps·cond, but for an ill-conditioned few
