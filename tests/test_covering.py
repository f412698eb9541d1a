"""The designs that thin out other tests leave out no pair of levels."""

from itertools import combinations

import pytest
from covering import pairwise

FACTORS = {
    "two": [range(4), "ab"],
    "binary": ["ab", "cd", "ef", "gh", "ij"],
    "mixed": [range(9), "abcd", "xyz", (True, False)],
    "one level": [range(5), "a", "xyz"],
}


@pytest.mark.parametrize("name", FACTORS)
def test_every_pair_of_levels_is_in_a_row(name):
    factors = FACTORS[name]
    rows = pairwise(*factors)
    assert len(set(rows)) == len(rows)
    for i, j in combinations(range(len(factors)), 2):
        assert {(row[i], row[j]) for row in rows} == {(a, b) for a in factors[i] for b in factors[j]}


def test_rows_are_few_and_always_the_same():
    # No fewer than the product of the two largest factors; the full products have 32 and 216.
    assert len(pairwise(*FACTORS["binary"])) <= 8
    assert 36 <= len(pairwise(*FACTORS["mixed"])) <= 40
    assert len(pairwise(*FACTORS["two"])) == 8
    assert pairwise(*FACTORS["mixed"]) == pairwise(*FACTORS["mixed"])


@pytest.mark.parametrize("factors", [[], ["ab"], ["ab", ""]])
def test_too_few_factors_are_refused(factors):
    with pytest.raises(ValueError, match="two or more factors with levels"):
        pairwise(*factors)
