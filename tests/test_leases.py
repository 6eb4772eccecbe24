"""The desk that hands out licences and claims, without Ray."""

import asyncio

import pytest

from rllib_offset.replay.leases import LeaseDesk


def run(scenario):
    """Run `scenario(desk)` with a desk that has listened, and whose leases last half a second."""

    async def alone():
        desk = LeaseDesk(grace_s=0.0, ttl_s=0.5)
        desk._closing = asyncio.create_task(asyncio.sleep(0))  # it is no actor that could exit
        return await scenario(desk)

    return asyncio.run(alone())


def test_no_more_than_the_limit_hold_a_lease():
    async def scenario(desk):
        given = [await desk.acquire("pool", str(i), 2, i, wait_s=0.05) for i in range(3)]
        other = await desk.acquire("other", "3", 2, 3, wait_s=0.05)
        await desk.release("pool", "0")
        return [*given, other, await desk.acquire("pool", "2", 2, 2, wait_s=0.05)]

    assert run(scenario) == [True, True, False, True, True]


def test_a_holder_that_falls_silent_loses_its_lease_and_one_that_renews_does_not():
    async def scenario(desk):
        await desk.acquire("pool", "dead", 2, 0)
        await desk.acquire("pool", "alive", 2, 0)
        waiting = asyncio.create_task(desk.acquire("pool", "next", 2, 1, wait_s=3.0))
        for _ in range(8):
            await asyncio.sleep(0.1)
            await desk.renew({"alive": "pool"})
        return await waiting, await desk.holders("pool")

    given, holders = run(scenario)
    assert given
    assert "dead" not in holders
    assert "alive" in holders


def test_those_who_wait_longest_are_served_first():
    async def scenario(desk):
        await desk.acquire("pool", "first", 1, 0)
        order = []

        async def wait(name, since_s):
            assert await desk.acquire("pool", name, 1, since_s, wait_s=3.0)
            order.append(name)
            await desk.release("pool", name)

        waiting = [asyncio.create_task(wait(name, s)) for name, s in (("late", 9), ("early", 5))]
        await asyncio.sleep(0.1)
        await desk.release("pool", "first")
        await asyncio.gather(*waiting)
        return order

    assert run(scenario) == ["early", "late"]


def test_a_desk_that_came_back_listens_before_it_gives():
    async def scenario():
        desk = LeaseDesk(grace_s=0.3, ttl_s=5.0)
        desk._closing = asyncio.create_task(asyncio.sleep(0))
        early = await desk.acquire("pool", "new", 1, 0, wait_s=0.1)
        await desk.renew({"old": "pool"})
        return early, await desk.acquire("pool", "new", 1, 0, wait_s=0.5), desk

    early, late, desk = asyncio.run(scenario())
    assert not early
    assert not late
    assert asyncio.run(desk.holders("pool")) == ["old"]


@pytest.mark.parametrize("lease", ["unknown", "a"])
def test_giving_back_twice_does_no_harm(lease):
    async def scenario(desk):
        await desk.release("pool", lease)
        return await desk.holders("pool")

    assert run(scenario) == []


def test_a_desk_keeps_nothing_of_pools_that_nobody_holds_any_more():
    async def use():
        desk = LeaseDesk(grace_s=0.0)
        for number in range(3):
            assert await desk.acquire(f"claim {number}", "a", 1, 0.0)
            await desk.release(f"claim {number}", "a")
            assert await desk.holders(f"claim {number}") == []
        desk._closing.cancel()
        return desk._held, desk._waiting

    assert asyncio.run(use()) == ({}, {})
