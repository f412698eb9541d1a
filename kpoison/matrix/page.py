"""The matrix of attacks and defences as one HTML page that needs nothing else."""

import io
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from kpoison._reports import (
    Part,
    cell,
    check_folder,
    escaped,
    figure,
    heading,
    listed,
    marked,
    report,
    small,
    table,
    write_whole,
)
from kpoison._validation import check_positive
from kpoison._version import __version__
from kpoison.matrix.judgement import CHANCE, QUANTITIES, Judgement, judge, measured_text, seed_values, worst
from kpoison.statistics import Agreement

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["write_page"]

_PICTURES = {
    "victim": "victim, as it comes at test time",
    "poison": "poison",
    "difference": "what the attacker changed",
    "eigenvector": "top eigenvector of the input curvature",
}
_SIGNED = ("difference", "eigenvector")


def write_page(result: "xr.Dataset", path: str | Path, *, tolerance: float = 0.1) -> Path:
    """Write the matrix as one self-contained HTML file, which appears as a whole or not at all.

    Args:
        result: float variables success, clean_accuracy, true_positive, false_positive, auroc, predicted_success,
            predicted_auroc and predicted_visible (1 visible, 0 blind) over attack, defence and seed, NaN where a number
            has no meaning, any but success may be missing; `picture` over attack, kind, height, width and perhaps
            channels, with kinds of "victim", "poison", "difference" and "eigenvector"; attributes as text, of which
            `assumes` is JSON {defence: text} and `arguments` may be JSON.
        path: of the file, in a folder that exists.
        tolerance: of predictions, see `judge`.

    Returns:
        The path.

    Raises:
        FileNotFoundError: where the folder does not exist.
        ValueError: for a result that does not hold what is described here.
    """
    check_folder(path)
    check_positive("tolerance", tolerance)
    _check(result)
    return write_whole(path, _page(result, tolerance))


def _check(result: "xr.Dataset") -> None:
    missing = [dim for dim in ("attack", "defence", "seed") if dim not in result.coords]
    if missing:
        raise ValueError(f"result must have coordinates attack, defence and seed, got none of {', '.join(missing)}")
    if "success" not in result:
        raise ValueError(f"result must hold success, got {', '.join(map(str, result.data_vars)) or 'nothing'}")
    for name in {*QUANTITIES, "predicted_success", "predicted_auroc", "predicted_visible"} & set(result.data_vars):
        if set(result[name].dims) != {"attack", "defence", "seed"}:
            found = ", ".join(map(str, result[name].dims))
            raise ValueError(f"result must hold {name} over attack, defence, seed, got {found or 'no dimension'}")
    for dim in ("attack", "defence"):
        if not result.indexes[dim].is_unique:
            raise ValueError(f"result must name every {dim} once, got {', '.join(map(str, result[dim].values))}")
    _assumptions(result)


def _assumptions(result: "xr.Dataset") -> dict[str, str]:
    text = result.attrs.get("assumes", "{}")
    try:
        assumes = json.loads(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the attribute assumes of result must be JSON, got {text!r}: {error}") from None
    if not isinstance(assumes, dict):
        raise ValueError(f"the attribute assumes of result must be JSON {{defence: text}}, got {text!r}")
    return {str(name): str(words) for name, words in assumes.items()}


def _names(result: "xr.Dataset", dim: str) -> list[str]:
    return [str(name) for name in result[dim].values]


def _page(result: "xr.Dataset", tolerance: float) -> str:
    judged = {
        (attack, defence): judge(result, attack, defence, tolerance=tolerance)
        for attack in _names(result, "attack")
        for defence in _names(result, "defence")
    }
    parts = [
        Part("Success, detection and accuracy", _heat_maps(result), "measured"),
        Part("Do the predictions agree with the measurement?", _agreement(result, judged, tolerance), "predictions"),
        Part("Defence by defence", _defences(result, judged), "defences"),
        *([Part("Pictures of the attacks", _gallery(result), "pictures")] if "picture" in result else []),
    ]
    title = str(result.attrs.get("title", "Every attack against every defence"))
    return report(title, _lead(result), parts, _what_was_run(result))


def _lead(result: "xr.Dataset") -> str:
    """What was attacked, in a line; nothing where the result does not say."""
    try:
        told = json.loads(result.attrs["arguments"])
        images = f"{told['data']}, classes {', '.join(map(str, told['classes']))}"
        numbers = f"{told['train']} training images, {told['budget']} poisons, ridge {told['ridge']:g}"
    except (KeyError, TypeError, ValueError):
        return ""
    seeds = result.sizes["seed"]
    text = f"{images}; kernel {told.get('kernel')}; {numbers}; {seeds} seed{'s' if seeds > 1 else ''}."
    return f"<p>{escaped(text)}</p>"


def _what_was_run(result: "xr.Dataset") -> list[tuple[str, str]]:
    import matplotlib
    import xarray as xr

    rows = [
        ("attacks", ", ".join(_names(result, "attack"))),
        ("defences", ", ".join(_names(result, "defence"))),
        ("seeds", ", ".join(_names(result, "seed"))),
    ]
    for name, value in result.attrs.items():
        if name not in ("title", "assumes"):
            rows += _attribute(str(name), value)
    rows.append(
        (
            "page made by",
            f"kpoison {__version__}, JAX {jax.__version__}, NumPy {np.__version__}, xarray {xr.__version__}, "
            f"Matplotlib {matplotlib.__version__}, Python {platform.python_version()}",
        )
    )
    return rows


def _attribute(name: str, value: object) -> list[tuple[str, str]]:
    """As it is; what is a JSON object as one line for each of its names."""
    try:
        content = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        content = value
    if isinstance(content, Mapping):
        return [(name, listed(content))]
    return [(name, str(value))]


def _heat_maps(result: "xr.Dataset") -> str:
    from kpoison.plotting._style import style
    from kpoison.plotting.matrix import attack_defence_matrix

    captions = {
        "success": "How often the attack reaches its goal with the defence in place: low is a good defence.",
        "auroc": "The probability that the defence finds a poison more suspicious than a clean point: 0.5 is "
        "blindness, 1 is certain detection.",
        "clean_accuracy": "What is left of the accuracy on clean test inputs. Its colours begin below the least of all "
        "cells, not at 0.",
    }
    parts = []
    for quantity, caption in captions.items():
        if quantity not in result or not np.isfinite(result[quantity].values).any():
            parts.append(f"<p>Not measured: {QUANTITIES[quantity]}.</p>")
            continue
        with style():
            drawn = attack_defence_matrix(result, quantity).figure
            picture = _png(drawn.get_figure(root=True), dpi=160)  # pyright: ignore[reportArgumentType]
        alt = f"{QUANTITIES[quantity]} of every attack against every defence; the numbers are in the tables below"
        parts.append(figure(picture, alt, caption))
    return "".join(parts)


def _png(figure: "Figure", dpi: int) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


Judged = Mapping[tuple[str, str], Sequence[Judgement]]


def _agreement(result: "xr.Dataset", judged: Judged, tolerance: float) -> str:
    """Which predictions hold: in one sentence, one for each attack, and a table of verdicts."""
    attacks, defences = _names(result, "attack"), _names(result, "defence")
    verdicts = {pair: worst(judgements) for pair, judgements in judged.items()}
    made = [verdict for verdict in verdicts.values() if verdict is not None]
    counts = ", ".join(f"{made.count(verdict)} × {marked(verdict)}" for verdict in Agreement)
    summary = (
        f"<p>Of {len(verdicts)} pairs {len(made)} have a prediction: {counts}.</p>"
        if made
        else "<p>No pair has a prediction.</p>"
    )
    sentences = "".join(
        f"<li>{escaped(attack)}: {_sentence({d: verdicts[attack, d] for d in defences})}</li>" for attack in attacks
    )
    rows = ([heading(attack), *(cell(_verdict(verdicts[attack, d])) for d in defences)] for attack in attacks)
    verdict_table = table(("", *defences), rows, "verdicts")
    return f"{summary}<ul>{sentences}</ul>{verdict_table}" + small(
        "Intervals are Student's t over seeds at 95 %; of numbers that are equal with every seed the interval has "
        "no width. A predicted success or AUROC agrees where the whole interval of measured − predicted, paired by "
        f"seed, lies within ± {tolerance:g}, disagrees where all of it lies outside, and is undecided otherwise; "
        "with one seed the difference itself is judged. A predicted blind spot agrees with a seed where the AUROC "
        f"is at most {CHANCE + tolerance:g}, a predicted visibility where it is above; the verdict is undecided "
        "where seeds differ. Of several predictions for a pair the table shows the worst verdict, – where there is "
        "none."
    )


def _verdict(found: Agreement | None) -> str:
    return "–" if found is None else marked(found)


def _sentence(verdicts: Mapping[str, Agreement | None]) -> str:
    """Of one attack: with which defences the predictions agree, and with which they do not."""
    made = [verdict for verdict in verdicts.values() if verdict is not None]
    if not made:
        return "no prediction."
    if set(made) == {Agreement.AGREES}:
        which = f"all {len(made)} defences that have one" if len(made) > 1 else "the one defence that has one"
        return f"the prediction {marked(Agreement.AGREES)} for {which}."
    parts = [f"the prediction {marked(Agreement.AGREES)} for {made.count(Agreement.AGREES)} of {len(made)} defences"]
    for verdict in (Agreement.DISAGREES, Agreement.UNDECIDED):
        names = [defence for defence, found in verdicts.items() if found is verdict]
        if names:
            link = "is " if verdict is Agreement.UNDECIDED else ""
            parts.append(f"{link}{marked(verdict)} for {escaped(', '.join(names))}")
    return f"{'; '.join(parts)}."


def _defences(result: "xr.Dataset", judged: Judged) -> str:
    """A table for each defence: what it assumes, what was measured, and the statements on its predictions."""
    assumes = _assumptions(result)
    shown = [name for name in QUANTITIES if name in result]
    head = ("attack", *(QUANTITIES[name] for name in shown), "prediction and measurement")
    parts = []
    for defence in _names(result, "defence"):
        rows = (
            [
                heading(attack),
                *(cell(_number(result, attack, defence, name), "number") for name in shown),
                cell(_statements(judged[attack, defence]), "wide"),
            ]
            for attack in _names(result, "attack")
        )
        assumed = escaped(assumes.get(defence, "not stated"))
        parts.append(f"<h3>{escaped(defence)}</h3><p>Assumes: {assumed}</p>{table(head, rows)}")
    told = "Mean over seeds ± half the width of its 95 % t-interval; – where a number has no meaning."
    return small(told) + "".join(parts)


def _number(result: "xr.Dataset", attack: str, defence: str, name: str) -> str:
    return escaped(measured_text(seed_values(result.sel(attack=attack, defence=defence), name)))


def _statements(judgements: Sequence[Judgement]) -> str:
    if not judgements:
        return "no prediction"
    return "<br>".join(
        escaped(judgement.statement).replace(f": {judgement.agreement} (", f": {marked(judgement.agreement)} (")
        for judgement in judgements
    )


def _gallery(result: "xr.Dataset") -> str:
    parts = []
    for attack in _names(result, "attack"):
        pictures = result["picture"].sel(attack=attack)
        shown = {
            str(kind): np.asarray(pictures.sel(kind=kind).transpose("height", "width", ...).values, float)
            for kind in result["kind"].values
        }
        shown = {kind: image for kind, image in shown.items() if np.isfinite(image).all()}
        if shown:
            names = ", ".join(_PICTURES.get(kind, kind) for kind in shown)
            caption = f"{attack}: {names}, from left to right."
            body = figure(_pictures(shown), caption, caption)
        else:
            body = "<p>No pictures.</p>"
        parts.append(f"<h3>{escaped(attack)}</h3>{body}")
    told = (
        "Victim and poison share one scale of grey; of a signed picture, 0 is in the middle of the colours: red adds "
        "to a pixel, blue takes away (with three channels: about a mid grey). The sign of an eigenvector means nothing."
    )
    return small(told) + "".join(parts)


def _pictures(shown: Mapping[str, np.ndarray]) -> bytes:
    """Images of one attack side by side, as a PNG."""
    from matplotlib.figure import Figure

    from kpoison.plotting._style import style
    from kpoison.plotting.spectra import draw_image

    images = {kind: image if image.ndim == 3 else image[..., None] for kind, image in shown.items()}
    plain = [image for kind, image in images.items() if kind not in _SIGNED]
    low, high = (min(map(np.min, plain)), max(map(np.max, plain))) if plain else (0.0, 1.0)
    with style():
        drawn = Figure(figsize=(2.7 * len(images), 2.7), layout="constrained")
        for ax, (kind, image) in zip(drawn.subplots(1, len(images), squeeze=False).ravel(), images.items(),
                                     strict=True):  # fmt: skip
            title = _PICTURES.get(kind, kind).replace(" of the", "\nof the")
            if kind in _SIGNED:
                draw_image(ax, image, (image.shape[0], image.shape[1], image.shape[2]), title)
                continue
            scaled = (image - low) / max(high - low, np.finfo(float).tiny)
            colour = image.shape[2] == 3
            ax.imshow(scaled if colour else scaled.mean(axis=2), cmap="gray", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.set_title(title)
            ax.grid(visible=False)
            ax.spines[:].set_visible(True)
        return _png(drawn, dpi=120)
