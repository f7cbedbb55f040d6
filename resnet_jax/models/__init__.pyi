"""The public names of ``models``."""

from .block import Block as Block
from .branches import BLOCKS as BLOCKS, BranchConv as BranchConv, register_block as register_block
from .config import ResNetConfig as ResNetConfig
from .count import Counts as Counts, abstract_variables as abstract_variables, count as count
from .heads.registry import HEADS as HEADS, register_head as register_head
from .initialize import init_variables as init_variables
from .layout import stack_blocks as stack_blocks, unstack_blocks as unstack_blocks
from .norm import BatchNorm as BatchNorm, GroupNorm as GroupNorm
from .norms import NORMS as NORMS, NormPlace as NormPlace, register_norm as register_norm
from .resnet import ResNet as ResNet
from .rows import MODELS as MODELS, NamedModel as NamedModel, register_model as register_model
from .spec import ModelSpec as ModelSpec
from .towers import TwoTowers as TwoTowers, two_towers as two_towers
from .whitening import whitened as whitened, whitening_kernel as whitening_kernel
from .zoo import create_model as create_model, list_models as list_models
