"""File systems of their own for a spool: in a file, in memory, and behind a device that fails.
Each is mounted in a folder of the run and gone after `close`."""

import os
import pathlib
import shutil
import subprocess
import time

from rig import processes


class Unavailable(Exception):
    """Why this machine cannot do something, as one sentence."""


def run(*command):
    """Runs a program; returns what it printed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except FileNotFoundError as error:
        raise Unavailable(f"{command[0]} is not installed") from error
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


def needs(*programs):
    """An error unless these are installed and this is root."""
    if os.geteuid() != 0:
        raise Unavailable("needs root")
    for program in programs:
        if not shutil.which(program):
            raise Unavailable(f"{program} is not installed")


class Mounted:
    """Something that is mounted at `place`."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.place = (self.folder / "mounted").absolute()
        self.place.mkdir(parents=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def spool(self):
        return self.place / "spool"

    def is_mounted(self):
        """A look at the folder itself fails on a file system that was shut down."""
        return any(
            line.split()[1] == str(self.place)
            for line in pathlib.Path("/proc/mounts").read_text().splitlines()
        )

    def unmount(self):
        """The kernel closes the files of a killed process a moment after its end."""
        def tried():
            try:
                run("umount", self.place)
                return True
            except Unavailable:
                return not self.is_mounted()

        processes.wait_until("the unmounting", tried, 60, 0.02)

    def close(self):
        try:
            self.unmount()
        except processes.BenchError:
            subprocess.run(["umount", "-l", self.place], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def takes_writes(self):
        """Whether a new file can be written and synced."""
        path = self.place / "probe"
        try:
            with open(path, "wb", buffering=0) as file:
                file.write(bytes(4_096))
                os.fsync(file.fileno())
            path.unlink()
            return True
        except OSError:
            return False


class Tmpfs(Mounted):
    """A little memory."""

    def __init__(self, folder, mib):
        needs("mount")
        super().__init__(folder)
        run("mount", "-t", "tmpfs", "-o", f"size={mib}m", "pelton-bench", self.place)


class Image(Mounted):
    """A file system in a sparse file."""

    def __init__(self, folder, kind, mib=1_024, options=()):
        needs("mount", f"mkfs.{kind}")
        super().__init__(folder)
        self.kind, self.options = kind, ",".join(["loop", *options])
        self.file = self.folder / "image"
        with open(self.file, "wb") as file:
            file.truncate(mib << 20)
        try:
            run(f"mkfs.{kind}", "-q" if kind == "xfs" else "-qF", self.file)
            self.mount()
        except (processes.BenchError, Unavailable) as error:
            self.close()
            raise Unavailable(str(error)) from error

    def mount(self):
        run("mount", "-o", self.options, "-t", self.kind, self.file, self.place)

    def device(self):
        """The loop device, as the kernel names it: loop3."""
        for line in pathlib.Path("/proc/mounts").read_text().splitlines():
            device, place = line.split()[:2]
            if place == str(self.place):
                return pathlib.Path(device).name
        raise Unavailable(f"{self.place} is not mounted")

    def cut(self):
        """What is not on the device is gone; the file system answers errors from now on."""
        run("xfs_io", "-x", "-c", "shutdown", self.place)

    def restore(self):
        """The machine starts again."""
        self.unmount()
        self.mount()

    def turn_read_only(self):
        """What the kernel does when it finds an error in a file system of `errors=remount-ro`."""
        try:
            path = pathlib.Path(f"/sys/fs/ext4/{self.device()}/trigger_fs_error")
            path.write_text("bench/faults")
        except OSError as error:
            raise Unavailable(f"the kernel takes no error of a file system: {error}") from error

    def repair(self):
        self.unmount()
        # Anything but an error that stays is fine: it corrects.
        subprocess.run(["fsck.ext4", "-fy", self.file], check=False, capture_output=True)
        self.mount()


class FailingDevice(Mounted):
    """ext4 on a loop device on a device that answers writes and flushes with EIO while a file
    exists."""

    def __init__(self, folder, mib=300):
        needs("nbdkit", "nbdfuse", "losetup", "mkfs.ext4")
        super().__init__(folder)
        self.loop = self.fuse = None
        self.trigger = self.folder / "trigger"
        self.disk, self.point = self.folder / "disk", self.folder / "nbd"
        with open(self.disk, "wb") as file:
            file.truncate(mib << 20)
        self.point.mkdir()
        command = ["nbdfuse", self.point, "--command", "nbdkit", "-s", "--exit-with-parent"]
        command += ["--filter=error", "file", self.disk, "error=EIO", "error-rate=100%"]
        command += ["error-pread-rate=0%", f"error-file={self.trigger.absolute()}"]
        self.fuse = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            device = self.point / "nbd"
            processes.wait_until("the failing device", device.exists, 20, 0.02)
            self.loop = run("losetup", "-f", "--show", device).strip()
            run("mkfs.ext4", "-qF", self.loop)
            self.mount()
        except (processes.BenchError, Unavailable) as error:
            self.close()
            raise Unavailable(str(error)) from error

    def mount(self):
        run("mount", self.loop, self.place)

    def fail(self):
        self.trigger.touch()

    def heal(self):
        self.trigger.unlink(missing_ok=True)

    def restore(self):
        self.heal()
        self.unmount()
        subprocess.run(["fsck.ext4", "-fy", self.loop], check=False, capture_output=True)
        self.mount()

    def close(self):
        self.heal()
        if self.is_mounted():
            subprocess.run(["umount", self.place], check=False, capture_output=True)
            subprocess.run(["umount", "-l", self.place], check=False, capture_output=True)
        if self.loop:
            subprocess.run(["losetup", "-d", self.loop], check=False, capture_output=True)
            time.sleep(0.1)
        if self.fuse:
            # Lazily: the loop device may hold on to it for another moment.
            subprocess.run(["umount", "-l", self.point], check=False, capture_output=True)
            try:
                self.fuse.wait(10)
            except subprocess.TimeoutExpired:
                self.fuse.kill()
                self.fuse.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
