"""What is found on a machine; how many trials that holds is in test_resources.py."""

import os
from pathlib import Path

import pytest

from sweep.slots import this_machine

DEVICES = ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"]


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [(None, 2), ("", 0), ("-1", 0), ("NoDevFiles", 0), ("1", 1), ("0,1", 2), ("0,1,2", 2)],
)
def test_the_gpus_are_those_that_are_visible(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, gpus: int
) -> None:
    monkeypatch.setattr(os, "listdir", {"/dev": DEVICES}.get)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert this_machine()["GPU"] == gpus


@pytest.mark.parametrize(
    ("script", "gpus"),
    [
        ("echo 'GPU 0: H200 (UUID: a)'; echo '  MIG 1g'; echo 'GPU 1: H200 (UUID: b)'", 2),
        ("echo 'NVIDIA-SMI has failed'; exit 9", 0),
    ],
)
def test_without_device_files_nvidia_smi_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, gpus: int
) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setattr(os, "listdir", {"/dev": ["null"]}.get)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert this_machine()["GPU"] == gpus


def test_the_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    found = this_machine()["CPU"]
    assert 1 <= found <= len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert this_machine()["CPU"] == 1
