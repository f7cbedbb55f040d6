"""Detection of identical and nearly identical images: digests, a 64-bit perceptual hash, and pairs within a distance.

**Identical**: equal SHA-256 of shape, dtype and decoded values, whatever the file format.

**Nearly identical**: the gray image is reduced to 32 x 32 (area averages), and the 8 x 8 lowest frequencies of its
discrete cosine transform, without the mean, are compared with their median. This gives 64 bits that hardly change with
JPEG compression, size, brightness and contrast, but do with flips and other images. Pairs within :data:`NEAR` bits are
found by *multi-index hashing*: of NEAR + 1 bands of bits, two such hashes must have one in common, so only images with
a common band are compared. Small images have few frequencies, so different ones can share them: a pair therefore only
counts if its 16 x 16 gray averages, with mean and scale removed, also correlate by :data:`LIKENESS`.

C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions (2010), for the hash; M. Norouzi, A.
Punjani and D. J. Fleet, Fast Search in Hamming Space with Multi-Index Hashing (CVPR 2012), for the search.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

import numpy as np

NEAR = 6
"""Maximum number of bits, out of 64, in which the hashes of near duplicates differ."""
LIKENESS = 0.985
"""Minimum correlation of their small gray images."""
SIDE = 32
THUMB = 16
LOW = 8
FLAT = 2.0
"""Standard deviation of gray values below which an image has nothing to compare, such as a single color."""
MOST_IN_BAND = 20_000
"""Number of hashes with a common band up to which all are compared with each other; beyond it, each with the next
thousand."""
NEIGHBOURS = 1_000
_BLOCK = 4096


def digest(values: np.ndarray) -> bytes:
    """Return the SHA-256 of an array: of its dtype, shape and values."""
    found = hashlib.sha256(f"{values.dtype.str}{values.shape}".encode())
    found.update(np.ascontiguousarray(values).data)
    return found.digest()


def small_grey(image: np.ndarray) -> np.ndarray:
    """Return an image (H, W, C) of any dtype as gray float32 (32, 32) by area averaging."""
    import cv2

    if image.dtype == np.uint8 and image.shape[-1] == 3:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    else:
        grey = np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image.mean(axis=-1), np.float32)
    shrinks = min(grey.shape) >= SIDE
    if grey.shape != (SIDE, SIDE):
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        grey = cv2.resize(grey.astype(np.float32), (SIDE, SIDE), interpolation=how)
    return grey.astype(np.float32)


def hashes_of(grey: np.ndarray) -> np.ndarray:
    """Return the hashes, uint64 (n,), of small gray images (n, 32, 32)."""
    basis = _cosines()
    low = (basis @ grey @ basis.T).reshape(len(grey), -1)[:, 1:]  # without the mean
    low = np.concatenate([low, np.zeros((len(low), 1), low.dtype)], axis=1)
    bits = low > np.median(low[:, :-1], axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64)[:, 0]


def _cosines() -> np.ndarray:
    """Return the lowest :data:`LOW` cosines of :data:`SIDE` samples."""
    places = (np.arange(SIDE) + 0.5) * np.pi / SIDE
    return np.cos(np.arange(LOW)[:, None] * places).astype(np.float32)


def thumbs_of(grey: np.ndarray) -> np.ndarray:
    """Return (n, 32, 32) as (n, 256) int8: 16 x 16 averages without mean, scaled so that dot products correlate.

    Images without contrast (:data:`FLAT`) are zeros.
    """
    step = SIDE // THUMB
    means = grey.reshape(len(grey), THUMB, step, THUMB, step).mean(axis=(2, 4)).reshape(len(grey), -1)
    means = means - means.mean(axis=1, keepdims=True)
    spread = means.std(axis=1, keepdims=True)
    scaled = np.where(spread > FLAT, means / np.maximum(spread, 1e-6) * 24, 0)
    return np.clip(scaled.round(), -127, 127).astype(np.int8)


def likeness(thumbs: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the correlations of pairs of small images, (p,)."""
    a, b = thumbs[first].astype(np.float32), thumbs[second].astype(np.float32)
    norm = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.where(norm > 0, (a * b).sum(axis=1) / np.maximum(norm, 1e-6), 0)


def near_pairs(
    hashes: np.ndarray, thumbs: np.ndarray, *, near: int = NEAR, least: float = LIKENESS
) -> tuple[np.ndarray, int]:
    """Return all pairs of images within a distance.

    Args:
        hashes: uint64 (n,).
        thumbs: int8 (n, 256).
        near: maximum number of different bits.
        least: minimum correlation of the small gray images.

    Returns:
        Pairs (p, 2), first < second, sorted; and how many images were in bands too full to compare all.

    >>> hashes = np.array([0b0, 0b11, 2**40 - 1], np.uint64)
    >>> near_pairs(hashes, np.tile(np.arange(-128, 128, dtype=np.int8), (3, 1)))[0].tolist()
    [[0, 1]]
    """
    found, full = [np.zeros((0, 2), np.int64)], np.zeros(len(hashes), bool)
    edges = np.linspace(0, 64, near + 2).astype(int)
    for low, high in itertools.pairwise(edges):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.lexsort((hashes, band))
        starts = np.flatnonzero(np.concatenate([[True], np.diff(band[order]) > 0, [True]]))
        for start, stop in itertools.pairwise(starts):
            if stop - start < 2:
                continue
            members = order[start:stop]
            full[members] |= len(members) > MOST_IN_BAND
            for first, second in _within(hashes, members, near):
                keep = likeness(thumbs, first, second) >= least
                found.append(np.sort(np.stack([first[keep], second[keep]], axis=1), axis=1))
    pairs = np.unique(np.concatenate(found), axis=0)
    return pairs, int(full.sum())


def _within(hashes: np.ndarray, members: np.ndarray, near: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs of some images whose hashes differ in few bits, block by block."""
    values = hashes[members]
    most = len(members) if len(members) <= MOST_IN_BAND else NEIGHBOURS
    for start in range(0, len(members) - 1, _BLOCK):
        rows = values[start : start + _BLOCK]
        stop = min(len(members), start + len(rows) + most)
        step = max(1, (1 << 22) // len(rows))
        for left in range(start, stop, step):
            columns = values[left : min(left + step, stop)]
            close = np.bitwise_count(rows[:, None] ^ columns[None]) <= near
            first, second = np.nonzero(close)
            first, second = first + start, second + left
            keep = second > first
            if keep.any():
                yield members[first[keep]], members[second[keep]]
