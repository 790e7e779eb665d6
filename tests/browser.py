"""A page of the study served by a process of its own, and the browser that visits it."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys

from conftest import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


class Server:
    """A serving `dermstudy` command on a free port."""

    def __init__(self, *command: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        self.address = f"http://127.0.0.1:{port}"
        self.command = [sys.executable, "-m", "dermstudy.cli", *command, "--port", port]
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert "serving" in self.process.stdout.readline()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
