"""The one exception for what a person can fix."""


class UserError(ValueError):
    """A wrong input. The message says what is wrong, the value, the file and the fix, in one line.

    Commands print it as `error: ...` on stderr and exit with code 2, without a traceback.
    """
