"""Producer, forwarder, two central drainers and Redis itself, each killed with SIGKILL at random moments under load.

A process of its own, because it forks while nothing else runs. Prints what was acknowledged and what is stored as JSON.
"""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from retrain.data_collection.collector import DataCollectionService
from retrain.data_collection.queue import SpoolLimits
from retrain.data_collection.redis_backend.care import StreamCare
from retrain.data_collection.redis_backend.connection import RedisConnection
from retrain.data_collection.redis_backend.drainer import StreamDrainer
from retrain.data_collection.redis_backend.forwarder import StreamForwarder
from retrain.data_collection.redis_backend.stream import RedisStream
from retrain.data_collection.spool.reader import spool_depth
from retrain.data_collection.store.intake import Intake
from retrain.data_collection.store.samples import SampleStore
from retrain.errors import RetrainError
from retrain.storage.digests import content_digest
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.state import open_state
from tests.integration.data_collection.redis_world import DURABLE, drawn, png, redis_server, stored

DEAD_AFTER_S = 0.3
REPEATED = 40
"""Every third frame is one of so many pictures, the others are new."""


class World:
    """What all processes share: folders, and where Redis is."""

    def __init__(self, folder, url):
        self.folder, self.url = folder, url
        (folder / "acknowledged").mkdir(exist_ok=True)

    def state(self):
        return open_state(f"sqlite:///{self.folder / 'state.db'}")

    def stream(self):
        # Kills are no fault of the frames here, so none may be put aside for them.
        return RedisStream(RedisConnection(self.url, 1.0), min_idle_s=DEAD_AFTER_S, max_deliveries=1000)

    def blobs(self):
        return LocalBlobs(self.folder / "blobs")

    def forwarder(self):
        return StreamForwarder(self.folder / "spool", self.stream())

    def drainer(self, host):
        folder = self.folder / host
        store = SampleStore(self.state(), self.blobs(), folder / "cache", host)
        return StreamDrainer(self.stream(), Intake(store), folder)

    def produce(self, child):
        """Collect until killed; a frame is acknowledged only after `collect` returned."""
        service = DataCollectionService(
            self.folder,
            "all",
            state=self.state(),
            blobs=self.blobs(),
            background=False,
            limits=SpoolLimits(segment_bytes=60_000, max_bytes=10**9),
        )
        name = self.folder / "acknowledged" / str(child)
        acknowledged = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in range(100_000):
            data = png(number % REPEATED if number % 3 == 0 else 100_000 * (child + 1) + number, size=8)
            if service.collect(image=data, confidence=0.5).taken:
                os.write(acknowledged, (content_digest(data) + "\n").encode())
            time.sleep(0.001)


def repeat(work):
    """Do it until killed, whatever Redis and the store say."""
    while True:
        try:
            work()
        except RetrainError as error:
            print(error, file=sys.stderr)
        time.sleep(0.01)


def start(work, *arguments):
    pid = os.fork()
    if pid == 0:
        try:
            work(*arguments)
        finally:
            os._exit(9)
    return pid


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(world, server, kills, server_kills, seed):
    rng = random.Random(seed)
    children = iter(range(10_000))
    roles = {
        "producer": lambda: start(world.produce, next(children)),
        "forwarder": lambda: start(lambda: repeat(world.forwarder().drain)),
        "one": lambda: start(lambda: repeat(world.drainer("one").drain)),
        "two": lambda: start(lambda: repeat(world.drainer("two").drain)),
    }
    running = {role: begin() for role, begin in roles.items()}
    victims = [*roles] * kills + ["redis"] * server_kills
    rng.shuffle(victims)
    exits = []
    for victim in victims:
        time.sleep(rng.uniform(0.01, 0.15))
        if victim == "redis":
            server.kill()
            time.sleep(rng.uniform(0.0, 0.2))
            server.start()
            continue
        exits.append(kill(running[victim]))
        running[victim] = roles[victim]()
    return exits + [kill(pid) for pid in running.values()]


def finish(world):
    """Undisturbed passes until nothing waits."""
    care = StreamCare(RedisConnection(world.url))
    for _ in range(100):
        world.forwarder().drain()
        world.drainer("one").drain()
        if care.depth().entries == 0:
            break
        time.sleep(DEAD_AFTER_S)
    # Its own leftovers are tidied by whoever comes next in its folder.
    world.drainer("two").drain()
    return care.depth()


def findings(world):
    depth = finish(world)
    acknowledged = []
    for path in (world.folder / "acknowledged").iterdir():
        acknowledged += path.read_text().split("\n")[:-1]
    state = world.state()
    rows, draws = stored(state), drawn(state)
    samples = SampleStore(state, world.blobs(), world.folder / "check", "check")
    counted = Counter(draw.sample_id for draw in draws)
    return {
        "acknowledged": len(acknowledged),
        "pictures": len(set(acknowledged)),
        "draws": len(draws),
        "outcomes": Counter(draw.outcome for draw in draws),
        "lost": sum((Counter(acknowledged) - counted).values()),
        "stored": len(rows),
        "readable": sum(content_digest(samples.image(row)) == row.id for row in rows),
        "packs": len(list(world.blobs().keys("packs/"))) - len({row.pack for row in rows}),
        "left": [depth.entries, depth.image_bytes, depth.dead, spool_depth(world.folder / "spool").records],
    }


if __name__ == "__main__":
    target, kills, server_kills, seed = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    (target / "redis").mkdir()
    with redis_server(target / "redis", *DURABLE) as server:
        world = World(target, server.url)
        world.state().close()
        exits = run(world, server, kills, server_kills, seed)
        print(json.dumps({"killed": exits.count(-signal.SIGKILL), "ended": len(exits), **findings(world)}))
