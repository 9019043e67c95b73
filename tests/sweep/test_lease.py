"""The lease on a sweep, and the name of a new one: one process at a time has it."""

import contextlib
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest

from sweep.errors import CommandError
from sweep.lease import (
    STALE_S,
    LeaseLostError,
    current_holder,
    driving,
    latest_number,
    read_holder,
    seconds_driven,
)
from sweep.naming import create_study, launching, making_folder

HOLD = "import sys, pathlib, time; from {module} import {name}\n"
HOLD += "with {name}(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"


@contextlib.contextmanager
def another(name: str, directory: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that has entered `driving` or `launching`."""
    module = {"driving": "sweep.lease", "launching": "sweep.naming"}[name]
    command = [sys.executable, "-c", HOLD.format(module=module, name=name), str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def record(directory: Path, number: int) -> Path:
    return directory / "drivers" / f"{number:04d}.json"


def make_stale(path: Path) -> None:
    """As if its driver had not been heard of for three times as long as is allowed."""
    then = time.time() - 3 * STALE_S
    os.utime(path, (then, then))


def test_every_driver_has_a_number_above_all_before_it(tmp_path: Path):
    numbers = []
    for above in (0, 0, 7, 3):
        with driving(tmp_path, above=above) as lease:
            numbers.append(lease.number)
            holder = current_holder(tmp_path)
            assert holder is not None
            assert (holder.number, holder.pid, holder.stale) == (lease.number, os.getpid(), False)
        assert current_holder(tmp_path) is None
    assert numbers == [1, 2, 8, 9]
    assert latest_number(tmp_path) == 9


def test_a_second_driver_is_refused_and_told_who_has_the_lease(tmp_path: Path):
    with another("driving", tmp_path) as process:
        text = rf"{tmp_path.name} is being run by process {process.pid} of \S+ on "
        text += rf"{platform.node()}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d; follow it with: "
        text += f"sweep watch {tmp_path.name}"
        for takeover in (False, True):  # it has been heard of a moment ago
            with pytest.raises(CommandError, match=text) as caught:
                driving(tmp_path, takeover=takeover).__enter__()
            assert caught.value.exit_code == 4
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with driving(tmp_path) as lease:  # at once
            assert lease.number == 2


def test_one_of_many_that_come_at_once_gets_the_lease(tmp_path: Path):
    with contextlib.ExitStack() as held:

        def attempt(_: int) -> bool:
            with contextlib.suppress(CommandError):
                held.enter_context(driving(tmp_path))
                return True
            return False

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(attempt, range(32))) == 1
    assert latest_number(tmp_path) == 1
    assert [path.name for path in (tmp_path / "drivers").iterdir()] == ["0001.json"]


def test_a_frozen_driver_is_taken_over_from_and_finds_that_out(tmp_path: Path):
    with driving(tmp_path) as lease:
        make_stale(record(tmp_path, 1))
        text = r"not heard of for \d+ s; if it is gone for good, take over with: sweep resume "
        with pytest.raises(CommandError, match=f"{text}{tmp_path.name} --takeover"):
            driving(tmp_path).__enter__()
        lease.check()
        with driving(tmp_path, takeover=True) as newer:
            assert newer.number == 2
            text = f"{tmp_path.name} was taken over by process {os.getpid()} of .*; this driver has"
            with pytest.raises(LeaseLostError, match=text) as caught:
                lease.check()
            assert caught.value.exit_code == 4
            newer.check()
        with pytest.raises(LeaseLostError):  # even when that one has ended
            lease.check()


def test_the_hours_driven_are_those_of_all_drivers(tmp_path: Path):
    with driving(tmp_path):
        pass
    started = read_holder(record(tmp_path, 1), 1).started
    with another("driving", tmp_path) as process:
        process.kill()
        process.wait()
    begun = read_holder(record(tmp_path, 2), 2).started
    os.utime(record(tmp_path, 2), (begun + 100, begun + 100))  # its last beat
    assert seconds_driven(tmp_path) == pytest.approx(
        100 + read_holder(record(tmp_path, 1), 1).beat - started
    )
    assert seconds_driven(tmp_path, before=2) < 100


def test_a_record_that_is_damaged_tells_nothing_and_hinders_nobody(tmp_path: Path):
    with driving(tmp_path):
        pass
    sound = record(tmp_path, 1).read_bytes()
    for position in range(0, 8 * len(sound), 7):
        flipped = bytearray(sound)
        flipped[position // 8] ^= 1 << position % 8
        record(tmp_path, 1).write_bytes(flipped)
        assert seconds_driven(tmp_path) == 0
    for text in (b"", sound[:20], b"\0" * len(sound)):
        record(tmp_path, 1).write_bytes(text)
        assert seconds_driven(tmp_path) == 0
    with driving(tmp_path) as lease:
        assert lease.number == 2


# In a database


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


def opened(storage: str) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(0)
    return optuna.load_study(study_name="rates", storage=storage, sampler=sampler)


def test_a_study_in_a_database_is_driven_from_one_copy_of_the_directory(
    tmp_path: Path, storage: str
):
    optuna.create_study(study_name="rates", storage=storage)
    (tmp_path / "here").mkdir()
    (tmp_path / "copy").mkdir()
    with driving(tmp_path / "here") as here, driving(tmp_path / "copy") as copy:
        here.claim(opened(storage), takeover=False)
        text = rf"copy is being run by process {os.getpid()} on \S+, heard of \d s ago; follow"
        for takeover in (False, True):
            with pytest.raises(CommandError, match=text) as caught:
                copy.claim(opened(storage), takeover=takeover)
            assert caught.value.exit_code == 4
        claim = opened(storage).user_attrs["driver"]
        old = claim | {"beat": time.time() - 3 * STALE_S}

        def refusal(*, takeover: bool) -> str:
            opened(storage).set_user_attr("driver", old)
            try:
                copy.claim(opened(storage), takeover=takeover)
            except CommandError as error:
                return str(error)
            return ""

        # The holder lives, and its beat may come between: then it is tried once more.
        way_out = "take over with: sweep resume copy --takeover"
        assert any(way_out in refusal(takeover=False) for _ in range(9))
        assert any(refusal(takeover=True) == "" for _ in range(9))
        copy.check()
        with pytest.raises(LeaseLostError, match="here was taken over by process"):
            here.check()
    assert opened(storage).user_attrs["driver"]["id"] == ""
    with driving(tmp_path / "here") as again:
        again.claim(opened(storage), takeover=False)


# The name of a new sweep


def test_a_second_launch_of_a_name_is_refused_and_told_who_has_it(tmp_path: Path):
    directory = tmp_path / "sweeps" / "rates"
    with another("launching", directory) as process:
        text = rf"rates is being launched by process {process.pid} of \S+ on {platform.node()}, "
        with pytest.raises(CommandError, match=text + "since") as caught:
            launching(directory).__enter__()
        assert caught.value.exit_code == 4
        left = directory.with_name(f".rates.{process.pid}")
        left.mkdir()
        others = directory.with_name(".rates.2.17"), directory.with_name("rates.17")
        for other in others:
            other.mkdir()
        process.kill()
        process.wait()
        with launching(directory):  # at once, and what that one had made is gone
            assert not left.exists()
            making_folder(directory).mkdir()
            making_folder(directory).rename(directory)
        assert sorted(directory.parent.iterdir()) == sorted([*others, directory])
    with pytest.raises(CommandError, match=r"the name rates is taken by .*sweep resume rates"):
        launching(directory).__enter__()


def test_a_launch_is_told_who_runs_the_sweep_of_that_name(tmp_path: Path):
    (tmp_path / "rates").mkdir()
    with (
        driving(tmp_path / "rates"),
        pytest.raises(CommandError, match=f"rates is being run by process {os.getpid()} of"),
    ):
        launching(tmp_path / "rates").__enter__()


def test_one_of_many_that_come_at_once_gets_the_name(tmp_path: Path):
    with contextlib.ExitStack() as held:

        def attempt(_: int) -> bool:
            with contextlib.suppress(CommandError):
                held.enter_context(launching(tmp_path / "rates"))
                return True
            return False

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(attempt, range(32))) == 1
    assert list(tmp_path.iterdir()) == []


DIE = "import sys, os; from sweep.naming import create_study\n"
DIE += "create_study('rates', sys.argv[1], 'minimize', shared=True); os._exit(0)"


def test_what_a_dead_launch_has_left_in_a_database_makes_way(storage: str):
    subprocess.run([sys.executable, "-c", DIE, storage], check=True, capture_output=True)
    create_study("rates", storage, "minimize", shared=True)
    with pytest.raises(CommandError, match="holds a study rates already") as caught:
        create_study("rates", storage, "minimize", shared=True)  # its maker lives
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("sign", ["state", "trial"])
def test_a_study_that_was_ever_run_makes_way_for_none(storage: str, sign: str):
    subprocess.run([sys.executable, "-c", DIE, storage], check=True, capture_output=True)
    if sign == "state":
        opened(storage).set_user_attr("state", "running")
    else:
        opened(storage).ask()
    with pytest.raises(CommandError, match="launch under another --name"):
        create_study("rates", storage, "minimize", shared=True)
