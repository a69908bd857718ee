"""The assets are what they were: nobody mends them, and no test writes into them."""

from __future__ import annotations

import hashlib
from pathlib import Path


def test_no_asset_has_changed(assets: Path) -> None:
    sums = dict(reversed(line.split(maxsplit=1)) for line in (assets / "SHA256SUMS").read_text().splitlines())
    there = {
        str(path.relative_to(assets)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("data", "messages", "wheel")
        for path in (assets / folder).rglob("*")
        if path.is_file()
    }
    assert there == sums
