"""Importing this loads or compiles the kernels of the statistical source.

The fork server imports it once, so that every worker is born with them and starts within milliseconds.
"""

import numpy as np

from caligo_simulator.epr.source import BobBases, Link, Segment, segment_bytes
from caligo_simulator.epr.statistical import StatisticalSource

_PAIRS = 64

for _efficiency in (1.0, 1e-3):  # each has a kernel of its own
    _segment = Segment.over(np.empty(segment_bytes(_PAIRS), np.uint8), _PAIRS)
    StatisticalSource().fill(_segment, Link(1.0, _efficiency, 0.0, 0.0, "fidelity"), BobBases(None, 0), 0, 0)
