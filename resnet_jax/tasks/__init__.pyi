"""The public names of ``tasks``."""

from .binary import Binary as Binary
from .classification import Classification as Classification
from .config import TaskConfig as TaskConfig
from .confusion import Confusion as Confusion
from .facts import TaskFacts as TaskFacts
from .losses import bce as bce, cross_entropy as cross_entropy, get_loss as get_loss, mse as mse
from .multilabel import MultiLabel as MultiLabel
from .ranking import average_precision as average_precision, roc_auc as roc_auc
from .registry import list_tasks as list_tasks, make_task as make_task, register_task as register_task
from .regression import Regression as Regression
from .task import Task as Task, TaskBase as TaskBase
