"""What a worker does before its first epoch."""

import errno
from pathlib import Path

import pytest

from sweep.halt import told
from sweep.trial import TrialActor


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
