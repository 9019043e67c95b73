"""The `sweep` command in a terminal of a given width."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

from tests.sweep.test_cli import SWEEP, environment


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
