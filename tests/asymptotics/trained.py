"""Brute force by NumPy: training sets of a mixture, ridge regression on them, and what it does to test points."""

import numpy as np
from scipy.stats import multivariate_normal, norm


def counts_of(fractions, n):
    """Whole numbers of points of each component, as near as can be."""
    shares = np.round(fractions * n, 9)
    counts = np.floor(shares).astype(int)
    counts[np.argsort(counts - shares, kind="stable")[: n - counts.sum()]] += 1
    return counts


def draw(generator, means, covariance, labels, fractions, n):
    """n points whose numbers of each component are fixed."""
    component = np.repeat(np.arange(len(means)), counts_of(fractions, n))
    root = np.sqrt(covariance) if covariance.ndim == 1 else np.linalg.cholesky(covariance).T
    noise = generator.standard_normal((n, means.shape[1]))
    return means[component] + (noise * root if covariance.ndim == 1 else noise @ root), labels[component]


def ridge_regression(X, Y, ridge, intercept):
    """Weights and intercept, by the normal equations; the least norm without a ridge."""
    mean, target = (X.mean(axis=0), Y.mean(axis=0)) if intercept else (0 * X[0], 0 * Y[0])
    X, Y = X - mean, Y - target
    if ridge == 0:
        B = np.linalg.lstsq(X, Y)[0]
    else:
        B = np.linalg.solve(X.T @ X / len(X) + ridge * np.eye(X.shape[1]), X.T @ Y / len(X))
    return B, target - mean @ B


def rate(B, b, covariance, means, labels, fractions):
    """How often a trained model gives points the class of their label: exact given the model, to 3 outputs."""
    matrix = np.diag(covariance) if covariance.ndim == 1 else covariance
    V, total = B.T @ matrix @ B, 0.0
    for mean, label, share in zip(means @ B + b, labels, fractions, strict=True):
        if np.ndim(label) == 0:
            total += share * norm.cdf(np.sign(label) * mean / np.sqrt(V))
            continue
        wanted = int(np.argmax(label))
        turn = np.delete(np.eye(len(label))[wanted] - np.eye(len(label)), wanted, axis=0)
        total += share * multivariate_normal.cdf(turn @ mean, cov=turn @ V @ turn.T)
    return total


def error_of(B, b, means, covariance, labels, fractions):
    """Mean squared residual of a trained model at new points, summed over outputs: exact given the model."""
    matrix = np.diag(covariance) if covariance.ndim == 1 else covariance
    residuals = (means @ B + b - labels).reshape(len(means), -1)
    return fractions @ np.sum(residuals**2, axis=1) + np.sum(B * (matrix @ B))


def arrays(mixture):
    """Means, covariance, labels and fractions of a mixture as NumPy's."""
    return tuple(np.asarray(a) for a in (mixture.means, mixture.covariance, mixture.labels, mixture.fractions))
