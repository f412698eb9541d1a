"""Kernel ridge regression and classification as scikit-learn's estimators."""

from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from kpoison._validation import public
from kpoison.datasets import one_hot, predicted_classes, signed
from kpoison.kernels import RBF, Kernel
from kpoison.laws import predict
from kpoison.ridge import Posterior, Solver, fit

__all__ = ["KernelRidge", "KernelRidgeClassifier"]


class _Ridge(BaseEstimator):
    """What both estimators share: the posterior, fitted in float64 whatever JAX's own precision is."""

    @public
    def __init__(
        self,
        kernel: Kernel | None = None,
        *,
        ridge: float = 1e-3,
        intercept: bool = False,
        gradient_penalty: float = 0.0,
        solver: Solver | None = None,
    ):
        self.kernel = kernel
        self.ridge = ridge
        self.intercept = intercept
        self.gradient_penalty = gradient_penalty
        self.solver = solver

    def _fit(self, X: np.ndarray, targets: np.ndarray, sample_weight: Any) -> None:
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)
        self._training_set = X, targets, weights
        with jax.enable_x64(True):
            self._posterior = self._fitted()

    def _fitted(self) -> Posterior:
        X, targets, weights = self._training_set
        kernel = RBF(length_scale=(X.shape[1] / 2) ** 0.5) if self.kernel is None else self.kernel
        return fit(
            kernel,
            X,
            targets,
            weights=weights,
            intercept=self.intercept,
            gradient_penalty=self.gradient_penalty,
            solver=self.solver,
        )

    @property
    def posterior_(self) -> Posterior:
        """The fitted posterior, for the laws; in float64 where JAX's precision is, else fitted anew in float32."""
        check_is_fitted(self)
        return self._posterior if jax.config.read("jax_enable_x64") else self._fitted()

    def _scores(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        with jax.enable_x64(True):
            return np.asarray(predict(self._posterior, X, self.ridge))


class KernelRidge(RegressorMixin, _Ridge):
    """Kernel ridge regression with scikit-learn's interface.

    Args:
        kernel: k; by default the radial basis function of scikit-learn's default gamma = 1/d, of length scale (d/2)^½,
            which is for features of unit variance.
        ridge: λ of the mean loss, (1/2Σw) Σ w_i (f(x_i) − y_i)² + (λ/2)‖f‖².  scikit-learn's `alpha`, which is added
            to the Gram matrix, is λΣw: alpha=1.0 on 500 points is ridge=0.002.  Sample weights are multiplicities.
        intercept: whether a constant is fitted beside the kernel, free of penalty.
        gradient_penalty: γ of (γ/2n) Σ ‖∇f(x_i)‖², see `kpoison.fit`.
        solver: see `kpoison.fit`.

    Calculations are in float64, whatever JAX's own precision is.

    Attributes:
        posterior_: what `kpoison.fit` returns, for the laws: `kpoison.spike(model.posterior_, poison, x, model.ridge)`.

    >>> import numpy as np
    >>> X = np.linspace(0, 3, 20)[:, None]
    >>> model = KernelRidge(ridge=1e-6).fit(X, np.sin(X[:, 0]))
    >>> bool(abs(model.predict([[1.0]])[0] - np.sin(1.0)) < 1e-3)
    True
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "KernelRidge":
        """Fit to targets of one or several outputs.

        Args:
            X: shape (n, d).
            y: shape (n,) or (n, C).
            sample_weight: multiplicities >= 0, shape (n,).

        Raises:
            TypeError, ValueError: as scikit-learn's validation and `kpoison.fit` do.
        """
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float64)
        self._fit(X, np.asarray(y, np.float64), sample_weight)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The predictor at X, in the shape of y."""
        return self._scores(X)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class KernelRidgeClassifier(ClassifierMixin, _Ridge):
    """Classification by kernel ridge regression of ±1, or of one-hot targets where there are several classes.

    Arguments are those of `KernelRidge`.

    Attributes:
        classes_: the labels, sorted; of any kind.
        posterior_: as of `KernelRidge`.

    >>> import numpy as np
    >>> X, y = np.array([[0.0], [0.2], [3.0]]), np.array(["left", "left", "right"])
    >>> KernelRidgeClassifier().fit(X, y).predict([[2.5]])
    array(['right'], dtype='<U5')
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "KernelRidgeClassifier":
        """Fit to class labels.

        Args:
            X: shape (n, d).
            y: labels of at least two classes, shape (n,).
            sample_weight: multiplicities >= 0, shape (n,).

        Raises:
            TypeError, ValueError: as scikit-learn's validation and `kpoison.fit` do.
        """
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, places = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must have at least two classes, got one class: {self.classes_[0]!r}")
        encode = one_hot if len(self.classes_) > 2 else signed
        self._fit(X, encode(places), sample_weight)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores, shape (q,) and > 0 for the second of two classes; shape (q, classes) for several."""
        return self._scores(X)

    def predict(self, X: Any) -> np.ndarray:
        """The class of the highest score, as it was given to `fit`."""
        scores = self.decision_function(X)
        return self.classes_[predicted_classes(scores, np.arange(len(self.classes_)))]
