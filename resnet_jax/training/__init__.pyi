"""The public names of ``training``."""

from .accumulate import accumulate_gradients as accumulate_gradients
from .agc import clip_adaptively as clip_adaptively
from .cadence import Cadence as Cadence
from .checkpoint import Checkpoints as Checkpoints
from .compile import (
    compile_eval_step as compile_eval_step,
    compile_train_step as compile_train_step,
    create_state as create_state,
)
from .dispatch import (
    compile_multi_step as compile_multi_step,
    make_multi_step as make_multi_step,
    put_resident as put_resident,
)
from .duration import Duration as Duration, parse_duration as parse_duration
from .early_stopping import EarlyStopping as EarlyStopping
from .ema import ema_init as ema_init, ema_update as ema_update
from .evaluation import Evaluation as Evaluation, evaluate as evaluate
from .feeds import Feed as Feed, ProbedSteps as ProbedSteps, ResidentSteps as ResidentSteps, SingleSteps as SingleSteps
from .freeze import frozen as frozen
from .lookahead import look_ahead as look_ahead
from .loop import Interrupted as Interrupted, train as train
from .mesh import batch_sharding as batch_sharding, replicated as replicated
from .observers import Observer as Observer
from .optimizers import make_optimizer as make_optimizer
from .options import (
    Averaging as Averaging,
    Lookahead as Lookahead,
    LossScaling as LossScaling,
    OptimConfig as OptimConfig,
    ScheduleConfig as ScheduleConfig,
)
from .placement import (
    Placement as Placement,
    as_placement as as_placement,
    make_mesh as make_mesh,
    shard_batch as shard_batch,
)
from .plan import Plan as Plan, Reject as Reject, Saving as Saving
from .pmap import (
    pmap_train_step as pmap_train_step,
    replicate as replicate,
    split_batch as split_batch,
    unreplicate as unreplicate,
)
from .population import (
    compile_population_eval_step as compile_population_eval_step,
    compile_population_step as compile_population_step,
    create_population as create_population,
    evaluate_population as evaluate_population,
    make_population_step as make_population_step,
    member as member,
    stack_members as stack_members,
)
from .predict_step import make_predict_step as make_predict_step
from .progress import Progress as Progress
from .reestimation import reestimate as reestimate
from .roles import count_by_role as count_by_role, mask as mask, role_rules as role_rules
from .schedules import make_schedule as make_schedule
from .state import TrainState as TrainState, init_state as init_state
from .step import make_eval_step as make_eval_step, make_train_step as make_train_step
