"""Run a stage as a process of its own: `python -m stages <name>`.

What concerns the whole process is set here and nowhere else, before the stage's imports, which take seconds: an import
of `qin` or `stages` changes nothing in the program that imports them.
"""

import gc
import importlib
import sys

from qin.runtime.edits import remember_code
from qin.runtime.host import set_waiting_of_threads
from qin.runtime.parent import end_with_dvc, end_with_launcher


def main() -> None:
    """Set up the process and run the stage that the command line names."""
    # Before the stage's modules are loaded: what is compared at the end is the code that runs.
    remember_code()
    end_with_dvc()
    end_with_launcher()
    set_waiting_of_threads()
    # By name, as importing a stage costs seconds: a name that is none is told before.
    exhausted = importlib.import_module("qin.runtime.exhausted").exhausted
    names = importlib.import_module("qin.runtime.stage").STAGES
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in names:
        raise SystemExit(f"usage: python -m stages {{{','.join(names)}}}")
    try:
        stage = importlib.import_module(f"stages.{name}")
    except Exception as error:
        found = exhausted(error)
        if found is None:
            raise
        raise SystemExit(f"error: stage {name}: {found}") from error
    gc.freeze()  # modules stay: the collector need not look through them again and again
    # What Typer's usage lines show.
    sys.argv[:2] = [f"python -m stages {name}"]
    stage.app()


if __name__ == "__main__":
    main()
