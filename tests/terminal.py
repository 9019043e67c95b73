"""The `sweep` command in a terminal of a given width."""

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import termios
import time
import uuid
from pathlib import Path

from tests.commands import SWEEP, environment


def shown(folder: Path, *arguments: object, width: int, **variables: object) -> str:
    """What `sweep ARGUMENTS` shows there, with its escape sequences; it must succeed."""
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    variables = {"TERM": "xterm-256color"} | variables
    env = {k: v for k, v in environment().items() if k not in ("COLUMNS", "NO_COLOR")}
    env |= {name: str(value) for name, value in variables.items()}
    command = [SWEEP, *map(str, arguments)]
    with subprocess.Popen(command, cwd=folder, env=env, stdin=its, stdout=its) as process:
        os.close(its)
        chunks = []
        try:
            while chunk := os.read(mine, 65536):
                chunks.append(chunk)
        except OSError:  # the last writer has gone
            pass
        os.close(mine)
    assert process.returncode == 0
    return b"".join(chunks).decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    """The text without its escape sequences."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def colours(text: str) -> list[str]:
    """The escape sequences that set a colour."""
    return re.findall(r"\x1b\[(?:\d+;)*[349]\d(?:;\d+)*m", text)


class Screen:
    """A terminal of a given size in which one `sweep` command runs; tmux is the terminal."""

    def __init__(
        self, folder: Path, *arguments: object, size: tuple[int, int], **variables: object
    ):
        # A short name: the path of a socket holds 107 bytes.
        self._socket = f"/tmp/sweep-{uuid.uuid4().hex[:8]}"
        env = {k: v for k, v in environment().items() if k not in ("COLUMNS", "NO_COLOR", "TMUX")}
        env |= {"TERM": "screen-256color"} | {name: str(v) for name, v in variables.items()}
        exports = " ".join(shlex.quote(f"{name}={value}") for name, value in env.items())
        command = shlex.join([SWEEP, *map(str, arguments)])
        (folder / "in_terminal.sh").write_text(
            f"trap : INT\nenv -i {exports} {command}\necho ended with $?\nexec cat\n"
        )
        width, height = map(str, size)
        self._tmux(
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            width,
            "-y",
            height,
            "-c",
            str(folder),
            "sh in_terminal.sh",
        )

    def __enter__(self) -> "Screen":
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")
        Path(self._socket).unlink(missing_ok=True)

    def lines(self, *options: str) -> list[str]:
        """What it shows now; with `-S -` what has scrolled away too, with `-e` in its colours."""
        return self._tmux("capture-pane", "-p", *options).rstrip("\n").split("\n")

    def press(self, key: str) -> None:
        """Press a key, such as C-c."""
        self._tmux("send-keys", key)

    def shows(self, words: str, limit_s: float = 60) -> list[str]:
        """Its lines once a line of them holds these words."""
        deadline = time.monotonic() + limit_s
        while words not in (text := "\n".join(self.lines("-S", "-"))):
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
        return self.lines()

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-u", "-S", self._socket, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
