"""Every attack against every defence, measured and predicted."""

from kpoison.matrix.attacks import ATTACKS, Attack
from kpoison.matrix.defences import DEFENCES
from kpoison.matrix.defended import Outcome
from kpoison.matrix.page import write_page
from kpoison.matrix.problem import KERNELS
from kpoison.matrix.run import attack_defence_matrix
from kpoison.matrix.summary import as_table, summarise

__all__ = [
    "ATTACKS",
    "DEFENCES",
    "KERNELS",
    "Attack",
    "Outcome",
    "as_table",
    "attack_defence_matrix",
    "summarise",
    "write_page",
]
