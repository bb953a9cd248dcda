"""The one error that users see."""

from collections.abc import Iterator
from contextlib import contextmanager


class AmmaError(Exception):
    """Something the user can mend: bad input, a missing file, a wrong setting.

    The message is one sentence that says what is wrong, where, and what to do about it. The command
    line prints it without a traceback; a node logs it and lives on.
    """


@contextmanager
def packages_for(what: str, install: str | None = None) -> Iterator[None]:
    """Around imports that not everybody needs: AmmaError where one is not there, which says for what it is
    needed and what to install (by default what is missing)."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise AmmaError(
            f"{error.name} is missing, which {what} needs: pip install {install or error.name}"
        ) from error
