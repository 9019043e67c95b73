"""The tracking server is away, or its answers are; trials go on, and it lacks nothing afterwards.

`assert_nothing_lost` trains all trials again, undisturbed, and compares their figures.
"""

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from sweep.delivery import read_status
from tests.faults.counts import count
from tests.faults.harness import Command, Site, assert_nothing_lost, site, until
from tests.faults.proxy import losing
from tests.tracking_server import free_port, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]
SMALL = {"images": 256, "epochs": 3, "trials": 6}


def delivered(here: Site) -> int:
    """How many trials MLflow holds to their end."""
    held = read_status(here.directory).trials.values()
    return sum(trial.state in ("complete", "pruned", "diverged") for trial in held)


def ended(command: Command) -> bool:
    return command.process.poll() is not None


def in_trouble(here: Site) -> bool:
    """Whether the shipper has noticed that the server does not answer."""
    return bool(read_status(here.directory).error)


@pytest.mark.parametrize("time_over", range(count(1, 3)))
def test_a_server_that_is_never_up(tmp_path: Path, time_over: int) -> None:
    port = free_port()
    with site(tmp_path, f"http://127.0.0.1:{port}", **SMALL) as here:
        told = here.run(code=3)
        assert "not all of it is delivered" in told
        assert "Traceback" not in told
        assert here.read()[0].state == "finished"
        told = here.run("sync", "faults", code=3)
        assert "6 trials (18 epochs) are not delivered" in told
        with serving(tmp_path, port):
            assert "MLflow holds all of faults" in here.run("sync", "faults")
            assert_nothing_lost(here, incidents=0)


@pytest.mark.parametrize("time_over", range(count(1, 3)))
@pytest.mark.parametrize("seconds", [0, count(5, 20), count(5, 60)][: count(2, 3)])
def test_an_outage_in_the_middle(tmp_path: Path, seconds: int, time_over: int) -> None:
    port = free_port()
    long = {"images": 1024, "epochs": 20, "trials": 8 + seconds}
    with ExitStack() as server, site(tmp_path, f"http://127.0.0.1:{port}", **long) as here:
        server.enter_context(serving(tmp_path, port))
        command = here.start()
        until(lambda: delivered(here) >= 1 or ended(command), command.output, 280)
        server.close()
        until(lambda: in_trouble(here) or seconds == 0, command.output, 280)
        time.sleep(seconds)
        assert not ended(command), f"the sweep must outlive the outage: {command.output()}"
        server.enter_context(serving(tmp_path, port))
        if command.wait() == 3:  # the server was not up again when the sweep was over
            here.run("sync", "faults")
        assert command.wait() in (0, 3), command.output()
        assert_nothing_lost(here, incidents=0)


@pytest.mark.parametrize("time_over", range(count(1, 3)))
def test_a_server_that_does_not_come_back(tmp_path: Path, time_over: int) -> None:
    port = free_port()
    with site(tmp_path, f"http://127.0.0.1:{port}", epochs=10, trials=8) as here:
        with serving(tmp_path, port):
            command = here.start()
            until(lambda: delivered(here) >= 1 or ended(command), command.output, 280)
        assert command.wait() == 3, command.output()
        assert "not all of it is delivered" in command.output()
        with serving(tmp_path, port):
            assert "MLflow holds all of faults" in here.run("sync", "faults")
            assert_nothing_lost(here, incidents=0)


@pytest.mark.parametrize("seed", range(count(1, 3)))
def test_answers_that_are_lost(tmp_path: Path, seed: int) -> None:
    port = free_port()
    with (
        serving(tmp_path, port) as uri,
        losing(port, every=5, seed=seed) as proxy,
        site(tmp_path, proxy.uri, epochs=10, trials=10) as here,
    ):
        deliver_at_last(here, here.start())
        assert any(path.endswith("runs/create") for path in proxy.lost), proxy.lost
        here.tracking_uri = uri
        assert_nothing_lost(here, incidents=0)


def deliver_at_last(here: Site, command: Command) -> None:
    """The sweep, and as many deliveries as it takes; each may give up, but none may break."""
    for _ in range(20):
        if command.wait() == 0:
            return
        assert command.wait() == 3, command.output()
        assert "Traceback" not in command.output()
        command = here.start("sync", "faults")
    raise AssertionError(command.output())
