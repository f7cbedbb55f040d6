"""Average precision of detections as COCO's own code counts it, in NumPy, over all images at once.

T.-Y. Lin et al., Microsoft COCO (ECCV 2014), and pycocotools' ``COCOeval`` with its settings for boxes: IoU thresholds
0.5, 0.55, ..., 0.95; for each class the 100 best detections of an image; all areas; precision at 101 recalls, each the
best precision at that recall or a higher one.

The detections of a class in an image are matched in order of falling score. Each takes the unmatched true box of the
class with which it has the highest IoU, if that reaches the threshold; ignored boxes are taken only if there is no
other. A detection that takes an ignored box does not count; one that takes none is wrong. Among equal IoUs the last box
is taken, and equal scores keep the order of images and detections, as in COCO's code.

Two kinds of boxes are ignored. **Crowds** (COCO's ``iscrowd``) can be taken many times, and their overlap with a
detection is the share of the detection inside them. **Difficult** boxes (VOC's) can also be taken many times, with the
usual IoU.
"""

from __future__ import annotations

import dataclasses

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
#: Number of detections of a class per image that count.
MOST = 100
#: Maximum number of elements in an array of overlaps.
_CHUNK = 1 << 22


@dataclasses.dataclass(frozen=True)
class ImageBoxes:
    """Boxes of N images, padded.

    Attributes:
        boxes: (N, n, 4) top, left, bottom, right.
        labels: (N, n) classes; -1 for padding.
        scores: (N, n), for detections.
        crowd: bool (N, n), for true boxes.
        difficult: bool (N, n), for true boxes.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    crowd: np.ndarray | None = None
    difficult: np.ndarray | None = None


def average_precisions(found: ImageBoxes, true: ImageBoxes, classes: int) -> np.ndarray:
    """Return the average precision at each threshold and class, float64 (10, K); NaN for a class without true boxes.

    Args:
        found: detections of N images, with scores.
        true: boxes of the same images.
        classes: K.

    >>> one = np.array([[[0.0, 0, 4, 4]]])
    >>> found = ImageBoxes(one, np.array([[0]]), scores=np.array([[0.9]]))
    >>> average_precisions(found, ImageBoxes(one + [0, 0, 0, 1], np.array([[0]])), 2)[[0, 6, 7]].round(9).tolist()
    [[1.0, nan], [1.0, nan], [0.0, nan]]
    """
    return np.stack([_of_class(found, true, label) for label in range(classes)], axis=1)


@dataclasses.dataclass(frozen=True)
class RankedMatches:
    """The M detections of a class in N images, best first, and which of them are correct.

    They allow resampling images repeatedly without matching boxes again.

    Attributes:
        image: image of each detection, (M,).
        right: bool (10, M), by threshold.
        counted: bool (10, M); False for detections that take an ignored box.
        positives: number of true boxes that count in each image, (N,).
    """

    image: np.ndarray
    right: np.ndarray
    counted: np.ndarray
    positives: np.ndarray

    def precisions(self, times: np.ndarray) -> np.ndarray:
        """Return the average precision at each threshold, (10,), if image n occurs ``times[n]`` times; NaN if
        undefined.

        An image that occurs twice has each of its detections and boxes twice, one right after the other.
        """
        positives = int((times * self.positives).sum())
        if not positives:
            return np.full(len(THRESHOLDS), np.nan)
        weights = times[self.image].astype(np.float64)
        true = np.cumsum(self.right * weights, axis=1)
        precision = true / (np.cumsum(self.counted * weights, axis=1) + np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        best = np.concatenate([best, np.zeros((len(best), 1))], axis=1)
        places = [np.searchsorted(each / positives, RECALLS, side="left") for each in true]
        return np.take_along_axis(best, np.stack(places), axis=1).mean(axis=1)


def ranked_matches(found: ImageBoxes, true: ImageBoxes, label: int) -> RankedMatches:
    """Match the detections of a class with the true boxes, once for all resampled sets of images."""
    there = true.labels == label
    ignored = there & (_flags(true.crowd, there) | _flags(true.difficult, there))
    scores, right, left_out = _matched_class(found, true, label)
    flat = scores.reshape(-1)
    kept = np.flatnonzero(np.isfinite(flat))
    order = kept[np.argsort(-flat[kept], kind="stable")]
    hits, none = (each.reshape(len(THRESHOLDS), -1)[:, order] for each in (right, left_out))
    return RankedMatches(order // scores.shape[1], hits, ~none, (there & ~ignored).sum(axis=1))


def _of_class(found: ImageBoxes, true: ImageBoxes, label: int) -> np.ndarray:
    """Return the average precision at each threshold, (10,)."""
    there = true.labels == label
    crowd = there & _flags(true.crowd, there)
    ignored = crowd | (there & _flags(true.difficult, there))
    positives = int((there & ~ignored).sum())
    if not positives:
        return np.full(len(THRESHOLDS), np.nan)
    return _interpolated(*_matched_class(found, true, label), positives)


def _matched_class(found: ImageBoxes, true: ImageBoxes, label: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores of the detections (N, D), best first, and which are correct and which do not count, (10, N, D)."""
    there = true.labels == label
    crowd = there & _flags(true.crowd, there)
    ignored = crowd | (there & _flags(true.difficult, there))
    assert found.scores is not None
    scores = np.where(found.labels == label, found.scores.astype(np.float64), -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, : min(MOST, max((found.labels == label).sum(1).max(), 1))]
    scores = np.take_along_axis(scores, order, axis=1)
    boxes = np.take_along_axis(found.boxes, order[..., None], axis=1).astype(np.float64)
    places = np.argsort(~there, axis=1, kind="stable")[:, : max(there.sum(1).max(), 1)]
    kept = [np.take_along_axis(each, places, axis=1) for each in (there, ignored, crowd)]
    truth = np.take_along_axis(true.boxes, places[..., None], axis=1).astype(np.float64)
    return scores, *_matched(boxes, scores, truth, *kept)


def _flags(flags: np.ndarray | None, like: np.ndarray) -> np.ndarray:
    return np.zeros_like(like) if flags is None else np.asarray(flags, bool)


def _matched(
    boxes: np.ndarray,
    scores: np.ndarray,
    truth: np.ndarray,
    there: np.ndarray,
    ignored: np.ndarray,
    crowd: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return which detections take a box that counts, and which take an ignored one, (T, N, D).

    Args:
        boxes: detections (N, D, 4), best first.
        scores: (N, D), -inf for padding.
        truth: (N, G, 4).
        there: (N, G).
        ignored: (N, G).
        crowd: (N, G).
    """
    images, most, thresholds = len(boxes), boxes.shape[1], len(THRESHOLDS)
    right = np.zeros((thresholds, images, most), bool)
    left_out = np.zeros_like(right)
    step = max(_CHUNK // (thresholds * max(truth.shape[1], 1)), 1)
    for start in range(0, images, step):
        part = slice(start, start + step)
        taken = np.zeros((thresholds, len(boxes[part]), truth.shape[1]), bool)
        shared = ignored[part]
        for place in range(most):  # one after another, for all images and thresholds at once
            overlap = _overlaps(boxes[part, place, None], truth[part], crowd[part])
            enough = overlap[None] >= np.minimum(THRESHOLDS, 1 - 1e-10)[:, None, None]
            free = enough & there[part] & (shared | ~taken) & np.isfinite(scores[part, place])[None, :, None]
            counts = free & ~shared
            of_counting: np.ndarray = np.any(counts, axis=-1, keepdims=True)
            choice = np.where(of_counting, counts, free)
            reached = np.where(choice, overlap[None], -1.0)
            best = reached.shape[-1] - 1 - np.argmax(reached[..., ::-1], axis=-1)  # the last among equal ones
            chosen = (np.arange(reached.shape[-1]) == np.expand_dims(best, -1)) & choice.any(axis=-1, keepdims=True)
            taken |= chosen
            right[:, part, place] = of_counting[..., 0]
            left_out[:, part, place] = choice.any(axis=-1) & ~of_counting[..., 0]
    return right, left_out


def _overlaps(found: np.ndarray, true: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Return the IoU of detections (N, 1, 4) with true boxes (N, G, 4); for crowds, the covered share of the
    detection.
    """
    sides = np.minimum(found[..., 2:], true[..., 2:]) - np.maximum(found[..., :2], true[..., :2])
    shared = np.prod(np.maximum(sides, 0.0), axis=-1)
    own, other = (np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1) for boxes in (found, true))
    union = np.where(crowd, own + np.zeros_like(other), own + other - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _interpolated(scores: np.ndarray, right: np.ndarray, left_out: np.ndarray, positives: int) -> np.ndarray:
    """Return the mean of the precisions at 101 recalls, (T,).

    Args:
        scores: (N, D) in descending order in each image; -inf for padding.
        right: (T, N, D).
        left_out: (T, N, D).
        positives: number of true boxes that count.
    """
    flat = scores.reshape(-1)
    there = np.flatnonzero(np.isfinite(flat))
    order = there[np.argsort(-flat[there], kind="stable")]
    means = np.zeros(len(right))
    for number, (hits, none) in enumerate(zip(right, left_out, strict=True)):
        hits, none = hits.reshape(-1)[order], none.reshape(-1)[order]
        true, wrong = np.cumsum(hits, dtype=np.float64), np.cumsum(~hits & ~none, dtype=np.float64)
        precision = true / (true + wrong + np.spacing(1))
        best = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(true / positives, RECALLS, side="left")
        means[number] = np.append(best, 0.0)[places].mean()
    return means
