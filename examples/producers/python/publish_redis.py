"""Publishes one event with one call of Redis:

    pip install redis
    python publish_redis.py CHANNEL DATA [TYPE [KEY]]

REDIS_URL names the Redis.
"""

import os
import random
import sys
import time
import uuid

import redis

client = redis.Redis.from_url(
    os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"), decode_responses=True, socket_timeout=5
)
ATTEMPTS = 6


def publish(channel, data, event="", key=None):
    """Publishes an event and returns its id. The key makes every repetition harmless."""
    key = key or str(uuid.uuid4())
    keys = ["sse:state", f"sse:history:{channel}", f"sse:idem:{channel}|{key}"]
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return client.fcall("sse_publish", len(keys), *keys, data, event)
        except redis.RedisError as error:
            # An error of the function itself, such as SSEINVALID, says that nothing was published.
            if str(error).startswith("SSE") or attempt == ATTEMPTS:
                raise
            time.sleep(0.1 * 2**attempt * random.uniform(0.5, 1.5))


if __name__ == "__main__":
    try:
        print(publish(*sys.argv[1:5]))
    except redis.RedisError as error:
        sys.exit(str(error))
