"""Pelton as a system under test."""

import pathlib
import re
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from rig import load
from rig import processes

READY_TIMEOUT_S = 120
STOP_TIMEOUT_S = 40


class Pelton:
    """One engine with its own folder; `start` may follow `kill`."""

    name = "pelton"

    def __init__(self, folder, bin_folder, sink_port, *, held=False, settings=""):
        self.folder = pathlib.Path(folder)
        self.spool = self.folder / "spool"
        self.config = self.folder / "pelton.conf"
        self.bin_folder = bin_folder
        self.binary = load.binary(bin_folder, "pelton")
        self.port, self.http_port = processes.free_ports(2)
        self.scope = processes.Scope("pelton")
        self.process = None
        self.log = open(self.folder / "pelton.log", "ab")
        suspend = "suspend_delivery = true" if held else ""
        self.config.write_text(
            f'Spoolbase = "{self.spool}"\n'
            f'static_routes {{ target = "127.0.0.1:{sink_port}" }}\n'
            f'ESMTP_Listener {{ Listen "127.0.0.1:{self.port}" '
            f'{{ Relay_Hosts = ( "127.0.0.0/8" ) }} }}\n'
            f'HTTP_Listener {{ Listen "127.0.0.1:{self.http_port}" {{ }} }}\n'
            'default_binding_group = "pool"\n'
            'binding_group "pool" {\n'
            '  binding "a" { Bind_Address = "127.0.0.2"  EHLO_Hostname = "a.example" }\n'
            '  binding "b" { Bind_Address = "127.0.0.3"  EHLO_Hostname = "b.example" }\n'
            f"}}\n{suspend}\n{settings}\n"
        )

    def start(self):
        """Starts it and returns the seconds until it was ready."""
        started_at = time.monotonic()
        self.process = self.scope.popen(
            [self.binary, "serve", "--config", str(self.config)],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        line = self.process.stdout.readline()
        if not line.startswith("ready"):
            status, _ = processes.finish(self.process, READY_TIMEOUT_S)
            text = (self.folder / "pelton.log").read_text(errors="replace")[-2000:]
            raise processes.BenchError(f"pelton did not start, exit {status}: {text}")
        return time.monotonic() - started_at

    def metrics(self):
        """Every sample of /metrics by its name and labels."""
        url = f"http://127.0.0.1:{self.http_port}/metrics"
        with urllib.request.urlopen(url, timeout=30) as page:
            text = page.read().decode()
        samples = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                samples[name] = float(value)
        return samples

    def waiting(self):
        """Messages in its queues, from the metrics."""
        samples = self.metrics()
        return sum(v for k, v in samples.items() if re.match(r"pelton_queue_messages\b", k))

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
