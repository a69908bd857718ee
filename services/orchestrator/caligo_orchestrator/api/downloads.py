"""A campaign's file on its way to a client: any range of it, and the checksum of the whole."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Final

from caligo.errors import FailedPrecondition, InvalidArgument
from caligo.v1 import campaign_pb2

_CHUNK_BYTES: Final = 512 * 1024
_REMEMBERED: Final = 256

_Version = tuple[int, int, int, int]
"""Device, inode, size and time of change of a file: another content has another one."""


class Downloads:
    """Sends files. The checksum of one that has not changed is computed once, however many ranges are asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._digests: OrderedDict[_Version, bytes] = OrderedDict()

    def read(self, path: Path, offset: int, length: int) -> Iterator[campaign_pb2.DownloadDatasetResponse]:
        """`length` bytes from `offset` on, or all that follow where it is 0; the checksum comes last.

        Raises:
            InvalidArgument: the range does not lie in the file.
            FailedPrecondition: the file changed while it was read.
        """
        with path.open("rb") as file:
            version = _version(file)
            total = version[2]
            if not 0 <= offset <= total:
                raise InvalidArgument("offset", f"0 to {total}")
            if not 0 <= length <= total - offset:
                raise InvalidArgument("length", f"0 to {total - offset}")
            digest = self._digest(file, version)
            file.seek(offset)
            end = offset + length if length else total
            while data := file.read(min(_CHUNK_BYTES, end - offset)):
                yield campaign_pb2.DownloadDatasetResponse(offset=offset, data=data, total_bytes=total)
                offset += len(data)
            if _version(file) != version:
                raise FailedPrecondition("the file changed while it was read: its campaign goes on")
            yield campaign_pb2.DownloadDatasetResponse(offset=offset, total_bytes=total, sha256=digest)

    def _digest(self, file: BufferedReader, version: _Version) -> bytes:
        with self._lock:
            if version in self._digests:
                self._digests.move_to_end(version)
                return self._digests[version]
        digest = hashlib.file_digest(file, "sha256").digest()
        with self._lock:
            self._digests[version] = digest
            while len(self._digests) > _REMEMBERED:
                self._digests.popitem(last=False)
        return digest


def _version(file: BufferedReader) -> _Version:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
