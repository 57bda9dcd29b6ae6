"""Ray Serve: its configurations are valid, and a killed replica loses no request."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
NETWORK = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")  # Ray does not keep all its ports local

pytest.importorskip("ray", reason="Ray is not installed; pip install '.[ray]'")


@pytest.mark.parametrize("name", ("demo.yaml", "gpus.yaml", "kuberay.yaml"))
def test_a_configuration_is_one_of_ray_serve(name):
    import yaml
    from ray.serve.schema import ServeDeploySchema

    from runtime.serving.ray_app import Arguments

    content = yaml.safe_load((ROOT / "deploy" / "ray" / name).read_text())
    if "spec" in content:
        content = yaml.safe_load(content["spec"]["serveConfigV2"])
    (application,) = ServeDeploySchema.model_validate(content).applications
    assert application.import_path == "runtime.serving.ray_app:application"
    assert Arguments(**application.args).first in Arguments(**application.args).engine_dirs


def test_unknown_arguments_are_errors():
    from pydantic import ValidationError

    from runtime.serving.ray_app import Arguments

    with pytest.raises(ValidationError, match="engine_dir\n.*Extra inputs are not permitted"):
        Arguments(engine_dirs={"demo": "engines/plans/demo"}, engine_dir="engines/plans/demo")
    with pytest.raises(ValidationError, match="engine_dirs\n.*at least 1 item"):
        Arguments(engine_dirs={})


@pytest.mark.slow
def test_a_killed_replica_loses_no_request(demo_engines):
    if shutil.which("unshare") is None or subprocess.run([*NETWORK, "true"], capture_output=True).returncode:
        pytest.skip("no network namespace can be made here (unshare --net), and Ray listens on more than 127.0.0.1")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [*NETWORK, sys.executable, "-m", "tests.serving.ray_under_load", str(demo_engines)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))  # Ray prints, too
    assert found["replicas"] == found["replicas_after"] == 2
    assert found["answered"] == 60 and found["pictures_of_a_seed"] == 1
    assert found["pictures_of_folders"] == 1
    assert found["missing"] == [503, "not_ready"] and found["other"] == [404, "unknown_engines"]
