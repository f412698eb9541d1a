"""The defences of the matrix by name: what each leaves of an attack, how well it detects, and what the laws predict."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from kpoison import defences
from kpoison._validation import exact_fraction
from kpoison.curvature import input_gradients
from kpoison.defences import DefendedTraining, Detection
from kpoison.defences._strip import strip as run_strip
from kpoison.defences.detection import tie_threshold
from kpoison.laws import predict, predictor
from kpoison.matrix.defended import NAN, TRAINING_OPTIONS, Defended, Outcome
from kpoison.matrix.refit import Case, classes_of_outputs, defended_predictions, solve
from kpoison.poison import Poison
from kpoison.ridge import Cholesky, fit

__all__ = ["DEFENCES", "DEFENCE_OPTIONS", "leading_direction", "spectrum_probes"]

_TEMPERATURE = 0.2  # makes logits of ridge scores: labels are ±1, or 0 and 1
_OVERLAYS = 20
_CLEANSE_IMAGES, _CLEANSE_STEPS = 50, 100
_FEWEST_CLASSES = 3  # for an anomaly index that says anything
_GRADIENTS, _ATTACKED_SHARE = 450, 0.1
_CLEAN_PROBES = 90
_RESAMPLES = 200
_PROJECTED, _PROJECTED_ROWS = 3, 2000
_PARTITIONS = 20
_SIGNATURES = {"fraction": 0.05, "multiplier": 1.5}  # the paper's

DEFENCE_OPTIONS = {
    "strip": {"overlays": _OVERLAYS, "temperature": _TEMPERATURE},
    "neural-cleanse": {"images": _CLEANSE_IMAGES, "steps": _CLEANSE_STEPS, "temperature": _TEMPERATURE},
    "input-spectrum": {
        "clean_probes": _CLEAN_PROBES,
        "most_gradients": _GRADIENTS,
        "attacked_share": _ATTACKED_SHARE,
        "resamples": _RESAMPLES,
    },
    "input-projection and projected-training": {"eigenvectors": _PROJECTED, "most_gradients": _PROJECTED_ROWS},
    "partition-aggregation": {"partitions": _PARTITIONS},
    "spectral-signatures": _SIGNATURES,
    **TRAINING_OPTIONS,
}
"""What was chosen for the defences, where it is not their default; it determines the numbers."""


def _predicted_success(case: Case, outputs: Any) -> float:
    """From outputs at the victims, of which there may be more."""
    given = np.asarray(outputs)[: len(case.attack.victims)]
    return case.success(classes_of_outputs(given.reshape(len(given), -1)))


def _success_by_law(case: Case, left: Bool[np.ndarray, " p"] | None = None) -> float:
    """Success without defence; or where so many of the poisons, and all clean points, are left."""
    problem, attack, ridge = case.problem, case.attack, case.problem.settings.ridge
    poison = attack.poison
    if poison is None:
        efficacy = np.asarray(attack.data.efficacy)
        clean = np.asarray(predict(problem.clean, case.victims, ridge))[: len(efficacy)]
        return _predicted_success(case, clean + efficacy)
    if left is not None:
        points = np.flatnonzero(case.is_poison)
        poison = Poison(attack.data.X[points], attack.data.y[points], left.astype(float))
    return _predicted_success(case, predict(problem.clean, case.victims, ridge, poison))


def none(case: Case, _: Defended) -> Outcome:
    """No defence: the poisoned predictor."""
    found = case.undefended
    return Outcome(
        case.success(found.victims),
        case.accuracy(found.test),
        predicted_success=_success_by_law(case),
        assumes="nothing: the predictor is trained on what it is given",
    )


def _removing(case: Case, detection: Detection) -> Outcome:
    """Train again without the suspected points."""
    left = case.refitted(~np.asarray(detection.suspected))
    return Outcome(
        case.success(left.victims),
        case.accuracy(left.test),
        *detection.rates(case.is_poison),
        assumes=detection.assumes,
    )


def nearest_neighbours(case: Case, _: Defended) -> Outcome:
    """Remove points that most of their nearest neighbours disagree with."""
    return _removing(case, defences.neighbour_disagreement(case.features, case.labels))


def centroid(case: Case, _: Defended) -> Outcome:
    """Remove the points of each class that lie furthest from its mean."""
    return _removing(case, defences.centroid_distance(case.features, case.labels))


def leave_one_out(case: Case, _: Defended) -> Outcome:
    """Remove points whose label the others do not predict."""
    data = case.attack.data
    posterior = fit(case.problem.kernel, data.X, data.y, solver=Cholesky())
    return _removing(case, defences.leave_one_out(posterior, case.problem.settings.ridge))


def spectral_signatures(case: Case, _: Defended) -> Outcome:
    """Remove what lies far along the leading direction of its class.

    Predicted from the spectrum of the clean points of the target class; the AUROC is that within this class.  The
    success predicted is that of the law with the poisons that are predicted to stay, and all clean points.
    """
    found = _removing(case, defences.spectral_signatures(case.features, case.labels, **_SIGNATURES))
    if case.attack.target is None:
        return found
    members = case.labels == case.attack.target
    law = defences.predicted_visibility(
        case.features[members & ~case.is_poison], case.features[members & case.is_poison], **_SIGNATURES
    )
    scores = np.asarray(law.poison_scores)
    share = exact_fraction(_SIGNATURES["multiplier"]) * exact_fraction(_SIGNATURES["fraction"])
    threshold = tie_threshold(np.concatenate([np.asarray(law.clean_scores), scores]), share, squares=True)
    within = defences.spectral_signatures(case.features[members], case.labels[members], **_SIGNATURES)
    return found._replace(
        auroc=within.rates(case.is_poison[members]).auroc,
        predicted_success=_success_by_law(case, scores <= threshold),
        predicted_auroc=float(law.auroc),
        predicted_visible=float(law.visible),
    )


def _clustered(case: Case) -> Detection:
    from threadpoolctl import threadpool_limits

    # Threads that wait for each other cost more than so few points.
    with threadpool_limits(1):
        return defences.activation_clustering(case.features, case.labels, seed=case.problem.seed)


def activation_clustering(case: Case, _: Defended) -> Outcome:
    """Remove the smaller of two clusters of a class, if the split is real."""
    return _removing(case, _clustered(case))


def exclusionary_reclassification(case: Case, _: Defended) -> Outcome:
    """Of such clusters remove those that the predictor trained without them puts in another class."""
    data = case.attack.data
    posterior = fit(case.problem.kernel, data.X, data.y, solver=Cholesky())
    suspected = np.asarray(_clustered(case).suspected)
    return _removing(case, defences.exclusionary_reclassification(posterior, suspected, case.problem.settings.ridge))


def pidan(case: Case, _: Defended) -> Outcome:
    """Remove the smaller group of a class by coherent weights."""
    return _removing(case, defences.pidan(case.features, case.labels, seed=case.problem.seed))


def _rejecting(case: Case, scores: np.ndarray, suspected: np.ndarray, assumes: str, **predicted: float) -> Outcome:
    """Judge test images, after them victims, each on its own; what is suspected is not answered.

    Where victims are the test images themselves there are no rates.
    """
    number, found = len(case.problem.test), case.undefended
    is_victim = np.arange(len(scores)) >= number
    rates = Detection(scores, suspected, np.zeros(()), assumes).rates(is_victim)
    return Outcome(
        case.success(found.victims, ~suspected[number:]),
        case.accuracy(found.test, ~suspected[:number]),
        *((NAN, NAN, NAN) if case.attack.target is None else rates),
        assumes=assumes,
        **predicted,
    )


def strip(case: Case, _: Defended) -> Outcome:
    """Reject inputs of which the prediction outlasts other images laid over them."""
    found = run_strip(
        case.at_points(),
        case.inputs[: len(case.problem.test) + len(case.attack.victims)],
        case.problem.reference,
        overlays=_OVERLAYS,
        temperature=_TEMPERATURE,
        seed=case.problem.seed,
    )
    return _rejecting(case, np.asarray(found.scores), np.asarray(found.suspected), found.assumes)


def neural_cleanse(case: Case, _: Defended) -> Outcome:
    """Do not answer with a class that a small patch leads to; rates are those over classes.

    The score of a class is its mask's norm, the smaller the more suspicious.  With two classes nothing is suspected and
    there are no rates: one of two norms is the smaller without any attack.  The search is in single precision.
    """
    f, images = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32), (case.at_points(), case.problem.reference[:_CLEANSE_IMAGES])
    )
    found = defences.neural_cleanse(
        f,
        images,
        image_shape=case.problem.image_shape,
        clip=(0, 1),
        steps=_CLEANSE_STEPS,
        temperature=_TEMPERATURE,
        seed=case.problem.seed,
    )
    suspected = np.asarray(found.suspected)
    plain = case.undefended
    outcome = Outcome(
        case.success(plain.victims, ~suspected[plain.victims]),
        case.accuracy(plain.test, ~suspected[plain.test]),
        assumes=found.assumes,
    )
    if case.attack.target is None or len(suspected) < _FEWEST_CLASSES:
        return outcome
    norms = np.asarray(found.norms, float)
    scores = -np.where(np.isfinite(norms), norms, norms.size * case.problem.X.shape[1])
    rates = Detection(scores, suspected, np.zeros(()), found.assumes).rates(np.arange(len(norms)) == case.attack.target)
    return outcome._replace(**rates._asdict())


def spectrum_probes(case: Case) -> tuple[Float[Array, "p D"], Bool[np.ndarray, " p"]]:
    """Clean test images, and as many victims, one after the other, as make a tenth of all; which these are."""
    clean = case.problem.test[: min(_CLEAN_PROBES, _GRADIENTS // case.targets.shape[1])]
    number = max(1, round(len(clean) * _ATTACKED_SHARE / (1 - _ATTACKED_SHARE)))
    victims = case.attack.victims[np.arange(number) % len(case.attack.victims)]
    return jnp.concatenate([clean, victims]), np.arange(len(clean) + number) >= len(clean)


@eqx.filter_jit
def _along(gradients: Float[Array, "q C D"], direction: Float[Array, " D"]) -> Float[Array, " q"]:
    return jnp.sum((gradients @ direction) ** 2, axis=1)


def input_spectrum(case: Case, _: Defended) -> Outcome:
    """Reject inputs of which the gradient points along an eigenvector outside the bulk of the input spectrum.

    The eigenvector is that of probes of which a tenth are victims; then all are judged by it.
    """
    problem, attack = case.problem, case.attack
    probes, attacked = spectrum_probes(case)
    f = case.at_point()
    options: dict[str, Any] = {"repeats": _RESAMPLES, "seed": problem.seed}
    found = defences.input_spectrum(f, probes, problem.reference, **options)
    number = len(problem.test) + len(attack.victims)
    scores = np.zeros(number)
    if bool(found.visibility.visible):
        gradients = input_gradients(f, case.inputs).reshape(len(case.inputs), -1, case.inputs.shape[1])
        scores = np.asarray(_along(gradients, found.direction))[:number]
    predicted = {}
    if attack.poison is not None:
        law = defences.input_spectrum_law(
            problem.clean, attack.poison, probes, attacked, problem.settings.ridge, problem.reference, **options
        )
        predicted = {"predicted_visible": float(law.visible)}
        if not law.visible:
            predicted |= {"predicted_success": _success_by_law(case), "predicted_auroc": 0.5}
    return _rejecting(case, scores, scores > float(found.threshold), found.assumes, **predicted)


def leading_direction(case: Case) -> Float[np.ndarray, " D"]:
    """The leading eigenvector of the input-gradient covariance at the probes of `input_spectrum`."""
    probes, _ = spectrum_probes(case)
    gradients = np.asarray(input_gradients(case.at_point(), probes)).reshape(-1, probes.shape[1])
    return np.linalg.svd(gradients, full_matrices=False)[2][0]


def _projection(case: Case, f: Callable[[Array], Array]) -> defences.InputProjection:
    """Off the leading eigenvectors of a predictor's input Fisher matrix over the training set, which the defender has.

    Of a large training set a part is drawn, the same for the measured and the predicted predictor.
    """
    X = case.attack.data.X
    number = min(len(X), _PROJECTED_ROWS // case.targets.shape[1])
    drawn = np.random.default_rng((case.problem.seed, 3)).permutation(len(X))[:number]
    return defences.input_projection(f, X[drawn], _PROJECTED, centre=jnp.mean(X, axis=0))


def _projection_by_law(case: Case) -> defences.InputProjection:
    """The same of the clean predictor and the law of the poison."""
    return _projection(case, predictor(case.problem.clean, case.problem.settings.ridge, case.attack.poison))


def input_projection(case: Case, _: Defended) -> Outcome:
    """Show the predictor its inputs without their components along the leading eigenvectors; nothing is trained.

    A remedy of arXiv 2505.15175, here with the components of the mean in their place.
    """
    problem, attack = case.problem, case.attack
    projection = _projection(case, case.at_point())
    inputs = projection(case.inputs)
    found = case.on_parts(np.asarray(case.at_points()(inputs)).reshape(len(inputs), -1))
    predicted = NAN
    if attack.poison is not None:
        victims = _projection_by_law(case)(case.victims)
        predicted = _predicted_success(case, predict(problem.clean, victims, problem.settings.ridge, attack.poison))
    return Outcome(
        case.success(found.victims),
        case.accuracy(found.test),
        predicted_success=predicted,
        assumes="the leading eigenvectors of the input curvature hold the trigger and not the classes",
    )


def projected_training(case: Case, _: Defended) -> Outcome:
    """Train again on such projected inputs, and show the new predictor no others."""
    problem, attack, ridge = case.problem, case.attack, case.problem.settings.ridge
    projection = _projection(case, case.at_point())
    X, inputs = projection(attack.data.X), projection(case.inputs)
    weights = solve(np.asarray(problem.kernel(X)), ridge * len(X), case.targets)
    found = case.on_parts(np.asarray(problem.kernel(inputs, X)) @ weights)
    predicted = NAN
    if attack.poison is not None:
        projection, poison = _projection_by_law(case), attack.poison
        clean = fit(problem.kernel, projection(problem.X), problem.clean.y, solver=Cholesky())
        poison = Poison(projection(poison.location), poison.label, poison.count)
        predicted = _predicted_success(case, predict(clean, projection(case.victims), ridge, poison))
    return Outcome(
        case.success(found.victims),
        case.accuracy(found.test),
        predicted_success=predicted,
        assumes="the leading eigenvectors of the input curvature hold the trigger; what they hold of the classes is "
        "found elsewhere",
    )


def partition_aggregation(case: Case, _: Defended) -> Outcome:
    """Let predictors of hashed parts of the data vote; the votes of the poisoned parts are predicted by the law."""
    problem, attack = case.problem, case.attack
    own = defences.partition_of(attack.data.X, _PARTITIONS, problem.seed)
    votes = np.zeros((len(case.cross), problem.classes), int)
    for k in range(_PARTITIONS):
        votes[np.arange(len(votes)), classes_of_outputs(case.outputs(own == k))] += 1
    chosen, number = np.argmax(votes, axis=1), len(problem.test)
    predicted = NAN
    if attack.poison is not None:
        law = defences.partition_aggregation(
            problem.kernel,
            problem.X,
            problem.targets(problem.labels),
            case.victims,
            problem.settings.ridge,
            partitions=_PARTITIONS,
            poison=attack.poison,
            seed=problem.seed,
        )
        predicted = case.success(np.argmax(law.votes, axis=1)[: len(attack.victims)])
    return Outcome(
        case.success(chosen[number:]),
        case.accuracy(chosen[:number]),
        predicted_success=predicted,
        assumes=_PARTITION_ASSUMES,
    )


_PARTITION_ASSUMES = defences.PartitionAggregation.__dataclass_fields__["assumes"].default


def _by_training(case: Case, defended: DefendedTraining, to_test: np.ndarray) -> Outcome:
    """A defended training of the attacked data, and what the law says of it from that of the clean points (T1, L7)."""
    attack, found = case.attack, defended_predictions(case, defended, to_test)
    predicted = NAN
    if attack.poison is not None:
        places, labels, counts = attack.poison.observations(attack.victims.shape[1:], case.targets.shape[1], float)
        locations, labels = defended.copies(places, labels)
        poison = Poison(locations, labels, jnp.tile(counts, len(locations) // len(places)))
        outputs = predict(defended.posterior, case.victims, case.problem.settings.ridge, poison)
        predicted = _predicted_success(case, outputs)
    return Outcome(
        case.success(found.victims), case.accuracy(found.test), predicted_success=predicted, assumes=defended.assumes
    )


def gradient_penalty(case: Case, defended: Defended) -> Outcome:
    """Train with a penalty on slopes along the leading principal components."""
    training = defended.penalised
    if training is None:
        return Outcome(NAN, NAN, assumes="a kernel that is twice differentiable, which this is not")
    return _by_training(case, training, defended.penalised_test)


def augmentation(case: Case, defended: Defended) -> Outcome:
    """Train with two copies of every image, shifted by a pixel to the left and to the right."""
    return _by_training(case, defended.augmented, defended.augmented_test)


DEFENCES: dict[str, Callable[[Case, Defended], Outcome]] = {
    "none": none,
    "nearest-neighbours": nearest_neighbours,
    "centroid": centroid,
    "leave-one-out": leave_one_out,
    "spectral-signatures": spectral_signatures,
    "activation-clustering": activation_clustering,
    "exclusionary-reclassification": exclusionary_reclassification,
    "pidan": pidan,
    "strip": strip,
    "neural-cleanse": neural_cleanse,
    "input-spectrum": input_spectrum,
    "input-projection": input_projection,
    "projected-training": projected_training,
    "partition-aggregation": partition_aggregation,
    "gradient-penalty": gradient_penalty,
    "augmentation": augmentation,
}
"""Every defence, by the name that `--defences` takes."""
