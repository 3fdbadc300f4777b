"""A failing network: forwards bytes between clients and the server, and cuts connections."""

import socket
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from typing import Literal

Direction = Literal["to the server", "from the server"]
PIECE = 65_536


class CuttingProxy:
    """A proxy on a local port in front of the server's socket.

    Parameters
    ----------
    target
        The server's socket.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._lock = Lock()
        self._open: set[socket.socket] = set()
        self._left: dict[Direction, int | None] = {}
        self._stays_cut = self._is_cut = False
        self.passed: dict[Direction, int] = {}
        self.reset()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """Forwards everything, and resets the counters."""
        with self._lock:
            self._left = {"to the server": None, "from the server": None}
            self.passed = {"to the server": 0, "from the server": 0}
            self._is_cut = False

    def cut_after(self, direction: Direction, size: int, *, for_good: bool) -> None:
        """Cuts all connections after `size` more bytes in a direction; permanently with `for_good`."""
        self.reset()
        with self._lock:
            self._left[direction] = size
            self._stays_cut = for_good

    @property
    def has_cut(self) -> bool:
        """Whether the bytes of `cut_after` have passed."""
        return self._is_cut

    def close(self) -> None:
        """Accepts no more connections, and ends existing ones."""
        self._listener.close()
        self._end_all()

    def _accept(self) -> None:
        # Closing the listener ends it.
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._is_cut and self._stays_cut:
                    client.close()
                    continue
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._target))
                with self._lock:
                    self._open |= {client, server}
                Thread(target=self._pass_on, args=(client, server, "to the server"), daemon=True).start()
                Thread(target=self._pass_on, args=(server, client, "from the server"), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, direction: Direction) -> None:
        # The other direction may have closed both.
        with suppress(OSError):
            while piece := source.recv(PIECE):
                allowed = self._allowed(direction, len(piece))
                target.sendall(piece[:allowed])
                if allowed < len(piece):
                    self._end_all()
        self._end(source, target)

    def _allowed(self, direction: Direction, size: int) -> int:
        with self._lock:
            self.passed[direction] += size
            left = self._left[direction]
            if left is None:
                return size
            self._left[direction] = max(left - size, 0) if left >= size else None
            self._is_cut = self._is_cut or left < size
            return min(size, left)

    def _end_all(self) -> None:
        with self._lock:
            ending = list(self._open)
        self._end(*ending)

    def _end(self, *sockets: socket.socket) -> None:
        with self._lock:
            self._open -= set(sockets)
        for ending in sockets:
            with suppress(OSError):
                # Wakes the thread that reads from it, which closing alone does not.
                ending.shutdown(socket.SHUT_RDWR)
            ending.close()
