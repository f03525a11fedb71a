# SPDX-License-Identifier: GPL-2.0-or-later
"""What the NBD tests in Python share: a worker that they may kill."""
import os
import signal
import subprocess
import sys
import time

import nbd


class Worker:
    """The worker of one volume of $BLKSUB_STORE; ends with this process."""

    def __init__(self, blksub, volume, sock, log_path):
        self.command = [blksub, "serve", volume, "--nbd", sock, "--threads", "8",
                        "--exit-with-parent"]
        self.sock, self.log = sock, open(log_path, "ab")
        self.folder = os.path.join(os.environ["BLKSUB_STORE"], "volumes", volume)
        self.process = None

    def start(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log)

    def connect(self):
        end = time.monotonic() + 60
        while True:
            h = nbd.NBD()
            try:
                h.connect_unix(self.sock)
                return h
            except nbd.Error as e:
                if self.process.poll() is not None:
                    sys.exit("FAILED: the worker ended with "
                             f"{self.process.returncode}")
                if time.monotonic() > end:
                    sys.exit(f"FAILED: no connection: {e}")
                time.sleep(0.005)

    def end(self, sig=signal.SIGKILL):
        self.process.send_signal(sig)
        return self.process.wait(60)

    def file(self, name):
        return os.path.join(self.folder, name)
