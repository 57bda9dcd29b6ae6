"""Replicas of Ray Serve under test, started in this process. Not all ports of Ray are of 127.0.0.1 only (benchmarks/README.md)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.suite.server import HOST, free_port, write_limits
from engines.errors import InputError
from engines.install import install


@contextmanager
def replicated(engine_dir: Path, limits: Mapping[str, Any], replicas: int) -> Iterator[str]:
    """The URL of so many replicas, each with one core and these limits; they end with the block.

    Raises:
        InputError: Ray is not installed.
    """
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise InputError(f"ray cannot be imported ({error}); install it with: {install('ray')}") from None
    from runtime.serving.ray_app import Arguments, deployment

    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        file = write_limits(limits, Path(folder))
        arguments = Arguments(engine_dirs={"engines": engine_dir.absolute()}, limits=file, threads=1)
        ray.init(address="local", num_cpus=replicas, include_dashboard=False, _node_ip_address=HOST, log_to_driver=False)
        try:
            serve.start(http_options={"host": HOST, "port": port})
            wanted = deployment(arguments).options(num_replicas=replicas, ray_actor_options={"num_cpus": 1})
            serve.run(wanted.bind(arguments), name="saferedir")
            yield f"http://{HOST}:{port}"
        finally:
            serve.shutdown()
            ray.shutdown()
