"""Guards the thread pool of numba's parallel kernels."""

import threading
from typing import Final

THREAD_POOL: Final = threading.Lock()
"""Hold it while a parallel kernel runs: one kernel uses every core, and numba's fallback pool ends the process when
two threads enter it at once."""
