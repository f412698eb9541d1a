"""Experiments on trained classifiers: lag of visibility, joint defence (T6), collapse of the poisons' features."""
