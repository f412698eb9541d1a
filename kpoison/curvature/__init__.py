"""Input-space curvature: operators, spectra and the visibility of the poison's spike (L3, section 4)."""

from kpoison.curvature._alignment import Overlap, overlap
from kpoison.curvature._smoothed import SmoothedRBFSpike, SmoothedSpike, smoothed_rbf_spike, smoothed_spike
from kpoison.curvature._visibility import (
    BulkEdge,
    Visibility,
    bulk_edge_from_clean,
    bulk_edge_from_permutations,
    marchenko_pastur_edge,
    outlier_eigenvalue,
    outlier_overlap,
    spike_threshold,
    visibility,
    visibility_threshold,
)
from kpoison.curvature.matrices import fisher, gauss_newton, gradient_covariance, input_gradients, input_hessian
from kpoison.curvature.operators import Operator
from kpoison.curvature.parameters import parameter_hessian
from kpoison.curvature.spectrum import (
    Density,
    Eigenpairs,
    UnconvergedSpectrumError,
    spectral_density,
    top_eigenpairs,
    trace,
)

__all__ = [
    "BulkEdge",
    "Density",
    "Eigenpairs",
    "Operator",
    "Overlap",
    "SmoothedRBFSpike",
    "SmoothedSpike",
    "UnconvergedSpectrumError",
    "Visibility",
    "bulk_edge_from_clean",
    "bulk_edge_from_permutations",
    "fisher",
    "gauss_newton",
    "gradient_covariance",
    "input_gradients",
    "input_hessian",
    "marchenko_pastur_edge",
    "outlier_eigenvalue",
    "outlier_overlap",
    "overlap",
    "parameter_hessian",
    "smoothed_rbf_spike",
    "smoothed_spike",
    "spectral_density",
    "spike_threshold",
    "top_eigenpairs",
    "trace",
    "visibility",
    "visibility_threshold",
]
