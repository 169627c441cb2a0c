"""The exceptions for what a person can fix."""


class UserError(ValueError):
    """A wrong input. The message says what is wrong, the value, the file and the fix, in one line.

    Commands print it as `error: ...` on stderr and exit with code 2, without a traceback.
    """


class PhotoError(Exception):
    """A photo that cannot be used: why, and what would fix it."""

    def __init__(self, reason: str, fix: str):
        super().__init__(reason)
        self.reason = reason
        self.fix = fix
