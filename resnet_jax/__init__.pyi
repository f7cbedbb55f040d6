"""The public names, for type checkers; :mod:`lazy_loader` reads them here too."""

__version__: str

from .deploy.pretrained import create_model as create_model, load_weights as load_weights
from .models import (
    ModelSpec as ModelSpec,
    ResNet as ResNet,
    ResNetConfig as ResNetConfig,
    abstract_variables as abstract_variables,
    count as count,
    init_variables as init_variables,
    list_models as list_models,
    stack_blocks as stack_blocks,
    unstack_blocks as unstack_blocks,
)
from .report.trackers import register_observer as register_observer
from .runs.config import RunConfig as RunConfig
from .runs.evaluate import evaluate_run as evaluate_run, load_run as load_run, predict_images as predict_images
from .runs.fit import fit as fit
from .runs.fitted import Fit as Fit
from .runs.recipes import list_recipes as list_recipes, load_recipe as load_recipe
from .runtime.distributed import initialize_processes as initialize_processes
from .training.compile import (
    compile_eval_step as compile_eval_step,
    compile_train_step as compile_train_step,
    create_state as create_state,
)
from .training.observers import Observer as Observer
from .training.optimizers import make_optimizer as make_optimizer
from .training.options import OptimConfig as OptimConfig, ScheduleConfig as ScheduleConfig
from .training.placement import Placement as Placement, make_mesh as make_mesh, shard_batch as shard_batch
from .training.predict_step import make_predict_step as make_predict_step
from .training.state import TrainState as TrainState, init_state as init_state
from .training.step import make_eval_step as make_eval_step, make_train_step as make_train_step
