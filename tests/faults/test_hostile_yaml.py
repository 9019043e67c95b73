"""Hostile sweep files: `sweep check` refuses each within 2 s and 256 MiB and does nothing else."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.commands import SWEEP, environment
from tests.faults.counts import count
from tests.faults.hostile import CALL, CONSTANT, HEAVIEST, KINDS, MAY_BE_SOUND, SOUND, hostile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(count(1200, 7200))]
SECONDS, MEBIBYTES = 2, 256
TRAP = "from pathlib import Path\nPath(__file__).with_name('pwned').touch()\nf = float\n"
# What is tried first, in its shortest form, and what has once ended in a traceback or taken long.
CORPUS = (
    "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n",
    f"a: {CALL}",
    "!!python/object/new:type {}",
    "!!python/module:pwn\n",
    "<<: *a",
    "? {a: 1}\n: 2",
    "[" * 100_000,
    "{a: " * 50_000,
    "!!" * 131_000,
    "a: 1e999999",
    "a: " + "9" * 100_000,
    "%YAML 1.9\n---\na: 1",
    f"%YAML {'9' * 5000}.2\n---\na: 1",
    'a: "\\UFFFFFFFF"',
    'a: "\\uD800"',
    "a: 1\n...\nb: 2",
    "name: ../../x",
    "\x00",
    "",
    "\ufeff",
    SOUND.replace("sgd", '"\\e[2J"'),
    SOUND.replace("name: t", "name: t\nname: t"),
    SOUND.replace("sgd", "[sgd]"),
    SOUND.replace("sgd", "{sgd: 1}"),
    SOUND.replace("epochs: 10, batch_size: 64", "epochs: 100000, batch_size: 1"),
    *HEAVIEST,
)
# Runs commands and says what each took. It is small itself, for a process counts the memory of the
# one that started it; a command that asks for very much fails for want of it.
RUNNER = """
import json, os, resource, subprocess, sys, tempfile
resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
for line in sys.stdin:
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(json.loads(line), stdout=out, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        output = out.read().decode("utf-8", "backslashreplace")
    seconds, mebibytes = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    print(json.dumps([process.returncode, seconds, mebibytes, output]))
"""
# Calls what the command calls, for one file after the other in one process.
CALLER = """
import contextlib, io, json, sys, time, traceback
from pathlib import Path
from sweep.cli import main
for file in sorted(Path().glob("*.yaml")):
    sys.argv, output, start = ["sweep", "check", file.name], io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            main()
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = traceback.print_exc()
    print(json.dumps([file.name, code, time.process_time() - start, output.getvalue()]))
"""


class Met(NamedTuple):
    """How a file was met; the seconds are the processor's."""

    code: int | None
    seconds: float
    output: str


def run(folder: Path, *commands: list[str]) -> list[tuple[Met, float]]:
    """Each command in the folder, one after the other: how it ended, and its MiB at most."""
    variables = {"PYTHONPATH": f"{Path.cwd()}:{folder}", "OPENBLAS_NUM_THREADS": 1}
    done = subprocess.run(
        [sys.executable, "-S", "-c", RUNNER],
        input="\n".join(map(json.dumps, commands)),
        cwd=folder,
        env=environment(PYTHONDONTWRITEBYTECODE=1, **variables),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = map(json.loads, done.stdout.splitlines())
    return [(Met(code, seconds, output), size) for code, seconds, size, output in lines]


def assert_refused(file: str, met: Met, *, sound: bool = False) -> None:
    """The file is refused in time, in lines that say where; one that may be sound may also pass."""
    assert met.code == 2 or (sound and met.code == 0), (file, met)
    assert met.seconds <= SECONDS, (file, met.seconds)
    assert "Traceback" not in met.output, file
    if met.code == 2:
        lines = met.output.removesuffix("\n").split("\n")
        assert all(line.startswith(f"{file}:") and line.isprintable() for line in lines), file
        assert len(met.output) < 250_000, file


class Yard(NamedTuple):
    """A folder of hostile files and what has come of them, by the name of their kind."""

    folder: Path
    met: dict[str, dict[str, Met]]
    mebibytes: float
    made: set[Path]


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    above = tmp_path_factory.mktemp("above")
    folder = above / "work"
    folder.mkdir()
    (folder / "pwn.py").write_text(TRAP)
    for number, text in enumerate(CORPUS):
        (folder / f"corpus-{number}.yaml").write_text(text)
    for number in range(count(300, 3000) // len(KINDS)):
        for kind in KINDS:
            (folder / f"{kind.__name__}-{number}.yaml").write_bytes(hostile(kind, number))
    before = set(above.rglob("*"))
    ((caller, mebibytes),) = run(folder, [sys.executable, "-c", CALLER])
    assert caller.code == 0, caller.output
    met: dict[str, dict[str, Met]] = {}
    for line in caller.output.splitlines():
        file, *result = json.loads(line)
        met.setdefault(file.partition("-")[0], {})[file] = Met(*result)
    return Yard(folder, met, mebibytes, set(above.rglob("*")) - before)


SOUND_KINDS = {kind.__name__ for kind in MAY_BE_SOUND}


@pytest.mark.parametrize("kind", ["corpus", *(kind.__name__ for kind in KINDS)])
def test_a_hostile_file_is_refused(kind: str, yard: Yard) -> None:
    for file, met in yard.met[kind].items():
        assert_refused(file, met, sound=kind in SOUND_KINDS)
    assert any(met.code == 2 for met in yard.met[kind].values())


def test_nothing_is_executed_or_created_and_memory_stays_small(yard: Yard) -> None:
    assert len(yard.met) == len(KINDS) + 1
    assert sum(map(len, yard.met.values())) == len(list(yard.folder.glob("*.yaml")))
    assert yard.made == set()
    assert yard.mebibytes <= MEBIBYTES


def test_the_command_keeps_the_promise(yard: Yard) -> None:
    """For the heaviest file of each kind, and for some others."""
    seconds = {file: met.seconds for kind in yard.met.values() for file, met in kind.items()}
    heaviest = [max(kind, key=seconds.__getitem__) for kind in yard.met.values()]
    files = list(dict.fromkeys([*heaviest, *list(seconds)[:: count(40, 60)]]))
    before = set(yard.folder.parent.rglob("*"))
    done = run(yard.folder, *([SWEEP, "check", file] for file in files))
    for file, (met, mebibytes) in zip(files, done, strict=True):
        assert_refused(file, met, sound=file.partition("-")[0] in SOUND_KINDS)
        assert mebibytes <= MEBIBYTES, (file, mebibytes)
    assert set(yard.folder.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["pwn.py:f", "pwn:f"])
def test_the_trap_is_one(name: str, tmp_path: Path) -> None:
    """A sound file that names the function has it imported, by which the trap is seen to work."""
    (tmp_path / "pwn.py").write_text(TRAP)
    custom = f"custom: {{function: '{name}'}}"
    (tmp_path / "sound.yaml").write_text(SOUND.replace(CONSTANT, custom))
    ((met, _),) = run(tmp_path, [SWEEP, "check", "sound.yaml"])
    assert met.code == 0, met.output
    assert (tmp_path / "pwned").exists()
