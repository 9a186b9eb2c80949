"""Whole messages over a socket: a length of four bytes, then the bytes. With a deadline and a largest size."""

from __future__ import annotations

import socket
import time

from course_lib.assignments.wire import LARGEST


class ChannelClosed(RuntimeError):
    """The other side is gone, speaks out of turn or sends too much."""


class ChannelTimeout(RuntimeError):
    """The other side does not answer in time."""


def send(channel: socket.socket, message: bytes, seconds: float | None = None) -> None:
    """Send one message.

    Raises:
        ChannelClosed: nobody reads it.
        ChannelTimeout: it is not read within `seconds`.
    """
    try:
        channel.settimeout(seconds)
        channel.sendall(len(message).to_bytes(4, "big") + message)
    except TimeoutError:
        raise ChannelTimeout("it does not listen.") from None
    except OSError as error:
        raise ChannelClosed(f"it is gone ({error.strerror or error}).") from None


def receive(channel: socket.socket, seconds: float | None = None, largest: int = LARGEST) -> bytes:
    """Wait for one message.

    Raises:
        ChannelClosed: the other side is gone, or announces more than `largest` bytes.
        ChannelTimeout: the whole message is not there within `seconds`.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    size = int.from_bytes(_exactly(channel, 4, deadline), "big")
    if size > largest:
        raise ChannelClosed(f"it sends {size / 2**20:.0f} MiB at once, more than {largest / 2**20:.0f}.")
    return bytes(_exactly(channel, size, deadline))


def _exactly(channel: socket.socket, size: int, deadline: float | None) -> bytearray:
    found = bytearray()
    while len(found) < size:
        try:
            channel.settimeout(None if deadline is None else max(deadline - time.monotonic(), 1e-3))
            piece = channel.recv(min(size - len(found), 2**20))
        except TimeoutError:
            raise ChannelTimeout("it does not answer.") from None
        except OSError as error:
            raise ChannelClosed(f"it is gone ({error.strerror or error}).") from None
        if not piece:
            raise ChannelClosed("it is gone.")
        found += piece
    return found
