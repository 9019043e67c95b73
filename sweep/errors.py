"""The one error that a command turns into a message and an exit code."""


class CommandError(RuntimeError):
    """What is wrong, for a person, with the way out; `exit_code` is the command's."""

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code
