"""What a process has no more of, memory or threads, told from the many errors that libraries have for it."""

import errno
import re

_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|unable to allocate|bad_alloc|out of memory|(malloc|realloc) of size",
    re.IGNORECASE,
)
_LIBRARY = re.compile(r"failed to map segment|static TLS|find/load shared object", re.IGNORECASE)
_THREADS = re.compile(r"can't start new thread|Resource temporarily unavailable|pthread_create")
_SHOWN = 200


def exhausted(error: BaseException) -> str | None:
    """What there was no more of, for a message; None where an error says something else.

    Args:
        error: Of any library: Python and NumPy raise MemoryError, PyTorch a RuntimeError, LightGBM an error of its own,
            the system an OSError.
    """
    text = str(error)
    if isinstance(error, ImportError | OSError) and _LIBRARY.search(text):  # most often for want of memory
        return f"a library cannot be loaded ({' '.join(text.split())[:_SHOWN]})"
    if isinstance(error, OSError):
        if error.errno == errno.ENOMEM:
            return "out of memory"
        return "no more processes or threads can be started" if error.errno == errno.EAGAIN else None
    if isinstance(error, MemoryError) or _MEMORY.search(text):
        shown = " ".join(text.split())[:_SHOWN]
        return f"out of memory ({shown})" if shown else "out of memory"
    if isinstance(error, RuntimeError) and _THREADS.search(text):
        return "no more threads can be started"
    return None
