"""Comparisons: whose turn it is, what is made of the answers, and a real one on a small network."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from resnet_jax.bench import compare as module
from resnet_jax.bench.compare import Comparison, compare
from resnet_jax.bench.table import comparison_table
from resnet_jax.bench.worker import WorkerError
from resnet_jax.bench.workload import Workload
from resnet_jax.errors import RunError, UsageError
from resnet_jax.models import ModelSpec

WORKLOAD = Workload(ModelSpec("resnet20_cifar"), 4, image_size=8)
PYTHON = Path(sys.executable)
#: What `resnet-jax bench --json` promises.
KEYS = {
    *("ours", "torch", "torch_compile", "flax", "over_torch", "over_torch_compile", "over_flax"),
    *("compile_seconds", "temp_bytes", "limit_fraction", "rounds", "versions", "device", "cores", "dtype"),
    *("batch", "image_size", "date", "not_run"),
}


class Scripted:
    """A worker that answers from a script and writes down when it was asked."""

    log: list[str] = []  # noqa: RUF012
    #: Images a second in each round; an error is raised.
    rates: dict[str, list] = {}  # noqa: RUF012
    params: dict[str, int] = {}  # noqa: RUF012
    platform = "cpu"
    environments: list[dict] = []  # noqa: RUF012

    def __init__(self, interpreter, file, spec, environment=None):
        self.environments.append(environment or {})
        name = {"ours": "ours", "torch_peer": "torch", "flax_peer": "flax"}[file.stem]
        self.name = "torch_compile" if spec.get("compile") else name
        self.spec, self.turn = spec, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def close(self):
        self.log.append(f"close {self.name}")

    def start(self, timeout):
        if isinstance(self.rates[self.name], Exception):
            raise self.rates[self.name]
        facts = {"params": self.params.get(self.name, 10), "versions": {self.name: "1"}, "compile_seconds": 2.0}
        if self.name == "ours":
            facts |= {"platform": self.platform, "device": "a device", "dtype": "float32", "cores": 1}
            facts |= {"trace_seconds": 1.0, "temp_bytes": 5 * 2**20, "convolutions": "xla"}
            facts |= {"costs": {"flops": 10.0, "bytes": 4.0}}
        return facts

    def call(self, name, **arguments):
        self.log.append(self.name if name == "round" else name)
        if name == "limits":
            return {"flops": 2000.0, "bytes": 400.0 + self.turn, "idle_cpu_seconds": 0.0}
        rate = self.rates[self.name][self.turn]
        self.turn += 1
        if isinstance(rate, Exception):
            raise rate
        return {"images": 2 * rate, "seconds": 2.0, "cpu_seconds": 4.0, "idle_cpu_seconds": 0.001 * self.turn}


@pytest.fixture
def script(monkeypatch):
    """Replace the processes by a script of rates."""
    monkeypatch.setattr(module, "Worker", Scripted)
    monkeypatch.setattr(Scripted, "log", [])

    def write(params=None, platform="cpu", **rates):
        monkeypatch.setattr(Scripted, "rates", rates)
        monkeypatch.setattr(Scripted, "params", params or {})
        monkeypatch.setattr(Scripted, "platform", platform)
        return Scripted.log

    return write


def test_sides_take_turns_and_figures_are_medians(script):
    log = script(ours=[10, 30, 20], torch=[5, 5, 90], torch_compile=[8, 4, 2], flax=[1, 2, 3])
    result = compare(WORKLOAD, Comparison(rounds=3, python=PYTHON))
    assert log == ["ours", "torch", "torch_compile", "flax", "limits"] * 3
    assert result.keys() >= KEYS
    assert [result[name] for name in ("ours", "torch", "torch_compile", "flax")] == [20, 5, 4, 2]
    assert (result["over_torch"], result["over_torch_compile"], result["over_flax"]) == (4, 5, 10)
    assert result["rounds"]["torch"] == [5, 5, 90]
    assert result["limits"]["images_per_second"] == {"arithmetic": 200.0, "bandwidth": 403.0 / 4}
    assert result["limit_fraction"] == pytest.approx(20 / (403 / 4)), "of the nearer limit, the best that was measured"
    assert result["idle_cpu_seconds"] == dict.fromkeys(("ours", "torch", "torch_compile", "flax"), 0.003)
    assert result["not_run"] == {}
    text = comparison_table(result)
    assert "torch.compile" in text
    assert "5.00" in text
    assert "5.0 MiB of temporaries" in text


def test_on_an_accelerator_pytorch_is_its_compiled_self(script):
    script(platform="gpu", ours=[20], torch=[5], torch_compile=[10], flax=[2])
    result = compare(WORKLOAD, Comparison(rounds=1, python=PYTHON))
    assert (result["over_torch"], result["over_torch_eager"], result["over_torch_compile"]) == (2, 4, 2)


def test_plain_flax_needs_no_other_interpreter(script):
    script(ours=[100], flax=[50])
    result = compare(WORKLOAD, Comparison(rounds=1, against=("flax",)))
    assert (result["ours"], result["flax"], result["over_flax"], result["not_run"]) == (100, 50, 2.0, {})


def test_every_side_is_held_to_the_same_instructions(script, monkeypatch):
    monkeypatch.setattr(module, "held_to", lambda isa: {"CXX": isa})
    monkeypatch.setattr(Scripted, "environments", [])
    script(ours=[20], torch=[5], torch_compile=[10], flax=[2])
    result = compare(WORKLOAD, Comparison(rounds=1, python=PYTHON, isa="avx2"))
    assert [environment["CXX"] for environment in Scripted.environments] == ["avx2"] * 4
    assert result["processor"]["limited"]["CXX"] == "avx2"


def test_a_side_that_cannot_run_is_null_with_its_reason(script):
    script(
        ours=[20, 20],
        torch=WorkerError("no torch"),
        torch_compile=[10, WorkerError("ended with status 3")],
        flax=[2, 2],
    )
    result = compare(WORKLOAD, Comparison(rounds=2, python=PYTHON))
    assert result["torch"] is result["torch_compile"] is None
    assert result["over_torch"] is result["over_torch_compile"] is None
    assert result["over_flax"] == 10
    assert result["not_run"] == {"torch": "no torch", "torch_compile": "round 2: ended with status 3"}
    assert "not run: no torch" in comparison_table(result)
    assert "close torch" in Scripted.log


def test_networks_of_different_size_are_no_comparison(script):
    script(params={"flax": 11}, ours=[20], torch=[5], torch_compile=[10], flax=[2])
    with pytest.raises(
        RunError, match=r"different numbers of parameters: ours 10, torch 10, torch_compile 10, flax 11"
    ):
        compare(WORKLOAD, Comparison(rounds=1, python=PYTHON))


def test_without_our_side_there_is_nothing_to_compare(script):
    script(ours=WorkerError("out of memory"))
    with pytest.raises(RunError, match="resnet20_cifar cannot be measured: out of memory"):
        compare(WORKLOAD, Comparison(rounds=1))
    script(ours=[WorkerError("gone")])
    with pytest.raises(RunError, match="our side failed in round 1: gone"):
        compare(WORKLOAD, Comparison(rounds=1))


@pytest.mark.parametrize(
    ("workload", "how", "message"),
    [
        (WORKLOAD, Comparison(python=Path("missing")), "missing is no interpreter"),
        (WORKLOAD, Comparison(against=("torch",)), "torch runs in an interpreter that has it"),
        (Workload(ModelSpec("resnet50d"), 4), Comparison(python=PYTHON), "shortcut D"),
        (Workload(ModelSpec("resnet20_cifar"), 4, accumulate=2), Comparison(python=PYTHON), "leave accumulation out"),
        (Workload(ModelSpec("resnet02"), 4), Comparison(), "unknown model"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_starts(workload, how, message, script):
    log = script()
    with pytest.raises(UsageError, match=message):
        compare(workload, how)
    assert log == []


@pytest.mark.parametrize(
    ("field", "message"), [("rounds", "1 or more"), ("seconds", "positive"), ("start_seconds", "")]
)
def test_a_comparison_takes_time(field, message):
    with pytest.raises(UsageError, match=f"{field} must be {message}"):
        Comparison(**{field: 0})


def test_an_installed_package_has_no_other_sides(monkeypatch, tmp_path):
    monkeypatch.setattr("resnet_jax.__file__", str(tmp_path / "resnet_jax" / "__init__.py"))
    with pytest.raises(UsageError, match="from a checkout"):
        compare(WORKLOAD, Comparison(python=PYTHON))


@pytest.mark.slow
@pytest.mark.parametrize("workload", [WORKLOAD, Workload(ModelSpec("resnet20_cifar"), 4, "infer", image_size=8)])
def test_an_interpreter_without_torch_still_measures_ours_and_flax(workload):
    result = compare(workload, Comparison(rounds=1, seconds=0.1, python=PYTHON))
    assert result["ours"] > 0
    assert result["flax"] > 0
    assert result["over_flax"] == pytest.approx(result["ours"] / result["flax"])
    others = {"torch_frozen"} if workload.mode == "infer" else set()
    for name in ("onnxruntime", "openvino"):  # this interpreter's own, where they are installed
        if workload.mode == "infer" and importlib.util.find_spec(name) is None:
            others.add(name)
        elif workload.mode == "infer":
            assert result[name] > 0
    assert result["not_run"].keys() == {"torch", "torch_compile", *others}
    assert "No module named 'torch'" in result["not_run"]["torch"]
    assert 0 < result["limit_fraction"] < 10
    assert result["temp_bytes"] > 0
    assert result["params"] == 269722


@pytest.mark.slow
def test_several_steps_in_one_dispatch_count_all_their_images():
    workload = Workload(ModelSpec("resnet20_cifar"), 4, image_size=8, steps_per_dispatch=3)
    result = compare(workload, Comparison(rounds=1, seconds=0.1))
    assert result["ours"] > 0
    assert result["not_run"] == dict.fromkeys(("torch", "torch_compile", "flax"), "no other interpreter was named")


@pytest.mark.slow
@pytest.mark.parametrize("workload", [WORKLOAD, Workload(ModelSpec("resnet20_cifar"), 4, "infer", image_size=8)])
def test_against_pytorch(workload, torch_python):
    result = compare(workload, Comparison(rounds=1, seconds=0.1, python=torch_python, start_seconds=500.0))
    assert result["torch"] > 0
    assert result["over_torch"] == pytest.approx(result["ours"] / result["torch"])
    assert (result["torch_compile"] is None) == ("torch_compile" in result["not_run"])
    assert result["versions"]["torch"]
