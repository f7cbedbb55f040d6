"""tf.data's side of ``resnet-jax bench data``: the same files, or a TFRecord of their bytes; decode, crop, flip, batch.

It imports nothing of this project; ``resnet_jax/bench/serve.py`` loads it in an interpreter that has tensorflow. The
crop is a box of ``sample_distorted_bounding_box``, and ``decode_and_crop_jpeg`` decodes only that, as in TensorFlow's
own ResNet; with ``whole`` the whole image is decoded, as on the other sides. It is resized bilinearly, without
antialiasing. Batches are uint8. Parallel calls and threads are as many as on the other sides.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

import pathlib
import resource
import time
from typing import Any

import tensorflow as tf


class Side:
    """A dataset that is started and stopped for each round."""

    def __init__(self, spec: dict[str, Any]):
        """List the folder, or write a TFRecord of it."""
        self.images, threads, kind = spec["batch"], spec["threads"], spec["kind"]
        classes = sorted(path for path in pathlib.Path(spec["folder"]).iterdir() if path.is_dir())
        files = [(str(file), label) for label, folder in enumerate(classes) for file in sorted(folder.iterdir())]
        paths, labels = [path for path, _ in files], [label for _, label in files]
        if spec["records"]:
            record = str(pathlib.Path(spec["scratch"]) / "images.tfrecord")
            with tf.io.TFRecordWriter(record) as writer:
                for path, label in files:
                    writer.write(_example(pathlib.Path(path).read_bytes(), label))
            data = tf.data.TFRecordDataset(record).shuffle(min(len(files), 10_000)).repeat()
            data = data.map(_parse, num_parallel_calls=threads)
        else:
            data = tf.data.Dataset.from_tensor_slices((paths, labels)).shuffle(len(files)).repeat()
            data = data.map(lambda path, label: (tf.io.read_file(path), label), num_parallel_calls=threads)
        make = {"imagenet": _crop_whole if spec["whole"] else _crop, "cifar": _rgb, "mnist": _grey}[kind]
        data = data.map(lambda image, label: (make(image), label), num_parallel_calls=threads)
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        self.data = data.batch(self.images, drop_remainder=True).prefetch(4).with_options(options)
        self.facts = {"examples": len(files), "versions": {"tensorflow": tf.__version__}}

    def dispatch(self) -> None:
        """Make one batch, to warm up."""
        next(iter(self.data))

    def wait(self) -> None:
        """Nothing is on its way."""

    def measure(self, seconds: float) -> dict[str, float]:
        """Return the examples that arrive in about so many seconds, after what is made ahead is used up."""
        stream = self.data.as_numpy_iterator()
        for _ in range(12):
            next(stream)
        count, began = 0, time.perf_counter()
        while (took := time.perf_counter() - began) < seconds:
            count += len(next(stream)[1])
        del stream
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"images": count, "seconds": took, "peak_bytes": peak}


def _example(data: bytes, label: int) -> bytes:
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[data])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _parse(record: Any) -> Any:
    found = tf.io.parse_single_example(
        record, {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
    )
    return found["image"], found["label"]


def _crop_whole(data: Any) -> Any:
    return _crop(data, whole=True)


def _crop(data: Any, whole: bool = False) -> Any:
    shape = tf.io.extract_jpeg_shape(data)
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        shape, tf.zeros([1, 0, 4]), area_range=(0.08, 1.0), aspect_ratio_range=(3 / 4, 4 / 3), max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )  # fmt: skip
    window = tf.stack([begin[0], begin[1], size[0], size[1]])
    if whole:
        image = tf.slice(tf.io.decode_jpeg(data, channels=3), begin, size)
    else:
        image = tf.image.decode_and_crop_jpeg(data, window, channels=3)
    image = tf.image.random_flip_left_right(tf.image.resize(image, (224, 224)))
    return tf.cast(tf.round(image), tf.uint8)


def _rgb(data: Any) -> Any:
    image = tf.io.decode_jpeg(data, channels=3)
    image.set_shape((32, 32, 3))
    return image


def _grey(data: Any) -> Any:
    image = tf.io.decode_png(data, channels=1)
    image.set_shape((28, 28, 1))
    return image


def prepare(spec: dict[str, Any]) -> Side:
    """Open the images."""
    return Side(spec)
