"""The public names of ``tasks``."""

from .losses import bce as bce, cross_entropy as cross_entropy, get_loss as get_loss, mse as mse
from .task import Task as Task
