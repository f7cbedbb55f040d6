"""What is at a path that was given as a data source without its kind, and what to type instead."""

from __future__ import annotations

from pathlib import Path

from resnet_jax.data.formats import HEAD_BYTES, SUFFIXES, identify
from resnet_jax.data.layout import shortened
from resnet_jax.errors import ResNetJaxError
from resnet_jax.runtime.plain_files import open_file, read_text
from resnet_jax.runtime.plain_json import load_json

KIND_OF_SUFFIX = {
    ".csv": "a table (CSV)",
    ".tsv": "a table (TSV)",
    ".json": "a JSON file",
    ".jsonl": "a JSON Lines file",
    ".txt": "a text file",
    ".parquet": "a Parquet file",
    ".tfrecord": "a TFRecord file",
    ".pkl": "a Python pickle",
    ".pt": "a PyTorch file",
    ".pth": "a PyTorch file",
    ".mat": "a MATLAB file",
}
"""What files with these suffixes are, if their first bytes do not tell."""
RECORDS = "an ArrayRecord file"
"""The name that :func:`resnet_jax.data.formats.identify` gives them."""


def describe_path(path: Path) -> str:
    """Describe what is at an existing path, and which source to type for it: "it is ...".

    Args:
        path: a folder or a file.
    """
    from resnet_jax.data.kinds.detect import source_at

    if (found := source_at(path)) is not None:
        source, what = found
        return f"it is {what}: write {source}" if path.is_file() else f"it holds {what}: write {source}"
    return _describe_folder(path) if path.is_dir() else _describe_file(path)


def _describe_file(path: Path) -> str:
    try:
        with open_file(path) as file:
            found = identify(file.read(HEAD_BYTES))
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    if path.suffix.lower() == ".npz":
        return f"it is an .npz file of arrays: write npz:{path}"
    if found is not None and found.name == RECORDS:
        return f"it is {RECORDS}: if `resnet-jax data convert` wrote it, write array_record:{path}"
    if found is not None and found.readable:
        return (
            f"it is {found.name}; a data set is a folder with one folder of images a class (folder:PATH); to classify "
            f"one image: resnet-jax predict RUN_DIR {path}"
        )
    suffix = path.suffix.lower()
    if found is None or found.name.startswith(("text", "a zip")):
        name = KIND_OF_SUFFIX.get(suffix, "a file of no known kind" if found is None else found.name)
    else:
        name = found.name
    advice = found.advice if found is not None else ""
    if suffix in (".csv", ".tsv"):
        advice = (
            "if it lists files under path, and label, labels or value, write manifest:PATH; if it holds pixels, save "
            "arrays with np.savez('data.npz', x=..., y=...) (npz:data.npz)"
        )
    elif suffix in SUFFIXES:
        return f"it is called an image but {'is empty' if path.stat().st_size == 0 else f'is {name}'}"
    return f"it is {name}: {advice or 'save images and labels with np.savez as x and y, then npz:data.npz'}"


def _describe_folder(path: Path) -> str:
    if (path / "config.yaml").is_file() and (path / "data.json").is_file():
        return "it is a run directory, not a data set; data.source takes images"
    prepared = prepared_sets(path)
    if prepared:
        return f"it holds {shortened([name for name, _ in prepared])}, prepared by TFDS: write {prepared[0][1]}"
    arrays = sorted(file.name for file in path.glob("*.npz"))
    if arrays:
        return f"it is a folder with {shortened(arrays)}: write npz:{path / arrays[0]}"
    from resnet_jax.data.folder import load_folder

    try:
        dataset = load_folder(str(path))
    except ResNetJaxError as error:
        return f"it is a folder, but not one of images by class: {error}"
    images = sum(len(records) for records in dataset.splits.values())
    splits = "" if "all" in dataset.splits else f" in {', '.join(dataset.origins.values())}"
    return (
        f"it is a folder with {dataset.num_classes:,} class folders ({shortened(dataset.class_names, 3)}){splits} and "
        f"{images:,} images: write folder:{path}"
    )


def prepared_sets(path: Path) -> list[tuple[str, str]]:
    """Return name and source of the sets prepared at or below ``path``, which may hold all sets, one, or a version."""
    path, found = path.absolute(), []
    for depth in range(4):
        for info in sorted(path.glob("*/" * depth + "dataset_info.json")):
            version = info.parent
            has_config = version.parent.parent.name and not _is_data_dir(version.parent.parent, version)
            name = f"{version.parent.parent.name}/{version.parent.name}" if has_config else version.parent.name
            data_dir = version.parents[2] if has_config else version.parents[1]
            found.append((name, f"tfds:{name}@{data_dir}"))
        if found:
            return found
    return found


def _is_data_dir(candidate: Path, version: Path) -> bool:
    """Return whether ``candidate`` is the folder of all sets, that is, the set in it has no configurations."""
    try:
        info = load_json(read_text(version / "dataset_info.json"))
    except (OSError, ValueError):
        return True
    return info.get("configName", "") in ("", None) or info.get("configName") != version.parent.name
