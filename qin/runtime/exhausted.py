"""What a process has not got, memory, threads or letters, told from the many errors that libraries have for it."""

import errno
import re
import sys

_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|unable to allocate|bad_alloc|out of memory|(malloc|realloc) of size",
    re.IGNORECASE,
)
_LIBRARY = re.compile(r"failed to map segment|static TLS|find/load shared object", re.IGNORECASE)
_THREADS = re.compile(r"can't start new thread|Resource temporarily unavailable|pthread_create")
_OF_SYSTEM = {errno.ENOMEM: "out of memory", errno.EAGAIN: "no more processes or threads can be started"}
_SHOWN = 200


def exhausted(error: BaseException) -> str | None:
    """What there was no more of, for a message; None where an error says something else.

    Args:
        error: Of any library: Python and NumPy raise MemoryError, PyTorch a RuntimeError, LightGBM an error of its own,
            the system an OSError.
    """
    text = str(error)
    encoding = sys.getfilesystemencoding()
    if isinstance(error, UnicodeEncodeError) and encoding != "utf-8":  # LANG=C, with PYTHONUTF8=0
        name = ascii(error.object)[:_SHOWN]
        return f"a name has letters that this process cannot write in {encoding}: {name}; set PYTHONUTF8=1"
    if isinstance(error, ImportError | OSError) and _LIBRARY.search(text):  # most often for want of memory
        return f"a library cannot be loaded ({' '.join(text.split())[:_SHOWN]})"
    if isinstance(error, OSError):
        return _OF_SYSTEM.get(error.errno or 0)
    if isinstance(error, MemoryError) or _MEMORY.search(text):
        shown = " ".join(text.split())[:_SHOWN]
        return f"out of memory ({shown})" if shown else "out of memory"
    if isinstance(error, RuntimeError) and _THREADS.search(text):
        return "no more threads can be started"
    return None
