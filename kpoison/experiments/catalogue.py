"""The experiments by name."""

from kpoison.experiments import collapse, joint_defence, lag, linear, spectra, table

__all__ = ["EXPERIMENTS"]

EXPERIMENTS = {
    "lag": lag.run,
    "joint-defence": joint_defence.run,
    "collapse": collapse.run,
    "table": table.run,
    "spectra": spectra.run,
    "linear": linear.run,
}
"""Each experiment's function of options, architectures and folder, by its name on the command line."""
