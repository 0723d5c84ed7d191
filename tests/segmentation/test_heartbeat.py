"""Time limits. Processes that are really stopped are in `training/test_launch.py`."""

import threading
from typing import Any

import pytest

from carvana_kedro.segmentation.heartbeat import within


def test_a_block_that_takes_too_long_is_told_and_a_short_one_is_not() -> None:
    told = threading.Event()
    reasons: list[str] = []

    def lose(reason: str) -> Any:
        reasons.append(reason)
        told.set()

    with within(0.01, lose):
        assert told.wait(60)
    assert reasons == ["not all processes have started within 0 seconds"]
    before = threading.active_count()
    with pytest.raises(KeyError), within(3600, lose):
        raise KeyError
    with within(3600, lose):
        pass
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(60)  # a canceled timer ends
            assert not thread.is_alive()
    assert threading.active_count() <= before
    assert len(reasons) == 1
