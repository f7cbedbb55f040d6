"""Which launcher started how many processes, by environment variables alone: nothing is started here."""

from __future__ import annotations

import pytest

from resnet_jax.errors import RunError, UsageError
from resnet_jax.runtime import distributed
from resnet_jax.runtime.distributed import Launch, find_launch

SLURM = {
    "SLURM_JOB_ID": "4096",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "node[001-002]",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
OWN = {"RESNET_JAX_COORDINATOR": "h:1", "RESNET_JAX_PROCESSES": "2", "RESNET_JAX_PROCESS": "1"}


@pytest.fixture
def found(monkeypatch):
    """Return what is found under these variables; JAX reads them from the process."""

    def find(variables: dict[str, str]) -> Launch | None:
        for name in ("KUBERNETES_SERVICE_HOST", *SLURM, *OWN):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return find_launch()

    return find


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        (SLURM, Launch("slurm", 4, 3)),
        ({**SLURM, "RESNET_JAX_DISTRIBUTED": "off"}, None),
        ({**SLURM, **OWN}, Launch("RESNET_JAX_COORDINATOR", 2, 1, "h:1")),
        ({**OWN, "RESNET_JAX_PROCESSES": "1", "RESNET_JAX_PROCESS": "0"}, None),
        (
            {
                "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:3",
                "OMPI_COMM_WORLD_SIZE": "2",
                "OMPI_COMM_WORLD_RANK": "1",
            },
            Launch("ompi", 2, 1),
        ),
        (
            {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "RESNET_JAX_COORDINATOR": "h:2"},
            Launch("OMPI", 2, 1, "h:2"),
        ),
        ({"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, None),
    ],
    ids=["nothing", "slurm", "off", "own first", "own, one", "open mpi 4", "open mpi 5 with a coordinator", "mpi, one"],
)
def test_the_launcher_is_found(found, variables, expected):
    assert found(variables) == expected


@pytest.mark.parametrize(
    "variables",
    [
        {**SLURM, "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {**SLURM, "SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0"},
        {**SLURM, "SLURM_STEP_ID": "4294967291", "SLURM_PROCID": "0"},
        {"SLURM_JOB_ID": "4096", "SLURM_NTASKS": "4"},
    ],
    ids=["srun of one task", "a step of one in an allocation of four", "salloc's shell", "a batch script", "no step"],
)
def test_a_process_alone_in_an_allocation_waits_for_nobody(found, variables):
    assert found(variables) is None


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RESNET_JAX_COORDINATOR": "h:1"}, "go together"),
        ({"RESNET_JAX_PROCESSES": "2", "RESNET_JAX_PROCESS": "0"}, "go together"),
        ({**OWN, "RESNET_JAX_PROCESS": "2"}, "from 0 to"),
        ({**OWN, "RESNET_JAX_PROCESSES": "two"}, "is a number"),
        ({**OWN, "RESNET_JAX_COORDINATOR": "h"}, "HOST:PORT"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "mpirun -x RESNET_JAX_COORDINATOR"),
    ],
)
def test_variables_that_say_too_little_are_refused(found, variables, said):
    with pytest.raises(UsageError, match=said):
        found(variables)


def test_processes_that_do_not_come_are_said_with_the_coordinator(monkeypatch):
    """Without a connection: what JAX raises then is put into words, and the handler of SIGTERM is never installed."""
    import jax

    seen = {}

    def initialize(**options):
        seen.update(options, preemption=jax.config.jax_enable_preemption_service)
        raise RuntimeError("DEADLINE_EXCEEDED: Barrier timed out")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setenv(distributed.CONNECT_TIMEOUT, "7")
    with pytest.raises(RunError, match=r"process 1 of 2 .* at host:1234 within 7 s"):
        distributed.initialize_processes(Launch("srun", 2, 1, "host:1234"))
    assert seen["initialization_timeout"] == 37  # ours comes first
    assert seen["heartbeat_timeout_seconds"] == 30
    assert not seen["preemption"]
    assert jax.config.jax_enable_preemption_service
    monkeypatch.setenv(distributed.HEARTBEAT_TIMEOUT, "soon")
    with pytest.raises(UsageError, match="number of seconds"):
        distributed.initialize_processes(Launch("srun", 2, 1, "host:1234"))
    assert not distributed.started()
    assert not distributed.initialize_processes()
