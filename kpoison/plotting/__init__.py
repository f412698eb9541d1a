"""Pictures.  Every function takes and returns axes; one style for all."""

from kpoison.plotting._style import COLOURS, dashed, dots, errorbars, label_narrow_axis, line, style, threshold
from kpoison.plotting.asymptotics import LawCurve, LawPanel, draw_laws
from kpoison.plotting.explorer import Explorer, explore
from kpoison.plotting.flow import against_penalty, along_time, draw_flow, draw_tradeoff, frontier
from kpoison.plotting.laws import against_count, near_clone, phase_diagram, spike_against_efficacy
from kpoison.plotting.matrix import attack_defence_figure, attack_defence_matrix
from kpoison.plotting.spectra import draw_image, draw_spectrum, draw_spectrum_figure
from kpoison.plotting.sweeps import draw_sweep

__all__ = [
    "COLOURS",
    "Explorer",
    "LawCurve",
    "LawPanel",
    "against_count",
    "against_penalty",
    "along_time",
    "attack_defence_figure",
    "attack_defence_matrix",
    "dashed",
    "dots",
    "draw_flow",
    "draw_image",
    "draw_laws",
    "draw_spectrum",
    "draw_spectrum_figure",
    "draw_sweep",
    "draw_tradeoff",
    "errorbars",
    "explore",
    "frontier",
    "label_narrow_axis",
    "line",
    "near_clone",
    "phase_diagram",
    "spike_against_efficacy",
    "style",
    "threshold",
]
