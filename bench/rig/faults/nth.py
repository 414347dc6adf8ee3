"""The first, the second, the third ... operation of a kind fails, until a run has none left that
could; and the same from each on for ever. All of the life of a spool is in each run: it recovers,
takes mail, rolls, reads back, delivers, reclaims, dies and recovers again."""

import time

from rig.faults.bench import Row

ERRORS = {
    "open": "EMFILE",
    "prepare": "ENOSPC",
    "commit": "EIO",
    "sync": "EIO",
    "seal": "EIO",
    "rename": "EIO",
    "remove": "EIO",
    "read": "EIO",
    "recover": "EIO",
}
# Those from which on all fail: what comes later adds nothing new.
LASTING = (1, 2, 3, 5, 8)
# Bodies are not kept in memory, so that each is read back.
SETTINGS = {"Shards": 1, "Spool_Segment_Size": "1M", "Max_Resident_Messages": 0}
HELD, TAKEN, LATER, SIZE = 40, 110, 10, 60_000
# How long a life with faults may deliver, and what comes later in the background.
LIFE_S = 4
BACKGROUND_S = {"rename": 2.5, "remove": 2.5}


def each(bench, row, most):
    rows = []
    for kind in ERRORS:
        one = Row(row.kind, f"{kind} N fails, {ERRORS[kind]}")
        every(bench, one, kind, most)
        rows.append(one)
    return rows


def every(bench, row, kind, most):
    """Every number until none is left; of a quick run only some."""
    numbers, number, tried = [], 1, 0
    while tried < most:
        if not single(bench, row, kind, f"{number}"):
            row.note(f"no {kind} is left at N = {number}")
            break
        numbers.append(number)
        tried += 1
        # A quick run goes in growing steps.
        number += 1 if most > 50 else number
    lasting = LASTING if most > 50 else LASTING[:1]
    for number in lasting:
        if number <= max(numbers, default=0):
            single(bench, row, kind, f"{number}+")
    bench.say(f"nth: {kind}: {row.runs} runs, {row.acknowledged:,} acks, {row.lost} lost")


def single(bench, row, kind, which):
    """One run; whether it met a fault."""
    struck = 0
    failed = len(row.failures)
    with bench.trial(row, held=True, settings=SETTINGS) as one:
        one.start()
        one.finish_load(one.load(messages=HELD, size=SIZE))
        one.kill()
        one.engine.configure(held=False)
        one.start(f"fail={kind}:{which}:{ERRORS[kind]}")
        one.load(messages=TAKEN, size=SIZE)
        one.happens(lambda: one.loads[0].is_done() and one.empty(), LIFE_S)
        time.sleep(BACKGROUND_S.get(kind, 0.3))
        row.check(one.alive(), f"{which}: the engine has ended")
        one.break_loads()
        struck = one.struck()
        one.kill()
        one.start()
        later = one.finish_load(one.load(messages=LATER, size=SIZE))
        row.check(later["acknowledged"] == LATER, f"{which}: no mail is taken after a restart")
        row.add(one, one.conclude())
    row.runs += 1
    for at in range(failed, len(row.failures)):
        if not row.failures[at].startswith(which):
            row.failures[at] = f"{kind}:{which}: {row.failures[at]}"
    return struck > 0
