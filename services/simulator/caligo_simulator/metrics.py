"""What the simulator counts, and how much of it is in use."""

from prometheus_client import Counter, Gauge, Histogram

from caligo.telemetry import SECONDS

WORKERS = Gauge("caligo_simulator_workers", "EPR worker processes.")
WORKERS_REPLACED = Counter("caligo_simulator_workers_replaced", "EPR worker processes that died or were ended.")
SLOTS = Gauge("caligo_simulator_slots", "Slots of the arena.")
SLOTS_IN_USE = Gauge("caligo_simulator_slots_in_use", "Slots of the arena that are written or read.")
SLOT_BYTES = Gauge("caligo_simulator_slot_bytes", "Bytes of one slot.")
ROOM = Gauge("caligo_simulator_stream_rows", "Rows of one stream that are taken in before their results are out.")
IN_FLIGHT = Gauge("caligo_simulator_samples_in_flight", "Samples that a thread works on.")
SAMPLES = Counter("caligo_simulator_samples", "Samples that were simulated, by outcome.", ["outcome"])
PAIRS = Counter("caligo_simulator_pairs", "EPR pairs of the samples that were simulated.")
STAGE = Histogram(
    "caligo_simulator_stage_seconds", "Time of a sample in a stage of the protocol.", ["stage"], buckets=SECONDS
)
