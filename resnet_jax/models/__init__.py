"""Residual networks as Linen modules. Knows nothing of training or data."""

from resnet_jax.models.block import Block
from resnet_jax.models.branches import BLOCKS, BranchConv, register_block
from resnet_jax.models.config import ResNetConfig
from resnet_jax.models.count import Counts, abstract_variables, count
from resnet_jax.models.heads.registry import HEADS, register_head
from resnet_jax.models.initialize import init_variables
from resnet_jax.models.layout import stack as stack_blocks, unstack as unstack_blocks
from resnet_jax.models.norm import BatchNorm, GroupNorm
from resnet_jax.models.norms import NORMS, NormPlace, register_norm
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.rows import MODELS, NamedModel, register_model
from resnet_jax.models.spec import ModelSpec
from resnet_jax.models.towers import TwoTowers, two_towers
from resnet_jax.models.whitening import whitened, whitening_kernel
from resnet_jax.models.zoo import create_model, list_models

__all__ = [
    "BLOCKS",
    "HEADS",
    "MODELS",
    "NORMS",
    "BatchNorm",
    "Block",
    "BranchConv",
    "Counts",
    "GroupNorm",
    "ModelSpec",
    "NamedModel",
    "NormPlace",
    "ResNet",
    "ResNetConfig",
    "TwoTowers",
    "abstract_variables",
    "count",
    "create_model",
    "init_variables",
    "list_models",
    "register_block",
    "register_head",
    "register_model",
    "register_norm",
    "stack_blocks",
    "two_towers",
    "unstack_blocks",
    "whitened",
    "whitening_kernel",
]
