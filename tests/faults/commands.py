"""Trainings by ``rllib train`` in a process of their own, which can be killed and resumed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

from rllib_offset.fingerprint import label_location
from rllib_offset.pair import EnvPair
from rllib_offset.store import LabelStore
from rllib_offset.store_report import verify
from tests.faults.trainings import NUM_ITERATIONS, settings

ROOT = Path(__file__).parents[2]
RLLIB = "from rllib_offset.cli import main; main()"


class Command:
    """``rllib train file`` on a folder: started, killed, resumed.

    Args:
        folder: Where everything of it lies.
        seed: Of the training.
        checkpoint_frequency: Iterations between checkpoints.
        **changes: Of the configuration.
    """

    def __init__(self, folder, seed=0, *, checkpoint_frequency=2, **changes):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config = settings(self.folder, seed, **changes)
        experiment = {
            "run": "OffsetPPO",
            "stop": {"training_iteration": NUM_ITERATIONS},
            "checkpoint_config": {
                "checkpoint_at_end": True,
                "checkpoint_frequency": checkpoint_frequency,
                "num_to_keep": 2,
            },
            "config": self.config,
        }
        (self.folder / "x.yaml").write_text(yaml.safe_dump({"x": experiment}))
        self.process = None

    def start(self, *, resume=False):
        """Start training; everything it says goes to ``log``."""
        words = ["train", "file", "x.yaml", "--storage-path", "results", "--ray-num-cpus", "4"]
        python_path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RLLIB, *words, *["--resume"] * resume],
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": python_path, "RLLIB_FAULTS": str(self.folder)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def results(self):
        """The result rows that are on disk, of every attempt."""
        rows = []
        for path in self.folder.glob("results/x/*/result.json"):
            for line in path.read_text().splitlines():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError:
                    continue  # cut short by a kill
        return rows

    def wait_for(self, num_results, timeout_s=600):
        """Wait until so many rows are there, or the command has ended."""
        end_s = time.monotonic() + timeout_s
        while len(self.results()) < num_results and self.process.poll() is None:
            assert time.monotonic() < end_s, self.log()
            time.sleep(0.05)

    def signal(self, number):
        """Send a signal to the command alone; return its exit code."""
        os.kill(self.process.pid, number)
        return self.process.wait(timeout=120)

    def processes(self, name=""):
        """Ids of the processes with this in their name that this folder's command has left."""
        mark = f"RLLIB_FAULTS={self.folder}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                is_named = name.encode() in (path.parent / "cmdline").read_bytes()
                if is_named and mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
            except OSError:
                continue
        return found

    def log(self):
        """What the commands have said so far."""
        return (self.folder / "log").read_text()

    def report(self):
        """What is in the label store of the trial."""
        (store,) = self.folder.glob("results/x/*/labels")
        pair = EnvPair(
            self.config["env"], self.config["slow_env"], {}, self.config["slow_env_config"]
        )
        return verify(LabelStore(label_location(pair, str(store))))
