"""Ends without notice: `kill -9` under load and while the engine recovers, and power cuts."""

import time

from rig import images

# Lives of one trial, after which all is delivered and compared.
LIVES = 25
STARTING_S_MAX = 0.08
# Takes longer to read than a start waits, so that mail is taken meanwhile.
BACKLOG = 400_000
# Kills in a row while it recovers, before it lives again.
IN_A_ROW = 5


def moment(rng, first):
    """How a life ends: so many seconds after its start, ready or not, or after so many
    acknowledgements. One in six while it starts, but never the first."""
    if not first and rng.random() < 1 / 6:
        return "starting", rng.uniform(0, STARTING_S_MAX)
    return "acked", rng.randint(1, 1 << rng.randint(1, 10))


def live(one, when, death):
    """One life of the engine until the moment of its death."""
    kind, amount = when
    if kind == "starting":
        one.engine.launch()
        one.engine.is_ready(amount)
    else:
        one.start()
        one.until_acked(amount)
    death()


def batches(runs, most=LIVES):
    """Numbers of runs that add up to all."""
    return [most] * (runs // most) + ([runs % most] if runs % most else [])


def kill(bench, row, runs):
    for lives in batches(runs):
        with bench.trial(row) as one:
            one.load()
            for number in range(lives):
                live(one, moment(bench.rng, number == 0), one.kill)
                row.runs += 1
            one.start()
            row.add(one, one.conclude())
        bench.progress(row, runs)


def recovery(bench, row, runs):
    for kills in batches(runs):
        settings = {"Spool_Segment_Size": "1M"}
        with bench.trial(row, held=True, settings=settings) as one:
            one.start()
            fast = ("--bdat", "--bdat-group", "16")
            one.finish_load(one.load(messages=BACKLOG, size=512, connections=50, more=fast))
            one.kill()
            ready = one.start()
            loaded = one.until_loaded()
            one.kill()
            one.load()
            for number in range(kills):
                # Anything between the first moment and a little after all is known.
                until = time.monotonic() + bench.rng.uniform(0, loaded * 1.1)
                one.engine.launch()
                one.engine.is_ready(max(0, until - time.monotonic()))
                time.sleep(max(0, until - time.monotonic()))
                one.kill()
                row.runs += 1
                if number % IN_A_ROW == IN_A_ROW - 1:
                    live(one, ("acked", bench.rng.randint(1, 50)), one.kill)
            one.engine.configure(held=False)
            before, left = one.recovered, one.acked.read() - one.captured.read()
            one.start()
            one.until_loaded()
            found = one.recovered - before
            row.check(found >= left, f"{found} found of {left}")
            row.note(f"{BACKLOG:,} messages, undisturbed: ready in {ready:.1f} s, all known in "
                     f"{loaded:.1f} s")
            row.add(one, one.conclude())
        bench.progress(row, runs)


def cut_ext4(bench, row, runs):
    cut(bench, row, runs, "ext4")


def cut_xfs(bench, row, runs):
    cut(bench, row, runs, "xfs")


def cut(bench, row, runs, kind):
    """Half of the cuts while nothing is delivered, so that the spool has the only copy."""
    images.needs("xfs_io")
    for cuts, held in [*((it, True) for it in batches((runs + 1) // 2)),
                       *((it, False) for it in batches(runs // 2))]:
        folder = bench.parent / f"image-{time.monotonic_ns()}"
        with images.Image(folder, kind) as image:
            with bench.trial(row, held=held, spool=image.spool) as one:
                one.load()
                for number in range(cuts):
                    live(one, moment(bench.rng, number == 0), lambda: (image.cut(), one.kill()))
                    image.restore()
                    row.runs += 1
                one.engine.configure(held=False)
                one.start()
                row.add(one, one.conclude())
        bench.progress(row, runs)


