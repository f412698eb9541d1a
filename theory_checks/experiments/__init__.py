"""Experiments on trained classifiers: lag of visibility, joint defence (T6), collapse of the poisons' features."""

from theory_checks.experiments import collapse, joint_defence, lag
from theory_checks.experiments.options import Options
from theory_checks.experiments.result import Agreement, Experiment

__all__ = ["EXPERIMENTS", "Agreement", "Experiment", "Options"]

EXPERIMENTS = {"lag": lag.run, "joint-defence": joint_defence.run, "collapse": collapse.run}
"""Each experiment's function of options, architectures and folder, by its name on the command line."""
