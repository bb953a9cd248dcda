"""The one error that users see."""


class AmmaError(Exception):
    """Something the user can mend: bad input, a missing file, a wrong setting.

    The message is one sentence that says what is wrong, where, and what to do about it. The command
    line prints it without a traceback; a node logs it and lives on.
    """
