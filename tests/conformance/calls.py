"""A call of every public function, class and method that takes options, and values of these options.

Small, so that a test can walk them all; `test_options` holds that none is missing.
"""

import dataclasses
import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kpoison as kp
from kpoison import asymptotics, attacks, curvature, datasets, defences, flow, kernels, networks, plotting
from kpoison.curvature.operators import GaussNewtonRows

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(10, 2)), np.where(np.arange(10) % 2, 1.0, -1.0)
XX, Z = X[:2], np.array([0.4, -0.3])
RBF = kernels.RBF(1.0)
CLEAN, POISON = kp.fit(RBF, X, Y), kp.Poison(Z, -1.0, 2.0)
IMAGES = RNG.random((6, 4, 4, 1))
FEATURES, LABELS = RNG.normal(size=(20, 12)), np.arange(20) % 2
CLIENTS = attacks.Clients([X[i : i + 2] for i in range(0, 10, 2)], [Y[i : i + 2] for i in range(0, 10, 2)])
GRADIENTS = RNG.normal(size=(6, 3))
ROWS = GaussNewtonRows(jnp.asarray(GRADIENTS))
DIGITS = datasets.load_digits().subset(np.arange(60))
KEY = jax.random.key(0)


FOUR = asymptotics.ridge_regression(
    asymptotics.backdoor_mixture(np.eye(4)[:, :3], np.ones(3), Y[:3], 0.1, 1.0, target=1), 20, 0.1
)
TWO = asymptotics.backdoor_mixture(Y[:3], np.ones(3), X[:3, 0], 0.1, 1.0)


def f(batch):
    return jnp.tanh(batch.reshape(len(batch), -1).sum(axis=1) - 1)


def squared_error(score, label):
    return (score - label) ** 2 / 2


def matrix(kernel):
    return kernel(X)


def of_images(kernel):
    return kernel(IMAGES[:2])


def applied(trigger):
    return trigger(IMAGES)


def crossed(architecture, points=2):
    network = architecture.initialise(KEY, points)
    return network.parameters


def drawn(model):
    return eqx.filter(model, eqx.is_array), model(IMAGES[0])


def augmented(augmentation):
    return augmentation(IMAGES[0], KEY)


def trained(**options):
    model = networks.LinearSoftmax((4, 4, 1), 2, key=KEY)
    found = networks.train_classifier(
        model, IMAGES, np.arange(6) % 2, progress=False, measure=lambda model, step: {"a": 1.0}, **options
    )
    return found.loss


def ensemble(train, **options):
    architecture = networks.Architecture(4, activation="erf", bias_std=0.1)
    return train(architecture, jax.random.split(KEY, 2), X[:3], Y[:3], POISON, 0.1, x=XX, **options)


def drawing(draw, *arguments, **options):
    from matplotlib.figure import Figure

    axes = draw(Figure().subplots(), *arguments, **options)
    return [line.get_xydata() for line in axes.lines] + [np.asarray(image.get_array()) for image in axes.images]


def tradeoff(**options):
    return dict(flow.tradeoff(kp.fit(RBF, X[:4], Y[:4]), POISON, XX, 0.1, gradient_penalty=[0.1], **options))


def stax(**options):
    pytest.importorskip("neural_tangents")
    from neural_tangents import stax

    return kernels.from_stax(stax.serial(stax.Dense(8), stax.Erf(), stax.Dense(1))[2], **options)(X[:2])


def swept(**options):
    unit = np.array([1.0, 0.0])
    return dict(kp.sweep(CLEAN, POISON, direction=unit, r_over_l=[0.1], m=[1.0], ridge=0.1, progress=False, **options))


# What is called, and its options; each is given as every kind of scalar.
CASES = {
    # kpoison
    "Blend": (lambda **o: applied(kp.Blend(IMAGES[0], **o)), {"opacity": 0.25, "clip": (0, 1)}),
    "Patch": (
        lambda **o: applied(kp.Patch(**o)),
        {"size": (2, 1), "position": (-2, 1), "opacity": 0.25, "value": 0.5, "clip": (0, 1)},
    ),
    "Additive": (lambda **o: applied(kp.Additive(IMAGES[0], **o)), {"amplitude": 0.25, "clip": (0, 1)}),
    "Additive.cross": (
        lambda **o: applied(kp.Additive.cross(**o)),
        {"image_shape": (4, 4, 1), "amplitude": 0.25, "size": 3, "position": (-4, 1), "clip": (0, 1)},
    ),
    "Warp": (lambda **o: applied(kp.Warp(np.zeros((4, 4, 2)), **o)), {"strength": 0.25, "clip": (0, 1)}),
    "Warp.random": (
        lambda **o: applied(kp.Warp.random(**o)),
        {"image_shape": (4, 4, 1), "strength": 0.25, "grid": 2, "seed": 3, "clip": (0, 1)},
    ),
    "Sinusoid": (lambda **o: applied(kp.Sinusoid(**o)), {"amplitude": 0.25, "frequency": 2, "clip": (0, 1)}),
    "Trigger.direction": (lambda **o: kp.Patch(1, (0, 0)).direction(IMAGES, **o), {"image_shape": (4, 4, 1)}),
    "Trigger.__call__": (lambda **o: kp.Patch(1, (0, 0))(IMAGES, **o), {"image_shape": (4, 4, 1)}),
    **{
        f"{type(solver).__name__}.bytes": (
            lambda solver=solver, **o: solver.bytes(dtype="float32", **o),
            {"number": 50},
        )
        for solver in (kp.Cholesky(), kp.ConjugateGradients(), kp.Krylov())
    },
    "Solver.bytes": (lambda **o: kp.Spectral().bytes(dtype="float32", **o), {"number": 50}),
    "choose_solver": (lambda **o: str(kp.choose_solver(**o)), {"n": 50, "ridges": 1, "memory": 2**30}),
    **{
        name: (
            lambda law, name=name, arguments=arguments: getattr(kp, name)(CLEAN, POISON, *arguments, law=law),
            {"law": "isolated"},
        )
        for name, arguments in {
            "coupling_floor": (0.1,),
            "efficacy": (XX, 0.1),
            "efficacy_gradient": (XX, 0.1),
            "gain": (0.1,),
            "spike": (XX, 0.1),
            "spike_components": (XX, 0.1),
            "spike_efficacy_ratio": (XX, 0.1),
        }.items()
    },
    # asymptotics
    "backdoor_mixture": (
        lambda **o: asymptotics.backdoor_mixture(np.eye(3), np.ones(3), Y[:3], strength=1.0, **o).training,
        {"fraction": 0.25, "target": 1, "source": 2},
    ),
    "convex_regression": (
        lambda **o: (
            asymptotics.convex_regression(
                asymptotics.backdoor_mixture(Y[:3], np.ones(3), X[:3, 0], 0.1, 1.0), 20, 0.1, squared_error, **o
            ).weights
        ),
        {"nodes": 15},
    ),
    "softmax_regression": (
        lambda **o: (
            asymptotics.softmax_regression(
                asymptotics.backdoor_mixture(np.eye(3)[:2], np.ones(3), X[:3, 0], 0.1, 1.0, target=1), 20, 0.1, **o
            ).weights
        ),
        {"nodes": 15},
    ),
    "best_ridge": (lambda **o: asymptotics.best_ridge(TWO, 20, **o), {"accuracy": 0.5}),
    "best_training_strength": (
        lambda **o: asymptotics.best_training_strength(np.eye(3), np.ones(3), X[:3, 0], n=20, ridge=0.1, **o),
        {"fraction": 0.25, "test_strength": 2, "target": 1, "source": 2},
    ),
    "needed_poison_fraction": (
        lambda **o: asymptotics.needed_poison_fraction(np.eye(3), np.ones(3), X[:3, 0], 3.0, n=20, ridge=0.1, **o),
        {"success": 0.5, "target": 1, "source": 2},
    ),
    "worst_direction": (
        lambda **o: asymptotics.worst_direction(np.eye(3), np.ones(3), strength=2.0, n=20, ridge=0.1, **o),
        {"fraction": 0.25, "target": 1, "source": 2},
    ),
    "LinearModel.accuracy": (lambda **o: FOUR.accuracy(key=KEY, **o), {"draws": 50}),
    "LinearModel.attack_success_rate": (lambda **o: FOUR.attack_success_rate(key=KEY, **o), {"draws": 50}),
    "m_success": (lambda **o: kp.m_success(CLEAN, POISON, XX, 0.1, **o), {"law": "fixed-rho"}),
    **{
        name: (
            lambda name=name, **o: getattr(kp, name)(CLEAN, POISON, XX, 0.1, 1e-2, **o),
            {"law": "isolated", "criterion": "relative"},
        )
        for name in ("m_visible", "lag")
    },
    "blind_radius": (lambda **o: kp.blind_radius(CLEAN, POISON, Z, 0.1, 0.01, **o), {"law": "isolated"}),
    "degrees_of_freedom": (lambda **o: kp.degrees_of_freedom(CLEAN, 0.1, key=KEY, **o), {"probes": 4}),
    "tune": (
        lambda **o: kp.tune(RBF, X, Y, 0.1, **o)[:4],
        {"objective": "marginal-likelihood", "starts": 2, "max_iterations": 2, "seed": 1},
    ),
    "sweep": (swept, {"law": "isolated", "memory": 2**28}),
    "Krylov": (
        lambda **o: kp.predict(kp.fit(RBF, X, Y, solver=kp.Krylov(**o)), XX, 0.1),
        {"rank": 5, "max_products": 300, "products": "float64", "memory": 2**28, "seed": 1, "tolerance": 0.001},
    ),
    "ConjugateGradients": (
        lambda **o: kp.predict(kp.fit(RBF, X, Y, solver=kp.ConjugateGradients(**o)), XX, 0.1),
        {"max_iterations": 200, "tolerance": 0.001},
    ),
    # attacks
    "backdoor": (
        lambda **o: attacks.backdoor(
            kp.fit(RBF, IMAGES.reshape(6, -1), np.where(np.arange(6) % 2, 1.0, -1.0)),
            kp.Patch(1, (0, 0)),
            ridge=0.1,
            probes=IMAGES[:1].reshape(1, -1),
            **o,
        ),
        {"target": 1, "fraction": 0.4, "seed": 3, "image_shape": (4, 4, 1)},
    ),
    "bilevel": (
        lambda **o: attacks.bilevel(CLEAN, kp.Poison(Z[None], -1.0, 1), 0.1, probes=XX, target=-1.0, ball=0.5, **o),
        {"steps": 2, "objective": "margin", "norm": "l2"},
    ),
    "bilevel_objective": (
        lambda **o: attacks.bilevel_objective(CLEAN, kp.Poison(Z[None], -1.0, 1), 0.1, probes=XX, target=-1.0, **o)(
            Z[None], np.array([-1.0])
        ),
        {"objective": "error"},
    ),
    "generalisation_attack": (
        lambda **o: attacks.generalisation_attack(CLEAN, 0.1, probes=XX + 0.1, target=Y[:2], ball=0.2, **o),
        {"objective": "margin", "norm": "l2", "passes": 1, "steps": 2, "block": 5},
    ),
    "generalisation_objective": (
        lambda **o: attacks.generalisation_objective(CLEAN, 0.1, probes=XX + 0.1, target=Y[:2], **o)(X + 0.1),
        {"objective": "margin"},
    ),
    "feature_collision": (
        lambda **o: attacks.feature_collision(CLEAN, XX, -1.0, Z, 0.1, ball=0.5, **o),
        {"steps": 2, "norm": "l2", "beta": 0.25},
    ),
    "federate": (
        lambda **o: attacks.federate(CLIENTS, 0.1, attack=attacks.GaussianUpdates(), **o),
        {"rounds": 2, "local_steps": 2, "malicious": [1, 3], "seed": 2},
    ),
    "mean_aggregated": (lambda **o: attacks.mean_aggregated(CLIENTS, 0.1, **o), {"rounds": 3, "local_steps": 2}),
    "flip_labels": (
        lambda **o: attacks.flip_labels(CLEAN, XX, 0.1, **o),
        {"budget": 3, "target": -1, "objective": "margin"},
    ),
    "greedy_bases": (
        lambda **o: attacks.greedy_bases(CLEAN, X + 1, -1.0, 0.1, probes=XX, target=-1.0, **o),
        {"number": 3, "objective": "margin"},
    ),
    "sybil": (
        lambda **o: attacks.sybil(RBF, [X[:3], X[3:6]], [Y[:3], Y[3:6]], POISON, XX, 0.1, **o),
        {"rounds": 4, "local_steps": 2, "target": -1},
    ),
    "GeometricMedian": (lambda **o: attacks.GeometricMedian(**o)(X), {"max_iterations": 500, "tolerance": 0.01}),
    "Bulyan": (lambda **o: attacks.Bulyan(**o)(X), {"byzantine": 1}),
    "Krum": (lambda **o: attacks.Krum(**o)(X), {"byzantine": 2, "selected": 3}),
    "TrimmedMean": (lambda **o: attacks.TrimmedMean(**o)(X), {"trim": 2}),
    # curvature
    **{
        name: (lambda loss, name=name: curvature_of(name, loss), {"loss": "softmax"})
        for name in ("fisher", "gauss_newton", "gradient_covariance", "input_hessian")
    },
    "parameter_hessian": (
        lambda **o: curvature.parameter_hessian(
            networks.LinearSoftmax((2, 1, 1), 3, key=KEY), X[:3].reshape(3, 2, 1, 1), [0, 1, 1], **o
        )(jnp.ones(9)),
        {"loss": "softmax"},
    ),
    "bulk_edge_from_clean": (
        lambda **o: curvature.bulk_edge_from_clean(GRADIENTS, **o),
        {"number": 4, "repeats": 3, "level": 0.75},
    ),
    "bulk_edge_from_permutations": (
        lambda **o: curvature.bulk_edge_from_permutations(GRADIENTS, **o),
        {"repeats": 3, "level": 0.75},
    ),
    "smoothed_rbf_spike": (lambda **o: curvature.smoothed_rbf_spike(1.0, 1.0, 0.1, 0.2, **o), {"dimension": 3}),
    "smoothed_spike": (
        lambda **o: curvature.smoothed_spike(CLEAN, POISON, XX, 0.1, 0.2, **o),
        {"law": "isolated", "samples": 5},
    ),
    "spectral_density": (
        lambda **o: curvature.spectral_density(ROWS, **o),
        {"probes": 3, "depth": 2, "points": 5},
    ),
    "top_eigenpairs": (
        lambda **o: curvature.top_eigenpairs(ROWS, **o),
        {"k": 2, "max_products": 50, "which": "smallest"},
    ),
    "trace": (lambda **o: curvature.trace(ROWS, **o), {"probes": 3}),
    "kernel_ridge": (
        lambda **o: kp.asymptotics.kernel_ridge(RBF, X, Y, None, 8.0, 0.1, poison=POISON, **o).mean(XX),
        {"number": "binomial"},
    ),
    # datasets
    "balanced_subset": (
        lambda **o: datasets.balanced_subset(DIGITS, **o).images,
        {"count": 4, "classes": [1, 3], "seed": 2},
    ),
    "binary_problem": (
        lambda **o: datasets.binary_problem(DIGITS, **o),
        {"count": 4, "classes": [1, 3], "seed": 2},
    ),
    "one_hot": (lambda **o: datasets.one_hot([0, 2], **o), {"classes": 3}),
    # defences
    "AveragedKernel": (
        lambda **o: defences.AveragedKernel(RBF, [jnp.flip], **o)(IMAGES.reshape(6, -1)),
        {"image_shape": (4, 4, 1)},
    ),
    "EnsembleCertificate.certified_accuracy": (
        lambda **o: defences.ensemble_certificate(RBF, X, Y, XX, 0.1, partitions=3).certified_accuracy([1, -1], **o),
        {"flips": 1},
    ),
    "PartitionAggregation.certified_accuracy": (
        lambda **o: defences.partition_aggregation(RBF, X, Y, XX, 0.1, partitions=3).certified_accuracy([1, -1], **o),
        {"radius": 1},
    ),
    "activation_clustering": (
        lambda **o: defences.activation_clustering(FEATURES, LABELS, **o),
        {"dimensions": 3, "reduction": "pca", "largest_share": 0.45, "silhouette": 0.05, "seed": 1},
    ),
    **{
        name: (
            lambda name=name, **o: (
                getattr(defences, name)(RBF, IMAGES.reshape(6, -1), Y[:6], [jnp.flip], **o).posterior.X
            ),
            {"image_shape": (4, 4, 1), "gradient_penalty": 0.0},
        )
        for name in ("augmented_training", "averaged_training")
    },
    "centroid_distance": (lambda **o: defences.centroid_distance(FEATURES, LABELS, **o), {"fraction": 0.3}),
    "draw_transformations": (
        lambda **o: [move(IMAGES[0]) for move in defences.draw_transformations(networks.RandomCrop(1), **o)],
        {"number": 2, "seed": 3},
    ),
    "ensemble_certificate": (
        lambda **o: defences.ensemble_certificate(RBF, X, Y, XX, 0.1, **o),
        {"partitions": 3, "seed": 1},
    ),
    "exclusionary_reclassification": (
        lambda **o: defences.exclusionary_reclassification(CLEAN, np.arange(10) < 4, 0.1, **o),
        {"threshold": 0.5},
    ),
    "input_spectrum": (
        lambda **o: defences.input_spectrum(lambda x: jnp.stack([x[0] ** 2, x @ x]), X, X[::-1] + 0.1, **o),
        {"loss": "softmax", "level": 0.75, "repeats": 3, "seed": 2},
    ),
    "input_projection": (
        lambda **o: defences.input_projection(lambda x: jnp.stack([x[0] ** 2, x @ x]), X, **o)(X),
        {"k": 1, "loss": "softmax"},
    ),
    "input_spectrum_law": (
        lambda **o: defences.input_spectrum_law(CLEAN, POISON, X, np.arange(10) > 6, 0.1, X[::-1] + 0.1, **o),
        {"level": 0.75, "repeats": 3, "seed": 2},
    ),
    "isotropic_visibility": (
        lambda **o: defences.isotropic_visibility(variance=1.0, count=2.0, distance=1.0, **o),
        {"number": 20, "dimension": 3},
    ),
    "leave_one_out": (lambda **o: defences.leave_one_out(CLEAN, 0.1, **o), {"fraction": 0.3}),
    "neighbour_disagreement": (
        lambda **o: defences.neighbour_disagreement(FEATURES, LABELS, **o),
        {"neighbours": 3, "weights": "distance", "threshold": 0.3},
    ),
    "neural_cleanse": (
        lambda **o: defences.neural_cleanse(f, IMAGES.reshape(6, -1), clip=(0, 1), **o),
        {
            "image_shape": (4, 4, 1),
            "steps": 4,
            "patience": 2,
            "seed": 1,
            "classes_at_once": 1,
            "success": 0.9,
            "cost": 0.01,
            "multiplier": 1.5,
            "learning_rate": 0.2,
            "temperature": 0.5,
        },
    ),
    "partition_aggregation": (
        lambda **o: defences.partition_aggregation(RBF, X, Y, XX, 0.1, **o),
        {"partitions": 3, "seed": 1},
    ),
    "partition_of": (lambda **o: defences.partition_of(X, **o), {"partitions": 3, "seed": 1}),
    "pidan": (
        lambda **o: defences.pidan(FEATURES, LABELS, **o),
        {"decision": "index", "index": 0.5, "variance": 0.25, "seed": 1},
    ),
    "predicted_visibility": (
        lambda **o: defences.predicted_visibility(FEATURES, FEATURES[0] + 1, 3.0, **o),
        {"fraction": 0.3, "multiplier": 1.2},
    ),
    "spectral_signatures": (
        lambda **o: defences.spectral_signatures(FEATURES, LABELS, **o),
        {"fraction": 0.3, "multiplier": 1.2},
    ),
    "strip": (
        lambda **o: defences.strip(f, IMAGES[:2], IMAGES[2:], **o),
        {
            "overlays": 3,
            "superposition": "sum",
            "opacity": 0.3,
            "entropy": "votes",
            "temperature": 0.5,
            "seed": 1,
            "false_rejection": 0.1,
            "null": "empirical",
            "points_at_once": 7,
            "clip": (0, 1),
        },
    ),
    # flow
    "LossGradientFlow.predictor": (lambda **o: lossy().predictor(**o)(XX[0]), {"index": 1}),
    "loss_gradient_flow": (
        lambda **o: lossy(**o)(XX),
        {"max_steps": 500, "method": "explicit", "tolerance": 1e-6},
    ),
    "smallest_gradient_penalty": (
        lambda **o: flow.smallest_gradient_penalty(kp.fit(RBF, X[:4], Y[:4]), POISON, XX, 0.1, target=0.9, **o),
        {"measure": "efficacy", "rtol": 1e-3},
    ),
    "tradeoff": (tradeoff, {"modes": 2}),
    # kernels
    **{
        name: (
            lambda name=name, **o: matrix(getattr(kernels, name)(**o)),
            {"hidden_layers": 2, "activation": "tanh"},
        )
        for name in ("NNGP", "NTK")
    },
    **{
        name: (
            lambda name=name, **o: of_images(getattr(kernels, name)(**o)),
            {"hidden_layers": 2, "activation": "erf", "filter_size": 3, "readout": "flatten"},
        )
        for name in ("ConvolutionalNNGP", "ConvolutionalNTK")
    },
    "Polynomial": (lambda **o: matrix(kernels.Polynomial(**o)), {"degree": 3}),
    "Quadrature": (lambda **o: matrix(kernels.NTK(1, kernels.Quadrature(jnp.tanh, **o))), {"nodes": 16}),
    "Custom": (
        lambda **o: matrix(kernels.Custom(lambda x, z: jnp.sum(x * z), **o)),
        {"point_ndim": 1, "smoothness": 2},
    ),
    "Power": (lambda **o: matrix(kernels.Power(RBF, **o)), {"exponent": 3}),
    "Constant": (lambda **o: matrix(kernels.Constant(2.0, **o)), {"point_ndim": 1}),
    "Precomputed": (
        lambda **o: kernels.Precomputed(lambda i, j: jnp.asarray(X @ X.T)[i[:, None], j[None]], **o)(np.arange(4)),
        {"number": 10},
    ),
    "Periodic": (lambda **o: matrix(kernels.Periodic(RBF, 4.0, **o)), {"images": 2}),
    "empirical_ntk": (
        lambda **o: matrix(kernels.empirical_ntk(lambda theta, X: jnp.tanh(X @ theta), jnp.ones((2, 1)), **o)),
        {"point_ndim": 1, "smoothness": 2, "memory": 2**28},
    ),
    "from_stax": (stax, {"get": "nngp", "point_ndim": 1, "smoothness": 2, "memory": 2**28}),
    # networks
    "Architecture": (
        lambda **o: crossed(networks.Architecture(**o)),
        {"width": 3, "hidden_layers": 2, "activation": "erf", "rounding": 0.1},
    ),
    "Architecture.initialise": (
        lambda **o: networks.Architecture(3).initialise(KEY, **o).parameters,
        {"inputs": 2, "outputs": 3},
    ),
    "Architecture.matching": (
        lambda **o: crossed(networks.Architecture.matching(kernels.NTK(1), **o)),
        {"width": 3, "rounding": 0.1},
    ),
    "ConvolutionalArchitecture": (
        lambda **o: crossed(networks.ConvolutionalArchitecture(**o), (4, 4, 1)),
        {"width": 3, "hidden_layers": 2, "activation": "erf", "rounding": 0.1, "filter_size": 3, "readout": "pool"},
    ),
    "ConvolutionalArchitecture.initialise": (
        lambda **o: networks.ConvolutionalArchitecture(3).initialise(KEY, **o).parameters,
        {"inputs": (4, 4, 1), "outputs": 3},
    ),
    "ConvolutionalArchitecture.matching": (
        lambda **o: crossed(networks.ConvolutionalArchitecture.matching(kernels.ConvolutionalNTK(1), **o), (4, 4, 1)),
        {"width": 3, "rounding": 0.1},
    ),
    "MLP": (
        lambda **o: drawn(networks.MLP(key=KEY, **o)),
        {"image_shape": (4, 4, 1), "classes": 3, "width": 4, "hidden_layers": 2, "parameterisation": "ntk"},
    ),
    "LinearSoftmax": (
        lambda **o: drawn(networks.LinearSoftmax(key=KEY, **o)),
        {"image_shape": (4, 4, 1), "classes": 3, "parameterisation": "ntk"},
    ),
    "StochasticPoison": (
        lambda **o: networks.StochasticPoison(lambda image: image + 1, **o)(jnp.ones((2, 2, 1)), jnp.asarray(0), KEY),
        {"target": 1, "probability": 0.5},
    ),
    "LeNet": (
        lambda **o: drawn(networks.LeNet(key=KEY, **o)),
        {"image_shape": (4, 4, 1), "classes": 3, "width": 2, "parameterisation": "ntk"},
    ),
    "ResNet": (
        lambda **o: drawn(networks.ResNet(key=KEY, **o)),
        {
            "image_shape": (4, 4, 1),
            "classes": 3,
            "width": 2,
            "blocks": 1,
            "preactivation": True,
            "parameterisation": "ntk",
            "normalisation": "group",
        },
    ),
    "RandomCrop": (lambda **o: augmented(networks.RandomCrop(**o)), {"padding": 2, "fill": 0.25}),
    "CutOut": (lambda **o: augmented(networks.CutOut(**o)), {"size": 2, "fill": 0.25}),
    "HorizontalFlip": (lambda **o: augmented(networks.HorizontalFlip(**o)), {"probability": 0.3}),
    "ColourJitter": (
        lambda **o: augmented(networks.ColourJitter(**o)),
        {"brightness": 0.1, "contrast": 0.3, "saturation": 0.4},
    ),
    "SGD": (
        lambda **o: trained(epochs=1, batch_size=3, optimiser=networks.SGD(**o)),
        {"learning_rate": 0.2, "momentum": 0.3, "weight_decay": 0.01},
    ),
    "Training": (
        lambda **o: ensemble(networks.ensemble, training=networks.Training(**o)),
        {"max_steps": 300, "memory": 5, "tolerance": 1e-5},
    ),
    "Integration": (
        lambda **o: ensemble(networks.flow_ensemble, times=np.array([0.1]), integration=networks.Integration(**o)),
        {"max_steps": 300, "tolerance": 1e-4},
    ),
    "ensemble": (lambda **o: ensemble(networks.ensemble, **o), {"reference": "clean", "batch_size": 1}),
    "flow_ensemble": (
        lambda **o: ensemble(networks.flow_ensemble, times=np.array([0.1]), **o),
        {"reference": "clean", "batch_size": 1},
    ),
    "train_pair": (
        lambda **o: (
            networks.train_pair(
                networks.Architecture(4, activation="erf").initialise(KEY, 2), X[:3], Y[:3], POISON, 0.1, **o
            )[1].steps
        ),
        {"reference": "clean"},
    ),
    "train_classifier": (trained, {"epochs": 2, "batch_size": 3, "seed": 1, "measure_at": [0, 2]}),
    "train_classifiers": (
        lambda seeds: several(seeds).runs[0].loss,
        {"seeds": 1},
    ),
    "width_errors": (
        lambda seeds: (
            networks.width_errors(
                [networks.Architecture(w, activation="erf") for w in (2, 3)],
                KEY,
                seeds,
                *problem(),
                laws={"clean": np.zeros(2)},
            )["clean"].rmse
        ),
        {"seeds": 2},
    ),
    "SGD.__call__": (lambda **o: len(networks.SGD()(**o)), {"steps": 7}),
    "WidthErrors.power_law": (
        lambda **o: dataclasses.astuple(
            networks.WidthErrors(np.array([1.0, 2.0, 4.0]), *[np.array([4.0, 2.0, 1.1])] * 4).power_law(**o)
        ),
        {"confidence": 0.9},
    ),
    "fit_power_law": (
        lambda **o: dataclasses.astuple(networks.fit_power_law([1, 2, 4], [4.0, 2.0, 1.1], [0.1, 0.1, 0.1], **o)),
        {"confidence": 0.9},
    ),
    # plotting
    "draw_image": (
        lambda **o: drawing(plotting.draw_image, np.arange(16.0), **o),
        {"image_shape": (4, 4, 1)},
    ),
    "draw_spectrum": (
        lambda **o: drawing(plotting.draw_spectrum, [3.0, 2.0, 1.0], label="a", **o),
        {"index": 1},
    ),
}


def several(seeds):
    options = {"epochs": 1, "batch_size": 3, "progress": False, "measure": lambda model, step: {"a": 1.0}}
    return networks.train_classifiers(
        lambda key: networks.LinearSoftmax((4, 4, 1), 2, key=key), IMAGES, np.arange(6) % 2, seeds=seeds, **options
    )


def problem():
    return X[:3], Y[:3], POISON, 0.1, XX


def curvature_of(name, loss):
    def two(x):
        return jnp.stack([jnp.sin(x[0]), x @ x])

    targets = [np.array([0, 1, 1])] if name in ("gradient_covariance", "input_hessian") else []
    return getattr(curvature, name)(two, X[:3], *targets, loss=loss)(jnp.ones(2))


def lossy(**options):
    clean = kp.fit(RBF, X[:3], Y[:3], gradient_penalty=0.1)
    return flow.loss_gradient_flow(clean, 0.1, np.array([0.1, 0.2]), **options)


SLOW = {
    "input_spectrum", "kernel_ridge", "best_ridge", "best_training_strength", "needed_poison_fraction",
    "convex_regression",
    "tune",
    "Integration", "LossGradientFlow.predictor", "SGD", "Training", "bilevel", "ensemble", "feature_collision",
    "flow_ensemble", "from_stax", "input_spectrum_law", "loss_gradient_flow", "smallest_gradient_penalty", "sweep",
    "train_classifier", "train_classifiers", "train_pair", "tradeoff", "width_errors", "neural_cleanse", "ResNet",
    "Krylov", "LeNet", "MLP", "activation_clustering", "GeometricMedian", "strip", "bilevel_objective",
    "generalisation_attack", "generalisation_objective", "Bulyan", "Krum", "fisher",
    "ConvolutionalNTK", "ConvolutionalNNGP", "averaged_training", "input_hessian", "sybil", "input_projection",
    "gauss_newton", "bulk_edge_from_clean", "Warp", "backdoor", "spectral_density",
}  # fmt: skip

# Options that no table is needed for: files and their names, and results, which only kpoison makes.


def public():
    """Every function, class and method that anybody may call, by name."""
    found = {}
    rooms = [getattr(kp, name) for name in kp.__all__ if inspect.ismodule(getattr(kp, name))]
    for room in [kp, *rooms]:
        for name in getattr(room, "__all__", ()):
            thing = getattr(room, name)
            if not callable(thing) or not getattr(thing, "__module__", "").startswith("kpoison"):
                continue
            found[name] = thing
            if inspect.isclass(thing):
                methods = {m for m in vars(thing) if not m.startswith("_") or m == "__call__"}
                found |= {f"{name}.{m}": getattr(thing, m) for m in methods if callable(getattr(thing, m))}
    return found
