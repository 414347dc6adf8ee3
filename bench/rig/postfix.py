"""Postfix as a system under test: the package as shipped, in folders of its own. Nothing of the
system's own Postfix is read or changed."""

import os
import pathlib
import shutil
import socket
import subprocess
import time

from rig import processes

SHARE = pathlib.Path("/usr/share/postfix")
START_TIMEOUT_S = 30
QUEUES = ("incoming", "active", "deferred", "maildrop")


def missing():
    """Why it cannot run here, or None."""
    if not shutil.which("postfix"):
        return "postfix is not installed (apt-get install postfix)"
    if os.geteuid() != 0:
        return "Postfix has to be started by root"
    if not (SHARE / "master.cf.dist").exists():
        return f"{SHARE}/master.cf.dist is missing: not Debian's package?"
    return None


def version():
    done = subprocess.run(["postconf", "-d", "-h", "mail_version"], capture_output=True, text=True)
    return done.stdout.strip()


class Postfix:
    """One instance with its own configuration, queue and data folders. Transports, limits and
    durability are those of the package; it relays everything to the sink and logs to a file."""

    name = "postfix"

    def __init__(self, folder, sink_port, *, held=False):
        self.folder = pathlib.Path(folder)
        (self.port,) = processes.free_ports(1)
        self.scope = processes.Scope("postfix")
        self.etc, self.queue = self.folder / "etc", self.folder / "queue"
        data, logs = self.folder / "data", self.folder / "log"
        for path in (self.etc, self.queue, data, logs):
            path.mkdir()
        shutil.chown(data, "postfix")
        main = (SHARE / "main.cf.debian").read_text()
        main += (
            f"queue_directory = {self.queue}\n"
            f"data_directory = {data}\n"
            f"maillog_file = {logs}/postfix.log\n"
            f"maillog_file_prefixes = {logs}\n"
            "myhostname = postfix.example\n"
            "mydestination =\n"
            "alias_maps =\nalias_database =\n"
            "inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\n"
            "mynetworks = 127.0.0.0/8\n"
            f"relayhost = [127.0.0.1]:{sink_port}\n"
        )
        if held:
            # Straight to the hold queue: the least work that Postfix can have with it.
            main += "smtpd_recipient_restrictions = check_client_access static:HOLD\n"
        (self.etc / "main.cf").write_text(main)
        (self.etc / "master.cf").write_text(self.master_cf())

    def master_cf(self):
        """The services of the package, smtpd on our port, none in a chroot, logging to a file."""
        lines, has_postlog = [], False
        for line in (SHARE / "master.cf.dist").read_text().splitlines():
            words = line.split()
            if len(words) >= 8 and not line.startswith(("#", " ", "\t")):
                if words[:2] == ["smtp", "inet"]:
                    words[0] = f"127.0.0.1:{self.port}"
                words[4] = "n"
                has_postlog |= words[0] == "postlog"
                line = "  ".join(words)
            lines.append(line)
        if not has_postlog:
            lines.append("postlog unix-dgram n - n - 1 postlogd")
        return "\n".join(lines) + "\n"

    def start(self):
        """Starts it and returns the seconds until it answered on its port."""
        started_at = time.monotonic()
        command = ["postfix", "-c", str(self.etc), "start"]
        process = self.scope.popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = process.communicate(timeout=START_TIMEOUT_S)
        if process.returncode != 0:
            raise processes.BenchError(f"postfix start: {output.decode(errors='replace')}")
        pid_file = self.queue / "pid/master.pid"
        self.scope.roots = [int(pid_file.read_text().split()[0])]
        processes.wait_until("the banner of Postfix", self.answers, START_TIMEOUT_S)
        return time.monotonic() - started_at

    def answers(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as one:
                return one.recv(512).startswith(b"220")
        except OSError:
            return False

    def waiting(self):
        """Messages that are neither held nor done: the files of its queues."""
        return sum(
            len(files) for name in QUEUES for _, _, files in os.walk(self.queue / name)
        )

    def counters(self):
        """Postfix does not count its syncs."""
        return None, None

    def stop(self):
        self.scope.end()
