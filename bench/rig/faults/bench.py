"""What all kinds of faults share: the options, the rows of the table, one trial with its verdict."""

import collections
import concurrent.futures
import contextlib
import sys
import threading
import time
import traceback

from rig import processes, trial

# Small segments, so that there is much to prepare, seal and remove. One of 1 MiB has no room for
# the envelopes of a thousand recipients.
SETTINGS = {"Shards": 2, "Spool_Segment_Size": "4M", "Min_Free_Space": 0}
FEW_RECIPIENTS = {"Max_Recipients_Per_Transaction": 100}


class Row:
    """One row of the table, and what did not hold."""

    def __init__(self, kind, title):
        self.kind, self.title = kind, title
        self.runs = self.acknowledged = self.recovered = self.lost = self.duplicated = 0
        self.refused = collections.Counter()
        self.notes, self.failures = collections.Counter(), []
        self.skipped = None
        self.lock = threading.Lock()

    def check(self, holds, sentence):
        if not holds:
            print(f"  FAILED: {self.title}: {sentence}", file=sys.stderr, flush=True)
            with self.lock:
                self.failures.append(sentence)

    def note(self, sentence):
        with self.lock:
            self.notes[sentence] += 1

    def add(self, one, seen):
        """Takes a trial's verdict."""
        with self.lock:
            self.acknowledged += seen["acknowledged"]
            self.recovered += one.recovered
            self.lost += seen["lost"]
            self.duplicated += seen["duplicated"]
            self.refused += one.refusals()
        for what in ("lost", "corrupt", "foreign"):
            self.check(seen[what] == 0, f"{seen[what]} {what}: {seen.get(f'{what}_examples')}")
        self.check(seen["acknowledged"] > 0, "nothing was acknowledged: the run shows nothing")

    def cells(self):
        codes = " ".join(f"{code}:{count:,}" for code, count in sorted(self.refused.items()))
        numbers = (self.runs, self.acknowledged, self.recovered, self.lost, self.duplicated)
        return [self.title, *(f"{number:,}" for number in numbers), codes or "-"]

    def document(self):
        """For JSON."""
        fields = ("kind", "title", "runs", "acknowledged", "recovered", "lost", "duplicated")
        document = {field: getattr(self, field) for field in fields}
        document |= {"skipped": self.skipped, "failures": self.failures}
        document["refused"] = {str(code): count for code, count in sorted(self.refused.items())}
        return document | {"notes": dict(self.notes)}


class Bench:
    """The options, the chance, and who works beside."""

    def __init__(self, options, parent, rng):
        self.options, self.parent, self.rng = options, parent, rng
        self.pool = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self.said_at = 0

    def beside(self, call, *given):
        return self.pool.submit(call, self, *given)

    def say(self, text):
        print(f"  {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    def progress(self, row, of):
        """A line every two seconds."""
        if time.monotonic() - self.said_at > 2 or row.runs == of:
            self.said_at = time.monotonic()
            lost = f", {row.lost} LOST" if row.lost else ""
            failed = f", {len(row.failures)} FAILED" if row.failures else ""
            self.say(f"{row.kind}: {row.runs} of {of}, {row.acknowledged:,} acks{lost}{failed}")

    @contextlib.contextmanager
    def trial(self, row, *, settings=None, **options):
        """A trial, whose failure is the row's and not the end of the bench."""
        chosen = SETTINGS | FEW_RECIPIENTS | (settings or {})
        text = "".join(f"{name} = {value}\n" for name, value in chosen.items())
        one = trial.Trial(self.parent, self.options.bin, settings=text, **options)
        failed = len(row.failures)
        try:
            yield one
        except (processes.BenchError, OSError) as error:
            where = traceback.extract_tb(error.__traceback__)
            names = " < ".join(step.name for step in reversed(where[1:4]))
            row.check(False, f"{error} (in {names})")
        finally:
            if self.options.keep and len(row.failures) > failed:
                kept = self.parent / f"failed-{row.kind}-{time.monotonic_ns()}"
                one.folder.rename(kept)
                self.say(f"{row.kind}: kept in {kept}")
            one.close()
