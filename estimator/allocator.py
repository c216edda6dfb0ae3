"""The allocator: glibc's thresholds for programs that need the same large arrays at every step.

    config = RunConfig(allocator="tuned")

By default glibc gives large blocks back to the system when they are freed. A step that scans over
time frees and asks for the same ones again, and the system clears each page anew: thousands of page
faults a step, a sixth to a third of the time of an LSTM's step on a CPU. Tuned, the process keeps
what it once had. The price: it holds for the whole process and for good, whose memory never shrinks
from its peak, and models without such arrays gain nothing.
"""

import ctypes
import logging

_LOG = logging.getLogger(__name__)

# From glibc's malloc.h. The first alone would be a trap: setting it freezes the other at 128 KiB.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_THRESHOLDS = (
    (_M_MMAP_THRESHOLD, (2**30, 2**25)),  # older versions of glibc refuse more than 32 MiB
    (_M_TRIM_THRESHOLD, (2**31 - 1,)),
)


def tune() -> bool:
    """Sets the thresholds of this process; returns whether it has such an allocator.

    Where there is no glibc (macOS, Windows, musl) nothing is done.
    """
    libc = _glibc()
    if libc is None:
        _LOG.info('allocator="tuned": there is no glibc here, nothing is set.')
        return False
    for parameter, values in _THRESHOLDS:
        if not any(libc.mallopt(parameter, value) for value in values):
            _LOG.warning('allocator="tuned": glibc refuses mallopt(%d, ...).', parameter)
            return False
    return True


def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - musl has mallopt's symbol, too, and ignores it
        libc.mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    except (OSError, AttributeError, TypeError):
        return None
    return libc
