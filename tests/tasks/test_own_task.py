"""A task from outside the package, in 25 lines: registered by name, trained, evaluated, predicted. Ordinal classes."""

from __future__ import annotations

import dataclasses
import inspect
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from resnet_jax.errors import UsageError
from resnet_jax.tasks import TaskBase, TaskConfig, TaskFacts, list_tasks, make_task, register_task
from resnet_jax.tasks.registry import TASKS
from resnet_jax.training.evaluation import evaluate
from resnet_jax.training.mesh import make_mesh
from resnet_jax.training.state import TrainState
from resnet_jax.training.step import make_eval_step, make_train_step


# The example ----------------------------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Ordinal(TaskBase):
    """K ordered classes by K - 1 outputs: is it above class k? (Frank & Hall, 2001)."""

    kind: ClassVar[str] = "ordinal"
    headline: ClassVar[str] = "distance"  # classes between prediction and label: smaller is better, as for the loss

    def loss(self, outputs, batch):
        above = batch["label"][:, None] > jnp.arange(self.num_outputs)[None]
        return optax.sigmoid_binary_cross_entropy(outputs, above.astype(outputs.dtype)).mean(axis=-1)

    def train_sums(self, outputs, batch):
        return {"distance": jnp.abs((outputs > 0).sum(axis=-1) - batch["label"])}

    def predict(self, outputs, top):
        return [[(int(above), float(above))] for above in (outputs > 0).sum(axis=1)]


def make_ordinal(config, facts):
    return Ordinal(len(facts.names) - 1)


# ----------------------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(2)(x)


@pytest.fixture(autouse=True)
def registered():
    register_task("ordinal")(make_ordinal)
    yield
    del TASKS["ordinal"]


def test_it_is_short():
    lines = [*inspect.getsource(Ordinal).splitlines(), *inspect.getsource(make_ordinal).splitlines()]
    assert len([line for line in lines if line.strip()]) <= 25


def test_it_is_made_by_name_trained_evaluated_and_predicts():
    facts = TaskFacts(names=("low", "mid", "high"))
    task = make_task(TaskConfig(kind="ordinal"), facts)
    assert (task.num_outputs, task.headline, task.mode, list_tasks()[-1]) == (2, "distance", "min", "ordinal")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 3)).astype(np.float32)
    labels = np.digitize(x[:, 0], [-0.5, 0.5]).astype(np.int32)
    params = Net().init(jax.random.key(0), x, train=False)["params"]
    tx = optax.sgd(1.0)
    state = TrainState(jnp.int32(0), params, {}, tx.init(params), jax.random.key(1))
    step, metrics = jax.jit(make_train_step(Net(), tx, task=task)), {}
    for _ in range(60):
        state, metrics = step(state, {"image": x, "label": labels})
    trained = task.train_metrics({"distance": float(metrics["distance"])}, 64)
    batch = {"image": x, "label": labels, "mask": np.arange(64) < 60}
    mesh = make_mesh(jax.devices()[:1])
    found = evaluate(jax.jit(make_eval_step(Net(), task=task)), state.variables, [batch], mesh=mesh, task=task)
    outputs = np.asarray(Net().apply({"params": state.params}, x, train=False))
    predicted = np.array([answer[0][0] for answer in task.predict(outputs, 1)])
    assert found.metrics["distance"] == np.abs(predicted - labels)[:60].mean() < 0.2
    assert trained["distance"] < 0.2
    with pytest.raises(UsageError, match="has no accuracy; it has distance"):
        found.accuracy  # noqa: B018


def test_a_loss_alone_is_a_task():
    @dataclasses.dataclass(frozen=True)
    class OnlyLoss(TaskBase):
        def loss(self, outputs, batch):
            return jnp.square(outputs - batch["label"]).mean(axis=-1)

    step = make_eval_step(Net(), task=OnlyLoss(2))
    params = Net().init(jax.random.key(0), jnp.ones((1, 3)), train=False)
    batch = {"image": np.ones((4, 3), np.float32), "label": np.ones((4, 2), np.float32), "mask": np.ones(4, bool)}
    found = evaluate(jax.jit(step), params, [batch], mesh=make_mesh(jax.devices()[:1]), task=OnlyLoss(2))
    assert found.metrics == {"loss": found.loss}


def test_a_setting_that_it_does_not_use_and_a_name_that_is_taken_are_refused():
    with pytest.raises(UsageError, match=r"task.threshold .* is not used by task.kind ordinal, but by multilabel, "):
        make_task(TaskConfig(kind="ordinal", threshold=(0.2,)), TaskFacts(names=("a", "b")))
    with pytest.raises(UsageError, match="called 'ordinal' already"):
        register_task("ordinal")(make_ordinal)
    with pytest.raises(UsageError, match="unknown field of task 'losss'"):
        register_task("other", uses=("losss",))
