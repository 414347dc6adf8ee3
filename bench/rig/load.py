"""The generator and the receiving host."""

import json
import pathlib
import subprocess
import time

from rig import processes

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def binary(folder, name):
    """The path of one of our programs."""
    path = pathlib.Path(folder or REPOSITORY / "target/release") / name
    if not path.exists():
        raise processes.BenchError(f"{path} is missing: cargo build --release")
    return str(path)


class Sink:
    """A receiving host on one port."""

    def __init__(self, bin_folder, port, messages=None, capture=None, arguments=()):
        command = [binary(bin_folder, "pelton-sink"), "--json", "--listen", f"127.0.0.1:{port}"]
        if messages is not None:
            command += ["--messages", str(messages)]
        if capture is not None:
            command += ["--capture", str(capture)]
        self.process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        if not self.process.stdout.readline().startswith("ready"):
            raise processes.BenchError("pelton-sink did not start")

    def cpu_s(self):
        fields = processes.stat(self.process.pid)
        return (fields[11] + fields[12]) / processes.TICKS_PER_S if fields else 0.0

    def wait(self, timeout_s):
        """Waits until it has all its messages; returns (monotonic time of its end, CPU s)."""
        _, cpu_s = processes.finish(self.process, timeout_s)
        return time.monotonic(), cpu_s

    def stop(self):
        """Ends it and returns its totals."""
        if self.process.returncode is None:
            self.process.terminate()
            processes.finish(self.process, 30)
        document = self.process.stdout.read()
        self.process.stdout.close()
        return json.loads(document) if document.strip() else {}


MODES = {
    "none": [],
    "pipelining": ["--pipelining"],
    "pipeline-next": ["--pipelining", "--pipeline-next"],
    "bdat-4": ["--bdat", "--bdat-group", "4"],
    "bdat-16": ["--bdat", "--bdat-group", "16"],
}


def blast(bin_folder, port, *, connections, messages, size, mode="none", domains=100, more=()):
    """Runs the generator to its end; returns its report with `exit` and `started_at`."""
    command = [binary(bin_folder, "pelton-blast"), "--json", "--target", f"127.0.0.1:{port}"]
    command += ["--connections", str(connections), "--messages", str(messages)]
    command += ["--size", str(size), "--domains", str(domains), *MODES[mode], *more]
    started_at = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if not done.stdout.strip():
        raise processes.BenchError(f"pelton-blast: {done.stderr.strip()}")
    report = json.loads(done.stdout)
    report["exit"] = done.returncode
    report["started_at"] = started_at
    if report["acknowledged"] != messages:
        trouble = report.get("trouble") or report.get("fault") or report["replies"]
        raise processes.BenchError(
            f"only {report['acknowledged']} of {messages} messages were acknowledged: {trouble}"
        )
    return report
