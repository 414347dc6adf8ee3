"""Processes: starting them in a scope of their own, what they cost, how they end.

A scope is a cgroup (version 2) where there is one, so that the CPU time of a system of many short
processes is exact, those that have ended included, and so that its end is certain. Where no cgroup
can be made, the times of /proc are added up, reaped children included; each process is then
rounded down to 10 ms, which makes a system of many processes look cheaper than it is.
"""

import os
import pathlib
import signal
import socket
import subprocess
import time

CGROUP_ROOTS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
POLL_S = 0.005


class BenchError(Exception):
    """Why a benchmark cannot go on, as one sentence."""


def wait_until(what, condition, timeout_s, poll_s=POLL_S):
    """Returns the first true value of `condition()`; after `timeout_s` it is an error."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise BenchError(f"{what}: not within {timeout_s} s")
        time.sleep(poll_s)


def free_ports(count, address="127.0.0.1"):
    """Ports of an address that nobody listens on at this moment, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind((address, 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Scope:
    """Where the processes of one system live. Ending it ends them all."""

    def __init__(self, name):
        self.cgroup = None
        self.roots = []
        for root in CGROUP_ROOTS:
            folder = pathlib.Path(root) / f"pelton-bench-{os.getpid()}-{name}"
            if not (pathlib.Path(root) / "cgroup.controllers").exists():
                continue
            try:
                folder.mkdir()
                # A cgroup that cannot account or kill is of no use.
                if (folder / "cpu.stat").exists() and (folder / "cgroup.kill").exists():
                    self.cgroup = folder
                    break
                folder.rmdir()
            except OSError:
                continue

    @property
    def accounting(self):
        return "cgroup v2, exact" if self.cgroup else "/proc, each process rounded down to 10 ms"

    def enter(self):
        """For `preexec_fn`: what is executed next belongs to the scope, with all it starts."""
        if self.cgroup:
            (self.cgroup / "cgroup.procs").write_text("0")

    def popen(self, command, **options):
        """Starts a process in the scope."""
        process = subprocess.Popen(command, preexec_fn=self.enter, **options)
        self.roots.append(process.pid)
        return process

    def pids(self):
        if self.cgroup:
            return [int(pid) for pid in (self.cgroup / "cgroup.procs").read_text().split()]
        return sorted(tree(self.roots))

    def cpu_s(self):
        """User and system CPU seconds so far, of all processes, the ended ones too."""
        if self.cgroup:
            fields = dict(
                line.split() for line in (self.cgroup / "cpu.stat").read_text().splitlines()
            )
            return int(fields["user_usec"]) / 1e6, int(fields["system_usec"]) / 1e6
        user = system = 0
        for pid in self.pids():
            fields = stat(pid)
            if fields:
                user += fields[11] + fields[13]
                system += fields[12] + fields[14]
        return user / TICKS_PER_S, system / TICKS_PER_S

    def memory_bytes(self):
        """Resident memory of all processes; what they share is counted once."""
        return sum(proportional_bytes(pid) for pid in self.pids())

    def end(self):
        """Kills what is left and removes the scope."""
        if self.cgroup:
            (self.cgroup / "cgroup.kill").write_text("1")
            wait_until("the end of killed processes", lambda: not self.pids(), 30)
            self.cgroup.rmdir()
            self.cgroup = None
        else:
            for pid in self.pids():
                kill(pid, signal.SIGKILL)
        self.roots = []


def stat(pid):
    """The fields of /proc/PID/stat after the name, from the state on; None if it is gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    words = text.rsplit(")", 1)[1].split()
    return [words[0]] + [int(word) for word in words[1:]]


def tree(roots):
    """These processes and their descendants."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = stat(int(entry))
            if fields and fields[0] != "Z":
                children.setdefault(fields[1], []).append(int(entry))
    seen, todo = set(), [pid for pid in roots if stat(pid)]
    while todo:
        pid = todo.pop()
        if pid not in seen:
            seen.add(pid)
            todo.extend(children.get(pid, []))
    return seen


def proportional_bytes(pid):
    try:
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def resident_bytes(pid):
    """RSS of one process."""
    fields = stat(pid)
    return fields[21] * PAGE_BYTES if fields else 0


def kill(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


class Machine:
    """CPU time of the whole machine, to tell what was left idle."""

    def __init__(self):
        self.at = time.monotonic()
        self.idle, self.waiting, self.total = self.times()

    @staticmethod
    def times():
        words = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        ticks = [int(word) for word in words]
        return ticks[3], ticks[4], sum(ticks)

    def elapsed_s(self):
        return time.monotonic() - self.at

    def idle_share(self):
        """Share of all cores that was idle since the start, waiting for the disk included."""
        idle, waiting, total = self.times()
        spent = total - self.total
        return ((idle - self.idle) + (waiting - self.waiting)) / spent if spent else 0.0


def finish(process, timeout_s):
    """Waits for a process; returns (exit status, CPU seconds). Kills it at the end of the time."""
    status = None
    deadline = time.monotonic() + timeout_s
    while True:
        pid, code, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            status = os.waitstatus_to_exitcode(code)
            process.returncode = status
            return status, usage.ru_utime + usage.ru_stime
        if time.monotonic() > deadline:
            process.kill()
            os.wait4(process.pid, 0)
            process.returncode = -signal.SIGKILL
            raise BenchError(f"{process.args[0]} did not end within {timeout_s} s")
        time.sleep(POLL_S)
