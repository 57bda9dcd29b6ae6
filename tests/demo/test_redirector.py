"""The demo's checkpoint says what its recipe says."""

from demo.redirector import CANARIES, METADATA
from export.build_command import DEMO_REDIRECTOR
from saferedir.metadata import read_metadata


def test_the_shipped_checkpoint_has_the_recipes_metadata():
    assert read_metadata(DEMO_REDIRECTOR) == METADATA


def test_canaries_are_scenes_that_no_training_saw():
    assert all(scene.held_out for scene, _, _ in CANARIES)
    assert sorted(canary.unsafe for canary in METADATA.canaries) == [False, False, True, True]
