"""Residual networks as Linen modules. Knows nothing of training or data."""

from resnet_jax.models.block import Block
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.count import Counts, abstract_variables, count
from resnet_jax.models.initialize import init_variables
from resnet_jax.models.layout import stack as stack_blocks, unstack as unstack_blocks
from resnet_jax.models.norm import BatchNorm, GroupNorm
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.rows import MODELS
from resnet_jax.models.zoo import create_model, list_models

__all__ = [
    "MODELS",
    "BatchNorm",
    "Block",
    "Counts",
    "GroupNorm",
    "ResNet",
    "ResNetConfig",
    "abstract_variables",
    "count",
    "create_model",
    "init_variables",
    "list_models",
    "stack_blocks",
    "unstack_blocks",
]
