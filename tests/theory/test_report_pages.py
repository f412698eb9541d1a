"""The pages of `kpoison paper` and `kpoison experiment`: complete, escaped, in the look of all."""

import re

import numpy as np
from matplotlib.figure import Figure

from kpoison import _reports
from kpoison.experiments.options import Options
from kpoison.experiments.result import Experiment, Table, above, below
from kpoison.statistics import Interval
from theory_checks.catalogue import STATEMENTS
from theory_checks.paper import NUMBERS, Judgement
from theory_checks.paper_data import Evaluated
from theory_checks.paper_page import write_page
from theory_checks.record import Panel, Record, compare, curve
from theory_checks.words import WORDS

PANEL = Panel("made up", "x", "y", [curve("law", "line", [1.0, 2.0], [1.0, 2.0])])


def test_the_paper(tmp_path):
    compared = [compare("number", "refit", [1.0], [1.25], 0.5, "made up for this test")]
    own = [Record(STATEMENTS["L1"], "rbf", "synthetic", compared, ["L1 < here"], [PANEL], {})]
    rows = [("3.2", Judgement.HOLDS, own), ("3.9", Judgement.UNDECIDED, [])]
    path = write_page(tmp_path / "paper.html", rows, {"3.2": Evaluated(["on <digits>"], [PANEL])}, {"seed": "7"})
    page = path.read_text("utf-8")
    assert re.findall(r"<section id='(.*?)'", page) == ["3.2", "3.9"]
    assert "Lemma 3.2: <span class='holds'>holds</span>" in page
    assert "Theorem 3.9: <span class='FAILS'>undecided: a check fails</span>" in page
    assert page.count("data:image/png;base64,") == 2
    for words in (NUMBERS["3.2"].claim, NUMBERS["3.9"].truth, WORDS["L1"].formula, "L1 < here", "on <digits>"):
        assert _reports.escaped(words) in page
    assert "What error/tolerance means" in page
    assert "<th>seed</th><td><pre>7</pre></td>" in page


def test_an_experiment(tmp_path):
    claims = [
        above("a lag > 1", Interval(2.0, 0.5, [1.5, 2.5]), 1.0),
        below("a lag < 1", Interval(2.0, 0.5, [1.5, 2.5]), 1.0),
        below("nothing", None, 1.0, "not seen"),
    ]
    table = Table("Lags & more", ("network", "lag"), [("mlp", "2.0 ± 0.5")])
    found = Experiment("lag", "Who <shows> first", Options(), ("mlp",), [table], claims, ["Of 3 seeds."],
                       {"lag": np.inf}, Figure)  # fmt: skip
    written = found.write(tmp_path)
    assert [path.name for path in written] == ["lag.json", "lag.png", "lag.html"]
    page = written[-1].read_text("utf-8")
    for words in ("Who &lt;shows&gt; first", "a lag &gt; 1", "Lags &amp; more", "2.0 ± 0.5", "Of 3 seeds.", "not seen"):
        assert words in page
    assert [page.count(f"<span class='{verdict}'>") for verdict in ("agrees", "disagrees", "undecided")] == [1, 1, 1]
    assert "2.00 ± 0.50, claimed &lt; 1" in page
    assert "data:image/png;base64," in page
    assert "<th>environment</th>" in page
    assert "http" not in page
