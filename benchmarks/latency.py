"""How long a call about one campaign takes while another one with a million rows is cancelled, and then deleted.

A cancel rewrites the HDF5 file of a campaign, a delete removes its rows from the journal in blocks; both take seconds
at this size. Meanwhile get, list, create, pause, resume and cancel of other campaigns are called through the resource
that the service calls, one after the other, over and over, and the peer is the same calls while nothing else happens.
The slowest call counts, and its time is compared with the aim of 0.3 s. The other campaigns run, and wait for services
that are not there: what is timed is the orchestrator. On a real disk where `--directory` says so.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from caligo_orchestrator.campaigns.names import resource_name
from caligo_orchestrator.campaigns.resource import Campaigns
from caligo_orchestrator.campaigns.states import PAUSE, PAUSED
from caligo_orchestrator.phases.lhs import Design, Plan
from caligo_orchestrator.settings import OrchestratorSettings
from caligo_orchestrator.store.journal import CampaignFilter, Journal

from caligo import logs
from caligo.layout import CAMPAIGNS_DIRECTORY, JOURNAL_NAME
from caligo.phases import Phase
from caligo.results import ROW_DTYPE, ProtocolOutcome
from caligo.spec import CampaignSpec, validate

AIM_SECONDS: Final = 0.3
LARGE: Final = "large"
_BLOCK: Final = 50_000

Times = dict[str, list[float]]


def make(directory: Path, rows: int) -> None:
    """A data directory with a paused campaign of so many rows."""
    (directory / CAMPAIGNS_DIRECTORY / LARGE).mkdir(parents=True)
    journal = Journal(directory / JOURNAL_NAME)
    spec = validate(CampaignSpec, {"name": LARGE, "lhs": {"samples": rows}})
    journal.create_campaign(LARGE, None, spec.model_dump_json(), 100)
    journal.set_state(LARGE, PAUSED)
    journal.note(LARGE, journal.want(LARGE, PAUSE))
    journal.put_checkpoint(LARGE, "lhs_plan", Plan((Design(1, rows, rows),)).to_json())
    inputs = spec.space.resolve().from_unit(np.full((_BLOCK, 9), 0.25))
    for start in range(0, rows, _BLOCK):
        block = np.zeros(min(_BLOCK, rows - start), dtype=ROW_DTYPE)
        block["index"] = start + np.arange(len(block))
        block["inputs"] = inputs[: len(block)]
        block["outcome"] = ProtocolOutcome.FAILURE_SECURITY
        journal.append_rows(LARGE, Phase.LHS, block)
    journal.close()


def timed(times: Times, name: str, call: Callable[[], object]) -> None:
    begun = time.perf_counter()
    call()
    times[name].append(time.perf_counter() - begun)


def calls(campaigns: Campaigns, until: Callable[[], bool]) -> Times:
    """Seconds of each call, by its name, over and over until something has happened."""
    times: Times = defaultdict(list)
    spec = CampaignSpec(name="small")
    while not until():
        made: list[str] = []
        timed(times, "create", lambda made=made: made.append(campaigns.create(spec, "", 100).name))
        (name,) = made
        timed(times, "get", lambda name=name: campaigns.get(name))
        timed(times, "list", lambda: campaigns.page(CampaignFilter(), None, 50))
        timed(times, "pause", lambda name=name: campaigns.pause(name))
        timed(times, "resume", lambda name=name: campaigns.resume(name))
        timed(times, "cancel", lambda name=name: campaigns.cancel(name))
        timed(times, "delete", lambda name=name: campaigns.delete(name))
    return times


def beside(campaigns: Campaigns, work: Callable[[], object]) -> tuple[Times, float]:
    """The same while something is done, and how long that takes."""
    begun = time.perf_counter()
    thread = threading.Thread(target=work)
    thread.start()
    times = calls(campaigns, lambda: not thread.is_alive())
    return times, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=10**6)
    parser.add_argument("--directory", type=Path, help="on this disk; a temporary one by default")
    arguments = parser.parse_args()
    logs.configure("error")
    with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
        make(Path(folder), arguments.rows)
        nowhere = dict.fromkeys(("sampler", "simulator", "surrogate"), "127.0.0.1:1")
        campaigns = Campaigns(OrchestratorSettings(data_directory=Path(folder), **nowhere))
        campaigns.start()
        try:
            ends = time.monotonic() + 5.0
            found = {"alone": calls(campaigns, lambda: time.monotonic() > ends)}
            large = resource_name(LARGE)
            seconds = {}
            found["cancel"], seconds["cancel"] = beside(campaigns, lambda: _whole(campaigns, large, campaigns.cancel))
            found["delete"], seconds["delete"] = beside(campaigns, lambda: _whole(campaigns, large, campaigns.delete))
        finally:
            campaigns.close()
    for beside_what, times in found.items():
        took = f", which took {seconds[beside_what]:.1f} s" if beside_what in seconds else ""
        print(f"beside {beside_what}{took}" if took else "alone")
        for name, values in times.items():
            print(f"  {name:7s} {len(values):5d} calls  median {1e3 * np.median(values):7.1f} ms  "
                  f"longest {1e3 * max(values):7.1f} ms")  # fmt: skip
    worst = {what: max(max(values) for values in times.values()) for what, times in found.items()}
    if arguments.json:
        value = max(worst["cancel"], worst["delete"])
        print(json.dumps({
            "name": "latency", "value": value, "unit": "s, the longest call", "aim": AIM_SECONDS,
            "peer": "nothing else under way", "peer_value": worst["alone"], "ratio": value / worst["alone"],
            "rows": arguments.rows, "seconds": seconds, "load": os.getloadavg()[0],
        }))  # fmt: skip


def _whole(campaigns: Campaigns, name: str, call: Callable[[str], object]) -> None:
    """Ask, and wait until it has come about, however long that takes."""
    call(name)
    journal_id = name.partition("/")[2]
    while (record := campaigns._journal.campaign(journal_id)) is not None and record.seen < record.revision:
        time.sleep(0.05)


if __name__ == "__main__":
    main()
