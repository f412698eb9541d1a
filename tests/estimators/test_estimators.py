"""scikit-learn's own checks, its tools, and the posterior behind an estimator."""

import pickle

import jax
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.kernel_ridge import KernelRidge as Theirs
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import kpoison as kp
from kpoison.estimators import KernelRidge, KernelRidgeClassifier

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
Y = X[:, 0] ** 2 + X[:, 1]
LABELS = np.array(["cat", "dog", "owl"])[(X[:, 0] > 0).astype(int) + (X[:, 1] > 0.3)]


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [KernelRidge(), KernelRidgeClassifier()], ids=["regressor", "classifier"])
def test_scikit_learns_checks(estimator):
    results = check_estimator(estimator, on_skip=None)
    assert {result["status"] for result in results} <= {"passed", "skipped"}
    skipped = {result["check_name"] for result in results if result["status"] == "skipped"}
    assert skipped <= {"check_array_api_input", "check_estimators_pickle"}, skipped
    assert len(results) > 40


def test_alpha_is_ridge_times_the_number_of_points():
    theirs = Theirs(kernel="rbf", gamma=1 / 3, alpha=0.5).fit(X, Y)
    ours = KernelRidge(ridge=0.5 / len(X)).fit(X, Y)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-9)


def test_weights_are_multiplicities():
    counts = RNG.integers(0, 3, size=len(X))
    places = np.repeat(np.arange(len(X)), counts)
    for intercept in (False, True):
        model = KernelRidge(ridge=1e-2, intercept=intercept)
        weighted = clone(model).fit(X, Y, sample_weight=counts)
        repeated = clone(model).fit(X[places], Y[places])
        np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-9)


def test_a_classifier_gives_labels_back():
    model = KernelRidgeClassifier(kp.kernels.RBF(1.0), ridge=1e-4).fit(X, LABELS)
    assert model.decision_function(X).shape == (len(X), 3)
    assert model.score(X, LABELS) == 1.0
    assert set(model.predict(X)) == {"cat", "dog", "owl"}
    two = KernelRidgeClassifier(kp.kernels.RBF(1.0)).fit(X, LABELS == "cat")
    assert two.predict(X).dtype == bool
    with pytest.raises(ValueError, match="one class"):
        KernelRidgeClassifier().fit(X, np.zeros(len(X)))


def test_the_posterior_behind():
    model = KernelRidge(kp.kernels.RBF(1.5), ridge=1e-2).fit(X, Y)
    poison = kp.Poison(X[0] + 0.3, 5.0, 4.0)
    expected = kp.spike(kp.fit(kp.kernels.RBF(1.5), X, Y), poison, X[1], 1e-2)
    assert float(kp.spike(model.posterior_, poison, X[1], model.ridge)) == pytest.approx(float(expected), rel=1e-12)
    with jax.enable_x64(False):
        assert model.posterior_.X.dtype == np.float32
        assert model.predict(X).dtype == np.float64


def test_pickles():
    model = KernelRidge(ridge=1e-3).fit(X, Y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))


@pytest.mark.slow
def test_a_grid_search_in_two_processes():
    model = make_pipeline(StandardScaler(), KernelRidge())
    grid = {
        "kernelridge__ridge": [1e-4, 1e-1],
        "kernelridge__kernel": [kp.kernels.RBF(0.5), kp.kernels.RBF(2.0)],
    }
    search = GridSearchCV(model, grid, cv=3, n_jobs=2).fit(X, Y)
    assert search.best_score_ > 0.5
    assert float(search.best_params_["kernelridge__kernel"].length_scale) == 2.0
