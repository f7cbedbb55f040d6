"""One device, and programs compiled once for all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tools import few_devices, kept_programs


@pytest.fixture(scope="package", autouse=True)
def programs(tmp_path_factory) -> Iterator[None]:
    """What takes the devices of this process gets the first; a program made again, by a resumed run, is found."""
    with few_devices(1), kept_programs(tmp_path_factory.getbasetemp() / "programs"):
        yield
