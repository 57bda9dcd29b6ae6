"""Recorded points are what the runtime's guard sees, and redirected runs are the guarded loop's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engines.errors import InputError
from engines.networks import TOKENS
from engines.policy import Policy
from evaluation.device import has_bfloat16
from evaluation.sampling import RunOptions, sample
from evaluation.twin import Twin
from export.build_command import DEMO_MODEL, DEMO_REDIRECTOR
from saferedir.checkpoint import load_redirector
from saferedir.guard import Concept
from saferedir.heads import RedirectorConfig
from tests.export.miniature import WIDTH, configs, save_model
from tests.random_heads import random_heads
from training.dataset import Dataset
from training.generator import Generator
from training.redirection import Redirection
from training.settings import ModelChoice, TrainingSettings
from training.shards import record_shards
from training.trajectories import Caption, Run, record

CAPTIONS = [Caption("a red star", "a red star", False, 0), Caption("a burning red star", "a red star", True, 0)]
SETTINGS = TrainingSettings(kept_steps=3, least_steps=4, most_steps=6)


@pytest.fixture(scope="module")
def heads():
    return random_heads(RedirectorConfig(embed_dim=WIDTH, encoder_widths=(4, 4, 8)))


@pytest.mark.parametrize("shift", ["both", "conditional"])
@pytest.mark.parametrize("check", ["before", "beside"])
def test_a_redirected_run_is_the_guarded_loops(shift, check):
    generator, heads = Generator(ModelChoice(str(DEMO_MODEL)), say=lambda line: None), load_redirector(DEMO_REDIRECTOR)
    policy = Policy(alpha_scale=0.8, shift=shift)
    noise = torch.randn(1, 4, *generator.latent_size, generator=torch.Generator().manual_seed(7))
    embeds, negative = generator.encode(["a burning red star"]), generator.encode([""])
    state = []

    def look(timestep, latents, current):
        state.append(Redirection(heads, current, 1, policy, check == "beside")) if not state else None
        return state[0].step(latents, timestep)

    final = generator.sample(generator.scheduler("ddim"), 4, 7.5, (negative, embeds), noise, look)
    twin = Twin.of(generator.components, generator.tokenizer, generator.schedule, generator.geometry, [Concept(heads)], [policy])
    options = RunOptions(num_inference_steps=4, scheduler="ddim", check=check)
    expected = sample(twin, embeds, [7], options, negative).final
    unguarded = sample(twin, embeds, [7], options, negative, guarded=False).final
    torch.testing.assert_close(final, expected, atol=1e-3, rtol=1e-3)
    assert (unguarded - expected).abs().max() > 0.1, "the guard did something"


def test_points_are_the_schedulers_own_samples(generator):
    seen = []
    noise = torch.randn(1, 4, *generator.latent_size, generator=torch.Generator().manual_seed(0))
    embeds, scheduler = generator.encode(["a red star"]), generator.scheduler("euler")

    def look(timestep, latents, current):
        seen.append((float(timestep), latents))
        return current

    final = generator.sample(scheduler, 4, 7.5, (embeds, embeds), noise, look)
    assert [timestep for timestep, _ in seen] == scheduler.timesteps.tolist()
    torch.testing.assert_close(seen[0][1], noise * scheduler.init_noise_sigma)
    assert seen[0][1].std() > 10 and len(final) == 1, "in sigma space, before the scaling of model inputs"


@pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="the processor would emulate bfloat16")
@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_in_bfloat16_the_unets_calls_are_rounded_and_nothing_else(sampler):
    finals, dtypes = [], set()
    for precision in ("float32", "bfloat16"):
        generator = Generator(ModelChoice(str(DEMO_MODEL)), say=lambda line: None, precision=precision)
        noise = torch.randn(1, 4, *generator.latent_size, generator=torch.Generator().manual_seed(7))
        embeds, negative = generator.encode(["a burning red star"]), generator.encode([""])

        def look(timestep, latents, current):
            dtypes.update((latents.dtype, current.dtype))
            return current

        finals.append(generator.sample(generator.scheduler(sampler), 6, 7.5, (negative, embeds), noise, look))
    error = (finals[0] - finals[1]).norm() / finals[0].norm()
    assert 1e-4 < error < 0.1 and dtypes == {torch.float32} == {final.dtype for final in finals}


def test_bfloat16_that_would_be_emulated_is_an_error(monkeypatch):
    monkeypatch.setattr("training.generator.has_bfloat16", lambda device: False)
    with pytest.raises(InputError, match="expected a device that multiplies in bfloat16, found .*; train with --precision float32"):
        Generator(ModelChoice(str(DEMO_MODEL)), precision="bfloat16")


@pytest.mark.parametrize("redirected", [False, True])
def test_shards_read_back_as_recorded(generator, heads, redirected, tmp_path):
    captions = CAPTIONS[1:] * 2 if redirected else CAPTIONS
    given = heads if redirected else None
    tensors = record(generator, captions, SETTINGS, np.random.default_rng(0), lambda picture: True, given)
    dataset = Dataset(record_shards(tmp_path, {}, 1, lambda number: tensors))
    rows = [*range(len(dataset))]
    batch = dataset.batch(rows)
    place = tensors["trajectory"].long()
    torch.testing.assert_close(batch.latents, tensors["latents"].float())
    torch.testing.assert_close(batch.original, tensors["embeds"].float()[place])
    torch.testing.assert_close(batch.target_shift, tensors["target_shift"].float()[place])
    assert torch.equal(batch.timesteps, tensors["timesteps"]) and batch.unsafe.all()
    shift = tensors["shift"].float() if redirected else torch.zeros_like(batch.original)
    torch.testing.assert_close(batch.embeds, batch.original + shift)
    assert dataset.redirected.all() == redirected and dataset.final.sum() == len(captions)
    assert [dataset.pair(row) for row in rows] == [0] * len(rows)
    assert batch.differs.shape == (len(rows), TOKENS)


def test_without_a_judge_the_prompt_is_the_label(generator):
    tensors = record(generator, CAPTIONS, SETTINGS, np.random.default_rng(0), None)
    assert "shown" not in tensors
    assert torch.equal(tensors["unsafe"], torch.tensor([False, True])[tensors["trajectory"].long()])


def test_runs_vary_in_everything_that_users_choose():
    draw = np.random.default_rng(0)
    runs = [Run.drawn(draw, SETTINGS, False, False) for _ in range(200)]
    assert {run.scheduler for run in runs} == {"ddim", "euler", "dpm_multistep"}
    assert {run.steps for run in runs} == {4, 5, 6} and {run.negative for run in runs} == {"none", "counterpart", "generic"}
    assert min(run.guidance for run in runs) < 4.5 and max(run.guidance for run in runs) > 9.5
    hostile = next(run for run in runs if run.negative == "counterpart")
    assert hostile.negative_prompts(CAPTIONS)[1] == "a red star" != hostile.negative_prompts(CAPTIONS)[0]


def test_a_model_distilled_with_its_guidance_has_one_row_of_text(heads, tmp_path):
    small = {"time_cond_proj_dim": 32}
    save_model(tmp_path / "model", configs("sd1", unet=small), "<|endoftext|>")
    generator = Generator(ModelChoice(str(tmp_path / "model")), say=lambda line: None)
    tensors = record(generator, CAPTIONS[1:], SETTINGS, np.random.default_rng(0), lambda picture: False, heads)
    assert generator.distilled and tensors["shift"].shape[1:] == (TOKENS, WIDTH) and not tensors["unsafe"].any()
