"""The samples of a sound file as float32 in [-1, 1): WAV by its own specification, FLAC and Ogg through soundfile.

PCM with b bits is divided by 2^(b-1); 8 bits are unsigned, so 128 is 0. 8, 16 and 24 bits are exact in float32; 32 bits
are rounded to its 24. Floats are unchanged. Other encodings (A-law, ADPCM, MP3 in WAV) are rejected.

Microsoft and IBM, Multimedia Programming Interface and Data Specifications 1.0 (1991); Microsoft, Multiple Channel
Audio Data and WAVE Files (2001).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from resnet_jax.errors import DataError
from resnet_jax.runtime.distribution import install
from resnet_jax.runtime.limits import too_much_unpacked
from resnet_jax.runtime.plain_files import open_file

OTHERS = (".flac", ".ogg", ".oga", ".opus")
"""Suffixes of files that soundfile reads."""
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_CODINGS = {2: "ADPCM", 6: "A-law", 7: "mu-law", 0x11: "IMA ADPCM", 0x50: "MPEG", 0x55: "MP3"}


@dataclass(frozen=True)
class SoundHeader:
    """The header of a sound file.

    Attributes:
        rate: samples per second.
        channels: number of channels.
        frames: number of samples per channel.
        bits: bits of a stored sample; 0 if unknown.
        floats: whether samples are floating-point numbers.
        start: byte at which the samples of a WAV begin.
    """

    rate: int
    channels: int
    frames: int
    bits: int = 16
    floats: bool = False
    start: int = 0


def read_header(path: str) -> SoundHeader:
    """Return the header of a sound file.

    Raises:
        DataError: if it cannot be read, is not a sound file, is truncated, or has an unsupported encoding.
    """
    if path.lower().endswith(OTHERS):
        found = _with_soundfile(path, lambda library: library.info(path))
        return SoundHeader(int(found.samplerate), int(found.channels), int(found.frames), 0)
    try:
        with open_file(path) as file:
            return _wav_header(file, path)
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror or error})") from error


def read_samples(path: str) -> tuple[np.ndarray, SoundHeader]:
    """Return the samples of a sound file, float32 (frames, channels), and its header.

    Raises:
        DataError: as for :func:`read_header`; or if values are not finite.
    """
    if path.lower().endswith(OTHERS):
        values, rate = _with_soundfile(path, lambda library: library.read(path, dtype="float32", always_2d=True))
        return values, SoundHeader(int(rate), values.shape[1], len(values), 0)
    try:
        with open_file(path) as file:
            header = _wav_header(file, path)
            file.seek(header.start)
            data = file.read(header.frames * header.channels * header.bits // 8)
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror or error})") from error
    return _values(data, header, path).reshape(header.frames, header.channels), header


def _values(data: bytes, header: SoundHeader, path: str) -> np.ndarray:
    if header.floats:
        values = np.frombuffer(data, f"<f{header.bits // 8}").astype(np.float32)
        if not np.isfinite(values).all():
            raise DataError(f"{path}: some of its samples are NaN or infinite")
        return values
    if header.bits == 8:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    if header.bits == 24:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return (wide.view("<i4")[:, 0] >> 8).astype(np.float32) / np.float32(1 << 23)
    return np.frombuffer(data, f"<i{header.bits // 8}").astype(np.float32) / np.float32(1 << (header.bits - 1))


def _wav_header(file: BinaryIO, path: str) -> SoundHeader:
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes); restore it or remove it")
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        from resnet_jax.data.kinds.files import beginning_of

        raise DataError(f"{path}: no WAV file, but {beginning_of(path)}; save it as WAV, 16 bit PCM")
    layout: tuple[int, ...] | None = None
    while len(chunk := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", chunk)
        at = file.tell()
        if name == b"fmt ":
            layout = _layout(file.read(min(length, 64)), path)
        elif name == b"data":
            if layout is None:
                break
            return _checked(layout, at, length, size, path)
        file.seek(at + length + length % 2)
    raise DataError(f"{path}: a WAV file without {'samples' if layout else 'a format'}: cut short or broken")


def _layout(data: bytes, path: str) -> tuple[int, ...]:
    """Return encoding, channels, rate, bytes per frame and bits."""
    if len(data) < 16:
        raise DataError(f"{path}: a WAV file whose format is cut short")
    coding, channels, rate, _, block, bits = struct.unpack("<HHIIHH", data[:16])
    if coding == _EXTENSIBLE and len(data) >= 26:
        coding = struct.unpack("<H", data[24:26])[0]
    return coding, channels, rate, block, bits


def _checked(layout: tuple[int, ...], start: int, length: int, size: int, path: str) -> SoundHeader:
    coding, channels, rate, block, bits = layout
    known = (coding == _PCM and bits in (8, 16, 24, 32)) or (coding == _FLOAT and bits in (32, 64))
    if not known:
        name = _CODINGS.get(coding, f"coding {coding}")
        what = f"{bits}-bit PCM" if coding == _PCM else f"{bits}-bit floats" if coding == _FLOAT else name
        raise DataError(f"{path}: a WAV file of {what}; PCM of 8, 16, 24 or 32 bits and floats are read: convert it")
    if not channels or not rate or block != channels * bits // 8:
        raise DataError(f"{path}: a WAV file of {channels} channels at {rate} Hz, {block} bytes a frame: broken")
    if start + length > size:
        raise DataError(
            f"{path}: cut short: its header says {length:,} bytes of samples, and {max(size - start, 0):,} are there; "
            "restore it or remove it"
        )
    if length < block:
        raise DataError(f"{path}: there are no samples in it")
    return SoundHeader(rate, channels, length // block, bits, coding == _FLOAT, start)


def _with_soundfile(path: str, read: Any) -> Any:
    try:
        import soundfile  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(
            f"{path}: FLAC and Ogg are read by the package soundfile, which is not installed: "
            f"{install('audio')}; or save the sounds as WAV"
        ) from error
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
        found = soundfile.info(path)
        if reason := too_much_unpacked(4 * int(found.frames) * int(found.channels), size):
            raise DataError(f"{path}: not read: {reason}")
        return read(soundfile)
    except (RuntimeError, OSError) as error:
        raise DataError(f"{path}: cannot read this sound ({error})") from error
