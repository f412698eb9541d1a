"""No program that a public function compiles, called from Python, has a host callback: each is kept by the cache."""

import jax
import jaxtyping
import pytest
from calls import CASES

WITH_CALLBACK = {
    "loss_gradient_flow": "diffrax checks the times of what it saves",
    "flow_ensemble": "the same",
    "LossGradientFlow.predictor": "of such a flow",
    "Integration": "of such a flow",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_called_from_python_nothing_calls_back(name, monkeypatch):
    def refused(*_, **__):
        raise AssertionError("a host callback")

    monkeypatch.setattr(jax, "pure_callback", refused)  # equinox.error_if's
    jaxtyping.config.update("jaxtyping_disable", True)  # lists and the like are among the options
    jax.clear_caches()  # what is compiled already would not be traced
    function, options = CASES[name]
    try:
        if name in WITH_CALLBACK:
            with pytest.raises(AssertionError, match="a host callback"):
                function(**options)
        else:
            function(**options)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
