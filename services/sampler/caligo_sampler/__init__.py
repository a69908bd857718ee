"""Designs and closed-form feasibility: everything here costs microseconds a row."""

import os

# Idle OpenMP threads sleep instead of spinning: several services share the cores, and a spinning thread that is
# scheduled out at a barrier costs a whole time slice. Read once, when numba loads its thread pool.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
