"""Devices and file systems that fail, fill up or may not be written, and a process that may not
open any more files."""

import os
import resource
import shutil
import time

from rig import images

# How soon the engine must take mail again by itself: its pauses between attempts double to 30 s.
AGAIN_S = 75
# A fault that lasts.
LASTING_S = 3
# Receivers that take their time, so that mail waits while the device fails.
SLOW_HOSTS = "domain * at=dot delay=300ms\n"
WAYS = ("once", "three times", "lasting", "dead")
SLOW_SETTINGS = {"Max_Outbound_Connections": 2}


def place(bench):
    return bench.parent / f"image-{time.monotonic_ns()}"


def failures(one):
    """Commits, syncs and preparations that failed; nothing while metrics cannot be had."""
    try:
        return one.metric("pelton_spool_commit_failures_total")
    except OSError:
        return 0


def takes_mail(one, count, within_s=AGAIN_S):
    goal = one.acked.read() + count
    return one.happens(lambda: one.acked.read() >= goal, within_s)


def delivers(row, one):
    """What is held goes on to its receivers; nothing to see if nothing waits."""
    before = one.captured.read()
    if not one.empty():
        going = one.happens(lambda: one.captured.read() > before or one.empty(), 5)
        row.check(going, "delivery stands still while the spool fails")


def starts_and_takes_mail(row, one):
    one.start()
    row.check(takes_mail(one, 20), "no mail is taken after a restart")
    row.add(one, one.conclude())


def eio(bench, row, runs):
    """Once, three times, for ever and healed, for ever and killed."""
    images.needs("nbdkit", "nbdfuse", "losetup", "mkfs.ext4")
    behaviour = bench.parent / f"behaviour-{time.monotonic_ns()}"
    behaviour.write_text(SLOW_HOSTS)
    try:
        for number in range(runs):
            with images.FailingDevice(place(bench)) as device:
                with bench.trial(
                    row,
                    settings=SLOW_SETTINGS,
                    spool=device.spool,
                    sink=["--behaviour", str(behaviour)],
                ) as one:
                    eio_run(row, one, device, WAYS[number % len(WAYS)])
            row.runs += 1
            bench.progress(row, runs)
    finally:
        behaviour.unlink()


def eio_run(row, one, device, mode):
    one.start()
    one.load(more=["--rate", "400", "--timeout", "120s"])
    one.until_acked(400)
    for _ in range({"once": 1, "three times": 3}.get(mode, 0)):
        before = failures(one)
        device.fail()
        row.check(one.happens(lambda: failures(one) > before, 20), "the device did not fail")
        device.heal()
        time.sleep(0.5)
    if mode in ("lasting", "dead"):
        device.fail()
        row.check(one.happens(lambda: failures(one) > 0, 20), "the device did not fail")
        delivers(row, one)
        time.sleep(LASTING_S)
        row.check(one.alive(), "the engine has ended")
    if mode != "dead":
        device.heal()
        if takes_mail(one, 50):
            row.note(f"{mode}: takes mail again by itself")
        elif device.takes_writes():
            row.check(False, f"{mode}: the device is healed, but no mail is taken")
        else:
            row.note(f"{mode}: ext4 stays read-only, a restart is needed")
    one.kill()
    device.restore()
    starts_and_takes_mail(row, one)


def eio_shard(bench, row, runs):
    """The engine's own fault point, on one shard of two; the other goes on."""
    plans = ("fail=commit:20:EIO@0", "fail=sync:20-22:EIO@0", "fail=commit:20+:EIO@0")
    for number in range(runs):
        plan = plans[number % len(plans)]
        with bench.trial(row) as one:
            one.start(plan)
            one.load(connections=40)
            one.until("a fault", lambda: one.struck() > 0)
            row.check(takes_mail(one, 2_000, 20), "the other shard does not go on")
            if "+" not in plan:
                stopped = "pelton_spool_stopped"
                resumed = one.happens(lambda: one.metric(stopped) == 0, AGAIN_S)
                row.check(resumed, "the shard does not take mail again")
            row.check(one.alive(), "the engine has ended")
            one.kill()
            starts_and_takes_mail(row, one)
        row.runs += 1
        bench.progress(row, runs)


def enospc(bench, row, runs):
    """A small file system fills up while nothing is delivered. Delivery makes room, and mail is
    taken again; in half of the runs after a death of the full engine. What is kept free is room
    for the event log; where nothing is, that log has a file system of its own."""
    images.needs("mkfs.ext4")
    for number in range(runs):
        memory, dies, keeps = number % 2 == 0, number % 4 in (1, 2), number % 4 >= 2
        settings = {"Spool_Segment_Size": "1M", "Min_Free_Space": "8M" if keeps else 0}
        folder = place(bench)
        events = bench.parent / f"events-{time.monotonic_ns()}"
        if not keeps:
            settings["Event_Log"] = f'"{events}"'
        small = images.Tmpfs(folder, 64) if memory else images.Image(folder, "ext4", 64)
        with small, bench.trial(row, held=True, settings=settings, spool=small.spool) as one:
            enospc_run(row, one, dies)
        shutil.rmtree(events, ignore_errors=True)
        row.runs += 1
        bench.progress(row, runs)


def enospc_run(row, one, dies):
    one.start()
    one.load(connections=20, more=["--rate", "3000"])
    row.check(one.happens(lambda: stands_still(one), 60), "a full disk takes more and more")
    if dies:
        one.kill()
    one.engine.configure(held=False)
    one.start() if dies else one.engine.reload()
    row.check(takes_mail(one, 500), "no mail is taken after room was made")
    seen = one.conclude()
    row.check(one.refusals()[452] > 0, "a full disk is not told with 452")
    row.add(one, seen)


def stands_still(one):
    """Something was acknowledged, and nothing for a second."""
    before = one.acked.read()
    time.sleep(1)
    return 0 < before == one.acked.read()


def erofs(bench, row, runs):
    """The kernel makes the file system read-only, as it does after an error."""
    for number in range(runs):
        with images.Image(place(bench), "ext4", 512, ["errors=remount-ro"]) as image:
            with bench.trial(row, spool=image.spool, settings=SLOW_SETTINGS) as one:
                one.start()
                one.load()
                one.until_acked(500)
                image.turn_read_only()
                row.check(one.happens(lambda: failures(one) > 0, 60), "nothing failed")
                delivers(row, one)
                row.check(one.alive(), "the engine has ended")
                if number % 2:
                    one.engine.process.terminate()
                    one.engine.process.wait(60)
                else:
                    one.kill()
                image.repair()
                starts_and_takes_mail(row, one)
        row.runs += 1
        bench.progress(row, runs)


def emfile(bench, row, runs):
    """No descriptor can be had, then they can again."""
    for _ in range(runs):
        with bench.trial(row, settings={"Spool_Segment_Size": "1M"}) as one:
            one.start()
            one.load(connections=20, more=["--messages-per-connection", "20"])
            one.until_acked(1_000)
            pid = one.engine.process.pid
            _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            in_use = len(os.listdir(f"/proc/{pid}/fd"))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (max(16, in_use - 20), most))
            time.sleep(LASTING_S)
            row.check(one.alive(), "the engine has ended")
            text = (one.folder / "pelton.log").read_text(errors="replace")
            row.check("out of file descriptors" in text, "nobody was told")
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, most))
            row.check(takes_mail(one, 1_000), "no mail is taken after the limit was raised")
            row.add(one, one.conclude())
        row.runs += 1
        bench.progress(row, runs)
