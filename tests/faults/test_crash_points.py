"""The driver, a trial's process or the shipper dies at each place around each of its writes.

The places are those of trainers/crashes.py. A mark says that a process really died there.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from search_spaces import load_config
from tests.faults.counts import count
from tests.faults.harness import Site, assert_nothing_lost, site
from tests.faults.places import CONTROL, DRIVER, LEDGER, MADE, MAKING, SHIPPER, TRIAL, mark

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]
ROOT = Path(__file__).parents[2]
TINY: dict[str, Any] = {"images": 256, "epochs": 3}
SOME = ("asked", "appended metrics.jsonl", "recorded", "end", "replaced best.yaml")


def crash(here: Site, place: str, *others: str) -> None:
    """Launch or resume until the driver dies at `place`; other processes may die elsewhere."""
    accepted = here.accepted()
    command = here.start(SWEEP_CRASH_AT=",".join((place, *others)))
    assert command.wait() == -signal.SIGKILL, (place, command.output())
    assert mark(here, place).exists()
    mark(here, place).unlink()
    assert here.accepted().items() >= accepted.items()
    for file in ("config.yaml", "best.yaml"):
        if (here.directory / file).exists():
            load_config(here.directory / file)


@pytest.mark.parametrize("times", [1, 2][: count(0, 2)])
@pytest.mark.parametrize("place", MAKING)
def test_a_launch_of_its_own_that_dies_in_the_making(
    place: str, times: int, tmp_path: Path
) -> None:
    with site(tmp_path / "site", trials=2, **TINY) as here:
        for _ in range(times):
            crash(here, place)
            assert not here.directory.exists()
        here.run()
        assert_nothing_lost(here)


def test_a_driver_dies_at_each_place(tmp_path: Path) -> None:
    """One sweep: it dies at each place, and the next gets further.

    So do trials and shippers on the way. In CI it is some of the places, all of which children come
    to; in full the resume dies too, and two trials run at once.
    """
    places = DRIVER if count(0, 1) else SOME
    with site(tmp_path / "site", trials=8, at_once=count(1, 2), **TINY) as here:
        others = (*TRIAL, "created trial run", "logged batch@2")
        for place in places:
            for _ in range(count(1, 2)):
                crash(here, place, *others)
        here.run(SWEEP_CRASH_AT=",".join(others))
        assert [other for other in others if not mark(here, other).exists()] == []
        assert_nothing_lost(here, incidents=count(1, 2) * len(places) + len(TRIAL))


@pytest.mark.parametrize("times", [1, 2][: count(0, 2)])
@pytest.mark.parametrize("place", DRIVER)
def test_a_sweep_of_its_own_whose_driver_dies(place: str, times: int, tmp_path: Path) -> None:
    with site(tmp_path / "site", trials=4, **TINY) as here:
        if "journal" in place:
            crash(here, "ask")  # or it would die in the making
        for _ in range(times):
            crash(here, place)
        here.run()
        assert_nothing_lost(here, incidents=times + 1)


@pytest.mark.parametrize("places", count(0, 1) * [TRIAL, *[(p,) for p in TRIAL]])
def test_a_trial_whose_process_dies_goes_on_in_another(
    places: tuple[str, ...], tmp_path: Path
) -> None:
    with site(tmp_path / "site", trials=4, **TINY) as here:
        here.run(SWEEP_CRASH_AT=",".join(places))
        assert all(mark(here, place).exists() for place in places)
        assert_nothing_lost(here, incidents=len(places))


WRITE = "import sys, pathlib; from sweep.files import write_text\n"
WRITE += "write_text(pathlib.Path(sys.argv[1]), 'new\\n' * 10_000)"


@pytest.mark.parametrize(("place", "expected"), [("replace it", "old\n"), ("replaced it", "new\n")])
def test_a_file_that_is_replaced_is_whole(place: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_text("old\n" * 10_000)
    variables = {"SWEEP_CRASH_AT": place, "SWEEP_CRASH_MARKS": str(tmp_path)}
    command = [sys.executable, "-c", WRITE, str(path)]
    died = subprocess.run(command, cwd=ROOT, env=os.environ | variables)
    assert died.returncode == -signal.SIGKILL
    assert path.read_text() == expected * 10_000
    subprocess.run(command, cwd=ROOT, check=True)
    assert path.read_text() == "new\n" * 10_000
    assert list(tmp_path.glob("*.part")) == []


SEND = "import sys, pathlib; from sweep.halt import send; "
SEND += "send(pathlib.Path(sys.argv[1]), 1, 'pause')"


@pytest.mark.parametrize("place", CONTROL)
def test_a_command_that_dies_is_given_whole_or_not_at_all(place: str, tmp_path: Path) -> None:
    variables = {"SWEEP_CRASH_AT": place, "SWEEP_CRASH_MARKS": str(tmp_path)}
    command = [sys.executable, "-c", SEND, str(tmp_path)]
    died = subprocess.run(command, cwd=ROOT, env=os.environ | variables)
    assert died.returncode == -signal.SIGKILL
    assert (tmp_path / "control").exists() == (place == CONTROL[1])
    subprocess.run(command, cwd=ROOT, check=True)
    assert (tmp_path / "control").read_text() == "pause 1\n"


def test_every_place_is_one_where_a_process_dies() -> None:
    """Those that `reach` names in the sources, and those of each file that is replaced."""
    lists = (*MAKING, MADE, *DRIVER, *LEDGER, *TRIAL, *SHIPPER, *CONTROL)
    places = {place.partition("@")[0] for place in lists}
    sources = [
        path.read_text() for name in ("sweep", "trainers") for path in ROOT.glob(f"{name}/*.py")
    ]
    text = "\n".join(sources)
    named = set(re.findall(r'\breach\(f?"([^"]+)"', text))
    assert len(re.findall(r"\breach\(", text)) == len(re.findall(r'\breach\(f?"|def reach\(', text))
    for name in named:
        pattern = re.sub(r"\\{.*?\\}", ".+", re.escape(name))
        assert any(re.fullmatch(pattern, place) for place in places), name
    files = set(re.findall(r'\bwrite_text\([^\n]*"([a-z.]+)"', text))
    assert files >= {"config.yaml", "sweep.json", "error.txt", "best.yaml"}
    assert places >= {f"{word} {file}" for file in files for word in ("replace", "replaced")}
