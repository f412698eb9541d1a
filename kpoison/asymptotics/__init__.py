"""The typical case: what poisoned training sets do on average, from the distribution that they are drawn from.

Random-matrix theory (R1 to R5) in place of one data set: n, the number of inputs d, the fraction of poisons, the
trigger's strength and the ridge are all numbers to differentiate in.
"""

from kpoison._effective_ridge import EffectiveRidge, effective_ridge
from kpoison.asymptotics._kernel_ridge import TypicalKernelRidge, kernel_ridge
from kpoison.asymptotics._redraw import efficacy_deviation, redraw_deviation

__all__ = [
    "EffectiveRidge",
    "TypicalKernelRidge",
    "effective_ridge",
    "efficacy_deviation",
    "kernel_ridge",
    "redraw_deviation",
]
