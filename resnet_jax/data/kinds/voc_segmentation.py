"""``voc_segmentation:PATH``: Pascal VOC's images with a class for every pixel: ``SegmentationClass/*.png``.

``PATH`` is a year of VOC or a VOCdevkit with one year in it; the splits are the lists in ``ImageSets/Segmentation``
(train, val, test; trainval if there is no train), or all masks. Masks are palette PNGs, whose numbers are used; 255 is
no class. Numbers up to 20 are VOC's 21 classes, background first, unless ``data.class_list`` names them.
"""

from __future__ import annotations

from pathlib import Path

from resnet_jax.data.kinds.files import images_by_stem
from resnet_jax.data.kinds.mask_pairs import Pairs
from resnet_jax.data.kinds.masks import mask_dataset
from resnet_jax.data.kinds.voc import devkit_year, listed_stems
from resnet_jax.data.layout import shortened
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import Dataset
from resnet_jax.data.registry import register_source
from resnet_jax.errors import DataError

EXPECTED = "need PATH/JPEGImages, PATH/SegmentationClass and lists in PATH/ImageSets/Segmentation"
_OBJECTS = """
aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep sofa
train tvmonitor
"""
VOC_CLASSES = ("background", *_OBJECTS.split())


@register_source("voc_segmentation", form="voc_segmentation:PATH", uses=("class_list", "void_value"))
def load_voc_segmentation(path: str, reading: Reading, /) -> Dataset:
    """Find the masks that the lists name, and count their values once.

    Raises:
        DataError: for another layout, a missing image or mask, or a value that cannot be a class.
    """
    root = Path(path).expanduser()
    root = root if (root / "SegmentationClass").is_dir() else devkit_year(root)
    if not (root / "SegmentationClass").is_dir():
        raise DataError(f"{root}: there is no folder SegmentationClass; {EXPECTED}")
    images, masks = images_by_stem(root / "JPEGImages"), images_by_stem(root / "SegmentationClass")
    lists = {
        split: root / "ImageSets" / "Segmentation" / f"{split}.txt" for split in ("train", "val", "test", "trainval")
    }
    lists = {split: file for split, file in lists.items() if file.is_file()}
    whole = lists.pop("trainval", None)
    if "train" not in lists:
        lists = {split: file for split, file in lists.items() if split == "test"}
        lists = {"train": whole, **lists} if whole is not None else {}
    stems = {split: listed_stems(file) for split, file in lists.items()} or {"all": sorted(masks)}
    pairs: dict[str, Pairs] = {}
    for split, found in stems.items():
        where = lists.get(split, root)
        missing = [stem for stem in found if stem not in images or stem not in masks]
        if missing:
            raise DataError(f"{where}: {len(missing):,} names have no image or no mask: {shortened(missing, 3)}")
        pairs[split] = [(images[stem], masks[stem]) for stem in found]
    if not next(iter(pairs.values())):
        raise DataError(f"{root / 'SegmentationClass'}: there is nothing in it; {EXPECTED}")
    if len(pairs) == 1:
        pairs = {"all": next(iter(pairs.values()))}

    def usual(largest: int) -> tuple[str, ...] | None:
        return VOC_CLASSES if largest < len(VOC_CLASSES) and reading.void_value is None else None

    return mask_dataset(f"voc_segmentation:{path}", pairs, reading, None, usual)
