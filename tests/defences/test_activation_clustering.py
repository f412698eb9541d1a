"""Two clusters per class, against the Adversarial Robustness Toolbox on the same features."""

import importlib
import warnings

import numpy as np
import pytest

from kpoison.defences import activation_clustering

RNG = np.random.default_rng(5)
LABELS = np.repeat([0, 1], [30, 26])
IS_POISON = (np.arange(56) >= 24) & (LABELS == 0)
FEATURES = RNG.normal(size=(56, 14)) * np.linspace(0.4, 1, 14) + 3 * IS_POISON[:, None]


@pytest.fixture
def toolbox(monkeypatch, tmp_path):
    monkeypatch.setenv("ART_DATA_PATH", str(tmp_path))
    pytest.importorskip("art")
    with warnings.catch_warnings():
        # Of frameworks that are not installed.
        warnings.filterwarnings("ignore", message=".*not found.*", module="art")
        return [
            importlib.import_module(f"art.defences.detector.poison.{name}")
            for name in ("activation_defence", "clustering_analyzer")
        ]


def test_finds_a_cluster_and_suspects_no_clean_class():
    found = activation_clustering(FEATURES, LABELS)
    np.testing.assert_array_equal(found.suspected, IS_POISON)
    # Independent components have equal variances, and 2-means may split along another one.
    independent = activation_clustering(FEATURES, LABELS, reduction="ica")
    assert np.all(np.abs(independent.scores) <= 1)
    assert np.any(independent.scores != found.scores)
    assert found.rates(IS_POISON).auroc > 0.95
    assert np.all(np.isinf(found.threshold[LABELS == 1]))
    assert np.all(np.abs(found.scores) <= 1)


@pytest.mark.parametrize("rule", ["relative-size", "silhouette-scores"])
def test_as_the_toolbox_has_it(toolbox, rule):
    defence, analyser = toolbox
    # Its report of a class without a suspicious cluster fails with this NumPy: the poisoned class alone.
    separated = [FEATURES[LABELS == 0]]
    clusters, reduced = defence.cluster_activations(separated, nb_clusters=2, nb_dims=10, reduce="PCA")
    analysis = analyser.ClusteringAnalyzer()
    if rule == "relative-size":
        clean = analysis.analyze_by_relative_size(clusters)[0]
        found = activation_clustering(FEATURES, LABELS, silhouette=-1.0)
    else:
        clean = analysis.analyze_by_silhouette_score(clusters, reduced)[0]
        found = activation_clustering(FEATURES, LABELS)
    np.testing.assert_array_equal(found.suspected[LABELS == 0], np.asarray(clean[0]) == 0)


def test_scores_are_relative_distances_to_two_centres():
    line = np.array([[0.0], [1.0], [2.0], [3.0], [9.0], [11.0]])
    found = activation_clustering(line, np.zeros(6, int))
    expected = [(abs(x - 1.5) - abs(x - 10)) / (abs(x - 1.5) + abs(x - 10)) for x in line[:, 0]]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-12)
    assert found.suspected.tolist() == [False] * 4 + [True] * 2
    assert not activation_clustering(line, np.zeros(6, int), largest_share=0.3).suspected.any()
    assert not activation_clustering(line, np.zeros(6, int), silhouette=0.9).suspected.any()


@pytest.mark.parametrize("reduction", ["pca", "ica"])
def test_degenerate_classes(reduction):
    rows = np.concatenate([np.full((5, 20), 0.1), RNG.normal(size=(3, 20)), RNG.normal(size=(6, 20))])
    labels = np.repeat([0, 1, 2], [5, 3, 6])
    found = activation_clustering(rows.astype(np.float32), labels, reduction=reduction)
    assert not np.any(found.scores[labels < 2])  # no variance; too few
    assert np.any(found.scores[labels == 2])  # fewer points than dimensions
    assert found.scores.dtype == np.float32
    assert not found.suspected[labels < 2].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dimensions": 0}, "dimensions must be an integer >= 1"),
        ({"reduction": "umap"}, "reduction must be one of"),
        ({"largest_share": 0.6}, "largest_share, of the smaller"),
        ({"silhouette": 2.0}, "silhouette must lie"),
        ({"features": FEATURES * np.nan}, "features must be finite"),
        ({"labels": LABELS[1:]}, "labels must have shape"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        activation_clustering(**({"features": FEATURES, "labels": LABELS} | change))
