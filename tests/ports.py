"""Free ports, for servers that cannot choose one themselves."""

import os
import socket
from contextlib import suppress


def free_port() -> int:
    """Return a free port that nothing takes meanwhile.

    Linux gives outgoing connections ports from 32768 on. Each process of tests has a hundred ports of its own.
    """
    first = 21410 + 100 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for port in range(first, first + 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"all ports from {first} to {first + 99} are taken")
