"""The disk is full, read-only or gone; requests that a crash cut off; damaged files: campaigns stand still, say why,
lose nothing, and go on."""

from __future__ import annotations

import contextlib
import fcntl
import resource
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import grpc
import h5py
import numpy as np
import pytest
from caligo_orchestrator.campaigns.states import CANCEL, DELETE, PAUSE
from caligo_orchestrator.store import dataset
from caligo_orchestrator.store.journal import Journal

from caligo import rpc, wire
from caligo.database import JournalError
from caligo.dataset import open_campaign
from caligo.errors import FailedPrecondition, NotFound, ResourceExhausted
from caligo.phases import Phase
from caligo.spec import CampaignSpec, to_proto
from caligo.tokens import Role, Tokens
from caligo.v1 import campaign_pb2 as pb
from caligo.v1.campaign_pb2_grpc import CampaignServiceStub
from tests.orchestrator.conftest import table

EXT4_IOC_SHUTDOWN: Final = 0x8004587D
"""Linux, fs/ext4/ext4.h: from then on every call is an I/O error, and what was not synced is lost."""
EXT4_GOING_FLAGS_NOLOGFLUSH: Final = 2
ACTIVE_STATES = (pb.CAMPAIGN_STATE_QUEUED, pb.CAMPAIGN_STATE_RUNNING)


def create(orchestrator, spec: CampaignSpec, **fields) -> pb.Campaign:
    request = pb.CreateCampaignRequest(spec=to_proto(spec, pb.CampaignSpec), **fields)
    with rpc.calling(orchestrator.address):
        return orchestrator.stub.CreateCampaign(request).campaign


def get(orchestrator, name: str) -> pb.Campaign:
    with rpc.calling(orchestrator.address):
        return orchestrator.stub.GetCampaign(pb.GetCampaignRequest(name=name)).campaign


def resume(orchestrator, name: str) -> pb.Campaign:
    with rpc.calling(orchestrator.address):
        return orchestrator.stub.ResumeCampaign(pb.ResumeCampaignRequest(name=name)).campaign


def until(orchestrator, name: str, state: int, seconds: float = 60) -> pb.Campaign:
    """What a watcher sees of a campaign when it has come to a state."""
    for event in orchestrator.stub.WatchCampaign(pb.WatchCampaignRequest(name=name), timeout=seconds):
        if event.changed.state == state:
            return event.changed
    raise AssertionError(f"{name} never came to {pb.CampaignState.Name(state)}: {get(orchestrator, name)}")


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].tobytes() == other[name].tobytes(), name


# --- the disk -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None], Callable[[], None]]]:
    """A file system of 6 MiB, and what fills it up and empties it."""
    mount = tmp_path / "disk"
    mount.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", mount], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("no file system may be mounted here; the limit on file sizes stands for it")
    filler = mount / "filler"

    def fill() -> None:
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    try:
        yield mount / "data", fill, filler.unlink
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)


@contextlib.contextmanager
def limited_files(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None], Callable[[], None]]]:
    """A limit on the size of files: the journal may not grow any more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        log = (tmp_path / "data" / "journal.sqlite3-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (log, hard))

    def clear() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    try:
        yield tmp_path / "data", fill, clear
    finally:
        clear()


@pytest.mark.parametrize("disk", [small_disk, limited_files])
def test_a_full_disk_pauses_the_campaign_and_loses_nothing(start, spec, tmp_path, services, undisturbed, disk) -> None:
    services.simulator.delay_seconds = 0.01
    with disk(tmp_path) as (directory, fill, clear):
        orchestrator = start(directory)
        name = create(orchestrator, spec).name
        while get(orchestrator, name).progress.simulated < 10:
            time.sleep(0.01)
        watched: list[pb.Campaign] = []
        watcher = threading.Thread(
            target=lambda: watched.append(until(orchestrator, name, pb.CAMPAIGN_STATE_PAUSED)), daemon=True
        )
        watcher.start()
        fill()
        try:
            watcher.join(30)
            assert watched, "a watcher was not told"
            # Nothing can be written, and yet everybody hears why the campaign stands still.
            for campaign in (watched[0], get(orchestrator, name), until(orchestrator, name, pb.CAMPAIGN_STATE_PAUSED)):
                assert campaign.state == pb.CAMPAIGN_STATE_PAUSED
                assert campaign.problem.code == "RESOURCE_EXHAUSTED"
                assert "disk" in campaign.problem.message
            (listed,) = orchestrator.stub.ListCampaigns(pb.ListCampaignsRequest()).campaigns
            assert listed.state == pb.CAMPAIGN_STATE_PAUSED
            with pytest.raises(ResourceExhausted, match="disk"):
                resume(orchestrator, name)
            assert get(orchestrator, name).state == pb.CAMPAIGN_STATE_PAUSED
            with pytest.raises(ResourceExhausted, match="disk"):
                create(orchestrator, spec)
            rows = orchestrator.stub.StreamResults(pb.StreamResultsRequest(name=name, phase=1), timeout=10)
            kept = sum(len(response.rows.index.data) // 8 for response in rows)
            assert kept >= 10
        finally:
            clear()
        assert get(orchestrator, name).state == pb.CAMPAIGN_STATE_PAUSED  # until it is told to go on
        resume(orchestrator, name)
        until(orchestrator, name, pb.CAMPAIGN_STATE_SUCCEEDED)
        orchestrator.close()
        assert_same(undisturbed, table(directory))
        assert not list(directory.rglob("*.damaged-*"))


@contextlib.contextmanager
def pulled_drive(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None], Callable[[], None]]]:
    """A file system on a drive of its own, what pulls the drive out, and what plugs it in again and mounts it."""
    mount, image, drives = tmp_path / "drive", tmp_path / "image", []
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(32 * 2**20)

    def plug() -> None:
        command = ["losetup", "--find", "--show", image]
        drives.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
        subprocess.run(["mount", drives[-1], mount], check=True)

    def pull() -> None:
        with (mount / "data" / "lock").open() as file:
            fcntl.ioctl(file, EXT4_IOC_SHUTDOWN, struct.pack("I", EXT4_GOING_FLAGS_NOLOGFLUSH))
        subprocess.run(["umount", "--lazy", mount], check=True)

    try:
        subprocess.run(["mkfs.ext4", "-q", image], check=True, capture_output=True)
        plug()
    except (OSError, subprocess.CalledProcessError):
        _unplug(mount, drives)
        pytest.skip("no drive may be mounted here; files that moved away stand for it")
    try:
        yield mount / "data", pull, plug
    finally:
        _unplug(mount, drives)


def _unplug(mount: Path, drives: list[str]) -> None:
    subprocess.run(["umount", "--lazy", mount], capture_output=True)
    for drive in drives:
        subprocess.run(["losetup", "--detach", drive], capture_output=True)


@contextlib.contextmanager
def moved_files(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None], Callable[[], None]]]:
    """Files that cannot grow any more and are no longer at their path, and then a copy of them that is."""
    with limited_files(tmp_path) as (directory, fill, clear):

        def pull() -> None:
            fill()
            directory.rename(tmp_path / "lost")

        def plug() -> None:
            clear()
            shutil.copytree(tmp_path / "lost", directory)

        yield directory, pull, plug


@pytest.mark.parametrize("drive", [pulled_drive, moved_files])
def test_a_drive_that_is_lost_halts_everything_until_it_is_back_and_the_process_anew(
    start, spec, tmp_path, services, undisturbed, drive, monkeypatch
) -> None:
    monkeypatch.setattr("caligo_orchestrator.campaigns.scheduler.LOOK_SECONDS", 0.1)
    services.simulator.delay_seconds = 0.01
    with drive(tmp_path) as (directory, pull, plug), contextlib.ExitStack() as closing:
        orchestrator = start(directory, require_token=True)
        with Tokens(directory) as tokens:
            alice = tokens.create("alice", Role.SUBMIT)
        channel = closing.enter_context(rpc.channel(orchestrator.address, token=alice))
        client = SimpleNamespace(address=orchestrator.address, stub=CampaignServiceStub(channel))
        name = create(client, spec).name
        while get(client, name).progress.simulated < 10:
            time.sleep(0.01)
        pull()
        while "test" not in orchestrator.campaigns._ledger.problems:  # the journal cannot be read either
            time.sleep(0.05)
        with pytest.raises(ResourceExhausted):
            resume(client, name)
        directory.mkdir()
        with pytest.raises(ResourceExhausted):  # an empty place is not taken for it
            resume(client, name)
        assert not list(directory.iterdir())
        assert not orchestrator.lost.is_set()  # nor is it one that a new process could work with
        directory.rmdir()
        plug()
        assert orchestrator.lost.wait(30)
        orchestrator.close()
        orchestrator = start(directory)
        until(orchestrator, name, pb.CAMPAIGN_STATE_SUCCEEDED)
        orchestrator.close()
        assert_same(undisturbed, table(directory))
        journal = Journal(directory / "journal.sqlite3")
        assert journal.row_count("test", Phase.ACTIVE) == spec.active.samples
        journal.close()


def test_another_data_directory_is_not_taken_for_a_lost_one(start, spec, tmp_path, services) -> None:
    directory, other = tmp_path / "data", tmp_path / "other"
    start(other).close()
    orchestrator = start(directory)
    name = create(orchestrator, spec).name
    orchestrator.stub.PauseCampaign(pb.PauseCampaignRequest(name=name))
    directory.rename(tmp_path / "lost")
    other.rename(directory)
    for call in (lambda: resume(orchestrator, name), lambda: create(orchestrator, spec)):
        with pytest.raises(ResourceExhausted, match="is gone"):
            call()
    assert get(orchestrator, name).state == pb.CAMPAIGN_STATE_PAUSED


def test_a_campaign_that_a_full_disk_stopped_goes_on_at_the_next_start(
    start, spec, tmp_path, services, undisturbed
) -> None:
    services.simulator.delay_seconds = 0.01
    with limited_files(tmp_path) as (directory, fill, clear):
        orchestrator = start(directory)
        name = create(orchestrator, spec).name
        fill()
        until(orchestrator, name, pb.CAMPAIGN_STATE_PAUSED)
        orchestrator.close()
        clear()
        orchestrator = start(directory)
        until(orchestrator, name, pb.CAMPAIGN_STATE_SUCCEEDED)
        orchestrator.close()
        assert_same(undisturbed, table(directory))


def test_a_file_that_cannot_be_made_pauses_the_campaign(start, spec, tmp_path, undisturbed) -> None:
    """The journal can be written, the directory of the campaign cannot be made: something else is in its place."""
    directory = tmp_path / "data"
    orchestrator = start(directory)
    place = directory / "campaigns" / "test"
    place.write_text("in the way")
    name = create(orchestrator, spec).name
    campaign = until(orchestrator, name, pb.CAMPAIGN_STATE_PAUSED)
    assert campaign.problem.code == "RESOURCE_EXHAUSTED"
    assert str(place) in campaign.problem.message
    place.unlink()
    resume(orchestrator, name)
    until(orchestrator, name, pb.CAMPAIGN_STATE_SUCCEEDED)
    orchestrator.close()
    assert_same(undisturbed, table(directory))


def test_a_read_only_journal_pauses_the_campaign(start, spec, tmp_path, services, undisturbed) -> None:
    services.simulator.delay_seconds = 0.01
    directory = tmp_path / "data"
    orchestrator = start(directory)
    name = create(orchestrator, spec).name
    while get(orchestrator, name).progress.simulated < 10:
        time.sleep(0.01)
    journal = orchestrator.campaigns._journal
    with journal._lock:
        journal._db.execute("PRAGMA query_only=1")  # SQLite's word for it is the same
    assert "readonly" in until(orchestrator, name, pb.CAMPAIGN_STATE_PAUSED).problem.message
    with journal._lock:
        journal._db.execute("PRAGMA query_only=0")
    resume(orchestrator, name)
    until(orchestrator, name, pb.CAMPAIGN_STATE_SUCCEEDED)
    orchestrator.close()
    assert_same(undisturbed, table(directory))


# --- requests that a crash cut off ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("wish", "wanted"), [(PAUSE, pb.CAMPAIGN_STATE_PAUSED), (CANCEL, pb.CAMPAIGN_STATE_CANCELLED)])
def test_a_wish_whose_answer_was_lost_comes_about_at_the_next_start(
    start, spec, tmp_path, services, wish, wanted
) -> None:
    services.simulator.delay_seconds = 0.05
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    while get(orchestrator, name).progress.simulated < 5:
        time.sleep(0.01)
    orchestrator.close()
    journal = Journal(tmp_path / "data" / "journal.sqlite3")
    assert journal.campaign("test").state in ACTIVE_STATES
    journal.want("test", wish)  # as a pause or a cancel does before it waits for the campaign to stand still
    rows = journal.row_count("test", Phase.LHS)
    journal.close()
    orchestrator = start(tmp_path / "data")
    until(orchestrator, name, wanted)
    *_, last = orchestrator.campaigns._journal.events("test", 0)
    assert last.changed.state == wanted
    if wanted == pb.CAMPAIGN_STATE_CANCELLED:
        with open_campaign(tmp_path / "data/campaigns/test/exploration_data.h5") as file:
            assert len(file.rows(Phase.LHS)) == rows
    else:
        services.simulator.delay_seconds = 0
        resume(orchestrator, name)
        until(orchestrator, name, pb.CAMPAIGN_STATE_SUCCEEDED)


def test_a_pause_is_durable_before_it_is_waited_for(start, spec, tmp_path, services) -> None:
    """Killed while it stops the campaign, an orchestrator pauses it at its next start."""
    services.simulator.delay_seconds = 0.05
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    while get(orchestrator, name).progress.simulated < 5:
        time.sleep(0.01)
    journal = orchestrator.campaigns._journal
    wishes = []
    (runner,) = orchestrator.campaigns._scheduler.running()
    stop = runner.stop
    runner.stop = lambda: (wishes.append(journal.campaign("test").wanted), stop())  # type: ignore[method-assign]
    paused = orchestrator.stub.PauseCampaign(pb.PauseCampaignRequest(name=name)).campaign
    assert wishes == [PAUSE]
    assert (paused.state, paused.HasField("wanted")) == (pb.CAMPAIGN_STATE_PAUSED, False)


def test_a_delete_that_was_cut_off_leaves_nothing_to_a_namesake(start, spec, tmp_path, services) -> None:
    directory = tmp_path / "data"
    orchestrator = start(directory)
    name = create(orchestrator, spec).name
    until(orchestrator, name, pb.CAMPAIGN_STATE_SUCCEEDED)
    orchestrator.close()
    journal = Journal(directory / "journal.sqlite3")
    journal.want("test", DELETE)
    journal.close()
    (directory / "campaigns/test/surrogate.json").unlink()  # it had come so far
    orchestrator = start(directory)
    with pytest.raises(NotFound):
        get(orchestrator, name)
    while list((directory / "campaigns").iterdir()):
        time.sleep(0.01)
    other = spec.model_copy(update={"seed": 99})
    name = create(orchestrator, other).name
    assert name == "campaigns/test-2"  # no name is given twice
    until(orchestrator, name, pb.CAMPAIGN_STATE_SUCCEEDED)
    orchestrator.close()
    fresh = start(tmp_path / "fresh")
    until(fresh, create(fresh, other).name, pb.CAMPAIGN_STATE_SUCCEEDED)
    assert_same(table(directory, "test-2"), table(tmp_path / "fresh"))


def test_what_is_deleted_is_deleted_everywhere_and_its_name_is_not_given_again(start, spec, tmp_path, services) -> None:
    services.simulator.delay_seconds = 0.02
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec, request_id="once").name
    while not services.surrogate.proposals:
        time.sleep(0.01)
    orchestrator.stub.CancelCampaign(pb.CancelCampaignRequest(name=name))
    inputs = wire.encode(spec.space.resolve().from_unit(np.zeros((1, 9))), wire.INPUTS)
    request = pb.PredictCampaignRequest(name=name, inputs=inputs)
    assert wire.decode(orchestrator.stub.PredictCampaign(request).prediction, wire.PREDICTION, 1, 3)[0, 0] >= 40
    assert services.surrogate.models
    orchestrator.stub.DeleteCampaign(pb.DeleteCampaignRequest(name=name))
    assert not services.surrogate.models
    assert list((tmp_path / "data" / "campaigns").iterdir()) == []
    services.simulator.delay_seconds = 0.5  # far from a model of its own when it is asked
    again = create(orchestrator, spec, request_id="once").name
    assert again == "campaigns/test-2"
    with pytest.raises(FailedPrecondition, match="has not been fitted yet"), rpc.calling("x"):
        orchestrator.stub.PredictCampaign(pb.PredictCampaignRequest(name=again, inputs=inputs))
    orchestrator.close()
    orchestrator = start(tmp_path / "data")
    assert create(orchestrator, spec).name == "campaigns/test-3"


def test_a_delete_that_fails_is_tried_until_it_is_done(start, spec, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("caligo_orchestrator.campaigns.worker._WRITE_AGAIN_SECONDS", 0.05)
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    until(orchestrator, name, pb.CAMPAIGN_STATE_SUCCEEDED)
    remove = shutil.rmtree

    def fail(path: Path) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(shutil, "rmtree", fail)
    with pytest.raises(ResourceExhausted, match=r"Read-only.*tried again"), rpc.calling("x"):
        orchestrator.stub.DeleteCampaign(pb.DeleteCampaignRequest(name=name))
    with pytest.raises(NotFound):
        get(orchestrator, name)
    monkeypatch.setattr(shutil, "rmtree", remove)
    while list((tmp_path / "data" / "campaigns").iterdir()) or orchestrator.campaigns._journal.campaigns():
        time.sleep(0.01)


def test_a_create_whose_answer_was_lost_is_one_campaign(start, spec, tmp_path) -> None:
    orchestrator = start(tmp_path / "data")
    first = create(orchestrator, spec, request_id="abc").name
    orchestrator.close()
    orchestrator = start(tmp_path / "data")
    assert create(orchestrator, spec, request_id="abc").name == first
    until(orchestrator, first, pb.CAMPAIGN_STATE_SUCCEEDED)
    assert len(orchestrator.stub.ListCampaigns(pb.ListCampaignsRequest()).campaigns) == 1


def test_nobody_polls_for_ever_when_the_orchestrator_dies_while_it_thinks(start, spec, tmp_path, services) -> None:
    """A client that watches is told that the server has gone, and after a restart watches the work come to its end."""
    services.surrogate.think_seconds = 1.0
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    while not services.surrogate.fitting:
        time.sleep(0.01)
    watching = orchestrator.stub.WatchCampaign(pb.WatchCampaignRequest(name=name), timeout=60)
    next(iter(watching))
    orchestrator.close()
    with pytest.raises(grpc.RpcError):
        for _ in watching:
            pass
    services.surrogate.think_seconds = 0
    orchestrator = start(tmp_path / "data")
    until(orchestrator, name, pb.CAMPAIGN_STATE_SUCCEEDED)


# --- the file -------------------------------------------------------------------------------------------------------


def test_a_damaged_file_is_noted_and_changes_no_row(start, spec, tmp_path, services, undisturbed) -> None:
    services.simulator.delay_seconds = 0.02
    directory = tmp_path / "data"
    orchestrator = start(directory)
    name = create(orchestrator, spec).name
    while get(orchestrator, name).progress.simulated < 20:
        time.sleep(0.01)
    orchestrator.close()
    file = directory / "campaigns/test/exploration_data.h5"
    with h5py.File(file, "r+") as h5:
        h5["lhs_warmup/inputs"][0, 2] += 1
    damaged = file.read_bytes()
    services.simulator.delay_seconds = 0
    orchestrator = start(directory)
    until(orchestrator, name, pb.CAMPAIGN_STATE_SUCCEEDED)
    notes = [event.note for event in orchestrator.stub.WatchCampaign(pb.WatchCampaignRequest(name=name))]
    assert sum("damaged" in note and "exploration_data.damaged-1.h5" in note for note in notes) == 1
    orchestrator.close()
    assert file.with_name("exploration_data.damaged-1.h5").read_bytes() == damaged
    assert_same(undisturbed, table(directory))


def test_a_start_between_the_final_file_and_the_end_makes_both_again(start, spec, tmp_path, undisturbed) -> None:
    directory = tmp_path / "data"
    orchestrator = start(directory)
    name = create(orchestrator, spec).name
    until(orchestrator, name, pb.CAMPAIGN_STATE_SUCCEEDED)
    orchestrator.close()
    journal = Journal(directory / "journal.sqlite3")
    journal.set_state("test", pb.CAMPAIGN_STATE_RUNNING)
    journal.close()
    orchestrator = start(directory)
    while get(orchestrator, name).state != pb.CAMPAIGN_STATE_SUCCEEDED:
        time.sleep(0.02)
    orchestrator.close()
    assert_same(undisturbed, table(directory))
    assert not list(directory.rglob("*.damaged-*"))


def test_a_cancelled_campaign_has_a_file_of_what_it_has(start, spec, tmp_path, services) -> None:
    services.simulator.delay_seconds = 0.02
    directory = tmp_path / "data"
    orchestrator = start(directory)
    name = create(orchestrator, spec).name
    while get(orchestrator, name).progress.simulated < 20:
        time.sleep(0.01)
    orchestrator.stub.CancelCampaign(pb.CancelCampaignRequest(name=name))
    held = orchestrator.campaigns._journal.rows("test", Phase.LHS)
    found = table(directory)
    assert 20 <= len(held) == len(found["lhs_warmup/outcome"])
    assert (found["lhs_warmup/outcome"] != 255).all()
    assert found["lhs_warmup/inputs"].tobytes() == held["inputs"].tobytes()
    assert len(found["active_learning/outcome"]) == len(found["surrogate/history"]) == 0
    paused = create(orchestrator, spec.model_copy(update={"name": "paused"})).name
    while get(orchestrator, paused).progress.simulated < 20:
        time.sleep(0.01)
    orchestrator.stub.PauseCampaign(pb.PauseCampaignRequest(name=paused))
    orchestrator.stub.CancelCampaign(pb.CancelCampaignRequest(name=paused))
    assert (table(directory, "paused")["lhs_warmup/outcome"] != 255).all()


def test_a_file_that_cannot_be_finished_does_not_keep_a_campaign_from_ending(
    start, spec, tmp_path, services, monkeypatch
) -> None:
    services.simulator.delay_seconds = 0.02
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    while get(orchestrator, name).progress.simulated < 5:
        time.sleep(0.01)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset.hdf5, "finalize", fail)
    cancelled = orchestrator.stub.CancelCampaign(pb.CancelCampaignRequest(name=name)).campaign
    assert cancelled.state == pb.CAMPAIGN_STATE_CANCELLED
    notes = [event.note for event in orchestrator.stub.WatchCampaign(pb.WatchCampaignRequest(name=name))]
    assert any("could not be rewritten" in note and "No space left" in note for note in notes)
    with open_campaign(tmp_path / "data/campaigns/test/exploration_data.h5") as file:
        assert len(file.rows()) >= 5


def test_what_is_not_of_the_disk_is_not_taken_for_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite3")
    journal.close()
    with pytest.raises(Exception) as caught:
        journal.campaigns()
    assert not isinstance(caught.value, JournalError)


def test_an_ended_campaign_is_not_paused_or_resumed(start, spec, tmp_path) -> None:
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    until(orchestrator, name, pb.CAMPAIGN_STATE_SUCCEEDED)
    for call in (orchestrator.campaigns.pause, orchestrator.campaigns.cancel, orchestrator.campaigns.resume):
        with pytest.raises(FailedPrecondition, match="has ended: SUCCEEDED"):
            call(name)
