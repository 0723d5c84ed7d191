"""The queue of the server."""

import asyncio
import threading

import pytest

from carvana_kedro.serve.limits import RefusedError
from carvana_kedro.serve.turns import Turns


async def _is_here() -> bool:
    return False


def test_the_time_to_wait_grows_with_the_queue() -> None:
    turns = Turns(2)
    with turns.place(), turns.place(), pytest.raises(RefusedError, match="2 photographs are") as raised:
        turns.place().__enter__()
    assert (raised.value.status, raised.value.retry_after) == (503, 2)
    assert turns.present == 0


def test_a_turn_that_is_given_up_is_handed_over_when_its_work_is_done() -> None:
    async def run() -> list[str]:
        turns, proceed, order = Turns(2), threading.Event(), []

        def first() -> None:
            proceed.wait(60)
            order.append("first")

        given_up = asyncio.create_task(turns.work(first, _is_here))
        second = asyncio.create_task(turns.work(lambda: order.append("second"), _is_here))
        while not turns.working:
            await asyncio.sleep(0.01)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert turns.working
        assert not second.done()
        proceed.set()
        await second
        return order

    assert asyncio.run(run()) == ["first", "second"]


def test_the_turn_of_a_client_that_is_gone_is_handed_over() -> None:
    async def is_gone() -> bool:
        return True

    async def run() -> int:
        turns = Turns(2)
        with pytest.raises(RefusedError, match="closed the connection"):
            await turns.work(lambda: 1, is_gone)
        with pytest.raises(ZeroDivisionError):
            await turns.work(lambda: 1 // 0, _is_here)
        return await turns.work(lambda: 3, _is_here)

    assert asyncio.run(run()) == 3
