"""Sources -> records -> views -> batches -> device; this floor knows nothing of models or of training.

* ``source``: ``load_dataset("digits" or "folder:PATH" or "npz:PATH" or "manifest:PATH" or "tfds:NAME")``
* ``digits``, ``folder``, ``npz``, ``npy``, ``manifest``, ``array_record``, ``cifar``, ``mnist``, ``tfds``: one kind of
  source each
* ``class_folders``, ``class_pattern``, ``class_list``, ``annotations``: where the classes of a folder of images are
  written
* ``listing``, ``index``, ``path_table``: the files below a folder; their index, kept; many paths in little memory
* ``decode``, ``headers``, ``orientation``, ``tiff``, ``formats``: image files: to pixels, their headers, which way up
* ``published``, ``plain_arrays``, ``idx``: archives read without unpacking, pickles that are not run, MNIST's format
* ``convert``, ``prepare``: any data set as one ArrayRecord file; sets of TFDS, downloaded or from what is here
* ``kinds``: series, sounds, boxes, masks and volumes
* ``boxes``: corners of boxes, and what becomes of those of which a crop leaves nothing
* ``check``, ``check_report``, ``check_text``: ``check_dataset``: what is in a data set, cannot be read, is in it twice
* ``registry``: ``register_source``: kinds of your own
* ``example``: ``Example``, a dict of named arrays; ``Source``: examples by index
* ``records``: sources in memory and parts of sources; ``Dataset``: named splits of a source
* ``split``: stratified splits, and which records are trained on, selected on and reported on
* ``classes``: which class of a data set is which output of a network, by name
* ``transform``: ``Geometry``: the host-side resize and crop of one image
* ``view``: records seen through a geometry: every image has one shape
* ``in_memory``, ``stats``: decode once into memory; per-channel mean and deviation
* ``look``: ``look_at(path)``: which source a path is, its labels, sizes and channels
* ``pipeline``: ``TrainBatches``, ``EvalBatches``: a batch is a pure function of the step
* ``transforms``, ``augmentations``: transforms by name, in order; ``register_transform``: your own
* ``operations``: the table of operations on images, for host and device alike
* ``augment``, ``mix``, ``on_device``: the JAX files: what the compiled step does to a batch

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
