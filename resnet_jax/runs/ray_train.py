"""A run in the workers of Ray Train, each of which is a JAX process; needs the extra ``ray``.

Ray's ``JaxTrainer`` starts ``jax.distributed`` in its workers on GPUs and TPUs; on CPUs it only does so if told of GPUs
that it does not reserve (``JaxConfig(use_gpu=True)`` with ``JAX_PLATFORMS=cpu``), which is done here. Ray restarts dead
workers according to its ``FailureConfig``, and the run resumes from its newest checkpoint. Tested with Ray 2.60: two
workers with two CPU devices each on one machine give the same bits as ``resnet-jax launch``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resnet_jax.errors import UsageError
from resnet_jax.runs.config import RunConfig, config_to_yaml
from resnet_jax.runs.directory import RunDirectory
from resnet_jax.runs.outcome import Summary
from resnet_jax.runtime.distribution import install


def fit_with_ray(
    config: RunConfig,
    run_dir: str | Path,
    *,
    workers: int,
    platform: str = "cpu",
    devices_per_worker: int = 1,
    scaling: Any = None,
    max_failures: int = 0,
) -> Summary:
    """Train in the workers of a Ray cluster, or resume a run there; return its summary.

    Args:
        config: what to do.
        run_dir: the run directory, on a file system that all workers share and that has the same path here.
        workers: number of workers.
        platform: ``cpu``, ``cuda`` or ``tpu``.
        devices_per_worker: CPU devices or GPUs per worker.
        scaling: Ray's ``ScalingConfig``, instead of one for ``workers`` (for TPUs it contains the topology).
        max_failures: how often Ray restarts the workers if some have died.

    Raises:
        UsageError: if Ray is not installed.
        RunError: if the run cannot start or resume, with Ray's reason.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
        from ray.train import FailureConfig, RunConfig as RayRun, ScalingConfig  # pyright: ignore[reportMissingImports]
        from ray.train.v2.jax import JaxTrainer  # pyright: ignore[reportMissingImports]
        from ray.train.v2.jax.config import JaxConfig  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(f"this needs Ray, which cannot be imported ({error}): {install('ray')}") from error

    run = RunDirectory(Path(run_dir).absolute())
    gpus = platform == "cuda"
    resources = {"GPU": devices_per_worker} if gpus else {"CPU": 1}
    variables = {
        "JAX_PLATFORMS": platform,
        "JAX_NUM_CPU_DEVICES": str(devices_per_worker),
        "JAX_ENABLE_PREEMPTION_SERVICE": "false",  # its handler of SIGTERM keeps processes alive
    }
    ray.init(ignore_reinit_error=True)
    trainer = JaxTrainer(
        _work,
        train_loop_config={"config": config_to_yaml(config), "run_dir": str(run.path)},
        jax_config=JaxConfig(use_tpu=platform == "tpu", use_gpu=platform != "tpu"),
        scaling_config=scaling or ScalingConfig(num_workers=workers, use_gpu=gpus, resources_per_worker=resources),
        run_config=RayRun(
            name=run.path.name,
            storage_path=str(run.path / "ray"),
            worker_runtime_env={"env_vars": variables},
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    trainer.fit()
    stored = run.read_summary()
    if stored is None:
        raise UsageError(
            f"the workers are done, and {run.summary} is not there: give a run_dir that they share with this"
        )
    return Summary.from_json(stored)


def _work(task: dict[str, str]) -> None:
    """Train in one worker, in which Ray has started ``jax.distributed``."""
    from ray import train  # pyright: ignore[reportMissingImports]

    from resnet_jax.runs.fit import fit
    from resnet_jax.runs.recipes import parse_config
    from resnet_jax.runtime.cache import keep_compiled_programs

    keep_compiled_programs()
    fitted = fit(parse_config(task["config"], where="the configuration"), task["run_dir"])
    train.report({"steps": fitted.summary.steps, "params_digest": fitted.summary.params_digest})
