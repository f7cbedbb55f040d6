r"""Detect data drift: the distance of new images from a reference, with a threshold.

Three distances compare a window of n images with the N images of the reference. Each is about 1 if both come from the
same distribution, whatever n is:

* **features**, from the C pooled features with mean :math:`\mu` and deviation :math:`\sigma` in the reference:
  :math:`\frac1C \sum_j (\bar x_j - \mu_j)^2 / (\sigma_j^2 (1/n + 1/N))`, the mean squared difference of means in
  standard errors (a Mahalanobis distance with a diagonal covariance);
* **input**, the same for the mean and deviation of every channel of each image: brightness, contrast, color;
* **classes**, from the counts w and r of the predicted classes in window and reference: the two-sample chi-square
  divided by its degrees of freedom, :math:`\frac1{K - 1} \sum_k (\sqrt{N/n}\, w_k - \sqrt{n/N}\, r_k)^2 / (w_k + r_k)`.

The **thresholds** do not come from a table: features are correlated, so their mean square varies more than that of as
many independent ones. Instead, the images of the reference are split at random, :data:`SPLITS` times, into a window and
the rest, which gives the distances between images of one distribution (a permutation test; Good 2005, *Permutation,
Parametric and Bootstrap Tests of Hypotheses*). A window raises an alarm if a distance exceeds the (1 - alarm / 3)
quantile, so that all three together raise it for at most a share ``alarm`` of windows from the same distribution.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.errors import DamagedError, DataError, UsageError
from resnet_jax.runtime.files import replacing
from resnet_jax.runtime.plain_files import read_file
from resnet_jax.runtime.plain_numpy import read_arrays

FILE = "drift.npz"
"""File name of the reference, next to a run."""
SPLITS = 2000
"""Random splits of the reference for every window size."""
LEAST = 16
"""Images in the smallest window that is compared."""
LEAST_REFERENCE = 4 * LEAST
"""Images in the smallest reference."""
KINDS = ("features", "input", "classes")


@dataclasses.dataclass(frozen=True)
class Seen:
    """The statistics of some images that are compared.

    Attributes:
        features: (N, C).
        input: mean and deviation of every channel, (N, 2 c), of pixels scaled to [0, 1] if they are uint8.
        classes: the most likely class of each, (N,) int; arbitrary if the network has no classes.
    """

    features: np.ndarray
    input: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    def part(self, which: Any) -> Seen:
        """Return some of the images, selected by a slice or by positions."""
        return Seen(self.features[which], self.input[which], self.classes[which])

    @classmethod
    def together(cls, parts: list[Seen]) -> Seen:
        """Concatenate the images of several parts."""
        columns = zip(*((part.features, part.input, part.classes) for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))


def input_statistics(images: np.ndarray) -> np.ndarray:
    """Return mean and deviation of every channel of images (N, H, W, C): (N, 2 C) float32.

    >>> input_statistics(np.full((1, 2, 2, 1), 255, np.uint8)).tolist()
    [[1.0, 0.0]]
    """
    values = images.reshape(len(images), -1, images.shape[-1]).astype(np.float32)
    values /= 255 if images.dtype == np.uint8 else 1
    return np.concatenate([values.mean(axis=1), values.std(axis=1)], axis=1)


@dataclasses.dataclass(frozen=True)
class Distance:
    """The distance of a window from the reference.

    Attributes:
        images: images in the window.
        values: distances by kind; about 1 for images of the same distribution.
        thresholds: thresholds by kind.
        shift: largest difference of means of any feature, in its standard deviations: the effect size.
        shares: half the sum of the absolute differences of class shares (total variation), 0 to 1.
    """

    images: int
    values: dict[str, float]
    thresholds: dict[str, float]
    shift: float
    shares: float

    @property
    def ratios(self) -> dict[str, float]:
        """Every distance divided by its threshold; above 1 is an alarm."""
        return {kind: value / self.thresholds[kind] for kind, value in self.values.items()}

    @property
    def alarms(self) -> tuple[str, ...]:
        """The kinds whose distance exceeds the threshold."""
        return tuple(kind for kind, ratio in self.ratios.items() if ratio > 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """Statistics of the images that a network was made for.

    Attributes:
        moments: for ``features`` and ``input``: means and variances, (2, C).
        counts: images of each predicted class, (K,); empty without classes.
        images: N.
        sizes: window sizes that have thresholds, ascending, (S,).
        thresholds: by kind, (S,).
        alarm: share of windows of the same distribution that raise an alarm.
        source: description of the images.
        digest: digest of the network's parameters.
    """

    moments: dict[str, np.ndarray]
    counts: np.ndarray
    images: int
    sizes: np.ndarray
    thresholds: dict[str, np.ndarray]
    alarm: float
    source: str
    digest: str

    @classmethod
    def of(cls, seen: Seen, classes: int, *, alarm: float, source: str, digest: str, seed: int = 0) -> Reference:
        """Return the reference of some images.

        Args:
            seen: statistics of images, preferably ones that were not trained on.
            classes: number of classes of the network; 0 if its outputs are not classes.
            alarm: see :class:`Reference`.
            source: see :class:`Reference`.
            digest: see :class:`Reference`.
            seed: seed of the splits.

        Raises:
            UsageError: there are too few images, or ``alarm`` is too small for :data:`SPLITS` splits to resolve.
        """
        count = len(seen)
        if count < LEAST_REFERENCE:
            raise UsageError(f"{source}: {count} images; a reference needs {LEAST_REFERENCE} or more")
        if not 10 / SPLITS <= alarm <= 0.5:
            raise UsageError(f"alarm must be a share from {10 / SPLITS:g} to 0.5, got {alarm:g}")
        moments = {kind: _moments(getattr(seen, kind)) for kind in ("features", "input")}
        counts = np.bincount(seen.classes, minlength=classes) if classes else np.zeros(0, np.int64)
        largest = int(np.log2(count // 2))
        sizes = np.array([1 << power for power in range(4, largest + 1)])
        found: dict[str, list[float]] = {kind: [] for kind in KINDS if kind != "classes" or len(counts)}
        rng = np.random.default_rng(seed)
        for size in sizes.tolist():
            null = _null(seen, moments, counts, size, rng)
            for kind, values in null.items():
                found[kind].append(float(np.quantile(values, 1 - alarm / len(found), method="higher")))
        thresholds = {kind: np.array(values) for kind, values in found.items()}
        return cls(moments, counts, count, sizes, thresholds, alarm, source, digest)

    def distance(self, window: Seen) -> Distance:
        """Return the distance of a window.

        Raises:
            UsageError: it has fewer than :data:`LEAST` images, or features of another network.
        """
        count = len(window)
        if count < LEAST:
            raise UsageError(f"{count} images; a window needs {LEAST} or more")
        if window.features.shape[1:] != self.moments["features"].shape[1:]:
            raise UsageError(
                f"the reference is of {self.moments['features'].shape[1]} features, and these images have "
                f"{window.features.shape[1]}: create the reference again"
            )
        values = {}
        for kind in ("features", "input"):
            means = getattr(window, kind).astype(np.float64).mean(axis=0)
            values[kind] = float(_mean_square(means[None], self.moments[kind], count, self.images)[0])
        mean, variance = self.moments["features"]
        apart = np.abs(window.features.astype(np.float64).mean(axis=0) - mean) / np.sqrt(_floor(variance))
        shares = 0.0
        if len(self.counts):
            ours = np.bincount(window.classes, minlength=len(self.counts))
            values["classes"] = float(_chi_square(ours[None], self.counts)[0])
            shares = float(np.abs(ours / count - self.counts / self.images).sum() / 2)
        at = np.log(np.clip(count, self.sizes[0], self.sizes[-1]))
        limits = {kind: float(np.interp(at, np.log(self.sizes), self.thresholds[kind])) for kind in values}
        return Distance(count, values, limits, float(apart.max()), shares)

    def write(self, path: Path) -> None:
        """Write the file, completely or not at all.

        Raises:
            DataError: it cannot be written.
        """
        note = {"images": self.images, "alarm": self.alarm, "source": self.source, "digest": self.digest, "format": 1}
        arrays = {
            "note": np.frombuffer(json.dumps(note).encode(), np.uint8),
            "counts": self.counts,
            "sizes": self.sizes,
            **{f"moments/{kind}": values for kind, values in self.moments.items()},
            **{f"thresholds/{kind}": values for kind, values in self.thresholds.items()},
        }
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        try:
            with replacing(path) as partial:
                partial.write_bytes(buffer.getvalue())
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror or error}") from error

    @classmethod
    def read(cls, path: Path, digest: str) -> Reference:
        """Read a file that :meth:`write` wrote.

        Raises:
            DataError: it cannot be read.
            DamagedError: it has another format.
            UsageError: it belongs to other weights.
        """
        again = "create it again: resnet-jax drift RUN_DIR --reference SOURCE"
        try:
            arrays = read_arrays(read_file(path))
            note = json.loads(arrays["note"].tobytes())
            named: Mapping[str, Any] = {name: note[name] for name in ("images", "alarm", "source", "digest")}
            moments = {kind: arrays[f"moments/{kind}"].astype(np.float64) for kind in ("features", "input")}
            kinds = KINDS if len(arrays["counts"]) else KINDS[:2]
            thresholds = {kind: arrays[f"thresholds/{kind}"].astype(np.float64) for kind in kinds}
            found = cls(moments, arrays["counts"], sizes=arrays["sizes"], thresholds=thresholds, **named)
            right = len(found.sizes) > 0 and all(len(each) == len(found.sizes) for each in thresholds.values())
            if not right or any(each.ndim != 2 or len(each) != 2 for each in moments.values()):
                raise ValueError("arrays that do not belong together")
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"{path} is not a drift reference ({error}); {again}") from error
        if found.digest != digest:
            raise UsageError(f"{path} belongs to other weights; {again}")
        return found


def _moments(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return np.stack([rows.mean(axis=0), rows.var(axis=0)])


def _floor(variance: np.ndarray) -> np.ndarray:
    """Return the variances with a lower bound, so that a feature that was always 0 does not dominate as soon as it is
    slightly larger.
    """
    return np.maximum(variance, max(1e-3 * float(variance.mean()), 1e-12))


def _mean_square(means: np.ndarray, moments: np.ndarray, n: int, others: int) -> np.ndarray:
    """Return the mean squared difference of means (W, C) in standard errors, (W,)."""
    mean, variance = moments
    return ((means - mean) ** 2 / _floor(variance)).mean(axis=-1) / (1 / n + 1 / others)


def _chi_square(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return the two-sample chi-square of counts, (W, K) and (K,) or (W, K), over its degrees of freedom, (W,)."""
    ours, theirs = np.broadcast_arrays(ours.astype(np.float64), theirs.astype(np.float64))
    n, others = ours.sum(-1, keepdims=True), theirs.sum(-1, keepdims=True)
    both = ours + theirs
    terms = (np.sqrt(others / n) * ours - np.sqrt(n / others) * theirs) ** 2 / np.maximum(both, 1)
    return terms.sum(-1) / np.maximum((both > 0).sum(-1) - 1, 1)


def _null(
    seen: Seen, moments: Mapping[str, np.ndarray], counts: np.ndarray, size: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return the distances of windows of ``size`` from the rest of the same images, (SPLITS,) by kind."""
    total = len(seen)
    inside = np.zeros((SPLITS, total), np.float32)
    for row in inside:
        row[rng.choice(total, size, replace=False)] = 1
    found = {}
    for kind, (mean, variance) in moments.items():
        sums = inside @ (getattr(seen, kind) - mean).astype(np.float32)
        apart = sums / size + sums / (total - size)  # mean of the window minus mean of the rest, as the total is 0
        found[kind] = (apart**2 / _floor(variance)).mean(axis=-1) / (1 / size + 1 / (total - size))
    if len(counts):
        one_hot = np.eye(len(counts), dtype=np.float32)[seen.classes]
        ours = np.rint(inside @ one_hot)
        found["classes"] = _chi_square(ours, counts - ours)
    return found
