"""What results name that the ground truth does not know, and what has no length: said, never passed over."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

import numpy as np

from examples.case_wtal.evaluation.detections import Detections
from examples.case_wtal.evaluation.ground_truth import GroundTruth
from examples.case_wtal.evaluation.protocol import Protocol

OnUnknown = Literal["error", "ignore", "false-positive"]

COMPARED = 20
"""Unknown names that are compared with the known ones, and listed in a note; more is slow, and no typing mistake."""


@dataclass(frozen=True)
class Checked:
    """Detections that an evaluation may take, and what was seen in them.

    Attributes:
        detections: Those to evaluate.
        notes: Sentences for the user.
        unknown_videos, unknown_labels: Name -> number of detections.
        absent_classes: Known class without an instance in the subset -> number of detections, which are left out.
        without_length: Number of detections that do not end after they start.
    """

    detections: Detections
    notes: tuple[str, ...]
    unknown_videos: Mapping[str, int]
    unknown_labels: Mapping[str, int]
    absent_classes: Mapping[str, int]
    without_length: int


def check(
    truth: GroundTruth,
    detections: Detections,
    protocol: Protocol,
    on_unknown: OnUnknown = "error",
    source: str = "results",
) -> Checked:
    """Compare the names in detections with those of the ground truth.

    Args:
        truth: The ground truth.
        detections: Read from `source`.
        protocol: Videos that it leaves out are known.
        on_unknown: "error" names all unknown videos and labels; "ignore" leaves their detections out; "false-positive"
            counts those in unknown videos as published programs do, and leaves out only those of unknown labels, which
            belong to no class.
        source: Name of the file, for messages.

    Raises:
        ValueError: `on_unknown` is not one of the three, or it is "error" and a name is unknown.
    """
    if on_unknown not in {"error", "ignore", "false-positive"}:
        raise ValueError(
            f"`on_unknown` must be error, ignore or false-positive, got {on_unknown!r}. Choose one of them."
        )
    known = {*truth.segments, *protocol.drop_videos}
    videos = _unknown(detections.video, known)
    absent = {c: int((detections.label == c).sum()) for c in truth.known if c not in truth.classes}
    labels = _unknown(detections.label, {*truth.classes, *absent})
    notes = []
    if absent:
        notes.append(
            f"Known classes without an instance in subset {truth.subset} of {truth.source}: {_listed(absent, (), {})}. "
            f"They have no AP: mAP is the mean over the other {len(truth.classes)}, and their detections are left out."
        )
        detections = detections.select(~np.isin(detections.label, list(absent)))
    if on_unknown == "error" and (videos or labels):
        parts = [
            f"{len(names)} unknown {what} ({_listed(names, candidates, truth.elsewhere)})"
            for names, candidates, what in ((videos, known, "videos"), (labels, truth.classes, "labels"))
            if names
        ]
        # Nothing but its name tells a class that does not occur from a typing mistake.
        hint = ": right for a class that just does not occur there, it has no AP" if labels else ""
        raise ValueError(
            f"`results` must name videos and labels of subset {truth.subset} of {truth.source} only, got "
            f"{' and '.join(parts)} in {source}, under protocol {protocol.name}. Repair the names, take the matching "
            f"subset or protocol, or choose what happens with --on-unknown ignore or --on-unknown false-positive{hint}."
        )
    out = np.isin(detections.label, list(labels))
    if on_unknown == "ignore":
        out |= np.isin(detections.video, list(videos))
    if out.any():
        gone = [*labels, *(videos if on_unknown == "ignore" else ())]
        names = ", ".join(gone[:COMPARED]) + (f" and {len(gone) - COMPARED} more" if len(gone) > COMPARED else "")
        notes.append(f"{int(out.sum()):,} of {len(out):,} detections were left out for unknown names: {names}.")
        detections = detections.select(~out)
    if on_unknown == "false-positive" and videos:
        notes.append(f"Detections in unknown videos count as false positives: {_listed(videos, (), {})}.")
    without_length = int(detections.empty_or_reversed.sum())
    if without_length:
        first = int(np.flatnonzero(detections.empty_or_reversed)[0])
        notes.append(
            f"{without_length:,} detections do not end after they start and count as false positives; the first is "
            f"{detections.label[first]} {detections.start[first]:g}-{detections.end[first]:g} in "
            f"{detections.video[first]}."
        )
    return Checked(detections, tuple(notes), videos, labels, absent, without_length)


def _unknown(names: np.ndarray, known: Iterable[str]) -> dict[str, int]:
    counts = Counter(names.tolist())
    return {name: counts[name] for name in sorted(set(counts) - set(known))}


def _listed(names: Mapping[str, int], candidates: Iterable[str], elsewhere: Mapping[str, str]) -> str:
    candidates = list(candidates)
    texts = []
    for i, (name, count) in enumerate(names.items()):
        close = get_close_matches(name, candidates, n=1, cutoff=0.75) if i < COMPARED else []
        # Numbered names are all alike: a neighbour of the same pattern is no hint.
        close = [other for other in close if _without_digits(other) != _without_digits(name)]
        hint = f", of subset {elsewhere[name]}" if name in elsewhere else f", close to {close[0]}" if close else ""
        texts.append(f"{name}: {count:,} detections{hint}")
    return "; ".join(texts)


def _without_digits(name: str) -> str:
    return re.sub(r"\d", "", name)
