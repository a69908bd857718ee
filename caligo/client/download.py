"""A campaign's file on its way to the disk: whole and checked, or not there at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from caligo.client.model import resource_name
from caligo.errors import AlreadyExists, CaligoError, InternalError, InvalidArgument
from caligo.v1 import campaign_pb2

PART: Final = ".part"
"""What follows the name of a file that is not whole yet."""


class Download:
    """A stream of `caligo.client.calls` into `PATH.part`, which a later download to the same path goes on with.

    Whether what an earlier one has left belongs to the file as it is now, its checksum says; where it does not, the
    download starts over.

    Raises:
        AlreadyExists: there is something at `path`, and `overwrite` is not set.
    """

    method = "DownloadDataset"
    is_done = False

    def __init__(self, name: str, path: Path, *, overwrite: bool) -> None:
        if path.exists() and not overwrite:
            raise AlreadyExists(f"{path}: is there already and is not overwritten")
        self.name = resource_name(name)
        self._path = path
        self._part = path.with_name(path.name + PART)
        self._file: BinaryIO | None = None
        self._received = self._inherited = self._part.stat().st_size if self._part.is_file() else 0
        self._sha256 = b""

    def request(self) -> campaign_pb2.DownloadDatasetRequest:
        return campaign_pb2.DownloadDatasetRequest(name=self.name, offset=self._received)

    def receive(self, message: campaign_pb2.DownloadDatasetResponse) -> tuple[int, int]:
        """Bytes that are here, and bytes of the whole file.

        Raises:
            InvalidArgument: the path cannot be written.
            InternalError: the message is not the one that was due.
        """
        if message.offset != self._received:
            raise InternalError(f"{self.name}: byte {message.offset} came where {self._received} was due")
        data = message.data
        with self._writing():
            if self._file is None:
                self._file = self._part.open("ab")
            self._file.write(data)
        self._received += len(data)
        self._sha256 = message.sha256 or self._sha256
        return self._received, message.total_bytes

    def finish(self) -> None:
        """Put the file in its place.

        Raises:
            InvalidArgument: the path cannot be written.
            InternalError: what came is not what was sent.
        """
        assert self._file is not None  # the last message carries the checksum, even of an empty file
        with self._writing():
            self._file.flush()
            os.fsync(self._file.fileno())
            self.close()
            with self._part.open("rb") as part:
                if hashlib.file_digest(part, "sha256").digest() != self._sha256:
                    raise InternalError(f"{self.name}: the download's checksum is wrong; nothing was written")
            self._part.replace(self._path)

    def start_over(self, error: CaligoError) -> bool:
        """After a failure, forget what came from an earlier download; False where that was not to blame."""
        self.close()
        if isinstance(error, _CannotBeWrittenError):
            return False
        self._part.unlink(missing_ok=True)
        inherited, self._received, self._inherited = self._inherited, 0, 0
        return inherited > 0

    def close(self) -> None:
        """Leave what has come for a later download."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # of a full disk again; what is there is whole as far as it goes
                self._file.close()
            self._file = None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _CannotBeWrittenError(str(self._path), error.strerror or "cannot be written") from None


class _CannotBeWrittenError(InvalidArgument):
    """The disk does not take it: nothing is wrong with what has come."""
