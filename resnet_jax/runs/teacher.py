"""The teacher of a run with distillation: another run's network, whose probabilities it learns besides the labels."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.data.classes import match_classes, output_names
from resnet_jax.errors import RunError, UsageError
from resnet_jax.models.digest import params_digest
from resnet_jax.models.resnet import ResNet
from resnet_jax.runs.config import RunConfig
from resnet_jax.runs.directory import DatasetInfo, RunDirectory
from resnet_jax.runs.trained import TrainedRun, load_network, require_normalization
from resnet_jax.runtime.processes import fetched
from resnet_jax.tasks.classification import Classification
from resnet_jax.training.placement import Placement
from resnet_jax.training.predict_step import make_predict_step
from resnet_jax.weights.fold import fold_batch_norm


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A network that is ready to teach.

    Attributes:
        trained: the run, with the variables that it evaluates (averaged ones if there are some).
        digest: digest of these variables, see :func:`resnet_jax.models.digest.params_digest`.
        network: the network for inference, with batch norm folded.
        variables: variables of ``network``, replicated on every device.
        outputs: the output for each class of the images, (K,).
        shift: added to an image normalized by the run, per channel, after the factor.
        factor: multiplies such an image, per channel, so that it is normalized like the teacher's own images.
        said: what a reader should know about how the two fit together.
    """

    trained: TrainedRun
    digest: str
    network: ResNet
    variables: Any
    outputs: tuple[int, ...]
    shift: tuple[float, ...]
    factor: tuple[float, ...]
    said: tuple[str, ...] = ()

    def logits(self, variables: Any, images: jax.Array) -> jax.Array:
        """Return the teacher's outputs for images in evaluation mode and its own precision, float32 or wider (N, K).

        Args:
            variables: the teacher's variables, as an argument of the compiled step.
            images: (N, *sides, C), normalized by the run, before they are cast to its precision.
        """

        def preprocess(_key: Any, batch: Any) -> jax.Array:
            images = batch["image"]
            if any(self.shift) or any(factor != 1.0 for factor in self.factor):
                a_channel = (*(1,) * (images.ndim - 1), -1)
                factor, shift = (jnp.asarray(x, images.dtype).reshape(a_channel) for x in (self.factor, self.shift))
                images = images * factor + shift
            return images.astype(self.network.config.dtype)

        found = make_predict_step(self.network, preprocess=preprocess)(variables, {"image": images})
        if self.outputs == tuple(range(found.shape[-1])):
            return found
        return found[:, np.asarray(self.outputs)]


def find_teacher(config: RunConfig, card: DatasetInfo, model: ResNet, placement: Placement) -> Teacher | None:
    """Load the teacher of a run, and put its variables on the devices; None if the run has none.

    Args:
        config: the run.
        card: its data.
        model: its network.
        placement: its devices.

    Raises:
        UsageError: if there is no such run directory, or its network cannot teach this one because it is not a
            classifier, or has other classes, channels or inputs; the message names both sides.
        RunError: if it has no checkpoint.
    """
    if config.task.distill.teacher is None:
        return None
    where = config.task.distill.teacher
    try:
        trained = load_network(where)
        require_normalization(trained)
    except (UsageError, RunError) as error:
        raise type(error)(f"task.distill.teacher: {error}") from error
    outputs, said = _classes(trained, card, model)
    own, theirs = card.image_shape, trained.card.image_shape
    if own[-1] != theirs[-1] or len(own) != len(theirs):
        raise UsageError(
            f"task.distill.teacher {where} takes inputs of {len(theirs) - 1} dimensions and {theirs[-1]} channels, and "
            f"the images here have {len(own) - 1} and {own[-1]}"
        )
    if card.image_dtype != trained.card.image_dtype:
        raise UsageError(
            f"task.distill.teacher {where} was trained on inputs of {trained.card.image_dtype}, and those here are "
            f"{card.image_dtype}, of which its normalization is not"
        )
    if own != theirs:
        its, here = ("x".join(str(side) for side in shape[:-1]) for shape in (theirs, own))
        said = (*said, f"trained on images of {its}, and here sees {here}")
    digest = params_digest(trained.variables["params"], trained.variables.get("batch_stats", {}))
    network, variables = _for_inference(trained)
    mean, std = (np.asarray(values, np.float64) for values in (trained.card.mean, trained.card.std))
    factor = np.asarray(card.std) / std
    shift = (np.asarray(card.mean) - mean) / std
    return Teacher(
        trained,
        digest,
        network,
        jax.device_put(variables, placement.outputs),
        outputs,
        tuple(shift.tolist()),
        tuple(factor.tolist()),
        said,
    )


def _for_inference(trained: TrainedRun) -> tuple[ResNet, Any]:
    """Return the network with its batch norm folded, if it has any, and its variables on the host."""
    variables = jax.tree.map(jnp.asarray, fetched(dict(trained.variables)))
    if trained.model.config.norm != "batch":
        return trained.model, fetched(variables)
    network, folded = fold_batch_norm(trained.model, variables)
    return network, fetched(folded)


def _classes(trained: TrainedRun, card: DatasetInfo, model: ResNet) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the teacher's output for every class of the data, and a description."""
    where, outputs = f"task.distill.teacher {trained.path}", trained.model.config.num_classes
    task = trained.task if outputs else None
    if not isinstance(task, Classification) or task.criterion in ("bce", "mse"):
        kind = "no classifier" if task is None else f"a network of task.kind {task.kind}"
        kind = f"{kind} and task.loss {task.criterion}" if isinstance(task, Classification) else kind
        raise UsageError(f"{where} is {kind}: a teacher is a classifier whose outputs are logits of a softmax")
    names = card.class_names
    if model.config.num_classes != len(names):
        raise UsageError(
            f"task.distill teaches {len(names)} classes, and model.num_classes is {model.config.num_classes}: leave it "
            "out"
        )
    matching = match_classes(
        names, output_names(trained.card.class_names, outputs), source="the data of this run", network=where
    )
    part = f"softmax over {len(names)} of its {outputs} outputs" if outputs != len(names) else ""
    order = "classes matched by name, in another order" if _is_other_order(matching.outputs) else ""
    numbers = [line for line in matching.said if "by number" in line]
    return tuple(matching.outputs.tolist()), tuple(filter(None, (order, *numbers, part)))


def _is_other_order(outputs: np.ndarray) -> bool:
    return bool((np.diff(outputs) < 0).any())


def teacher_record(teacher: Teacher | None) -> dict[str, Any]:
    """Return the entries of start.json for a teacher; empty without one."""
    if teacher is None:
        return {}
    trained = teacher.trained
    return {"teacher": {"path": str(trained.path), "step": trained.step, "params_digest": teacher.digest}}


def require_same_teacher(run: RunDirectory, teacher: Teacher | None) -> None:
    """Reject a teacher that is not the one a run began with.

    Raises:
        RunError: if its weights are different.
    """
    recorded = (run.read_start() or {}).get("teacher")
    if teacher is not None and recorded is not None and recorded["params_digest"] != teacher.digest:
        raise RunError(
            f"the weights of the teacher in {teacher.trained.path} are not those that {run.path} began with (see "
            f"{run.start.name}); use another run_dir"
        )


def describe_teacher(config: RunConfig, teacher: Teacher) -> str:
    """Return a line about a teacher, for the start of a run."""
    distill, trained = config.task.distill, teacher.trained
    line = (
        f"{trained.config.model.name} of {trained.path} after step {trained.step:,}: {distill.weight:.0%} of the loss, "
        f"at temperature {distill.temperature:g}"
    )
    return "; ".join((line, *teacher.said))
