"""Numerical verification of every statement of the theory: law, brute-force refit, finite-width training."""
