"""A proxy before the store that can be gone, refuse, stall, or lose the reply to an insert."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Listens on loopback. `mode`: pass, down (connections are refused), refuse (503), stall (nothing answers), lose.

    To lose is that replies to inserts vanish, which the store has executed.
    """

    def __init__(self, target: str) -> None:
        self._target = (urlsplit(target).hostname or "", urlsplit(target).port or 0)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._port = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._mode = "pass"
        self.lost = self.refused = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def mode(self) -> str:
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        before, self._mode = self._mode, mode
        if mode == "down":
            self.close()
        elif before == "down":
            self._listening = socket.create_server(("127.0.0.1", self._port))
            threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        store = socket.create_connection(self._target)
        asked = [b""]  # what the client sent since the last reply

        def ends() -> None:
            for end in (client, store):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

        threading.Thread(target=self._guarded, args=(lambda: self._replies(client, store, asked), ends)).start()
        self._guarded(lambda: self._requests(client, store, asked), ends)

    def _guarded(self, run: Callable[[], None], ends: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):
            run()
        ends()

    def _requests(self, client: socket.socket, store: socket.socket, asked: list[bytes]) -> None:
        while data := client.recv(1 << 16):
            if self.mode == "refuse":
                self.refused += 1
                client.sendall(UNAVAILABLE)
                return
            if self.mode == "down":
                self.refused += 1
                return
            while self.mode == "stall":
                threading.Event().wait(0.05)
            asked[0] += data[:2_000]
            store.sendall(data)

    def _replies(self, client: socket.socket, store: socket.socket, asked: list[bytes]) -> None:
        while data := store.recv(1 << 16):
            if self.mode == "lose" and b"INSERT" in asked[0].upper():
                self.lost += 1  # the rows are stored, and nobody will know
                return
            asked[0] = b""
            client.sendall(data)
