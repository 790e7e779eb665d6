"""A page of the study served by a process of its own, and the browser that visits it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TRIES = 3
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


class Server:
    """A serving `dermstudy` command on a free port, run in `folder`, with more variables in its environment."""

    def __init__(self, *command: str, folder: Path = ROOT, **environment: str):
        self.working, self.environment = folder, os.environ | environment
        for _ in range(TRIES):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = str(free.getsockname()[1])
            self.address = f"http://127.0.0.1:{port}"
            self.command = [sys.executable, "-m", "dermstudy_commands.cli", *command, "--port", port]
            if self.start():
                return
        raise AssertionError(f"did not serve: {' '.join(self.command)}")

    def start(self) -> bool:
        """Whether it serves: a process beside this one can have taken the port that was free."""
        self.process = subprocess.Popen(
            self.command,
            cwd=self.working,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return "serving" in self.process.stdout.readline()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
