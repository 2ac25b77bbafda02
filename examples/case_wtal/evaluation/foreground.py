"""How well snippets of actions are told from background."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from examples.case_wtal.data.recording import Recording

CHANCE = 0.5
"""Area of a map that knows nothing."""


def foreground_auc(scores: Sequence[np.ndarray], recordings: "Sequence[Recording]") -> float:
    """Area under the ROC curve of a per-snippet foreground score, pooled over all snippets of all recordings.

    A snippet is foreground if its centre, `(t + 0.5) * snippet_seconds`, lies in [start, end) of any segment.

    Args:
        scores: One array of shape (T,) per recording, larger means more likely foreground.
        recordings: In the same order; their `segments` are the ground truth.

    Raises:
        ValueError: `scores` do not fit the recordings or are not finite, or there is only one kind of snippet.
    """
    from sklearn.metrics import roc_auc_score

    shapes = [np.shape(score) for score in scores]
    wrong = [f"shape {a} for {r.name!r}" for a, r in zip(shapes, recordings, strict=False) if a != (len(r),)]
    if wrong or len(shapes) != len(recordings):
        raise ValueError(
            f"`scores` must hold one array of shape (T,) for each of the {len(recordings)} recordings, "
            f"got {wrong[0] if wrong else f'{len(shapes)} arrays'}. Give one score per snippet, in their order."
        )
    broken = [r.name for score, r in zip(scores, recordings, strict=True) if not np.isfinite(score).all()]
    if broken:
        raise ValueError(f"`scores` must be finite, got NaN or infinity for {broken}. Repair the model first.")
    target = np.concatenate([np.zeros(0, dtype=bool), *map(_foreground, recordings)])
    if len(np.unique(target)) != 2:
        raise ValueError(
            "`recordings` must hold foreground and background snippets, "
            f"got {int(target.sum())} foreground of {target.size}. Check the segments or pool more recordings."
        )
    return float(roc_auc_score(target, np.concatenate(list(scores))))


def foreground_notes(auc: Mapping[str, float]) -> list[str]:
    """What the areas of the foreground maps say about a training.

    Args:
        auc: Name of a map -> its `foreground_auc`; the one of the attention decides. Empty where nothing is known.
    """
    if not auc:
        return []
    listed = ", ".join(f"{name} {value:.3f}" for name, value in auc.items())
    notes = [f"Foreground AUC of snippets: {listed}."]
    if auc.get("attention", CHANCE) < CHANCE:
        notes.append(
            "COLLAPSED: a foreground AUC of the attention below 0.5 says that it is high between the instances: it has "
            "settled on background. Train other seeds (--train.seed); more in docs/case.md, When a training collapses."
        )
    return notes


def has_both_kinds(recordings: "Sequence[Recording]") -> bool:
    """Whether there are snippets of actions and of background, so that `foreground_auc` is defined."""
    return len(np.unique(np.concatenate([np.zeros(0, dtype=bool), *map(_foreground, recordings)]))) == 2


def _foreground(recording: "Recording") -> np.ndarray:
    centre = (np.arange(len(recording)) + 0.5) * recording.snippet_seconds
    inside = [(centre >= segment.start) & (centre < segment.end) for segment in recording.segments]
    return np.any([np.zeros_like(centre, dtype=bool), *inside], axis=0)
