"""Pure array functions without Linen: the ground floor."""

from resnet_jax.ops.channels import moments, normalize
from resnet_jax.ops.conv import conv
from resnet_jax.ops.conv_finished import finished_conv
from resnet_jax.ops.conv_packed import pack_kernel, packed_conv
from resnet_jax.ops.drop_path import drop_path
from resnet_jax.ops.dtypes import at_least_float32
from resnet_jax.ops.exported import exported_for_this_machine, native_calls
from resnet_jax.ops.labels import in_range, one_hot
from resnet_jax.ops.mel import log_mel, mel_filters
from resnet_jax.ops.pool import global_max_pool, global_mean_pool, max_pool, mean_pool_2
from resnet_jax.ops.probe import fork, gate, relu, relu_operand, remembered_relus, squared_norm, tap
from resnet_jax.ops.reference import in_forms, reference_forms
from resnet_jax.ops.resize import double_nearest, resize_bilinear
from resnet_jax.ops.shortcut import subsample_and_pad
from resnet_jax.ops.standardize import scaled_standardize, standardize
from resnet_jax.ops.twice import twice
from resnet_jax.ops.whole_batch import batch_cut_over, draw_rows

__all__ = [
    "at_least_float32",
    "batch_cut_over",
    "conv",
    "double_nearest",
    "draw_rows",
    "drop_path",
    "exported_for_this_machine",
    "finished_conv",
    "fork",
    "gate",
    "global_max_pool",
    "global_mean_pool",
    "in_forms",
    "in_range",
    "log_mel",
    "max_pool",
    "mean_pool_2",
    "mel_filters",
    "moments",
    "native_calls",
    "normalize",
    "one_hot",
    "pack_kernel",
    "packed_conv",
    "reference_forms",
    "relu",
    "relu_operand",
    "remembered_relus",
    "resize_bilinear",
    "scaled_standardize",
    "squared_norm",
    "standardize",
    "subsample_and_pad",
    "tap",
    "twice",
]
