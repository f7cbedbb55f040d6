"""Log-mel spectrograms of audio: short-time Fourier transform, triangular filters on the mel scale, decibels.

Let ``x`` be a channel of a signal, zero-padded by half a window on both sides, ``h`` the (periodic) Hann window of W
samples, H the hop, and F the smallest power of 2 that is at least W:

    S[t, k] = |sum_n h[n] x[t H + n] exp(-2 pi i k n / F)|^2            k = 0 .. F / 2
    M[t, b] = sum_k f[b, k] S[t, k]                                     b = 0 .. B - 1
    out     = 10 log10(max(M, 1e-8 max M, 1e-30))

f[b] rises from 0 to 1 and falls to 0 again, linearly in hertz, between three neighbors among B + 2 frequencies that are
equally spaced on the **HTK** mel scale, 2595 log10(1 + f / 700), from 0 to half the rate (S. Young et al., The HTK
Book; ``torchaudio.functional.melscale_fbanks(mel_scale="htk", norm=None)``). The floor is relative, 80 dB below the
example's largest value (``librosa.power_to_db(ref=np.max, top_db=80)`` up to a constant), so that a louder version of a
signal differs by a constant.
"""

from __future__ import annotations

import functools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

#: The smallest value of a spectrogram, relative to its largest: 80 dB.
FLOOR = 1e-8
#: The smallest value in any case.
TINY = 1e-30


def mel_of(hertz: float) -> float:
    """Return the mel value of a frequency (HTK).

    >>> round(mel_of(1000.0), 2)
    999.99
    """
    return 2595.0 * math.log10(1.0 + hertz / 700.0)


@functools.lru_cache
def mel_filters(rate: int, size: int, bands: int) -> np.ndarray:
    """Return the filters, float64 ``(size // 2 + 1, bands)``.

    Args:
        rate: samples per second.
        size: size of the Fourier transform.
        bands: number of bands.

    >>> mel_filters(8000, 256, 40).shape
    (129, 40)
    """
    edges = 700.0 * (10.0 ** (np.linspace(0.0, mel_of(rate / 2), bands + 2) / 2595.0) - 1.0)
    bins = np.linspace(0.0, rate / 2, size // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling))


def log_mel(x: Float[Array, "n l c"], *, rate: int, window: int, hop: int, bands: int) -> Float[Array, "n t b c"]:
    """Return log-mel spectrograms in decibels, with ``l // hop + 1`` windows.

    Args:
        x: signals ``(N, samples, channels)``, float32 or float64.
        rate: samples per second.
        window: samples per window.
        hop: samples from one window to the next.
        bands: number of filters.

    >>> log_mel(jnp.ones((2, 800, 1)), rate=8000, window=200, hop=80, bands=32).shape
    (2, 11, 32, 1)
    """
    size = 1 << (window - 1).bit_length()
    half, count = window // 2, x.shape[1] // hop + 1
    padded = jnp.pad(x, ((0, 0), (half, half + window), (0, 0)))
    at = np.arange(count)[:, None] * hop + np.arange(window)[None]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frames = jnp.moveaxis(padded[:, at], -1, 1) * jnp.asarray(hann[None, None, None], x.dtype)  # (n, c, t, window)
    bins = jnp.fft.rfft(frames, size, axis=-1)
    power = jnp.square(bins.real) + jnp.square(bins.imag)
    mel = jnp.einsum("nctk,kb->ntbc", power, jnp.asarray(mel_filters(rate, size, bands), x.dtype), precision="highest")
    floor = jnp.maximum(FLOOR * mel.max(axis=(1, 2, 3), keepdims=True), TINY)
    return 10.0 * jnp.log10(jnp.maximum(mel, floor))
