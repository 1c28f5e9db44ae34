# SPDX-License-Identifier: Apache-2.0
"""One program at a time in a cage: a memory limit, a cap on what the disk gives, and the kernel's
own counts of both. cgroup v1 and v2; without root there is no cage and the counts are what /proc
says.

A run raises its scheduling group: the kernel shares the processors between sessions first, and a
nice value alone does nothing against another session's work."""
import json
import os
import signal
import subprocess
import tempfile
import threading
import time

AUTOGROUP = "/proc/self/autogroup"
PRIORITY = -19


def read_text(path):
    with open(path) as file:
        return file.read()


def write_text(path, text):
    with open(path, "w") as file:
        file.write(str(text))


def table(path):
    """Lines "name number" as a dictionary."""
    return {line.split()[0]: int(line.split()[1]) for line in read_text(path).splitlines()}


def own_group(controller):
    """This process's group below the mount of @controller ("" is v2); None without one."""
    for line in read_text("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return None


def disk_of(path):
    """"major:minor" of the whole disk below @path; None where the kernel does not say."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    entry = os.path.realpath(f"/sys/dev/block/{number}")
    if not os.path.exists(entry):
        return None
    if os.path.exists(f"{entry}/partition"):
        return read_text(f"{os.path.dirname(entry)}/dev").strip()
    return number


# ---- groups ----


class NoGroups:
    """Where none can be made."""

    can_limit = can_cap = False

    def __init__(self, why):
        self.why = why

    def open(self):
        return []

    def limit(self, size_bytes):
        pass

    def cap(self, disk, bytes_per_s):
        pass

    def counts(self):
        return {}

    def close(self):
        pass


class GroupsV1:
    can_limit = can_cap = True

    def __init__(self, root="/sys/fs/cgroup"):
        name = f"cenote-bench-{os.getpid()}"
        self._memory = f"{root}/memory{own_group('memory').rstrip('/')}/{name}"
        self._disk = f"{root}/blkio{own_group('blkio').rstrip('/')}/{name}"

    def open(self):
        """Makes the groups. @return the files that a process joins them by."""
        for path in (self._memory, self._disk):
            os.mkdir(path)
        return [f"{self._memory}/cgroup.procs", f"{self._disk}/cgroup.procs"]

    def limit(self, size_bytes):
        write_text(f"{self._memory}/memory.limit_in_bytes", size_bytes)

    def cap(self, disk, bytes_per_s):
        write_text(f"{self._disk}/blkio.throttle.read_bps_device", f"{disk} {bytes_per_s}")

    def counts(self):
        served = read_text(f"{self._disk}/blkio.throttle.io_service_bytes_recursive").splitlines()
        oom = table(f"{self._memory}/memory.oom_control")
        return dict(disk_bytes=sum(int(line.split()[2]) for line in served if " Read " in line),
                    cache_bytes=table(f"{self._memory}/memory.stat")["cache"],
                    peak_bytes=int(read_text(f"{self._memory}/memory.max_usage_in_bytes")),
                    oom_kills=oom.get("oom_kill", 0))

    def close(self):
        for path in (self._memory, self._disk):
            remove_group(path)


class GroupsV2:
    can_limit = can_cap = True

    def __init__(self, root="/sys/fs/cgroup"):
        # No group may have both members and controlled children: a sibling of our own.
        parent = f"{root}{os.path.dirname(own_group(''))}".rstrip("/")
        write_text(f"{parent}/cgroup.subtree_control", "+memory +io")
        self._path = f"{parent}/cenote-bench-{os.getpid()}"

    def open(self):
        os.mkdir(self._path)
        return [f"{self._path}/cgroup.procs"]

    def limit(self, size_bytes):
        write_text(f"{self._path}/memory.max", size_bytes)
        if os.path.exists(f"{self._path}/memory.swap.max"):
            write_text(f"{self._path}/memory.swap.max", 0)

    def cap(self, disk, bytes_per_s):
        write_text(f"{self._path}/io.max", f"{disk} rbps={bytes_per_s}")

    def counts(self):
        fields = read_text(f"{self._path}/io.stat").split()
        counts = dict(disk_bytes=sum(int(f[7:]) for f in fields if f.startswith("rbytes=")),
                      cache_bytes=table(f"{self._path}/memory.stat")["file"],
                      oom_kills=table(f"{self._path}/memory.events").get("oom_kill", 0))
        if os.path.exists(f"{self._path}/memory.peak"):
            counts["peak_bytes"] = int(read_text(f"{self._path}/memory.peak"))
        return counts

    def close(self):
        remove_group(self._path)


def remove_group(path):
    """A group can be removed a moment after its last process has gone."""
    for _ in range(50):
        try:
            return os.rmdir(path)
        except FileNotFoundError:
            return None
        except OSError:
            time.sleep(0.1)
    return None


def find_groups():
    if os.geteuid() != 0:
        return NoGroups("not root: no memory cgroup, no cap on the disk")
    v1 = own_group("memory") is not None and own_group("blkio") is not None
    try:
        groups = GroupsV1() if v1 else GroupsV2()
        groups.open()
        groups.close()
    except OSError as error:
        return NoGroups(f"no cgroup can be made: {error}")
    return groups


# ---- a run ----


def raise_priority():
    """In the child: a session of its own, before others' sessions."""
    os.setsid()
    try:
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
        if os.path.exists(AUTOGROUP):
            write_text(AUTOGROUP, PRIORITY)
    except OSError:
        pass  # not root


def kill_session(pid):
    """Ends what is left of a run; the leader has not been waited for, so the number is its own."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def parse_lines(file):
    """The JSON objects among the lines; a program that is killed may leave half of one."""
    objects = []
    for line in file:
        try:
            objects += [json.loads(line)] if line.startswith("{") else []
        except ValueError:
            pass
    return objects


def read_bytes_of(pid):
    """What the kernel counted for a process, ended ones that nobody waited for included."""
    try:
        for line in read_text(f"/proc/{pid}/io").splitlines():
            if line.startswith("read_bytes:"):
                return int(line.split()[1])
    except OSError:
        pass
    return None


class Rig:
    """Runs programs, each in fresh groups. @disk_path lies on the disk that is capped."""

    def __init__(self, disk_path, cap_bytes_per_s=None):
        self.groups = find_groups()
        self.disk = disk_of(disk_path)
        self.cap_bytes_per_s = None
        self.notes = []
        if not self.groups.can_limit:
            self.notes.append(self.groups.why)
        elif cap_bytes_per_s and self.disk is None:
            self.notes.append(f"{disk_path} is on no single disk: the disk is not capped")
        elif cap_bytes_per_s:
            self.cap_bytes_per_s = cap_bytes_per_s

    def run(self, command, limit_bytes=None, capped=True, timeout_s=300, env=None, typed=""):
        """@typed goes to the standard input. @return what happened, as a dictionary that goes into
        the results as it is."""
        members = self.groups.open()
        try:
            if limit_bytes is not None:
                self.groups.limit(limit_bytes)
            if capped and self.cap_bytes_per_s:
                self.groups.cap(self.disk, self.cap_bytes_per_s)
            before = self.groups.counts()
            outcome = self._run(command, members, timeout_s, env, typed)
            after = self.groups.counts()
        finally:
            self.groups.close()
        if after:
            outcome["disk_bytes"] = after["disk_bytes"] - before["disk_bytes"]
            outcome["cache_left_bytes"] = after["cache_bytes"] - before["cache_bytes"]
            outcome["group_peak_bytes"] = after.get("peak_bytes")
            outcome["oom_kills"] = after["oom_kills"]
        return outcome

    def _run(self, command, members, timeout_s, env, typed):
        def begin():
            raise_priority()
            for path in members:
                write_text(path, os.getpid())

        start = time.monotonic()
        with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryFile("w+") as given:
            given.write(typed)
            given.seek(0)
            child = subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE, stderr=errors,
                                     text=True, preexec_fn=begin,
                                     env=dict(os.environ, **(env or {})))
            late = threading.Event()
            timer = threading.Timer(timeout_s, lambda: (late.set(), kill_session(child.pid)))
            timer.start()
            try:
                lines = parse_lines(child.stdout)
                os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
                process_bytes = read_bytes_of(child.pid)
            finally:  # also when the bench itself is interrupted
                timer.cancel()
                kill_session(child.pid)
                _, status, usage = os.wait4(child.pid, 0)
                child.returncode = os.waitstatus_to_exitcode(status)
                child.stdout.close()
            errors.seek(0)
            tail = errors.read()[-600:]
        return dict(exit_code=child.returncode, timed_out=late.is_set(),
                    wall_s=time.monotonic() - start, lines=lines, process_bytes=process_bytes,
                    majflt=usage.ru_majflt, rss_bytes=usage.ru_maxrss * 1024,
                    stderr=tail if child.returncode else "")
