"""Phase 2: what is kept of the surrogate that has learned the warm-up's rows."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from caligo.errors import FailedPrecondition
from caligo_orchestrator.remote import Surrogate
from caligo_orchestrator.store.journal import Journal

TENSORS_FILE: Final = "surrogate.safetensors"
METADATA_FILE: Final = "surrogate.json"
CHECKPOINT: Final = "surrogate"


def save(surrogate: Surrogate, journal: Journal, campaign: str, directory: Path) -> None:
    """Keep the model: in the journal for the campaign itself, as files for people."""
    tensors, metadata = surrogate.export()
    journal.put_checkpoint(campaign, f"{CHECKPOINT}/tensors", tensors)
    journal.put_checkpoint(campaign, f"{CHECKPOINT}/metadata", metadata.encode())
    (directory / TENSORS_FILE).write_bytes(tensors)
    (directory / METADATA_FILE).write_text(metadata, encoding="utf-8")


def is_kept(journal: Journal, campaign: str) -> bool:
    """Whether a campaign has a trained model."""
    return journal.checkpoint(campaign, f"{CHECKPOINT}/tensors") is not None


def load(surrogate: Surrogate, journal: Journal, campaign: str) -> None:
    """Put a kept model back.

    Raises:
        FailedPrecondition: the campaign has none.
    """
    tensors = journal.checkpoint(campaign, f"{CHECKPOINT}/tensors")
    metadata = journal.checkpoint(campaign, f"{CHECKPOINT}/metadata")
    if tensors is None or metadata is None:
        raise FailedPrecondition(f"training.skip: campaign {campaign!r} has no trained surrogate")
    surrogate.restore(tensors, metadata.decode())
