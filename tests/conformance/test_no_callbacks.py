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


@pytest.fixture(scope="module", autouse=True)
def callbacks_are_refused():
    """Programs that are compiled already would not be traced; what one test here traces was refused a callback, too."""

    def refused(*_, **__):
        raise AssertionError("a host callback")

    jax.clear_caches()
    jaxtyping.config.update("jaxtyping_disable", True)  # lists and the like are among the options
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "pure_callback", refused)  # equinox.error_if's
        yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_called_from_python_nothing_calls_back(name):
    function, options = CASES[name]
    if name in WITH_CALLBACK:
        with pytest.raises(AssertionError, match="a host callback"):
            function(**options)
    else:
        function(**options)
