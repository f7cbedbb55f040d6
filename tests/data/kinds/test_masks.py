"""Masks: what files store, layouts, colours, classes, void, and what does not fit together."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from resnet_jax.data import load_dataset
from resnet_jax.data.kinds.mask_colours import read_colours
from resnet_jax.data.kinds.mask_file import decode_mask
from resnet_jax.errors import DataError

from .conftest import noise, write_image

PALETTE = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
PALETTE[0] = 0


def png(values: np.ndarray, bits: int = 8, palette: np.ndarray | None = None, transparent: bool = False) -> bytes:
    """Return numbers as a PNG of a palette or of grey, without a library."""
    rows = []
    for row in values:
        if bits == 16:
            packed = row.astype(">u2").tobytes()
        else:
            shifts = np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :]
            packed = np.packbits(shifts.ravel()).tobytes()
        rows.append(b"\0" + packed)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0 if palette is None else 3, 0, 0, 0)
    chunks = [(b"IHDR", head)]
    if palette is not None:
        chunks.append((b"PLTE", palette[: 1 << bits].tobytes()))
        if transparent:
            chunks.append((b"tRNS", bytes([0, 128])))
    chunks += [(b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    written = [struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


@settings(max_examples=60)
@given(
    st.sampled_from([1, 2, 4, 8, 16]),
    st.booleans(),
    st.booleans(),
    st.integers(1, 9),
    st.integers(1, 19),
    st.integers(0, 2**32 - 1),
)
def test_the_numbers_of_a_png_come_as_they_are_stored(bits, coloured, transparent, height, width, seed):
    values = np.random.default_rng(seed).integers(0, 1 << bits, (height, width))
    palette = PALETTE if coloured and bits < 16 else None
    found = decode_mask(png(values, bits, palette, transparent), "x.png")
    np.testing.assert_array_equal(found, values)


def test_our_png_of_a_palette_is_what_pillow_reads():
    image = pytest.importorskip("PIL.Image")
    values = np.arange(12).reshape(3, 4)
    read = image.open(io.BytesIO(png(values, 8, PALETTE)))
    assert read.mode == "P"
    np.testing.assert_array_equal(np.array(read), values)
    np.testing.assert_array_equal(decode_mask(png(values, 8, PALETTE), "", shown=True), PALETTE[values])


def test_files_that_are_no_masks(tmp_path):
    whole = png(np.zeros((4, 4), int))
    broken = bytearray(whole)
    broken[whole.index(b"IDAT") + 6] ^= 1
    for data, message in (
        (write_image(tmp_path / "x.jpg", noise(0)).read_bytes(), "a mask in JPEG, whose compression"),
        (whole[:-20], "cut short"),
        (bytes(broken), "checksum"),
        (png(np.zeros((4, 4), int), 16)[:50], "cut short"),
        (struct.pack(">8sI4sIIBBBBBI", whole[:8], 13, b"IHDR", 60_000, 60_000, 8, 0, 0, 0, 0, 0) + b"x" * 20, "60,000"),
    ):
        with pytest.raises(DataError, match=message):
            decode_mask(data, "x")
    for array, message in ((np.zeros((2, 2)), "float64"), (np.full((2, 2), -1), "values -1 to -1")):
        buffer = io.BytesIO()
        np.save(buffer, array)
        with pytest.raises(DataError, match=message):
            decode_mask(buffer.getvalue(), "x.npy")


def make(root: Path, layout: str, count: int = 3, values: int = 3, extra: int | None = None) -> Path:
    """Write images and palette masks of ``values`` classes; {split} and {stem} in the layout stand for names."""
    image, mask = layout.split()
    for split in ("train", "val"):
        for stem in range(count):
            write_image(root / image.format(split=split, stem=stem), noise(stem))
            numbers = np.arange(12 * 16).reshape(12, 16) % values
            if extra is not None:
                numbers[0, 0] = extra
            path = root / mask.format(split=split, stem=stem)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(numbers, 8, PALETTE))
    return root


@pytest.mark.parametrize(
    "layout",
    [
        "{split}/{stem}.png {split}annot/{stem}.png",
        "{split}/{stem}.png {split}_labels/{stem}_L.png",
        "{split}/images/{stem}.png {split}/masks/{stem}_mask.png",
        "images/{split}/{stem}.png annotations/{split}/{stem}.png",
        "{split}/{stem}_sat.png {split}/{stem}_mask.png",
        "{split}/img/a/{stem}.png {split}/gt/a/{stem}.png",
    ],
)
def test_layouts_with_splits(tmp_path, layout):
    data = load_dataset(f"masks:{make(tmp_path, layout)}")
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 3, "val": 3}
    found = data.splits["val"][2]
    np.testing.assert_array_equal(found["image"], noise(2))
    np.testing.assert_array_equal(found["segmentation"], np.arange(192).reshape(12, 16) % 3)
    assert (data.kind, data.class_names) == ("segmentation", ("0", "1", "2"))
    assert data.splits["train"].spec["segmentation"].meaning == "mask"


ONE = "images/{split}{stem}.png masks/{split}{stem}.png"


@pytest.mark.parametrize(
    "layout", ["images/{split}{stem}.png masks/{split}{stem}.png", "{split}{stem}.png {split}{stem}_mask.png"]
)
def test_layouts_without_splits(tmp_path, layout):
    assert len(load_dataset(f"masks:{make(tmp_path, layout)}").splits["all"]) == 6


def test_255_and_a_stated_value_are_no_class(tmp_path):
    data = load_dataset(f"masks:{make(tmp_path, ONE, extra=255)}")
    assert data.splits["all"][0]["segmentation"][0, 0] == 255
    assert data.num_classes == 3
    assert any("0.5% of all pixels have no class" in note for note in data.notes)
    first = load_dataset(f"masks:{tmp_path}", void_value=0)
    assert first.class_names == ("1", "2")
    assert first.splits["all"][0]["segmentation"][0, :4].tolist() == [255, 0, 1, 255]


def test_names_from_a_list_and_values_beyond_it(tmp_path):
    make(tmp_path, ONE)
    names = tmp_path / "names.txt"
    names.write_text("sky\nroad\ncar\ntree\n")
    data = load_dataset(f"masks:{tmp_path}", class_list=str(names))
    assert data.class_names == ("sky", "road", "car", "tree")
    assert any("1 of 4 classes occur in no mask: tree" in note for note in data.notes)
    names.write_text("sky\nroad\n")
    with pytest.raises(DataError, match=r"masks/train0\.png: value 2 is none of the 2 classes; 6 masks hold it"):
        load_dataset(f"masks:{tmp_path}", class_list=str(names))
    assert load_dataset(f"masks:{tmp_path}", class_list=str(names), void_value=2).num_classes == 2
    assert load_dataset(f"masks:{tmp_path}", class_list=str(names), void_value=1).class_names == ("sky", "road")


def test_0_and_255_alone_are_two_classes(tmp_path):
    write_image(tmp_path / "images" / "a.png", noise(0))
    write_image(tmp_path / "masks" / "a.png", np.eye(12, 16, dtype=np.uint8) * 255)
    data = load_dataset(f"masks:{tmp_path}")
    np.testing.assert_array_equal(data.splits["all"][0]["segmentation"], np.eye(12, 16))
    assert "255 is the second class here" in data.notes[0]


def test_colours_become_classes_by_a_table(tmp_path):
    colours = np.array([[0, 0, 0], [64, 128, 64], [192, 0, 128]], np.uint8)
    numbers = np.arange(192).reshape(12, 16) % 3
    write_image(tmp_path / "images" / "a.png", noise(0))
    write_image(tmp_path / "masks" / "a.png", colours[numbers])
    write_image(tmp_path / "images" / "b.png", noise(1))
    (tmp_path / "masks" / "b.png").write_bytes(png(numbers, 8, PALETTE))
    with pytest.raises(DataError, match=r"a mask of colours, and no table .* class_dict\.csv"):
        load_dataset(f"masks:{tmp_path}")
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nvoid,0,0,0\nanimal,64,128,64\narchway,192,0,128\n")
    with pytest.raises(DataError, match=r"b\.png: 128 pixels have colours that .*class_dict\.csv does not list"):
        load_dataset(f"masks:{tmp_path}")
    (tmp_path / "masks" / "b.png").write_bytes(png(numbers, 8, np.concatenate([colours, PALETTE[3:]])))
    data = load_dataset(f"masks:{tmp_path}")
    assert data.class_names == ("void", "animal", "archway")
    for index in range(2):
        np.testing.assert_array_equal(data.splits["all"][index]["segmentation"], numbers)
    (tmp_path / "two.txt").write_text("archway\nanimal\n")
    two = load_dataset(f"masks:{tmp_path}", class_list=str(tmp_path / "two.txt"))
    assert two.splits["all"][0]["segmentation"][0, :3].tolist() == [255, 1, 0]
    assert any("colours that count nowhere: void" in note for note in two.notes)


@pytest.mark.parametrize(
    "text",
    [
        "64 128 64\tAnimal\n192 0 128\t\tArch way\n",
        "Animal:64,128,64::\nArch way:192,0,128::\n",
        "id,n,r,g,b\n0,Animal,64,128,64\n7,Arch way,192,0,128",
    ],
)
def test_tables_of_colours_as_people_have_them(tmp_path, text):
    (tmp_path / "t.txt").write_text(text)
    found = read_colours(tmp_path / "t.txt")
    assert found.names == ("Animal", "Arch way")
    assert found.codes.tolist() == [0x408040, 0xC00080]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 2 3\nb 1 2\n", "line 2: 'b 1 2'; need a name and red, green, blue"),
        ("a 1 2 3\nb 1 2 3\n", r"line 2: the colour \(1, 2, 3\) stands in it already"),
        ("a 1 2 3\na 1 2 4\n", "line 2: the name 'a' stands"),
        ("name\n", "0 classes"),
    ],
)
def test_a_wrong_table_of_colours_is_named(tmp_path, text, message):
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_colours(tmp_path / "t.txt")


def test_what_does_not_fit_together_is_named(tmp_path):
    make(tmp_path, ONE)
    write_image(tmp_path / "images" / "alone.png", noise(4))
    with pytest.raises(DataError, match=r"1 of 7 images have no mask in .*masks: alone\.png"):
        load_dataset(f"masks:{tmp_path}")
    write_image(tmp_path / "masks" / "alone.png", np.zeros((5, 5), np.uint8))
    data = load_dataset(f"masks:{tmp_path}")
    with pytest.raises(DataError, match=r"masks/alone\.png is 5 x 5 .* but its image .*images/alone\.png 12 x 16"):
        data.splits["all"][0]
    (tmp_path / "images" / "alone.png").unlink()
    with pytest.raises(DataError, match=r"masks: 1 masks have no image in .*images: alone\.png"):
        load_dataset(f"masks:{tmp_path}")
    with pytest.raises(DataError, match="need PATH/images with PATH/masks"):
        load_dataset(f"masks:{tmp_path / 'images'}")


def test_values_are_counted_once_and_again_when_a_mask_changed(tmp_path, monkeypatch):
    from resnet_jax.data.kinds import masks

    read: list[str] = []
    real = masks.read_mask_file
    monkeypatch.setattr(masks, "read_mask_file", lambda path, **how: read.append(path) or real(path, **how))
    make(tmp_path, ONE)
    assert load_dataset(f"masks:{tmp_path}").num_classes == 3
    assert len(read) == 6
    assert load_dataset(f"masks:{tmp_path}").num_classes == 3
    assert len(read) == 6
    (tmp_path / "masks" / "val0.png").write_bytes(png(np.full((12, 16), 7)))
    assert load_dataset(f"masks:{tmp_path}").num_classes == 8
    assert len(read) == 12
    data = load_dataset(f"masks:{tmp_path}")
    (tmp_path / "masks" / "val0.png").write_bytes(png(np.full((12, 16), 9)))
    with pytest.raises(DataError, match=r"val0\.png: value 9 in 192 pixels, which is no class"):
        data.splits["all"][3]


def test_voc_segmentation(tmp_path):
    numbers = np.arange(192).reshape(12, 16) % 21
    numbers[0] = 255
    for stem in "abc":
        write_image(tmp_path / "JPEGImages" / f"{stem}.jpg", noise(1))
        (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
        (tmp_path / "SegmentationClass" / f"{stem}.png").write_bytes(png(numbers, 8, PALETTE))
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c\n")
    data = load_dataset(f"voc_segmentation:{tmp_path}")
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 2, "val": 1}
    assert data.class_names[:2] == ("background", "aeroplane")
    assert data.class_names[20] == "tvmonitor"
    np.testing.assert_array_equal(data.splits["val"][0]["segmentation"], numbers)
    (lists / "val.txt").write_text("d\n")
    with pytest.raises(DataError, match=r"val\.txt: 1 names have no image or no mask: d"):
        load_dataset(f"voc_segmentation:{tmp_path}")


def test_camvid(unpacked):
    root = unpacked("camvid-train-val") / "camvid"
    data = load_dataset(f"masks:{root}", void_value=11)
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 367, "val": 101}
    assert data.num_classes == 11
    found = data.splits["train"][0]
    assert found["image"].shape == (360, 480, 3)
    stored = decode_mask(Path(data.splits["train"].masks[0]).read_bytes(), "")
    np.testing.assert_array_equal(found["segmentation"], np.where(stored == 11, 255, stored))
