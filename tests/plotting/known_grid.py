"""A grid of numbers that are known in closed form: one RBF clone poison alone, ℓ = y_t = 1."""

import numpy as np
import xarray as xr


def isolated_rbf(r_over_l=None, m=None) -> xr.Dataset:
    """Efficacy S k0, spike S²r²k0², gain S, with S = m/((100 + m)λ + m), and the count from which |Δf| >= 1/2."""
    r = np.geomspace(0.01, 10, 13) if r_over_l is None else r_over_l
    m = np.geomspace(1, 1000, 7) if m is None else m
    ridge = np.array([1e-3, 1e-2, 1e-1])
    k0 = np.exp(-(r**2) / 2)[:, None, None]
    gain = m[:, None] / ((100 + m[:, None]) * ridge + m[:, None])
    efficacy = gain * k0
    with np.errstate(divide="ignore"):
        needed = 0.5 * 100 * ridge / np.maximum(k0[:, 0] - 0.5 * (1 + ridge), 0)  # m k0 = (nλ + m)/2
    dims = ("r_over_l", "m", "ridge")
    return xr.Dataset(
        {
            "efficacy": (dims, efficacy, {"long_name": "efficacy Δf", "units": "y"}),
            "spike": (dims, (r[:, None, None] * efficacy) ** 2, {"long_name": "spike Λ", "units": "y²/input²"}),
            "gain": (dims[1:], gain, {"units": "1/k"}),
            "m_success": (("r_over_l", "ridge"), needed, {"units": "1"}),
        },
        {
            "r_over_l": ("r_over_l", r, {"long_name": "distance", "units": "length scale"}),
            "m": ("m", m, {"units": "training points"}),
            "ridge": ("ridge", ridge, {"units": "k"}),
        },
    )
