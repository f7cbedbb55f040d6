"""Log-mel spectrograms against the definition in float64, and the filters against torchaudio's formula."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.ops import log_mel, mel_filters


def torchaudio_filters(rate: int, size: int, bands: int) -> np.ndarray:
    """``torchaudio.functional.melscale_fbanks(size // 2 + 1, 0, rate / 2, bands, rate, None, "htk")``, in NumPy."""
    all_freqs = np.linspace(0, rate // 2, size // 2 + 1)
    m_pts = np.linspace(0.0, 2595.0 * np.log10(1.0 + (rate / 2) / 700.0), bands + 2)
    f_pts = 700.0 * (10.0 ** (m_pts / 2595.0) - 1.0)
    f_diff = f_pts[1:] - f_pts[:-1]
    slopes = f_pts[None] - all_freqs[:, None]
    down, up = -slopes[:, :-2] / f_diff[:-1], slopes[:, 2:] / f_diff[1:]
    return np.maximum(np.zeros(1), np.minimum(down, up))


@pytest.mark.parametrize(("rate", "size", "bands"), [(8000, 256, 40), (16000, 512, 64), (22050, 1024, 80)])
def test_filters_are_torchaudio_s(rate, size, bands):
    np.testing.assert_allclose(mel_filters(rate, size, bands), torchaudio_filters(rate, size, bands), atol=2e-3)
    if rate % 2 == 0:
        np.testing.assert_allclose(mel_filters(rate, size, bands), torchaudio_filters(rate, size, bands), atol=1e-12)


def by_definition(x: np.ndarray, rate: int, window: int, hop: int, bands: int) -> np.ndarray:
    """One channel (L,), by sums of cosines and sines, in float64."""
    size = 2 ** int(np.ceil(np.log2(window)))
    hann = np.array([np.sin(np.pi * n / window) ** 2 for n in range(window)])
    k, n = np.arange(size // 2 + 1)[:, None], np.arange(window)[None]
    wave = np.exp(-2j * np.pi * k * n / size)
    padded = np.concatenate([np.zeros(window // 2), x, np.zeros(2 * window)])
    power = [np.abs(wave @ (hann * padded[t * hop : t * hop + window])) ** 2 for t in range(len(x) // hop + 1)]
    mel = np.array(power) @ torchaudio_filters(rate, size, bands)
    return 10 * np.log10(np.maximum(mel, 1e-8 * mel.max()))


@pytest.mark.parametrize(("window", "hop"), [(200, 80), (256, 128), (201, 67)])
@pytest.mark.slow
def test_it_is_the_definition_in_float64(window, hop):
    rng, time = np.random.default_rng(0), np.arange(1200) / 8000
    x = np.stack([np.sin(2 * np.pi * 440 * time) + 0.01 * rng.normal(size=1200), rng.normal(size=1200)])
    found = log_mel(jnp.asarray(x[..., None], jnp.float32), rate=8000, window=window, hop=hop, bands=40)
    assert found.dtype == jnp.float32
    expected = np.stack([by_definition(one, 8000, window, hop, 40) for one in x])
    np.testing.assert_allclose(found[..., 0], expected, atol=0.02)  # decibels, of float32 80 dB below the peak


def test_a_pure_tone_is_in_its_band_and_silence_is_finite():
    time = np.arange(4000) / 8000
    tones = np.stack([np.sin(2 * np.pi * hertz * time) for hertz in (300, 1000, 3000)] + [np.zeros(4000)])
    found = np.asarray(log_mel(jnp.asarray(tones[..., None], jnp.float32), rate=8000, window=256, hop=80, bands=40))
    centres = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 42)[1:-1] / 2595) - 1)
    best = centres[found[:3, 10:40, :, 0].mean(axis=1).argmax(axis=-1)]
    np.testing.assert_allclose(best, [300, 1000, 3000], rtol=0.1)
    assert np.isfinite(found).all()
    assert np.ptp(found[3]) == 0
