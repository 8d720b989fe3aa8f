"""Which device is taken, and what it cannot compute. Apple's GPUs are made up here: none is at hand."""

from __future__ import annotations

import pytest

from tuneport.errors import UsageError
from tuneport.scoring import devices


@pytest.fixture(params=[True, False], ids=["macos 14", "macos 13"])
def mac(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("torch.backends.mps.is_macos_or_newer", lambda *_: request.param)
    return bool(request.param)


def test_apples_gpu_is_taken_where_there_is_one_and_what_it_lacks_is_refused(mac: bool) -> None:
    assert devices.best_device() == "mps"
    for dtype, refused in (
        ("float64", True),
        ("bfloat16", not mac),
        ("float32", False),
        ("auto", False),
        (None, False),
    ):
        if not refused:
            devices.check_dtype("mps", dtype, "dtype")
            continue
        with pytest.raises(UsageError) as caught:
            devices.check_dtype("mps", dtype, "dtype")
        assert caught.value.faults[0].option == "dtype"
    devices.check_dtype("cpu", "float64", "dtype")


def test_a_gpu_of_nvidia_comes_first_and_a_cpu_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert devices.best_device() == "cuda"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert devices.best_device() == "cpu"


def test_the_speed_of_this_device_is_that_of_no_toy_and_no_supercomputer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_SECONDS", 0.01)
    assert 1e7 < devices.operations_per_second() < 1e16
