"""The project's pages as their readers use them: fenced blocks, links, sessions that are run."""

import contextlib
import doctest
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.commands import environment
from tests.tracking_server import free_port

ROOT = Path(__file__).parents[1]
HOME = "/home/ada/sweep"  # what the pages call the folder that a reader works in
SECONDS = 560
_ANY = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_END = "END_OF_BLOCK"


class Block(NamedTuple):
    """A fenced block; `line` is that of its fence, from 1."""

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that the block is: named by a comment in its first line."""
        named = re.match(r"# ([\w/.-]+\.(?:yaml|py))\n", self.text)
        return named[1] if named else None


class Step(NamedTuple):
    """A command of a page, and what the page shows of its output; None: nothing is shown."""

    where: str
    command: str
    shown: str | None


def pages() -> list[str]:
    """Every page, by its path from the root."""
    return ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = (ROOT / page).read_text()
    found = re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [Block(page, text[: m.start()].count("\n") + 1, m[2], m[3]) for m in found]


def links(page: str) -> list[str]:
    """What a page links to, and its pictures, fenced blocks apart."""
    text = re.sub(
        r"^ *```.*?^ *```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL
    )
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text))


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def steps(block: Block) -> Iterator[Step]:
    """The commands of a block.

    An `sh` block with lines that begin with `$ ` is a session: each is a command, lines with `> `
    go on with it, and what follows is its output. Other `sh` blocks are scripts. A block that is a
    file is written, other `python` blocks are run.
    """
    where = f"{block.page}:{block.line}"
    if block.file:
        folder = f"mkdir -p {Path(block.file).parent} && "
        yield Step(where, f"{folder}cat > {block.file} <<'{_END}'\n{block.text}{_END}", None)
    elif block.language == "python":
        yield Step(where, f"python - <<'{_END}'\n{block.text}{_END}", None)
    elif block.language == "sh" and not re.match(r"\$ ", block.text):
        yield Step(where, f"set -e\n{block.text}set +e", None)
    elif block.language == "sh":
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            first, *rest = part.splitlines()
            going_on = 0
            while going_on < len(rest) and rest[going_on].startswith("> "):
                going_on += 1
            command = "\n".join([first, *(line[2:] for line in rest[:going_on])])
            yield Step(where, command, "".join(f"{line}\n" for line in rest[going_on:]))


class Ran(NamedTuple):
    """A step as it went; `exit_code` is None for one that was not reached."""

    step: Step
    exit_code: int | None
    output: str


def run_page(folder: Path, todo: Sequence[Step], **variables: object) -> list[Ran]:
    """Run the steps in one shell, in an empty folder that has the project's Makefile.

    The shell ends at the first command that fails, unless the next one asks for its exit code. The
    port 5000 of the pages is one that is free here; their home is the folder.
    """
    home, told = folder / "home", folder / "told"
    home.mkdir()
    told.mkdir()
    _offer_make(home)
    port = str(free_port())
    (folder / "page.sh").write_text(re.sub(r"\b5000\b", port, _script(todo, told)))
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shell = subprocess.Popen(
        ["bash", folder / "page.sh"],
        cwd=home,
        env=environment(PATH=binaries, **variables),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):  # then a step has no exit code
            shell.wait(SECONDS)
    finally:
        _end(shell)
    return [_ran(step, told / str(number), home, port) for number, step in enumerate(todo)]


def faults(ran: Sequence[Ran]) -> Iterator[str]:
    """What went otherwise than the page says."""
    for one, after in zip(ran, [*ran[1:], None], strict=True):
        where = f"{one.step.where}: $ {one.step.command}"
        asked = after is not None and asks_for_exit_code(after.step)
        if one.exit_code is None:
            yield f"{where}\nwas not reached, or took too long:\n{one.output}"
            return
        if one.exit_code and not asked:
            yield f"{where}\nended with exit code {one.exit_code}:\n{one.output}"
        elif one.step.shown is not None and not same(one.step.shown, one.output):
            yield f"{where}\nshows\n{one.step.shown}\nbut printed\n{one.output}"


def same(shown: str, output: str) -> bool:
    """Whether a page shows this output.

    `...` stands for anything, alone on its line for any number of lines, also none; any blank for
    any other.
    """
    shown = re.sub(r"^\.\.\.\n", "...", shown, flags=re.MULTILINE)
    shown = re.sub(r"\n\.\.\.$", "...", shown)
    return doctest.OutputChecker().check_output(shown, output, _ANY)


def asks_for_exit_code(step: Step) -> bool:
    return step.command == "echo $?"


def _script(todo: Sequence[Step], told: Path) -> str:
    """A program for bash that leaves each step's output and exit code in `told`."""
    lines = []
    for number, step in enumerate(todo):
        file = told / str(number)
        lines += ["{", step.command, f"}} > {file} 2>&1", f"status=$?; echo $status > {file}.code"]
        following = todo[number + 1] if number + 1 < len(todo) else None
        if following is None or not asks_for_exit_code(following):
            lines.append("[ $status = 0 ] || exit 1")
        lines.append("(exit $status)")
    return "\n".join([*lines, ""])


def _offer_make(home: Path) -> None:
    """What `make` needs to find an environment that is installed."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, home)
    (home / ".venv").mkdir()
    (home / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (home / ".venv" / "installed").touch()


def _end(shell: "subprocess.Popen[bytes]") -> None:
    """End the shell and what it left in the background."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGTERM)
    shell.wait(30)


def _ran(step: Step, file: Path, home: Path, port: str) -> Ran:
    code = file.with_name(f"{file.name}.code")
    exit_code = int(code.read_text()) if code.exists() else None
    output = file.read_text(errors="replace") if file.exists() else ""
    return Ran(step, exit_code, re.sub(rf"\b{port}\b", "5000", output.replace(str(home), HOME)))
