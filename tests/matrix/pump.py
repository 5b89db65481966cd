"""The stdio server of the matrix: a child that carries its stdin and stdout to a Unix socket of the test.

What it would do with the messages is done there, where the test can see it. Like a real server it ends when
its stdin does; when the test hangs up, it dies of it.
"""

from __future__ import annotations

import os
import socket
import sys
import threading


def main() -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(sys.argv[1])

    def stdin() -> None:
        while data := os.read(0, 1 << 18):
            sock.sendall(data)
        os._exit(0)

    threading.Thread(target=stdin, daemon=True).start()
    while data := sock.recv(1 << 18):
        while data:
            data = data[os.write(1, data) :]
    os._exit(3)


main()
