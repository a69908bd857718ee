"""Phase 2: what is kept of the surrogate that has learned the warm-up's rows."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from caligo.errors import FailedPrecondition, NotFound
from caligo_orchestrator.model.remote import Surrogate
from caligo_orchestrator.store.journal import Journal

TENSORS_FILE: Final = "surrogate.safetensors"
METADATA_FILE: Final = "surrogate.json"
CHECKPOINT: Final = "surrogate"


def save(surrogate: Surrogate, journal: Journal, campaign: str, directory: Path) -> None:
    """Keep the model: in the journal for the campaign itself, as files for people."""
    tensors, metadata = surrogate.export()
    journal.put_checkpoint(campaign, f"{CHECKPOINT}/tensors", tensors)
    journal.put_checkpoint(campaign, f"{CHECKPOINT}/metadata", metadata.encode())
    for name, content in ((TENSORS_FILE, tensors), (METADATA_FILE, metadata.encode())):
        temporary = directory / f"{name}.new"
        temporary.write_bytes(content)
        temporary.replace(directory / name)  # whole or not at all


def model_name(journal: Journal, campaign: str) -> str:
    """What the surrogate calls a campaign's model.

    Orchestrators may share it and each have a campaign of this name, and one may have several, each after the last was
    deleted: none is ever answered for by another's model.

    Raises:
        NotFound: the campaign has been deleted.
    """
    record = journal.campaign(campaign)
    if record is None:
        raise NotFound(f"campaigns/{campaign}: no such campaign")
    return f"campaigns/{campaign}@{journal.identity}.{record.create_time:.6f}"


def kept(journal: Journal, campaign: str) -> tuple[bytes, str] | None:
    """The state of a campaign's trained model, if it has one."""
    tensors = journal.checkpoint(campaign, f"{CHECKPOINT}/tensors")
    metadata = journal.checkpoint(campaign, f"{CHECKPOINT}/metadata")
    return None if tensors is None or metadata is None else (tensors, metadata.decode())


def load(surrogate: Surrogate, journal: Journal, campaign: str) -> None:
    """Put a kept model back.

    Raises:
        FailedPrecondition: the campaign has none.
    """
    state = kept(journal, campaign)
    if state is None:
        raise FailedPrecondition(f"training.skip: campaign {campaign!r} has no trained surrogate")
    surrogate.restore(*state)
