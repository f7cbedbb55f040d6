"""Sounds: every coding to float32, classes, lengths, and files that are broken."""

from __future__ import annotations

import struct
import wave
from pathlib import Path

import numpy as np
import pytest

from resnet_jax.data import load_dataset
from resnet_jax.data.kinds.wave_file import read_header, read_samples
from resnet_jax.errors import DataError, UsageError


def write(path: Path, samples: np.ndarray, rate: int = 8000, bits: int = 16) -> Path:
    """Write integers (frames, channels) as PCM with the standard library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if bits == 24:
        data = samples.astype("<i4").tobytes()
        data = b"".join(data[i : i + 3] for i in range(0, len(data), 4))
    else:
        data = samples.astype({8: "u1", 16: "<i2", 32: "<i4"}[bits]).tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(bits // 8)
        file.setframerate(rate)
        file.writeframes(data)
    return path


def tone(seed: int, frames: int = 50, bits: int = 16, channels: int = 1) -> np.ndarray:
    low, high = (0, 256) if bits == 8 else (-(1 << (bits - 1)), 1 << (bits - 1))
    return np.random.default_rng(seed).integers(low, high, (frames, channels))


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("channels", [1, 2])
def test_pcm_is_divided_by_its_range(tmp_path, bits, channels):
    samples = tone(1, bits=bits, channels=channels)
    samples[:2] = [[0], [255 if bits == 8 else -(1 << (bits - 1))]]
    values, header = read_samples(str(write(tmp_path / "x.wav", samples, 44_100, bits)))
    exact = (samples - 128) / 128 if bits == 8 else samples / (1 << (bits - 1))
    np.testing.assert_array_equal(values, exact.astype(np.float32))
    assert (header.rate, header.channels, header.frames) == (44_100, channels, 50)
    assert np.abs(values).max() <= 1


def riff(layout: bytes, data: bytes, extra: bytes = b"") -> bytes:
    chunks = b"fmt " + struct.pack("<I", len(layout)) + layout + extra + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def test_floats_extensible_headers_and_other_chunks(tmp_path):
    values = np.linspace(-1, 1, 8, dtype="<f4")
    extra = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # of odd length, padded
    layout = struct.pack("<HHIIHH", 0xFFFE, 2, 16_000, 128_000, 8, 32) + struct.pack("<HHIH", 22, 32, 3, 3) + bytes(14)
    (tmp_path / "x.wav").write_bytes(riff(layout, values.tobytes(), extra))
    found, header = read_samples(str(tmp_path / "x.wav"))
    assert header.floats
    np.testing.assert_array_equal(found, values.reshape(4, 2))
    values[3] = np.nan
    (tmp_path / "x.wav").write_bytes(riff(layout, values.tobytes()))
    with pytest.raises(DataError, match="NaN or infinite"):
        read_samples(str(tmp_path / "x.wav"))


PCM = struct.pack("<HHIIHH", 1, 1, 8000, 16_000, 2, 16)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"not a sound at all", "no WAV file, but text"),
        (riff(PCM, bytes(20))[:-8], "cut short: its header says 20 bytes of samples, and 12 are there"),
        (riff(PCM, b""), "there are no samples"),
        (riff(PCM, bytes(8))[:30], "without a format|cut short"),
        (riff(struct.pack("<HHIIHH", 6, 1, 8000, 8000, 1, 8), bytes(8)), "a WAV file of A-law"),
        (riff(struct.pack("<HHIIHH", 1, 1, 8000, 8000, 1, 12), bytes(8)), "12-bit PCM"),
        (riff(struct.pack("<HHIIHH", 1, 0, 8000, 8000, 2, 16), bytes(8)), "0 channels at 8000 Hz"),
        (riff(struct.pack("<HHIIHH", 1, 2, 8000, 8000, 2, 16), bytes(8)), "2 bytes a frame: broken"),
    ],
)
def test_a_broken_file_is_named(tmp_path, data, message):
    (tmp_path / "x.wav").write_bytes(data)
    with pytest.raises(DataError, match=message) as raised:
        read_header(str(tmp_path / "x.wav"))
    assert str(raised.value).startswith(str(tmp_path / "x.wav"))


def test_all_broken_files_are_named_at_once(tmp_path):
    for label in "ab":
        for number in range(5):
            write(tmp_path / label / f"{number}.wav", tone(number))
            if number != 2:
                (tmp_path / label / f"{number}.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"8 of 10 files are broken: .*a/0\.wav: no WAV.*b/1\.wav: .*; and 2 more"):
        load_dataset(f"wav:{tmp_path}")


def test_flac_gives_what_was_written(tmp_path):
    library = pytest.importorskip("soundfile", reason="soundfile, of the extra audio, is not installed")
    samples = tone(2).astype(np.int16)
    for name in ("a/1.flac", "b/1.flac"):
        (tmp_path / name).parent.mkdir()
        library.write(tmp_path / name, samples, 8000)
    data = load_dataset(f"wav:{tmp_path}")
    np.testing.assert_array_equal(data.splits["all"][0]["image"], (samples / 32768).astype(np.float32))
    (tmp_path / "a" / "1.flac").write_bytes(b"fLaC nothing")
    with pytest.raises(DataError, match=r"1\.flac: cannot read this sound"):
        load_dataset(f"wav:{tmp_path}")


def test_without_soundfile_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    (tmp_path / "x.flac").write_bytes(b"fLaC")
    with pytest.raises(DataError, match=r"pip install 'resnet-flax\[audio\]'"):
        read_header(str(tmp_path / "x.flac"))


def test_class_folders_lengths_and_what_is_left_out(tmp_path):
    for seed, (name, frames) in enumerate({"no/1": 30, "no/2": 50, "yes/1": 40}.items()):
        write(tmp_path / f"{name}.wav", tone(seed, frames))
    (tmp_path / "yes" / "notes.txt").write_text("hm")
    data = load_dataset(f"wav:{tmp_path}")
    records = data.splits["all"]
    assert (data.class_names, records.labels.tolist()) == (("no", "yes"), [0, 0, 1])
    assert [records[i]["image"].shape for i in range(3)] == [(50, 1)] * 3
    assert not records[0]["image"][30:].any()
    assert records.lengths.tolist() == [30, 50, 40]
    assert any("1 files left out" in note for note in data.notes)
    assert load_dataset(f"wav:{tmp_path}", signal_length=35).splits["all"][1]["image"].shape == (35, 1)


def test_the_class_in_the_name_with_splits(tmp_path):
    for seed, name in enumerate(["train/3_ann_0", "train/10_ann_0", "test/3_bob_0"]):
        write(tmp_path / f"{name}.wav", tone(seed))
    write(tmp_path / "test" / "10_bob_1.wav", tone(9))
    data = load_dataset(f"wav:{tmp_path}", class_pattern=r"(\d+)_[a-z]+_\d+\.wav$")
    assert data.class_names == ("3", "10")
    assert data.splits["train"].labels.tolist() == [1, 0]
    from_the_start = load_dataset(f"wav:{tmp_path}", class_pattern=r"^(\d+)_")  # below the folder of the split
    assert from_the_start.splits["train"].labels.tolist() == [1, 0]
    with pytest.raises(DataError, match="belong to no class folder"):
        load_dataset(f"wav:{tmp_path}")
    with pytest.raises(DataError, match=r"finds no class in .* \(2 of 2 sound files\)"):
        load_dataset(f"wav:{tmp_path}", class_pattern="(cat)")
    with pytest.raises(UsageError, match="has 0 groups"):
        load_dataset(f"wav:{tmp_path}", class_pattern="cat")


def test_rates_and_channels_must_be_one(tmp_path):
    write(tmp_path / "a" / "1.wav", tone(1))
    write(tmp_path / "b" / "1.wav", tone(2), rate=16_000)
    with pytest.raises(DataError, match=r"b/1\.wav: 16,000 Hz, 1 channel, but .*a/1\.wav: 8,000 Hz.*neither resampled"):
        load_dataset(f"wav:{tmp_path}")
    write(tmp_path / "b" / "1.wav", tone(2, channels=2))
    with pytest.raises(DataError, match=r"b/1\.wav: 8,000 Hz, 2 channels, but"):
        load_dataset(f"wav:{tmp_path}")


def test_an_empty_class_or_one_in_the_test_split_only(tmp_path):
    for name in ("train/a/1", "train/b/1", "test/a/1", "test/c/1"):
        write(tmp_path / f"{name}.wav", tone(1))
    with pytest.raises(DataError, match=r"class 'b' is in .*train but not in .*test"):
        load_dataset(f"wav:{tmp_path}")
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    data = load_dataset(f"wav:{tmp_path}", class_list=str(tmp_path / "names.txt"))
    assert data.splits["test"].labels.tolist() == [0, 2]
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no sound files in it"):
        load_dataset(f"wav:{tmp_path}")


def test_speech_commands_lists_are_splits(tmp_path):
    for word in ("no", "yes"):
        for number in range(3):
            write(tmp_path / word / f"{number}.wav", tone(number))
    write(tmp_path / "_background_noise_" / "pink.wav", tone(5, 500))
    (tmp_path / "validation_list.txt").write_text("no/0.wav\nyes/0.wav\n")
    (tmp_path / "testing_list.txt").write_text("no/1.wav\nyes/1.wav\n")
    data = load_dataset(f"wav:{tmp_path}")
    assert data.class_names == ("no", "yes")
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 2, "val": 2, "test": 2}
    assert data.splits["test"].labels.tolist() == [0, 1]
    assert any("1 files of _background_noise_ left out" in note for note in data.notes)
    (tmp_path / "testing_list.txt").write_text("no/9.wav\n")
    with pytest.raises(DataError, match=r"testing_list\.txt lists 1 files that are not there: no/9\.wav"):
        load_dataset(f"wav:{tmp_path}")


def test_spoken_digits(unpacked):
    root = unpacked("spoken-digits-5-speakers") / "spoken-digits" / "recordings"
    data = load_dataset(f"wav:{root}", class_pattern=r"^(\d)_")
    records = data.splits["all"]
    assert np.bincount(records.labels).tolist() == [225] * 10
    index = records.paths.index(str(root / "7_jackson_32.wav"))
    with wave.open(records.paths[index]) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    values = records[index]["image"][:, 0]
    np.testing.assert_array_equal(values[: len(samples)] * 32768, samples)
    assert not values[len(samples) :].any()
