"""What a posterior is, in one line and as a table for notebooks."""

import sys
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp

from kpoison._reports import cell, escaped, table
from kpoison._validation import is_concrete, known_number

if TYPE_CHECKING:
    from kpoison.ridge.posterior import Posterior

__all__ = ["as_line", "as_table", "in_words", "rows_of"]


def as_line(posterior: "Posterior") -> str:
    """`Posterior(n=500, d=784, RBF(length_scale=1.5), Spectral())`."""
    named = {"kernel", "solver"}
    parts = [value if name in named else f"{name}={value}" for name, value in _facts(posterior).items()]
    return f"{type(posterior).__name__}({', '.join(parts)})"


def as_table(posterior: "Posterior") -> str:
    """The same as HTML, a row for each."""
    return rows_of(_facts(posterior))


def rows_of(facts: dict[str, str]) -> str:
    """Names and what they are, in words, as a table of HTML."""
    return table((), [(cell(escaped(name)), cell(escaped(words))) for name, words in facts.items()])


def _facts(posterior: "Posterior") -> dict[str, str]:
    observed = posterior.observations
    number, *shape = observed.points.shape
    facts = {"n": str(number), "d": "x".join(map(str, shape))}
    if posterior.y.ndim == 2:
        facts["C"] = str(posterior.outputs)
    facts |= {"kernel": in_words(posterior.kernel), "solver": in_words(posterior.factor.solver)}
    if observed.weighted:
        facts["Σw"] = in_words(jnp.asarray(observed.total))
    if observed.constant:
        facts["intercept"] = "True"
    if observed.slopes:
        facts["slopes"] = str(observed.slopes)
    return facts | {"dtype": str(observed.points.dtype)}


def in_words(tree: Any) -> str:
    """In one line: known numbers as they are, arrays by dtype and shape."""

    def plain(leaf: Any) -> Any:
        return known_number(leaf) if eqx.is_array(leaf) and leaf.ndim == 0 and is_concrete(leaf) else leaf

    return eqx.tree_pformat(jax.tree.map(plain, tree), width=sys.maxsize)
