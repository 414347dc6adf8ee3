"""The disk under test: what it can do, and what was asked of it."""

import os
import pathlib
import statistics
import threading
import time

MESSAGE_BYTES = 10 * 1024
SEGMENT_BYTES = 64 * 1024 * 1024
TARGET = pathlib.Path(__file__).resolve().parents[2] / "target/bench"
TMPFS_KINDS = ("tmpfs", "ramfs")


def folder(chosen):
    """Where runs put their files: the chosen folder, $TMPDIR, or target/bench."""
    path = pathlib.Path(chosen or os.environ.get("TMPDIR") or TARGET)
    path.mkdir(parents=True, exist_ok=True)
    return path


def kind(folder):
    """The kind of file system of a folder, from /proc/mounts."""
    folder = os.path.realpath(folder)
    best, found = "", "unknown"
    for line in pathlib.Path("/proc/mounts").read_text().splitlines():
        _, place, name = line.split()[:3]
        inside = folder == place or folder.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best):
            best, found = place, name
    return found


class Flushes:
    """Cache flushes that the device below a folder has completed (Linux 5.5 and newer)."""

    def __init__(self, folder):
        device = os.stat(folder).st_dev
        self.numbers = [str(os.major(device)), str(os.minor(device))]
        self.start = self.read()

    def read(self):
        for line in pathlib.Path("/proc/diskstats").read_text().splitlines():
            words = line.split()
            if words[:2] == self.numbers and len(words) >= 20:
                return int(words[18])
        return None

    def since(self):
        now = self.read()
        return None if now is None or self.start is None else now - self.start


def probe(folder, seconds=1.0):
    """Appends of 10 KiB, each with its own fdatasync, by 1 and by 10 writers; and how long it
    takes to fill and sync a file of 64 MiB, which is what a new spool segment costs."""
    result = {"file_system": kind(folder)}
    for writers in (1, 10):
        waits = appends(pathlib.Path(folder), writers, seconds)
        waits.sort()
        result[f"syncs_per_s_{writers}"] = len(waits) / seconds
        result[f"sync_p50_us_{writers}"] = statistics.median(waits) * 1e6
        result[f"sync_p99_us_{writers}"] = waits[int(len(waits) * 0.99)] * 1e6
    started = time.monotonic()
    path = pathlib.Path(folder) / "probe-segment"
    with open(path, "wb", buffering=0) as file:
        for _ in range(SEGMENT_BYTES >> 20):
            file.write(bytes(1 << 20))
        os.fdatasync(file.fileno())
    result["segment_64m_ms"] = (time.monotonic() - started) * 1e3
    path.unlink()
    return result


def appends(folder, writers, seconds):
    waits, threads = [], []
    deadline = time.monotonic() + seconds

    def write(number):
        mine, data = [], os.urandom(MESSAGE_BYTES)
        path = folder / f"probe-{number}"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        while (began := time.monotonic()) < deadline:
            os.write(file, data)
            os.fdatasync(file)
            mine.append(time.monotonic() - began)
        os.close(file)
        path.unlink()
        waits.extend(mine)

    for number in range(writers):
        threads.append(threading.Thread(target=write, args=(number,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return waits


def show(result, out):
    """Prints a probe."""
    print(f"disk: {result['file_system']}", file=out)
    for writers in (1, 10):
        print(
            f"  append 10 KiB + fdatasync, {writers:2} writers: "
            f"{result[f'syncs_per_s_{writers}']:>7,.0f}/s"
            f"  p50 {result[f'sync_p50_us_{writers}']:,.0f} us"
            f"  p99 {result[f'sync_p99_us_{writers}']:,.0f} us",
            file=out,
        )
    print(
        f"  prepare a segment of 64 MiB (zeros + fdatasync): {result['segment_64m_ms']:,.0f} ms",
        file=out,
        flush=True,
    )
    if result["file_system"] in TMPFS_KINDS:
        print("  WARNING: this is memory, not a disk; syncs cost nothing here", file=out)
