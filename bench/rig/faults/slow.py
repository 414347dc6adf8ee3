"""A disk whose syncs take longer, by the engine's own fault point: sessions wait and nothing times
out, the other shard goes on, and no more is taken than can be kept."""

import time

from rig import processes

# A page of metrics asks every shard: a shard that waits for its disk answers late.
ANSWER_S_MAX = 1.0
# Acknowledgements by the shard whose disk is as it was, in this time.
OTHER_ACKS_MIN, OTHER_S = 500, 5
# What a flood may make of the memory of two shards that gather 64 MiB each.
FLOOD_BYTES_MAX = 1 << 30
FLOOD_S = 15
PATIENCE_S = 600


def ms4(bench, row, runs):
    slow(bench, row, runs, "4ms", 4_000)


def ms20(bench, row, runs):
    slow(bench, row, runs, "20ms", 2_000)


def s1(bench, row, runs):
    slow(bench, row, runs, "1s", 200)


def s30(bench, row, runs):
    slow(bench, row, runs, "30s", 80)


def slow(bench, row, runs, delay, messages):
    ways = [patience, neighbour] if delay.endswith("ms") else [patience, neighbour, flood]
    for number in range(runs):
        way = ways[number % len(ways)]
        with bench.trial(row) as one:
            way(row, one, delay, messages)
        row.runs += 1
        bench.progress(row, runs)


def patience(row, one, delay, messages):
    """All shards are slow: every message takes its time, and that is all."""
    one.start(f"sync-delay={delay}")
    going = one.load(messages=messages, connections=40, more=["--timeout", "300s"])
    slowest = 0
    while not going.is_done():
        began = time.monotonic()
        one.engine.metrics()
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.2)
    report = one.finish_load(going, PATIENCE_S)
    row.check(slowest < ANSWER_S_MAX, f"a page of metrics took {slowest:.1f} s")
    row.check(report["acknowledged"] == messages, f"{report['acknowledged']} of {messages} taken")
    for what in ("refused", "timeouts", "connections_lost"):
        row.check(report[what] == 0, f"{report[what]} {what}")
    seen = one.conclude()
    row.check(seen["duplicated"] == 0, f"{seen['duplicated']} twice with no death between")
    row.add(one, seen)


def neighbour(row, one, delay, _):
    """One shard is slow, the other goes on."""
    one.start(f"sync-delay={delay}@0")
    one.load(connections=40, more=["--timeout", "300s"])
    one.until_acked(1)
    before = one.acked.read()
    time.sleep(OTHER_S)
    taken = one.acked.read() - before
    row.check(taken >= OTHER_ACKS_MIN, f"the other shard took {taken} in {OTHER_S} s")
    row.note(f"beside a slow shard the other took {taken / OTHER_S:,.0f}/s")
    end_and_compare(row, one)


def flood(row, one, delay, _):
    """More comes than the disk takes: what cannot be kept is refused."""
    one.start(f"sync-delay={delay}")
    one.load(connections=150, size=2_000_000, more=["--timeout", "300s"])
    until, most = time.monotonic() + FLOOD_S, 0
    while time.monotonic() < until:
        most = max(most, processes.resident_bytes(one.engine.process.pid))
        time.sleep(0.1)
    row.check(most < FLOOD_BYTES_MAX, f"{most >> 20} MiB in memory")
    row.note(f"{most >> 20} MiB in memory at most under 150 connections with 2 MB each")
    end_and_compare(row, one, refused=True)


def end_and_compare(row, one, refused=False):
    row.check(one.alive(), "the engine has ended")
    one.break_loads()
    if refused:
        row.check(sum(one.refusals().values()) > 0, "nothing was refused")
    one.kill()
    one.start()
    one.finish_load(one.load(messages=20))
    row.add(one, one.conclude())
