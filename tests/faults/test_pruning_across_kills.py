"""A sweep of one trial at a time is the same one, however often its driver was killed."""

import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.counts import count
from tests.faults.harness import Site, assert_nothing_lost, site, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]
FIELDS = {"images": 256, "epochs": 6, "algorithm": "tpe", "trials": 14, "pruning": "asha"}
LAUNCH = ("launch", "faults.yaml", "--set", "resources.max_concurrent=1")
FIRST_MODELLED = 10  # TPE draws that many at random before
KILLS = count(2, 3)


def facts(here: Site) -> list[tuple[Any, ...]]:
    """What each trial was, and how it ended."""
    return [
        (t.number, t.parameters, t.state, len(t.reports), t.value, t.message)
        for t in here.read()[1]
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    with site(tmp_path_factory.mktemp("undisturbed"), **FIELDS) as here:
        here.run(*LAUNCH)
        return facts(here)


def kill_after(here: Site, epochs: int, seconds: float) -> bool:
    """Start the sweep, and kill it when so many epochs are recorded; whether it still ran."""
    command = here.start() if (here.directory / "sweep.json").exists() else here.start(*LAUNCH)
    until(
        lambda: here.recorded() >= epochs or command.process.poll() is not None,
        command.output,
        280,
    )
    time.sleep(seconds)
    if command.process.poll() is not None:
        assert command.wait() == 0, command.output()
        return False
    command.kill()
    return True


@pytest.mark.parametrize("seed", range(count(1, 5)))
def test_proposals_and_stops_do_not_depend_on_kills(
    seed: int, undisturbed: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    states = {state for _, _, state, _, _, _ in undisturbed}
    assert states == {"complete", "pruned"}
    assert any(state == "pruned" for _, _, state, *_ in undisturbed[FIRST_MODELLED:])
    recorded = sum(epochs for _, _, _, epochs, _, _ in undisturbed)
    dice = random.Random(seed)
    instants = sorted(dice.sample(range(1, recorded), KILLS))
    with site(tmp_path, **FIELDS) as here:
        kills = sum(kill_after(here, at, dice.uniform(0, 0.1)) for at in instants)
        here.run()
        assert facts(here) == undisturbed
        assert_nothing_lost(here, incidents=kills)
