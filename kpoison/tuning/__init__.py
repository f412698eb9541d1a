"""Choice of the kernel's parameters and the ridge."""

from kpoison.tuning._search import Tuned, TuningStatus, tune

__all__ = ["Tuned", "TuningStatus", "tune"]
