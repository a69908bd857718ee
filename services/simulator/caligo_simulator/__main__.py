"""`python -m caligo_simulator` runs the service."""

import os
import sys

if __name__ == "__main__":
    # Workers and harness threads fill the cores already; read when NumPy is imported, and inherited by the workers.
    for library in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")

    from caligo_simulator.server import main

    sys.exit(main())
