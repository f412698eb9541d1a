"""The typical case: what poisoned training sets do on average, from the distribution that they are drawn from.

Random-matrix theory (R1 to R5) in place of one data set: n, the number of inputs d, the fraction of poisons, the
trigger's strength and the ridge are all numbers to differentiate in.
"""

from kpoison._effective_ridge import EffectiveRidge, effective_ridge
from kpoison.asymptotics._convex_regression import (
    ConvexRegression,
    convex_regression,
    logistic_regression,
    softmax_regression,
)
from kpoison.asymptotics._kernel_ridge import TypicalKernelRidge, kernel_ridge
from kpoison.asymptotics._linear_model import LinearModel, Scores
from kpoison.asymptotics._redraw import efficacy_deviation, redraw_deviation
from kpoison.asymptotics._ridge_regression import RidgeRegression, ridge_regression
from kpoison.asymptotics.mixture import Backdoor, Mixture, backdoor_mixture
from kpoison.asymptotics.optima import (
    Direction,
    Optimum,
    best_ridge,
    best_training_strength,
    needed_poison_fraction,
    worst_direction,
)
from kpoison.asymptotics.rates import EstimatedRate

__all__ = [
    "Backdoor",
    "ConvexRegression",
    "Direction",
    "EffectiveRidge",
    "EstimatedRate",
    "LinearModel",
    "Mixture",
    "Optimum",
    "RidgeRegression",
    "Scores",
    "TypicalKernelRidge",
    "backdoor_mixture",
    "best_ridge",
    "best_training_strength",
    "convex_regression",
    "effective_ridge",
    "efficacy_deviation",
    "kernel_ridge",
    "logistic_regression",
    "needed_poison_fraction",
    "redraw_deviation",
    "ridge_regression",
    "softmax_regression",
    "worst_direction",
]
