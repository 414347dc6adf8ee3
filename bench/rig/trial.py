"""One trial of faults: an engine, a receiving host that keeps what it gets, a generator that keeps
what it was told, and the comparison of both at the end."""

import collections
import itertools
import json
import os
import random
import shutil
import subprocess
import threading
import time

from rig import load, pelton, processes

STEP_TIMEOUT_S = 180
# How long a loss must stay before it is believed: queues may be rebuilt behind a ready engine.
PATIENCE_S = 20
POLL_S = 0.01
SIZES = "700:4,2048:3,9000:2,40000:1"
NUMBERS = itertools.count(1)
STARTING = threading.Lock()


class Lines:
    """Counts the lines of a file that grows."""

    def __init__(self, path):
        self.path, self.at, self.count = path, 0, 0

    def read(self):
        try:
            with open(self.path, "rb") as file:
                file.seek(self.at)
                while piece := file.read(1 << 20):
                    self.at += len(piece)
                    self.count += piece.count(b"\n")
        except FileNotFoundError:
            pass
        return self.count


class Load:
    """A generator that goes on, whatever happens to the engine."""

    def __init__(self, trial, *, connections=20, size=SIZES, messages=None, more=()):
        engine = trial.engine
        command = [load.binary(trial.bin_folder, "pelton-blast"), "--json", "--reconnect"]
        command += ["--target", f"{engine.address}:{engine.port}", "--size", str(size)]
        command += ["--connections", str(connections), "--domains", "20"]
        run = f"{random.getrandbits(32):x}"
        trial.runs.append(run)
        command += ["--run", run, "--log-acked", str(trial.acked_file)]
        span = ["--duration", "1h"] if messages is None else ["--messages", str(messages)]
        self.process = subprocess.Popen(
            [*command, *span, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def finish(self, timeout_s=STEP_TIMEOUT_S):
        """Waits for its own end; returns its report."""
        try:
            text, _ = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as late:
            self.process.kill()
            self.process.communicate()
            raise processes.BenchError(f"pelton-blast: not done within {timeout_s} s") from late
        if not text.strip():
            raise processes.BenchError(f"pelton-blast ended with {self.process.returncode}")
        return json.loads(text)

    def stop(self, timeout_s=STEP_TIMEOUT_S):
        """Lets what it has begun come to its end; returns its report."""
        self.process.terminate()
        return self.finish(timeout_s)

    def is_done(self):
        return self.process.poll() is not None

    def break_off(self):
        """Ends it with what it has begun left as it is; returns its report."""
        for _ in range(2):
            if not self.is_done():
                self.process.terminate()
                time.sleep(0.2)
        return self.finish(30)

    def end(self):
        if not self.is_done():
            self.process.kill()
        self.process.communicate()


class Trial:
    """All of it in a folder of its own; nothing is left of it after `close`."""

    def __init__(self, parent, bin_folder, *, held=False, settings="", spool=None, sink=()):
        self.bin_folder = bin_folder
        self.folder = pelton.scratch(parent)
        self.acked_file = self.folder / "acked"
        self.capture_file = self.folder / "capture.jsonl"
        self.acked, self.captured = Lines(self.acked_file), Lines(self.capture_file)
        self.loads, self.reports, self.runs, self.lives = [], [], [], 0
        self.recovered = self.counted = 0
        number = next(NUMBERS)
        # Connections on loopback come from 127.0.0.1: none of them can take a port of another
        # address between two lives of the engine.
        pid = os.getpid()
        address = f"127.{77 + number % 100}.{pid >> 8 & 255}.{max(1, pid & 255)}"
        common = "Retry_Interval = 1\nMax_Retry_Interval = 2\nPin_Shards = false\n"
        with STARTING:
            (sink_port,) = processes.free_ports(1)
            self.sink = load.Sink(bin_folder, sink_port, capture=self.capture_file, arguments=sink)
            self.engine = pelton.Pelton(
                self.folder,
                bin_folder,
                sink_port,
                held=held,
                settings=common + settings,
                spool=spool,
                address=address,
                scope=f"pelton-{number}",
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def start(self, faults=None):
        """A life of the engine; returns how long it took to be ready."""
        with STARTING:
            self.engine.launch(self.environment(faults))
        if not self.engine.is_ready(pelton.READY_TIMEOUT_S):
            raise processes.BenchError(f"pelton is not ready: {self.engine.log_tail()}")
        self.lives += 1
        self.counted = 0
        took = time.monotonic() - self.engine.started_at
        self.count_recovered()
        return took

    def count_recovered(self):
        """Takes what this life has recovered so far into the count."""
        found = self.metric("pelton_messages_recovered_total")
        self.recovered += found - self.counted
        self.counted = found

    def until_loaded(self, timeout_s=STEP_TIMEOUT_S):
        """Waits until all mail of the lives before is in the queues; returns the seconds since
        the start."""
        self.until("a loaded spool", lambda: not self.engine.is_loading(), timeout_s)
        self.count_recovered()
        return time.monotonic() - self.engine.started_at

    @staticmethod
    def environment(faults):
        return {"PELTON_SPOOL_FAULTS": faults} if faults else {}

    def load(self, **options):
        with STARTING:
            self.loads.append(Load(self, **options))
        return self.loads[-1]

    def stop_loads(self):
        """Ends all generators; what they were told is kept."""
        loads, self.loads = self.loads, []
        for one in loads:
            self.reports.append(one.stop())

    def break_loads(self):
        """The same at once, whatever is under way."""
        loads, self.loads = self.loads, []
        for one in loads:
            self.reports.append(one.break_off())

    def finish_load(self, one, timeout_s=STEP_TIMEOUT_S):
        self.loads.remove(one)
        self.reports.append(one.finish(timeout_s))
        return self.reports[-1]

    def metric(self, name):
        return int(self.engine.metrics().get(name, 0))

    def alive(self):
        return self.engine.process.poll() is None

    def until(self, what, condition, timeout_s=STEP_TIMEOUT_S):
        """Waits for a condition while the engine lives."""
        def looked():
            if not self.alive():
                raise processes.BenchError(f"the engine has ended: {self.engine.log_tail()}")
            return condition()

        return processes.wait_until(what, looked, timeout_s, POLL_S)

    def until_acked(self, count, timeout_s=STEP_TIMEOUT_S):
        """Waits for so many more acknowledgements."""
        goal = self.acked.read() + count
        self.until(f"{count} more acknowledgements", lambda: self.acked.read() >= goal, timeout_s)

    def happens(self, condition, within_s):
        """Whether a condition comes true in time, while the engine lives."""
        try:
            self.until("it", condition, within_s)
            return True
        except processes.BenchError:
            if not self.alive():
                raise
            return False

    def kill(self):
        """kill -9."""
        self.engine.kill()

    def empty(self):
        """Whether nothing waits in the queues; false too while metrics cannot be had."""
        try:
            return self.engine.waiting() == 0
        except OSError:
            return False

    def conclude(self):
        """Ends the load, lets the queues run empty and compares."""
        self.stop_loads()
        until = time.monotonic() + PATIENCE_S
        while True:
            self.until("empty queues", self.empty)
            seen = self.verify()
            if seen["lost"] == 0 or time.monotonic() > until:
                return seen
            time.sleep(0.5)

    def verify(self):
        self.acked_file.touch()
        self.capture_file.touch()
        command = [load.binary(self.bin_folder, "pelton-blast"), "verify", "--json"]
        command += ["--acked", str(self.acked_file), "--capture", str(self.capture_file)]
        # One that ended before anything was acknowledged may have been delivered all the same.
        command += [word for run in self.runs for word in ("--run", run)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=STEP_TIMEOUT_S)
        if not done.stdout.strip():
            raise processes.BenchError(f"pelton-blast verify: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def refusals(self):
        """How often each code of 400 and more was answered."""
        codes = collections.Counter()
        for report in self.reports:
            for code, count in report["replies"].items():
                if int(code) >= 400:
                    codes[int(code)] += count
        return codes

    def struck(self):
        """Faults that the engine was made to meet, as far as its log tells."""
        text = (self.folder / "pelton.log").read_text(errors="replace")
        return sum("PELTON_SPOOL_FAULTS: " in line for line in text.splitlines())

    def close(self):
        for one in self.loads:
            one.end()
        if self.engine.process and self.alive():
            self.engine.process.kill()
            self.engine.process.wait()
        self.engine.scope.end()
        self.engine.log.close()
        self.sink.process.kill()
        self.sink.process.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)
