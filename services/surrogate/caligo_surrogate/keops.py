"""Whether KeOps, which sums over kernel matrices that are never made, can be used here. Free of torch."""

from __future__ import annotations

import importlib.util
import os
import shutil


def missing() -> str | None:
    """What it lacks; None where it can be used."""
    if importlib.util.find_spec("pykeops") is None:
        return "pykeops, which is not installed"
    # It compiles each formula at its first use, by the first of these that there is.
    compilers = (os.environ.get("CXX", ""), "clang++", "g++")
    if not any(shutil.which(compiler) for compiler in compilers):
        return "a C++ compiler: g++, clang++, or the one that CXX names"
    return None
