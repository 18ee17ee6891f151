"""The serial port of a board, as the link's `Transport`."""

import contextlib
from collections.abc import Iterator
from typing import Any

from ulpsim.link.client import LinkError

__all__ = ["SerialPort", "open_port"]


class SerialPort:
    """A `ulpsim.link.client.Transport` over an open port of pyserial."""

    def __init__(self, port: Any, name: str) -> None:
        self.port, self.name = port, name

    def write(self, data: bytes) -> None:
        with self._unplugged():
            self.port.write(data)

    def read(self, timeout: float) -> bytes:
        with self._unplugged():
            self.port.timeout = timeout
            data = self.port.read(1)
            return data + self.port.read(self.port.in_waiting) if data else data

    @contextlib.contextmanager
    def _unplugged(self) -> Iterator[None]:
        try:
            yield
        except (OSError, TypeError) as error:
            # pyserial raises TypeError where the port is closed while it is read.
            raise LinkError(f"{self.name}: the board was unplugged or its port taken by another "
                            f"program ({error}): plug it in and start anew; nothing of this run "
                            "is kept") from error


@contextlib.contextmanager
def open_port(name: str, baud: int) -> Iterator[SerialPort]:
    """Open a serial port for this program alone.

    Raises LinkError, which says what to do, when there is no such port, it is busy, or pyserial is
    missing.
    """
    try:
        # Of the extra `board`: all else here works without it.
        import serial  # type: ignore[import-not-found]
    except ImportError as error:
        raise LinkError("a board needs the package pyserial: pip install ulpcore[board]") from error
    try:
        port = serial.Serial(name, baud, timeout=0, write_timeout=10, exclusive=True)
    except (OSError, ValueError) as error:
        raise LinkError(_advice(name, error)) from error
    try:
        yield SerialPort(port, name)
    finally:
        with contextlib.suppress(OSError):
            port.close()


def _advice(name: str, error: Exception) -> str:
    from serial.tools.list_ports import comports  # type: ignore[import-not-found]

    text = str(error).lower()
    if "lock" in text or "busy" in text or "resource temporarily" in text:
        return f"{name} is busy: close the program that has it open"
    if "permission" in text:
        return f"{name} may not be opened: add yourself to the group that owns it (dialout)"
    if "no such file" in text or "cannot find" in text or "not found" in text:
        ports = ", ".join(port.device for port in comports()) or "none"
        return f"there is no port {name}: plug the board in; ports that are there: {ports}"
    return f"{name} cannot be opened as a serial port: {error}"
