# SPDX-License-Identifier: Apache-2.0
"""`cenote` as the bench calls it: what this build can do, checkpoints, budgets, a run."""
import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "peers"))
from peers import Peers, Skip  # noqa: F401, for the other files of this folder

MIB = 1 << 20
GIB = 1 << 30
SHAPE_BYTES = {"2b": 4_255_200_000, "tiny": 4_000_000}
PACKED_BYTES = 3 * GIB
SPARE_BYTES = 2 * GIB
SENTENCE = " the water image they answer this what here"
FILLER = " the"  # one token


class Cenote:
    """The command at @path of this build; @cache_dir keeps its measurements from the user's."""

    def __init__(self, path, cache_dir, threads):
        self.path = path
        self.env = {"XDG_CACHE_HOME": cache_dir}
        self.threads = threads
        self._commands = self._help()

    def _help(self, *words):
        done = subprocess.run([self.path, *words, "--help"], capture_output=True, text=True)
        return done.stdout

    def has_option(self, name, command="run"):
        return f"  --{name} " in self._help(command)

    def has_command(self, name):
        return f"\n  {name} " in self._commands

    def version(self):
        done = subprocess.run([self.path, "--version"], capture_output=True, text=True)
        return done.stdout.strip()

    def _json(self, *words):
        done = subprocess.run([self.path, *words, "--json"], capture_output=True, text=True,
                              env=dict(os.environ, **self.env))
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise SystemExit(f"{' '.join(done.args)}: {done.stderr}") from None

    def bytes_per_token(self, checkpoint):
        """M: weight bytes that one decoded token touches."""
        return self._json("inspect", checkpoint)["bytes_per_token"]

    def smallest_budget(self, checkpoint, prompt_tokens, max_tokens):
        plan = self._json("plan", checkpoint, "--memory", "1MiB", "--quiet", "--prompt-tokens",
                          str(prompt_tokens), "--max-tokens", str(max_tokens),
                          "--threads", str(self.threads))
        return plan["memory"]["smallest_budget_bytes"]

    def pack(self, checkpoint, *flags):
        need_room(os.path.dirname(checkpoint), PACKED_BYTES, "a packed copy")
        done = subprocess.run([self.path, "pack", checkpoint, *flags], capture_output=True,
                              text=True)
        if done.returncode != 0:
            raise Skip(f"cenote pack: {done.stderr.strip()[-200:]}")

    def plan_command(self, checkpoint, memory_bytes, prompt_tokens, max_tokens, *more):
        return [self.path, "plan", checkpoint, "--memory", str(memory_bytes), "--prompt-tokens",
                str(prompt_tokens), "--max-tokens", str(max_tokens), "--threads",
                str(self.threads), "--measure", "--json", *more]

    def run_command(self, checkpoint, memory_bytes, prompt, max_tokens, *more, threads=None):
        # A random model repeats itself: guessing would have it read less than a real one.
        if "--draft" not in more:
            more += ("--draft", "off")
        return [self.path, "run", checkpoint, "--raw-prompt", "--prompt", prompt, "--max-tokens",
                str(max_tokens), "--memory", str(memory_bytes), "--threads",
                str(threads or self.threads), "--json", "--quiet", *more]

    def chat_command(self, checkpoint, memory_bytes, *more):
        """One token an answer; a message a line of the input."""
        return [self.path, "chat", checkpoint, "--max-tokens", "1", "--memory", str(memory_bytes),
                "--threads", str(self.threads), "--json", "--quiet", "--draft", "off", *more]


# ---- checkpoints ----


def free_bytes(directory):
    return shutil.disk_usage(directory).free


def need_room(directory, size_bytes, what):
    if free_bytes(directory) < size_bytes + SPARE_BYTES:
        raise Skip(f"{what} needs {(size_bytes + SPARE_BYTES) / 1e9:.1f} GB of disk, "
                   f"{free_bytes(directory) / 1e9:.1f} are free")


def make(tool, directory, *words):
    """Runs make_checkpoint unless it has been here before. @return the directory"""
    if not os.path.exists(f"{directory}/config.json"):
        subprocess.run([tool, *words, directory, "--shards", "1", "--quiet"], check=True)
    return directory


def make_checkpoint(tool, shape, directory):
    """A private copy: what other programs read of a file is in their part of the page cache."""
    if not os.path.exists(f"{directory}/config.json"):
        need_room(os.path.dirname(directory), SHAPE_BYTES[shape], f"the {shape} checkpoint")
    return make(tool, directory, shape)


def make_fewer_layers(tool, original, directory, layer_count):
    """The same shape with fewer layers of text."""
    if os.path.exists(f"{directory}/config.json"):
        return directory
    with open(f"{original}/config.json") as file:
        config = json.load(file)
    config["text_config"]["num_hidden_layers"] = layer_count
    need_room(os.path.dirname(directory), 3 * GIB, f"{layer_count} layers")
    with open(f"{directory}.json", "w") as file:
        json.dump(config, file)
    return make(tool, directory, "--config", f"{directory}.json")
