"""What `dvc repro` ends with: the run's figures beside the last commit's.

`qin summary` prints them, as a process of its own: no output depends on its code, so no stage lists it.
"""

import subprocess
import sys

from qin.runtime.logs import log
from qin.runtime.paths import HEADLINE


def log_summary() -> None:
    """Log `qin summary`, where the last commit has figures; whatever goes wrong with it, the run is done."""
    try:
        known = subprocess.run(["git", "cat-file", "-e", f"HEAD:./{HEADLINE}"], capture_output=True, check=False)
        if known.returncode or not HEADLINE.exists():
            return
        command = [sys.executable, "-m", "qin.cli", "summary"]
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=120
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.info("no summary: %s", error)
        return
    for line in (done.stdout or done.stderr).splitlines():
        log.info(line)
