"""What several tests of training begin with."""

from __future__ import annotations

import pytest

from tests.export.miniature import configs, save_model
from training.generator import Generator
from training.settings import ModelChoice


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """A miniature of Stable Diffusion 1.x with random weights."""
    folder = tmp_path_factory.mktemp("generator") / "model"
    save_model(folder, configs("sd1"), "<|endoftext|>")
    return Generator(ModelChoice(str(folder)), say=lambda line: None)
