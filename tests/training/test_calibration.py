"""Threshold, ROC, accuracy over the run, final check and canaries, where the answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engines.pairs import Pair
from engines.policy import Policy
from saferedir.heads import HeadsOutput
from training.calibration import FINAL, LEAST_THRESHOLD, FinalCheck, calibrated, classifier_figures, final_check, roc, step_accuracy
from training.canaries import choose_canaries
from training.losses import Batch


@pytest.mark.parametrize("rate, threshold, found", [(0.0, 0.8, 0.0), (0.1, 0.7, 0.1), (0.5, 0.3, 0.5)])
def test_the_threshold_lets_through_no_more_than_was_asked_for(rate, threshold, found):
    highest = np.array([0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1])
    p_unsafe, trajectory = np.concatenate([highest, highest / 2]), np.tile(np.arange(10), 2)
    result = calibrated(p_unsafe, trajectory, rate)
    assert (result.threshold, result.false_positive_rate, result.trajectories) == (pytest.approx(threshold, abs=1e-3), found, 10)


def test_the_threshold_keeps_away_from_both_ends():
    assert calibrated(np.array([1e-5, 1e-4]), np.arange(2), 0.0).threshold == LEAST_THRESHOLD
    high = calibrated(np.array([1.0, 1e-4]), np.arange(2), 0.0)
    assert high.threshold < 1 and high.false_positive_rate == 0.5, "what could not be kept is said"


def test_figures_of_a_classifier():
    p_unsafe, unsafe = np.array([0.9, 0.8, 0.2, 0.6, 0.1]), np.array([True, True, True, False, False])
    figures = classifier_figures(p_unsafe, unsafe, 0.5)
    assert (figures.unsafe, figures.safe) == (3, 2)
    assert (figures.precision, figures.recall, figures.false_positive_rate) == pytest.approx((2 / 3, 2 / 3, 1 / 2))
    points = {point.threshold: (point.recall, point.false_positive_rate) for point in roc(p_unsafe, unsafe)}
    assert points[0.7] == (pytest.approx(2 / 3), 0) and points[0.001] == (1, 1) and points[0.999] == (0, 0)
    assert classifier_figures(p_unsafe, unsafe, 0.95).precision is None


@pytest.mark.parametrize(
    "check, trusted",
    [
        (FinalCheck(0.5, unsafe=100, flagged=95, safe=200, false_alarms=1), True),
        (FinalCheck(0.5, unsafe=100, flagged=94, safe=200, false_alarms=0), False),
        (FinalCheck(0.5, unsafe=100, flagged=100, safe=100, false_alarms=1), False),
        (FinalCheck(0.5, unsafe=10, flagged=10, safe=200, false_alarms=0), False),
    ],
    ids=["good", "misses", "false alarms", "too few"],
)
def test_a_final_check_is_trusted_by_its_figures(check, trusted):
    assert check.trusted == trusted


class FakeHeads:
    """Says unsafe by the mean of one input."""

    pos_embed = torch.zeros(1)

    def __init__(self, reads):
        self.reads = reads

    def __call__(self, latents, timesteps, embeds):
        score = {"latent": latents, "prompt": embeds}[self.reads].flatten(1).mean(dim=1)
        return HeadsOutput(torch.stack([-9 * score, 9 * score], dim=1), None, None, None)


class FakeDataset:
    """Points whose latents and embeddings are 1 where they are unsafe and -1 where not; the last half of them final.

    The latents of the `hard` ones are a little above 0, whatever they are.
    """

    def __init__(self, count, redirected=True, hard=()):
        self.unsafe, self.final = np.arange(count) % 2 == 0, np.arange(count) >= count // 2
        self.hard = np.isin(np.arange(count), hard)
        self.redirected, self.timesteps = np.full(count, redirected), np.where(self.final, 0.0, 450.0)

    def batch(self, rows):
        unsafe = torch.tensor(self.unsafe[rows])
        sign = torch.where(unsafe, 1.0, -1.0)
        embeds = sign.reshape(-1, 1, 1).expand(-1, 77, 4)
        latents = torch.where(torch.tensor(self.hard[rows]), 0.1, sign).reshape(-1, 1, 1, 1).expand(-1, 4, 2, 2)
        return Batch(latents, torch.zeros(len(rows)), embeds, unsafe, embeds, embeds, embeds[:, :, 0] > 9)


@pytest.mark.parametrize("reads", ["latent", "prompt"])
def test_accuracy_over_the_run_says_which_input_is_read(reads):
    dataset = FakeDataset(400)
    early, final = step_accuracy(FakeHeads(reads), dataset, np.arange(400), Policy())
    assert (early.timestep, final.timestep, early.points) == (400, FINAL, 200)
    for step in (early, final):
        ignored = {"latent": "prompt", "prompt": "latent"}[reads]
        assert step.both == getattr(step, reads) == 1
        assert 0.4 < getattr(step, ignored) < 0.6, "chance"


def test_the_final_check_is_measured_on_final_latents():
    plain = FakeDataset(80, redirected=False)
    assert final_check(FakeHeads("latent"), FakeDataset(80), plain) == FinalCheck(LEAST_THRESHOLD, 20, 20, 20, 0)


@pytest.mark.parametrize("redirected, benign", [([399], []), ([], [399])], ids=["redirected", "benign"])
def test_the_final_check_has_the_threshold_that_safe_pictures_of_both_kinds_need(redirected, benign):
    held_out = FakeDataset(400, hard=redirected)
    check = final_check(FakeHeads("latent"), held_out, FakeDataset(400, redirected=False, hard=benign))
    assert check == FinalCheck(pytest.approx(0.859), 100, 100, 100, 0), "one of a hundred is more than are allowed"


class FakeGenerator:
    distilled, latent_size, device = False, (2, 2), torch.device("cpu")

    def encode(self, prompts):
        return torch.tensor([[1.0 if "burning" in prompt else -1.0] for prompt in prompts]).reshape(-1, 1, 1).expand(-1, 77, 4)

    def scheduler(self, name):
        return name

    def sample(self, scheduler, steps, guidance, prompts, noise, look):
        return prompts[1][:, :1, :1]

    def pictures(self, latents):
        return latents.reshape(-1).numpy()


def test_canaries_are_pairs_that_guard_and_generator_get_right():
    pairs = [
        Pair("a sun", "a hot sun"),
        *(Pair(f"a {colour} star", f"a burning {colour} star") for colour in ("red", "blue", "teal")),
    ]
    judge = lambda picture: picture > 0  # noqa: E731
    chosen = choose_canaries(FakeHeads("prompt"), FakeGenerator(), pairs, 0.5, judge)
    assert [(canary.prompt, canary.unsafe) for canary in chosen] == [
        ("a red star", False),
        ("a burning red star", True),
        ("a blue star", False),
        ("a burning blue star", True),
    ], "not the pair that the guard gets wrong, and two of the others"
    assert [canary.seed for canary in chosen] == [1, 1, 2, 2]
    assert not choose_canaries(FakeHeads("prompt"), FakeGenerator(), pairs, 0.5, lambda picture: False), "not drawn"
    assert len(choose_canaries(FakeHeads("prompt"), FakeGenerator(), pairs, 0.5, None)) == 4
