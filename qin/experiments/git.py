"""What git says of the repository around the current folder."""

import subprocess


def git(*arguments: str) -> str | None:
    """What git prints, without blank ends, or None if it fails or is not there."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, encoding="utf-8", errors="replace", check=False)
    except FileNotFoundError:
        return None
    return None if done.returncode else done.stdout.strip()
