"""What plugins say of chips: not heard where there are none, and heard everywhere else."""

from __future__ import annotations

import logging
import os

import pytest

from resnet_jax.runtime import absent_chips
from resnet_jax.runtime.absent_chips import LOGGER, NO_TPU, SAID, has_nvidia_gpu, has_tpu, say_nothing_of_absent_chips

PLUGIN = "jax_plugins.xla_cuda12"


def device(root, name, vendor, kind):
    folder = root / "sys/bus/pci/devices" / name
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "class").write_text(f"{kind}\n")


def test_a_gpu_is_seen_by_its_driver_or_on_the_bus(tmp_path, monkeypatch):
    monkeypatch.setattr(absent_chips.sys, "platform", "linux")
    device(tmp_path, "0000:00:01.0", "0x10de", "0x020000")  # a network card of the same maker
    device(tmp_path, "0000:00:02.0", "0x8086", "0x030000")
    assert not has_nvidia_gpu(tmp_path)
    device(tmp_path, "0000:00:03.0", "0x10de", "0x030200")
    assert has_nvidia_gpu(tmp_path)
    (tmp_path / "other/dev").mkdir(parents=True)
    assert not has_nvidia_gpu(tmp_path / "other")
    (tmp_path / "other/dev/nvidiactl").touch()
    assert has_nvidia_gpu(tmp_path / "other")
    monkeypatch.setattr(absent_chips.sys, "platform", "win32")
    assert has_nvidia_gpu(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("there", "asked", "words", "heard"),
    [
        (False, "", f"{SAID}: Exception when calling {PLUGIN}.initialize()", False),
        (True, "", f"{SAID}: Exception when calling {PLUGIN}.initialize()", True),
        (False, "cuda,cpu", f"{SAID}: Exception when calling {PLUGIN}.initialize()", True),
        (False, "", f"{SAID}: Exception when calling jax_plugins.another.initialize()", True),
        (False, "", "cuda: something else", True),
    ],
)
def test_only_where_none_is_there_and_none_was_asked_for(monkeypatch, caplog, there, asked, words, heard):
    logger = logging.getLogger(LOGGER)
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setattr(absent_chips, "has_tpu", lambda: True)
    monkeypatch.setattr(absent_chips, "has_nvidia_gpu", lambda: there)
    monkeypatch.setenv("JAX_PLATFORMS", asked)
    monkeypatch.delenv("JAX_PLATFORM_NAME", raising=False)
    say_nothing_of_absent_chips()
    say_nothing_of_absent_chips()
    assert len(logger.filters) == 1
    logger.error(words.replace("%", "%%"))
    assert [record.getMessage() for record in caplog.records] == [words] * heard


def test_a_tpu_is_seen_on_the_bus(tmp_path, monkeypatch):
    monkeypatch.setattr(absent_chips.sys, "platform", "linux")
    device(tmp_path, "0000:00:01.0", "0x10de", "0x030000")
    assert not has_tpu(tmp_path)
    device(tmp_path, "0000:00:04.0", "0x1ae0", "0x088000")
    assert has_tpu(tmp_path)


@pytest.mark.parametrize(
    ("there", "asked", "installed", "told"),
    [(False, "", True, True), (True, "", True, False), (False, "tpu", True, False), (False, "", False, False)],
)
def test_libtpu_is_told_what_it_would_look_for_where_it_can_find_nothing(monkeypatch, there, asked, installed, told):
    monkeypatch.setattr(absent_chips, "has_tpu", lambda: there)
    monkeypatch.setattr(absent_chips.importlib.util, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setenv("JAX_PLATFORMS", asked)
    for name in (*NO_TPU, "JAX_PLATFORM_NAME", "JAX_FORCE_TPU_INIT"):
        monkeypatch.setenv(name, "")  # so that what is set is taken back
        monkeypatch.delenv(name)
    say_nothing_of_absent_chips()
    assert {name: os.environ.get(name) for name in NO_TPU} == (NO_TPU if told else dict.fromkeys(NO_TPU))
