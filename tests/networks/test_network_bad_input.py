"""What networks and their training refuse, and by what words."""

import jax
import numpy as np
import pytest
from small_networks import RIDGE, small

from kpoison.kernels import RBF
from kpoison.networks import (
    Architecture,
    Training,
    ensemble,
    fit_power_law,
    train,
    train_pair,
    width_errors,
)
from kpoison.poison import Poison


def _call(function, **changes):
    network, X, y, poison, x = small("erf", width=4)
    arguments = {"network": network, "X": X, "y": y, "poison": poison, "ridge": RIDGE, "x": x, "options": {}}
    arguments |= changes
    data = (arguments["X"], arguments["y"])
    if function == "train":
        return train(arguments["network"], *data, arguments["ridge"], **arguments["options"])
    data = (*data, arguments["poison"], arguments["ridge"])
    if function == "train_pair":
        return train_pair(arguments["network"], *data, **arguments["options"])
    keys = arguments.get("keys", jax.random.split(jax.random.key(0)))
    return ensemble(arguments["network"].architecture, keys, *data, arguments["x"], **arguments["options"])


NAN = np.full((6, 3), np.nan)
BAD_DATA = {
    "X of other inputs": ("train", {"X": np.ones((6, 4))}, "X must have shape"),
    "X of one axis": ("train", {"X": np.ones(6)}, "X must have shape"),
    "X empty": ("train", {"X": np.ones((0, 3))}, "X must not be empty"),
    "X not finite": ("train", {"X": NAN}, "X must be finite"),
    "y too short": ("train", {"y": np.ones(5)}, "y must have shape"),
    "y of two axes": ("train", {"y": np.ones((6, 1))}, "y must have shape"),
    "y not finite": ("train", {"y": NAN[:, 0]}, "y must be finite"),
    "ridge zero": ("train", {"ridge": 0.0}, "ridge must be finite and > 0, got 0.0"),
    "ridge negative": ("train", {"ridge": -0.1}, "ridge must be finite and > 0"),
    "ridge nan": ("train", {"ridge": np.nan}, "ridge must be finite and > 0"),
    "weights negative": ("train", {"options": {"weights": -np.ones(6)}}, "weights must be finite and >= 0"),
    "weights too short": ("train", {"options": {"weights": np.ones(5)}}, "weights must have shape"),
    "weights all zero": ("train", {"options": {"weights": np.zeros(6)}}, "the sum of weights must be"),
    "total zero": ("train", {"options": {"total": 0.0}}, "total must be finite and > 0"),
    "reference unknown": ("train_pair", {"options": {"reference": "dirty"}}, "reference must be one of"),
    "y of other length": ("train_pair", {"y": np.ones(5)}, "y must have shape"),
    "poison of other inputs": ("train_pair", {"poison": Poison(np.ones(4), 1.0, 1.0)}, "poison.location must"),
    "label of two outputs": ("train_pair", {"poison": Poison(np.ones(3), np.ones(2), 1.0)}, "poison.label must"),
    "probes of other inputs": ("ensemble", {"x": np.ones((2, 4))}, "x must hold points of shape"),
    "probes not finite": ("ensemble", {"x": NAN}, "x must be finite"),
    "one key": ("ensemble", {"keys": jax.random.key(0)}, "keys must have shape"),
    "batch size": ("ensemble", {"options": {"batch_size": 0}}, "batch_size must be an integer >= 1, got 0"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data(case):
    function, changes, message = BAD_DATA[case]
    with pytest.raises((ValueError, TypeError), match=message):
        _call(function, **changes)


BAD_ARCHITECTURE = {
    "width": ({"width": 0}, "width must be an integer >= 1, got 0"),
    "hidden_layers": ({"hidden_layers": 0}, "hidden_layers must be an integer >= 1, got 0"),
    "activation": ({"activation": "step"}, "activation"),
    "weight_std": ({"weight_std": 0.0}, "weight_std must be finite and > 0"),
    "bias_std": ({"bias_std": -1.0}, "bias_std must be finite and >= 0"),
    "rounding": ({"rounding": -1.0}, "rounding must be finite and >= 0"),
}


@pytest.mark.parametrize("case", BAD_ARCHITECTURE)
def test_bad_architecture(case):
    changes, message = BAD_ARCHITECTURE[case]
    with pytest.raises(ValueError, match=message):
        Architecture(**({"width": 8} | changes))


def test_bad_settings():
    for name, value in (("tolerance", 0.0), ("max_steps", 0), ("memory", 0)):
        with pytest.raises(ValueError, match=name):
            Training(**{name: value})
    with pytest.raises(TypeError, match="kernel"):
        Architecture.matching(RBF(1.0), 8)
    for inputs, outputs in ((0, None), (3, 0)):
        with pytest.raises(ValueError, match="must be an integer >= 1, got 0"):
            Architecture(8).initialise(jax.random.key(0), inputs, outputs)


def test_bad_width_study():
    _, X, y, poison, x = small()
    two = [Architecture(4, 1, "erf"), Architecture(8, 1, "erf")]
    good = {"efficacy": np.zeros(2)}
    for architectures, seeds, laws, message in (
        (two[::-1], 2, good, "at least 2 increasing widths"),
        (two[:1], 2, good, "at least 2 increasing widths"),
        (two, 1, good, "seeds must be an integer >= 2"),
        (two, [2], good, "seeds must be one number"),
        (two, 2, {"gain": 1.0}, "laws must be one of"),
        (two, 2, {"spike": np.full(2, np.nan)}, r"laws\['spike'\] must be finite"),
        (two, 2, {"efficacy": np.zeros(3)}, r"laws\['efficacy'\] must have shape \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            width_errors(architectures, jax.random.key(0), seeds, X, y, poison, RIDGE, x, laws=laws)


def test_bad_power_law():
    good = np.array([1.0, 2.0])
    for widths, rmse, error, confidence, message in (
        (np.array([4.0]), good[:1], good[:1], 0.9, "at least 2 distinct"),
        (np.array([4.0, 4.0]), good, good, 0.9, "at least 2 distinct"),
        (good, good[:1], good, 0.9, "rmse must have shape"),
        (good, -good, good, 0.9, "rmse must be finite and > 0"),
        (good, good, 0 * good, 0.9, "standard_error must be finite and > 0"),
        (good, good, good, 1.0, "confidence"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_power_law(widths, rmse, error, confidence=confidence)
