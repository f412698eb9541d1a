"""Cases for products of several factors: every pair of levels of two factors at least once, in place of all tuples."""

from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations, product
from typing import Any

Choice = tuple[int, int]
"""A factor and one of its levels, by their positions."""


def pairwise(*factors: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Rows of a greedy covering array of strength two; the same rows in the same order on every call.

    Most failures need one level or a pair of them (Kuhn, Wallace, Gallo 2004, IEEE Trans. Softw. Eng. 30:418), and
    the rows grow with the product of the two largest factors only, where the full product grows with that of all.
    Two factors have no smaller design than their product.

    Args:
        *factors: the levels of each factor, in any number.

    Returns:
        One tuple a row with a level of each factor, as `pytest.mark.parametrize` takes them.

    Raises:
        ValueError: for fewer than two factors or one without levels.
    """
    levels: list[Sequence[Any]] = [list(factor) for factor in factors]
    if len(levels) < 2 or not all(levels):
        raise ValueError(f"two or more factors with levels, not {[len(factor) for factor in levels]}")
    # A dict for a set that keeps its order.
    left = dict.fromkeys(
        pair
        for (i, a), (j, b) in combinations(enumerate(levels), 2)
        for pair in product(((i, k) for k in range(len(a))), ((j, k) for k in range(len(b))))
    )
    rows = []
    while left:
        row: dict[int, int] = dict(next(iter(left)))
        for factor in sorted(set(range(len(levels))) - set(row), key=lambda i: -len(levels[i])):
            gains = [
                sum(_pair((factor, k), other) in left for other in row.items()) for k in range(len(levels[factor]))
            ]
            row[factor] = gains.index(max(gains))
        for pair in combinations(sorted(row.items()), 2):
            left.pop(pair, None)
        rows.append(tuple(levels[i][row[i]] for i in range(len(levels))))
    return rows


def _pair(a: Choice, b: Choice) -> Hashable:
    return (a, b) if a < b else (b, a)
