"""Pelton as a system under test."""

import math
import os
import pathlib
import re
import select
import signal
import subprocess
import tempfile
import time
import urllib.request

from rig import load
from rig import processes

READY_TIMEOUT_S = 120
STOP_TIMEOUT_S = 40


class Pelton:
    """One engine with its own folder; `start` may follow `kill`."""

    name = "pelton"

    def __init__(
        self,
        folder,
        bin_folder,
        sink_port,
        *,
        held=False,
        settings="",
        listen="",
        spool=None,
        address="127.0.0.1",
        scope="pelton",
    ):
        self.folder = pathlib.Path(folder)
        self.spool = pathlib.Path(spool or self.folder / "spool")
        self.config = self.folder / "pelton.conf"
        self.bin_folder = bin_folder
        self.binary = load.binary(bin_folder, "pelton")
        self.address = address
        self.port, self.http_port = processes.free_ports(2, address)
        self.sink_port, self.settings, self.listen = sink_port, settings, listen
        self.scope = processes.Scope(scope)
        self.process = None
        self.started_at = None
        self.log = open(self.folder / "pelton.log", "ab")
        self.configure(held=held)

    def configure(self, *, held):
        """Writes the configuration; a running engine hears of it by `reload`."""
        suspend = "suspend_delivery = true" if held else ""
        self.config.write_text(
            f'Spoolbase = "{self.spool}"\n'
            f'static_routes {{ target = "127.0.0.1:{self.sink_port}" }}\n'
            f'ESMTP_Listener {{ Listen "{self.address}:{self.port}" '
            f'{{ Relay_Hosts = ( "127.0.0.0/8" )  {self.listen} }} }}\n'
            f'HTTP_Listener {{ Listen "{self.address}:{self.http_port}" {{ }} }}\n'
            'default_binding_group = "pool"\n'
            'binding_group "pool" {\n'
            '  binding "a" { Bind_Address = "127.0.0.2"  EHLO_Hostname = "a.example" }\n'
            '  binding "b" { Bind_Address = "127.0.0.3"  EHLO_Hostname = "b.example" }\n'
            f"}}\n{suspend}\n{self.settings}\n"
        )

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    def launch(self, environment=None):
        """Starts it and does not wait."""
        self.started_at = time.monotonic()
        self.process = self.scope.popen(
            [self.binary, "serve", "--config", str(self.config)],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def is_ready(self, within_s):
        """Whether it said within so many seconds that it is ready. That it ended is an error."""
        readable, _, _ = select.select([self.process.stdout], [], [], max(0, within_s))
        if not readable:
            return False
        if not self.process.stdout.readline().startswith("ready"):
            status, _ = processes.finish(self.process, READY_TIMEOUT_S)
            raise processes.BenchError(f"pelton did not start, exit {status}: {self.log_tail()}")
        return True

    def start(self, environment=None):
        """Starts it and returns the seconds until it was ready."""
        self.launch(environment)
        if not self.is_ready(READY_TIMEOUT_S):
            raise processes.BenchError(f"pelton is not ready: {self.log_tail()}")
        return time.monotonic() - self.started_at

    def log_tail(self, size=2_000):
        return (self.folder / "pelton.log").read_text(errors="replace")[-size:]

    def metrics(self):
        """Every sample of /metrics by its name and labels."""
        url = f"http://{self.address}:{self.http_port}/metrics"
        with urllib.request.urlopen(url, timeout=30) as page:
            text = page.read().decode()
        samples = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                samples[name] = float(value)
        return samples

    def waiting(self):
        """Messages in its queues, from the metrics; no number while not all of them are known."""
        samples = self.metrics()
        if samples.get("pelton_spool_loading"):
            return math.inf
        return sum(v for k, v in samples.items() if re.match(r"pelton_queue_messages\b", k))

    def is_loading(self):
        """Whether mail of the last run is still on its way into the queues."""
        return self.metrics().get("pelton_spool_loading", 0) > 0

    def counters(self):
        """What a run is charged with: (syncs, messages that they made durable)."""
        samples = self.metrics()
        return (
            samples.get("pelton_spool_commits_total"),
            samples.get("pelton_spool_commit_messages_total"),
        )

    def command(self, *arguments, timeout=120):
        """The output of `pelton ARGUMENTS` against this engine."""
        done = subprocess.run(
            [self.binary, *arguments, "--config", str(self.config)],
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode != 0:
            raise processes.BenchError(f"pelton {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self):
        """Ends it; an end that takes too long is an error, but nothing is left behind."""
        try:
            if self.process and self.process.poll() is None:
                self.process.terminate()
                status = self.process.wait(STOP_TIMEOUT_S)
                if status != 0:
                    raise processes.BenchError(f"pelton ended with {status}: {self.log.name}")
        except subprocess.TimeoutExpired as late:
            raise processes.BenchError("pelton did not end on SIGTERM") from late
        finally:
            self.scope.end()
            self.log.close()


def scratch(parent):
    """A folder of one run below `parent`, which the users of a mail system may enter."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=parent))
    path.chmod(0o755)
    return path
