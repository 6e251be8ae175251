# SPDX-License-Identifier: Apache-2.0
"""An orchestrator: so many replicas of a service are kept running, whoever dies. Wants a server: `wherry-shim serve`.

    python replicas.py ROOTFS 3

It remembers nothing: what there is is compared with what is wanted, at its start, after each event, and every ten seconds. So it may be killed as
well as anybody else.

Prints:
    web-0: create
    web-1: create
    web-2: create
    3 of 3 are healthy
"""

import asyncio
import sys
from datetime import timedelta

from wherry import Config
from wherry_shim.client import Container, Health, Probe, Refused, RestartPolicy, Status, aio

ROOTFS, COUNT = sys.argv[1], int(sys.argv[2])
LABELS = {"app": "web"}
CONFIG = Config.sandbox(ROOTFS, ["sh", "-c", "touch /tmp/ready; while :; do sleep 0.2; done"])
RESTART = RestartPolicy(backoff=timedelta(milliseconds=100))  # the server's business: quick, and also while we are away
PROBE = Probe(("test", "-e", "/tmp/ready"), interval=timedelta(milliseconds=200), restart=True)


async def main() -> None:
    said = ""
    async with aio.Client(patience=3600) as client, client.subscribe() as events:  # first subscribe, then look: nothing falls between
        while True:
            healthy = await reconcile(client)
            line = f"{healthy} of {COUNT} are healthy"
            if line != said and healthy == COUNT:
                print(line, flush=True)
            said = line
            try:
                await asyncio.wait_for(events.next(), 10)
            except TimeoutError:
                pass


async def reconcile(client: aio.Client) -> int:
    """One step towards what is wanted; how many are healthy."""
    there = {one.id: one for one in await client.list(labels=LABELS)}
    wanted = {f"web-{number}" for number in range(COUNT)}
    for id in sorted(wanted | there.keys()):
        step = next_step(there.get(id), id in wanted)
        if not step:
            continue
        print(f"{id}: {step}", flush=True)
        try:
            if step == "create":
                await client.create(id, config=CONFIG, labels=LABELS, restart=RESTART, probe=PROBE, start=True)
            elif step == "start":
                await client.start(id)
            else:
                await client.delete(id, force=True)
        except Refused as refusal:  # somebody else was there meanwhile, or it cannot be done now: the next look tells
            print(f"{id}: {refusal}", file=sys.stderr, flush=True)
    return sum(there[id].health is Health.HEALTHY for id in wanted & there.keys())


def next_step(one: Container | None, wanted: bool) -> str:
    if one is None:
        return "create"
    if not wanted or one.status is Status.STOPPED:  # for good: the server will not bring it back
        return "delete"
    return "start" if one.status is Status.CREATED else ""


asyncio.run(main())
