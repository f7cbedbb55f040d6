"""The examples of a split prepared by TFDS, with random access to its ArrayRecord files, not decoded.

TFDS's own source reads each example in the slow way (see `record_file`) and builds a NumPy array for every feature;
here only the requested features are taken from the record, a ``tf.train.Example``.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resnet_jax.data.record_file import RecordFile
from resnet_jax.errors import DataError


@dataclass(frozen=True, eq=False)
class PreparedExamples:
    """Examples by index, each a dict with the bytes or the integer of the wanted features.

    Attributes:
        files: files of the split, in order.
        keys: the features.
    """

    files: tuple[RecordFile, ...]
    keys: tuple[str, ...]

    @functools.cached_property
    def ends(self) -> list[int]:
        """Number of examples up to the end of each file."""
        return list(itertools.accumulate(len(file) for file in self.files))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)}")
        place = bisect.bisect_right(self.ends, index)
        file = self.files[place]
        number = index - (self.ends[place - 1] if place else 0)
        return _parse(file[number], self.keys, f"record {number:,} of {file.path}")

    def __getitems__(self, indices: Sequence[int], /) -> list[dict[str, Any]]:
        return [self[index] for index in indices]


def _parse(record: bytes, keys: tuple[str, ...], where: str) -> dict[str, Any]:
    """Return features of a serialized ``tf.train.Example``: bytes, or an integer.

    Raises:
        DataError: if it is not one, or has no such feature.
    """
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        proto: Any = tf_example_pb2
        features = proto.Example.FromString(record).features.feature
    except DecodeError as error:
        raise DataError(f"{where}: this is no example as TFDS writes them ({error})") from error
    found: dict[str, Any] = {}
    for key in keys:
        if key not in features:
            raise DataError(f"{where}: the example has no feature {key!r}, but {', '.join(sorted(features))}")
        feature = features[key]
        values = feature.bytes_list.value or feature.int64_list.value
        if len(values) != 1:
            raise DataError(f"{where}: feature {key!r} has {len(values)} values; need one image or one class")
        found[key] = values[0]
    return found


def open_split(builder: Any, split: str, keys: tuple[str, ...]) -> PreparedExamples:
    """Open the files of a split.

    Raises:
        DataError: if a file is missing, truncated, or has a different number of examples than TFDS recorded.
    """
    info = builder.info.splits[split]
    files = tuple(RecordFile(str(path)) for path in sorted(info.filepaths, key=str))
    counts = [len(file) for file in files]
    if counts != list(info.shard_lengths):
        raise DataError(
            f"{builder.data_dir}: the {len(files)} files of split {split!r} hold {counts} examples, and "
            f"dataset_info.json says {list(info.shard_lengths)}: files were replaced; prepare the set anew"
        )
    return PreparedExamples(files, keys)
