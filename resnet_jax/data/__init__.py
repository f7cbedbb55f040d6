"""Sources -> records -> views -> batches -> device; this package knows nothing about models or training.

* ``source``: ``load_dataset("digits" or "folder:PATH" or "npz:PATH" or "manifest:PATH" or "tfds:NAME")``
* ``digits``, ``folder``, ``npz``, ``npy``, ``manifest``, ``array_record``, ``cifar``, ``mnist``, ``tfds``: one kind of
  source each
* ``class_folders``, ``class_pattern``, ``class_list``, ``annotations``: where the classes of a folder of images come
  from
* ``listing``, ``index``, ``path_table``: the files below a folder; their stored index; many paths in little memory
* ``decode``, ``headers``, ``orientation``, ``tiff``, ``formats``: image files: decoding, headers, orientation
* ``published``, ``plain_arrays``, ``idx``: archives read without unpacking, pickles that are not executed, MNIST's
  format
* ``convert``, ``prepare``: any data set as one ArrayRecord file; TFDS sets, downloaded or from local files
* ``kinds``: series, sounds, boxes, masks and volumes
* ``boxes``: the corner convention of boxes, and what happens to boxes that a crop removes
* ``check``, ``check_report``, ``check_text``: ``check_dataset``: contents, unreadable examples and duplicates of a data
  set
* ``registry``: ``register_source``: your own kinds of sources
* ``example``: ``Example``, a dict of named arrays; ``Source``: examples by index
* ``records``: sources in memory and parts of sources; ``Dataset``: named splits of a source
* ``split``: stratified splits, and which records are trained on, selected on and reported on
* ``classes``: which class of a data set is which output of a network, matched by name
* ``transform``: ``Geometry``: the host-side resize and crop of one image
* ``view``: records seen through a geometry, so that all images have one shape
* ``in_memory``, ``stats``: decode once into memory; per-channel mean and standard deviation
* ``look``: ``look_at(path)``: which source a path is, its labels, sizes and channels
* ``pipeline``: ``TrainBatches``, ``EvalBatches``: a batch is a pure function of the step
* ``transforms``, ``augmentations``: transforms by name, in order; ``register_transform`` for your own
* ``operations``: the table of image operations, for both host and device
* ``augment``, ``mix``, ``on_device``: the JAX modules: what the compiled step does to a batch

>>> from resnet_jax.data import TrainBatches, load_dataset, resolve_splits
>>> splits = resolve_splits(load_dataset("digits"), seed=0)
>>> batches = TrainBatches(splits.train, 64, seed=0)
>>> batch = batches.batch(step=30)
>>> batch["image"].shape, batch["label"].shape, int(batch["epoch"][0])
((64, 8, 8, 1), (64,), 1)
"""

from resnet_jax.data.example import Example, Field, Source, spec_of
from resnet_jax.data.in_memory import materialize
from resnet_jax.data.npz import load_arrays
from resnet_jax.data.pipeline import Batch, EvalBatches, TrainBatches
from resnet_jax.data.reading import Reading
from resnet_jax.data.records import ArrayRecords, Dataset, Records, Subset
from resnet_jax.data.registry import register_source
from resnet_jax.data.source import load_dataset
from resnet_jax.data.split import Splits, resolve_splits, split_indices, whole
from resnet_jax.data.stats import channel_stats
from resnet_jax.data.transform import Geometry
from resnet_jax.data.transforms import register_transform

__all__ = [
    "ArrayRecords",
    "Batch",
    "Dataset",
    "EvalBatches",
    "Example",
    "Field",
    "Geometry",
    "Reading",
    "Records",
    "Source",
    "Splits",
    "Subset",
    "TrainBatches",
    "channel_stats",
    "load_arrays",
    "load_dataset",
    "materialize",
    "register_source",
    "register_transform",
    "resolve_splits",
    "spec_of",
    "split_indices",
    "whole",
]
