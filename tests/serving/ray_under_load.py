"""Two replicas of Ray Serve under load, one of them killed. Run by test_ray.py, in a network of its own; prints JSON.

`python -m tests.serving.ray_under_load ENGINE_DIR`. Nothing but what is started here is stopped.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from pathlib import Path

import httpx
import ray
from ray import serve
from ray.util import list_named_actors

from runtime.serving.ray_app import Arguments, deployment

PORT, REQUESTS, AT_ONCE, KILLED_AFTER, TRIES = 18000, 60, 6, 15, 5
URL = f"http://127.0.0.1:{PORT}"
MODEL = "serve_multiplexed_model_id"  # a header


async def picture(client: httpx.AsyncClient, seed: int, engines: str = "demo") -> tuple[str, int]:
    """SHA-256 of the PNG of a seed, and how often it was asked for: as OpenAI's clients do, again after 5xx or 429."""
    body = {"prompt": "a burning blue square", "seed": seed, "num_inference_steps": 4, "scheduler": "ddim", "n": 1}
    for tries in range(1, TRIES + 1):
        try:
            answer = await client.post(f"{URL}/v1/images/generations", json=body, timeout=120, headers={MODEL: engines})
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code == 200:
            return hashlib.sha256(answer.json()["data"][0]["b64_json"].encode()).hexdigest(), tries
        if answer is not None and answer.status_code < 500 and answer.status_code != 429:
            raise RuntimeError(f"{answer.status_code}: {answer.text[:200]}")
        await asyncio.sleep(0.5 * tries)
    raise RuntimeError(f"seed {seed}: no picture in {TRIES} tries")


def replicas() -> list[str]:
    """Names of the living replicas' actors."""
    return [actor["name"] for actor in list_named_actors(all_namespaces=True) if actor["name"].startswith("SERVE_REPLICA")]


async def several_folders() -> dict[str, object]:
    """A folder that takes the other's place, that other again, one that cannot be opened, and one that nobody named."""
    async with httpx.AsyncClient() as client:
        pictures = [(await picture(client, 0, engines))[0] for engines in ("demo", "same", "demo")]
        answers = {name: await client.get(f"{URL}/v1/models", headers={MODEL: name}, timeout=120) for name in ("missing", "other")}
    return {
        "pictures_of_folders": len({*pictures}),
        **{name: [answer.status_code, answer.json()["error"]["code"]] for name, answer in answers.items()},
    }


async def under_load() -> dict[str, object]:
    """Every seed twice: the second time, after a replica was killed, the pictures must be the same."""
    pictures: dict[int, set[str]] = {}
    tries: list[int] = []
    done = 0
    limit = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient() as client:

        async def one(seed: int) -> None:
            nonlocal done
            async with limit:
                digest, asked = await picture(client, seed)
            pictures.setdefault(seed, set()).add(digest)
            tries.append(asked)
            done += 1

        jobs = [asyncio.create_task(one(number % (REQUESTS // 2))) for number in range(REQUESTS)]
        while done < KILLED_AFTER:
            await asyncio.sleep(0.05)
        before = replicas()
        ray.kill(ray.get_actor(before[0], namespace="serve"), no_restart=True)
        await asyncio.gather(*jobs)
    for _ in range(600):
        if len(replicas()) == len(before):
            break
        await asyncio.sleep(0.2)
    return {
        "replicas": len(before),
        "replicas_after": len(replicas()),
        "answered": len(tries),
        "asked_again": sum(asked > 1 for asked in tries),
        "pictures_of_a_seed": max(map(len, pictures.values())),
    }


def main() -> None:
    """Start Ray here, and stop it again."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": PORT})
        folder = Path(sys.argv[1])
        arguments = Arguments(engine_dirs={"demo": folder, "same": folder, "missing": folder / "missing"}, default="demo")
        serve.run(deployment(arguments).options(num_replicas=2).bind(arguments), name="saferedir")
        print(json.dumps({**asyncio.run(under_load()), **asyncio.run(several_folders())}))
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
