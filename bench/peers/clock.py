# SPDX-License-Identifier: Apache-2.0
"""What every peer in Python prints: a JSON object per phase on standard output.

s           seconds since the phase before
read_bytes  what the disk gave this process in that time, page faults included
majflt      major page faults in that time"""
import json
import re
import time


def _read(path):
    with open(path) as file:
        return file.read()


class Clock:
    def __init__(self):
        self._at = self._now()

    @staticmethod
    def _now():
        read_bytes = int(re.search(r"^read_bytes: (\d+)", _read("/proc/self/io"), re.M)[1])
        majflt = int(_read("/proc/self/stat").rsplit(")", 1)[1].split()[9])
        return time.monotonic(), read_bytes, majflt

    def done(self, what, **more):
        """Ends the phase @what and begins the next."""
        s, read_bytes, majflt = (now - was for now, was in zip(self._now(), self._at))
        print(json.dumps(dict(what=what, s=s, read_bytes=read_bytes, majflt=majflt, **more)),
              flush=True)
        self._at = self._now()
