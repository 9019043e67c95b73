"""The tracking server is away, or its answers are; trials go on, and it lacks nothing afterwards.

`assert_nothing_lost` trains all trials again, undisturbed, and compares their figures.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
# Sweeps that last until they are stopped. They rest in each epoch, or minutes of training would
# have to be trained again at the end.
ENDLESS = {"images": 256, "epochs": 12, "trials": 5000}
RESTING = {"SWEEP_BREAK": "rest_in_each_epoch", "PYTHONPATH": str(Path(__file__).parent / "broken")}
WRITES = {
    *("experiments/create", "runs/create", "runs/log-inputs", "runs/log-batch"),
    *("runs/update", "artifacts"),
}


def delivered(here: Site) -> int:
    """How many trials MLflow holds to their end."""
    held = read_status(here.directory).trials.values()
    return sum(trial.state in ("complete", "pruned", "diverged") for trial in held)


def comes_further(what: Callable[[Site], int], *sites: Site) -> None:
    """Wait until more is recorded, or delivered, of each sweep than now."""
    for here, before in [(here, what(here)) for here in sites]:
        (command, *_) = here.commands
        until(lambda here=here, before=before: what(here) > before, command.output)
        assert command.process.poll() is None, command.output()


def in_trouble(here: Site) -> bool:
    """Whether the shipper has noticed that the server does not answer."""
    return bool(read_status(here.directory).error)


@contextmanager
def endless(folder: Path, port: int, at_once: int) -> Iterator[Site]:
    with site(folder, f"http://127.0.0.1:{port}", at_once=at_once, **ENDLESS) as here:
        path = os.pathsep.join(filter(None, (RESTING["PYTHONPATH"], os.environ.get("PYTHONPATH"))))
        here.environment |= RESTING | {"PYTHONPATH": path}
        yield here


@pytest.mark.parametrize("time_over", range(count(1, 3)))
def test_outages_of_the_server(time_over: int, tmp_path: Path) -> None:
    """One sweep lives through outages of 0, 20 and 60 s.

    Another is launched in the second one, so the server is down at first, and stopped in the third,
    so the server does not come back to its end.
    """
    port = free_port()
    with (
        ExitStack() as server,
        endless(tmp_path / "first", port, 2) as first,
        endless(tmp_path / "second", port, count(1, 2)) as second,
    ):

        @contextmanager
        def outage(seconds: int, *sites: Site) -> Iterator[None]:
            server.close()
            comes_back = time.monotonic() + seconds
            yield
            time.sleep(max(comes_back - time.monotonic(), 0))
            comes_further(Site.recorded, *sites)
            server.enter_context(serving(tmp_path, port))

        server.enter_context(serving(tmp_path, port))
        command = first.start()
        comes_further(delivered, first)
        with outage(0, first):
            pass
        comes_further(delivered, first)
        with outage(20, first, second):
            other = second.start()
            until(lambda: in_trouble(second), other.output)
            assert in_trouble(first)
        comes_further(delivered, first, second)
        with outage(60, first):
            until(lambda: in_trouble(first) and in_trouble(second), command.output)
            second.run("stop", "faults")
            assert other.wait() == 3, other.output()
            assert "not all of it is delivered" in other.output()
            told = second.run("sync", "faults", code=3)
            assert re.search(r" \((.+) epochs\) (is|are) not delivered: ", told), told
        first.run("stop", "faults")
        assert command.wait() == 0, command.output()
        assert "MLflow holds all of faults" in second.run("sync", "faults")
        for here in (first, second):
            assert_nothing_lost(here, incidents=0, state="stopped")
        assert "Traceback" not in command.output() + other.output()


@pytest.mark.parametrize("time_over", range(count(0, 3)))
def test_a_server_that_is_never_up(time_over: int, tmp_path: Path) -> None:
    port = free_port()
    few = {"images": 256, "epochs": 3, "trials": 6}
    with site(tmp_path, f"http://127.0.0.1:{port}", **few) as here:
        told = here.run(code=3)
        assert "not all of it is delivered" in told
        assert "Traceback" not in told
        assert here.read()[0].state == "finished"
        told = here.run("sync", "faults", code=3)
        assert "6 trials (18 epochs) are not delivered" in told
        with serving(tmp_path, port):
            assert "MLflow holds all of faults" in here.run("sync", "faults")
            assert_nothing_lost(here, incidents=0)


@pytest.mark.parametrize("seed", range(count(1, 3)))
def test_answers_that_are_lost(seed: int, tmp_path: Path) -> None:
    """The first to each kind of write, and about every fifth after it."""
    port = free_port()
    with (
        serving(tmp_path, port) as uri,
        losing(port, every=5, seed=seed) as proxy,
        site(tmp_path, proxy.uri, images=256, epochs=4, trials=4, at_once=1) as here,
    ):
        deliver_at_last(here, here.start())
        assert proxy.lost.keys() >= WRITES, proxy.lost
        assert proxy.lost.total() > len(proxy.lost), proxy.lost
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
