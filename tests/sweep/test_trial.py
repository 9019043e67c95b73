"""What a worker does before its first epoch."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyarrow import fs

from sweep.files import NO_ROOM
from sweep.halt import Halt, Leave, told
from sweep.search import LedgerScheduler
from sweep.stores import Store, StoreError, fetch, held, keep, probe
from sweep.trial import Shared, TrialActor
from trainers.files import previous_path


@pytest.mark.parametrize("shared", [True, False])
def test_a_node_without_the_sweep_trains_nothing(tmp_path: Path, shared: bool) -> None:
    """Or its checkpoints would lie where no other node finds them; the trial stays open."""
    directory = tmp_path / "rates"
    directory.mkdir()
    if shared:
        (directory / "sweep.json").touch()
    actor = TrialActor.__new__(TrialActor)
    actor.broken, actor.store, actor.worker = None, None, {"node": "10.0.0.9"}
    actor.trials = directory / "trials"
    actor.reports = actor.train_trial(0, {}, 0)
    result = actor.step()
    assert result["reports"] == []
    if shared:  # it goes on to what it was not given here
        assert result["trouble"] is None
        assert "dataset" in result["failure"]
        return
    assert result["failure"] is None
    fault = "node 10.0.0.9 does not share that folder"
    assert result["trouble"] == (errno.EIO, fault, str(directory))
    text = f"{directory} cannot be written: {fault}; nothing that was recorded is lost"
    assert told(OSError(*result["trouble"]), directory).startswith(text)


def test_a_worker_that_cannot_start_fails_no_trial(tmp_path: Path) -> None:
    """It would fail one after the other; the sweep ends, with its trials open."""
    actor, halt = TrialActor.__new__(TrialActor), Halt(tmp_path / "rates")
    shared = Shared(*[None] * 4)  # pyright: ignore[reportArgumentType]
    actor.setup({"number": 0, "space": {}, "skip_epochs": 0}, shared)
    ledger: Any = SimpleNamespace(directory=tmp_path / "rates")
    referee: Any = None
    trial = SimpleNamespace(config={"number": 0, "space": {}})
    with pytest.raises(Leave):
        LedgerScheduler(ledger, referee, halt).on_trial_result(None, trial, actor.step())
    said = str(halt.trouble)
    assert said.startswith("a worker on node ")
    assert " could not start:\nTraceback (most recent call last):" in said
    assert said.endswith(f"is gone, go on with: sweep resume rates --sweeps-dir {tmp_path}")


def test_a_state_that_is_gone_from_a_store_is_no_fault_of_its_trial(tmp_path: Path) -> None:
    store = Store("s3://states/rates", fs.LocalFileSystem(), str(tmp_path / "none"))
    with pytest.raises(StoreError, match="No such file or directory") as caught:
        probe(store, "state")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert caught.value.errno in NO_ROOM


def test_a_store_keeps_and_gives_back_the_last_two_states(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    for number in (7, 11):
        (folder / f"{number:04d}").mkdir(parents=True)
    store, path = Store("s3://states", fs.LocalFileSystem(), str(folder)), tmp_path / "state"
    for epoch in (9, 10, 11):
        path.write_text(f"after {epoch}")
        keep(store, 7, epoch, path)
    assert held(store) == {7}
    fetch(store, 11, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    fetch(store, 7, here := tmp_path / "here")
    assert here.read_text() == "after 11"
    assert previous_path(here).read_text() == "after 10"
    assert sorted(path.name for path in folder.glob("0007/*")) == ["epoch-00010", "epoch-00011"]


TWO_WORKERS = """
import json
from pathlib import Path
from types import SimpleNamespace
import ray
from sweep.cluster import connected
from sweep.trial import Shared, TrialActor
from trainers.data import load_dataset

@ray.remote(num_cpus=0)
class Worker:
    def look(self, shared):
        actor = TrialActor.__new__(TrialActor)
        resources = SimpleNamespace(required_resources={"CPU": 1})
        actor._trial_info = SimpleNamespace(trial_resources=resources)
        actor.prepare(shared)
        from trainers.runs import fit_point
        space = {"schedule": {"constant": {"peak_lr": 0.1}}}
        reports = list(fit_point(actor.dataset, space, actor.settings))
        maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
        arrays = {}
        for name in ("train_images", "train_labels", "val_images"):
            array = getattr(shared.dataset, name)
            arrays[name] = {
                "writable": array.flags.writeable,
                "unchanged": array.tobytes() == getattr(load(), name).tobytes(),
                "copied": getattr(actor.dataset, name).unsafe_buffer_pointer() != array.ctypes.data,
                "lies": place(array.ctypes.data, maps),
            }
        return {"losses": [report.train_loss for report in reports], "arrays": arrays}

def place(address, maps):
    for span, mode, offset, device, inode, *path in maps:
        start, end = (int(part, 16) for part in span.split("-"))
        if start <= address < end:
            return [mode[-1], device, inode, int(offset, 16) + address - start]

def load():
    return load_dataset("digits", validation_examples=287)

settings = {"num_epochs": 2, "batch_size": 64}
with connected("local"):
    shared = ray.put(Shared(load(), settings, b"\\x80\\x04}.", "trials"))
    workers = [Worker.remote() for _ in range(2)]
    print(json.dumps(ray.get([worker.look.remote(shared) for worker in workers])))
"""


@pytest.mark.slow
def test_workers_of_a_node_train_on_the_same_memory_and_leave_it_as_it_is() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWO_WORKERS],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    one, other = json.loads(done.stdout.splitlines()[-1])
    assert one == other
    for array in one["arrays"].values():
        kind = array["lies"][0]
        found = (array["writable"], array["unchanged"], array["copied"], kind)
        assert found == (False, True, False, "s")
    assert one["losses"][1] < one["losses"][0]
