"""One Typer command per DVC stage; `python -m stages <name>` runs one."""

import signal
import sys


def _is_the_program() -> bool:
    """Whether Python was started with `-m stages ...`, rather than a program that imports this package."""
    arguments = sys.orig_argv
    name = arguments[arguments.index("-m") + 1] if "-m" in arguments[:-1] else ""
    return name.partition(".")[0] == __name__


# Imports take seconds, in which Ctrl-C would end in a traceback through them: until a stage begins and can end in
# order, it ends the process at once.
if _is_the_program():
    signal.signal(signal.SIGINT, signal.SIG_DFL)
