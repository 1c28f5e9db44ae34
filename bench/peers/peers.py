# SPDX-License-Identifier: Apache-2.0
"""The peers: what each needs, by name and version, and how it is called.

Everything is installed below one directory (a virtual environment, node_modules) and nothing
outside of it. A peer that cannot be had is a Skip with the reason."""
import os
import platform
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
GIB = 1 << 30
GGUF_BYTES = 3_444_200_000
SPARE_BYTES = 2 * GIB
# neurostream's own advice is to leave room beside what it keeps resident.
NEUROSTREAM_ROOM_BYTES = GIB // 2
NEUROSTREAM_ALL_BYTES = 4 * GIB

# torch first: what follows then finds it and brings no other.
PYTHON_PACKAGES = dict(
    torch=["torch==2.13.0"],
    transformers=["transformers==4.57.6", "safetensors==0.8.0"],
    neurostream=["neurostream==0.2.1", "gguf==0.19.0", "safetensors==0.8.0"],
    plot=["matplotlib==3.11.2"],
)
NODE_PACKAGES = ["node-llama-cpp@3.22.1", "@node-llama-cpp/linux-x64@3.22.1"]


class Skip(Exception):
    """Why a peer is not measured."""


def _install(command, what, log_path):
    """Tried once more: a registry may fail a moment."""
    with open(log_path, "a") as log:
        for _ in range(2):
            if subprocess.run(command, stdout=log, stderr=log).returncode == 0:
                return
    raise Skip(f"{what} cannot be installed (see {log_path})")


class Peers:
    def __init__(self, directory, mmap_decode):
        self.directory = directory
        self._mmap_decode = mmap_decode
        self._python = os.path.join(directory, "venv", "bin", "python")
        self._node_dir = os.path.join(directory, "node")
        self._log = os.path.join(directory, "install.log")

    # ---- installing ----

    def python(self, *names):
        """An interpreter that has the packages of @names."""
        mark = os.path.join(self.directory, "venv", "has-")
        if not os.path.exists(self._python):
            _install([sys.executable, "-m", "venv", os.path.dirname(os.path.dirname(self._python))],
                     "a virtual environment (python3-venv)", self._log)
        for name in names:
            if not os.path.exists(mark + name):
                _install([self._python, "-m", "pip", "install", "--quiet", *PYTHON_PACKAGES[name]],
                         name, self._log)
                open(mark + name, "w").close()
        return self._python

    def _node(self):
        if platform.machine() != "x86_64":
            raise Skip(f"llama.cpp: no prebuilt library for {platform.machine()} is asked for")
        if shutil.which("node") is None or shutil.which("npm") is None:
            raise Skip("llama.cpp: node and npm are not installed")
        if not os.path.exists(os.path.join(self._node_dir, "has-llama")):
            os.makedirs(self._node_dir, exist_ok=True)
            _install(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix",
                      self._node_dir, *NODE_PACKAGES], "node-llama-cpp", self._log)
            open(os.path.join(self._node_dir, "has-llama"), "w").close()
        return self._node_dir

    @staticmethod
    def gguf(checkpoint):
        return f"{checkpoint.rstrip('/')}-bf16.gguf"

    def _write_gguf(self, checkpoint):
        out = self.gguf(checkpoint)
        if os.path.exists(out):
            return out
        free = shutil.disk_usage(self.directory).free
        if free < GGUF_BYTES + SPARE_BYTES:
            raise Skip(f"a GGUF needs {(GGUF_BYTES + SPARE_BYTES) / 1e9:.1f} GB of disk, "
                       f"{free / 1e9:.1f} are free")
        python = self.python("torch", "neurostream")  # the latter brings gguf
        done = subprocess.run([python, f"{HERE}/write_gguf.py", checkpoint, out],
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise Skip(f"write_gguf.py: {done.stderr[-200:]}")
        return out

    # ---- calls: @limit_bytes of the whole process, None for none ----

    def mmap(self, checkpoint, ids, limit_bytes, threads, tokens):
        return [self._mmap_decode, checkpoint, "mmap", "--threads", str(threads), "--tokens",
                str(tokens)]

    def transformers(self, checkpoint, ids, limit_bytes, threads, tokens, only="decode"):
        return [self.python("torch", "transformers"), f"{HERE}/transformers_peer.py", checkpoint,
                ids, "--threads", str(threads), "--tokens", str(tokens), "--only", only]

    def llama(self, checkpoint, ids, limit_bytes, threads, tokens):
        node_dir = self._node()
        return ["node", f"{HERE}/llama_peer.mjs", node_dir, self._write_gguf(checkpoint), ids,
                str(threads), str(tokens)]

    def neurostream(self, checkpoint, ids, limit_bytes, threads, tokens):
        ram = limit_bytes - NEUROSTREAM_ROOM_BYTES if limit_bytes else NEUROSTREAM_ALL_BYTES
        python = self.python("torch", "neurostream")
        return [python, f"{HERE}/neurostream_peer.py", self._write_gguf(checkpoint), ids, "--ram",
                str(ram), "--threads", str(threads), "--tokens", str(tokens)]


NAMES = ["mmap", "transformers", "llama", "neurostream"]
TITLES = dict(mmap="the same kernels over mmap", transformers="transformers 4.57.6, bf16",
              llama="llama.cpp BF16, mmap", neurostream="neurostream 0.2.1, bfloat16")
