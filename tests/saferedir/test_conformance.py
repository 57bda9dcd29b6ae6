"""The recorded cases of the reference implementation, in PyTorch and through the exported guard."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LMSDiscreteScheduler, PNDMScheduler

from engines.backends.contract import run_once
from engines.backends.registry import backend_spec
from engines.networks import NETWORKS, NOT_CHECKED
from export.onnx_file import export_network
from runtime.samplers.recurrence import apply_row
from runtime.samplers.registry import recurrence
from runtime.samplers.schedules import SchedulerConfig
from saferedir.guard import Concept, Guard
from saferedir.inference.algebra import InferenceHeads
from tests.conformance_cases import INDEX, StandInUnet, expected, normal, redirector
from tests.conftest import ENGINES, opened

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
OFFSET = {"steps_offset": 1, "set_alpha_to_one": False}
SCHEDULERS = {
    "ddim": lambda: DDIMScheduler(**SCHEDULE, **OFFSET, clip_sample=False),
    "pndm": lambda: PNDMScheduler(**SCHEDULE, **OFFSET, skip_prk_steps=True),
    "lmsd": lambda: LMSDiscreteScheduler(**SCHEDULE),
}
TRACES = pytest.mark.parametrize("case", INDEX["traces"], ids=lambda case: case["file"])


def close(found, wanted, relative: float) -> bool:
    """Largest difference within `relative` of the largest expected magnitude."""
    return np.abs(np.asarray(found) - wanted).max() <= relative * np.abs(wanted).max()


def unit(delta) -> np.ndarray:
    return np.asarray(delta) / np.linalg.norm(delta, axis=2, keepdims=True)


@pytest.mark.parametrize("winograd", [False, True], ids=["", "winograd"])
@pytest.mark.parametrize("case", INDEX["heads"], ids=lambda case: case["file"])
def test_heads(case, winograd):
    shape = (case["batch"], 4, case["height"], case["width"])
    inputs = (
        torch.from_numpy(normal(case["seed"], "heads.latent", shape)),
        torch.tensor(case["timesteps"]),
        torch.from_numpy(normal(case["seed"], "heads.embeds", (case["batch"], 77, 768))),
    )
    trained = redirector(case["seed"])
    with torch.no_grad():
        found, rearranged = trained(*inputs), InferenceHeads(trained, winograd)(*inputs)
    for name, wanted in expected(case).items():
        assert getattr(found, name).shape == wanted.shape
        assert close(getattr(found, name), wanted, 1e-4), name
        if name == "delta":  # one for all tokens, and only its direction counts
            assert rearranged.delta.shape == (case["batch"], 1, 768)
            assert close(np.broadcast_to(unit(rearranged.delta), wanted.shape), unit(wanted), 1e-4)
        else:
            assert close(getattr(rearranged, name), wanted, 1e-4), name


class Torch:
    """The guard in PyTorch, called as the exported one is."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard

    @torch.no_grad()
    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        return [output.numpy() for output in self.guard(*(torch.from_numpy(array) for array in inputs))]


class Exported:
    """The exported guard through a backend."""

    def __init__(self, path, backend) -> None:
        self.backend = backend
        self.engine = self.backend.load(path, NETWORKS["guard"])

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        named = {tensor.name: values for tensor, values in zip(self.engine.spec.inputs, inputs, strict=True)}
        (images, _, height, width), rows = inputs[0].shape, len(inputs[2])
        sizes = {"B": images, "CB": rows, "K": 1, "D": 768, "H": height, "W": width}
        return list(run_once(self.engine, self.backend, named, sizes).values())


@cache
def _exported(folder, seed: int, mask_again: bool, winograd: bool):
    path = folder / f"guard_{seed}_{mask_again}_{winograd}.onnx"
    export_network(
        Guard(Concept(redirector(seed), mask_again)).for_inference(winograd), NETWORKS["guard"], {"D": 768, "K": 1}, path
    )
    return path


@pytest.fixture(scope="session")
def export_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("guards")


@pytest.fixture(params=[None, *ENGINES], ids=lambda engine: "-".join(engine or ("torch",)))
def make_guard(request, export_folder):
    def make(case):
        if request.param is None:
            return Torch(Guard(Concept(redirector(case["seed"]), case["mask_again"])))
        path = _exported(export_folder, case["seed"], case["mask_again"], backend_spec(request.param[0]).winograd)
        return Exported(path, opened(*request.param))

    return make


def guarded_run(case, guard, advance, timesteps, noise, first_input):
    """One guarded trace; `advance(index, sample, prediction)` gives the next sample and the next model input."""
    unet = StandInUnet(case["seed"])
    original = normal(case["seed"], "loop.embeds", (2, 77, 768))
    sample, model_input, embeds = noise, first_input, original
    shifts, countdown = np.zeros_like(original)[None], np.zeros((1, 1), np.int32)
    numbers = (
        np.full((1, 2), case["alpha_scale"], np.float32),
        np.full((1, 1), 0.5, np.float32),
        np.full((1, 1), case["replace_steps"], np.int32),
        np.zeros(1, np.bool_),
    )
    steps = []
    for index, timestep in enumerate(timesteps):
        half = unet(np.concatenate([model_input] * 2), timestep, embeds)
        prediction = half[:1] + case["guidance_scale"] * (half[1:] - half[:1])
        times = np.full(1, timestep, np.float32)
        embeds, shifts, countdown, p_unsafe, unsafe = guard(sample, times, original, shifts, countdown, *numbers)
        assert unsafe.dtype == np.bool_ and unsafe[0, 0] == (p_unsafe[0, 0] > 0.5)
        sample, model_input = advance(index, sample, prediction.astype(np.float32))
        steps.append((float(p_unsafe[0, 0]), int(countdown[0, 0]), embeds, sample))
    return steps


def hold_decisions(case, steps):
    """Compare what a run decided with the recorded decisions; the largest difference of a probability."""
    wanted = expected(case)
    p_unsafe = np.array([step[0] for step in steps])
    assert (p_unsafe != NOT_CHECKED).tolist() == wanted["checked"].astype(bool).tolist()
    checked = p_unsafe != NOT_CHECKED
    logits = wanted["logits"].reshape(-1, 2)[checked]
    assert ((p_unsafe[checked] > 0.5) == (logits[:, 1] > logits[:, 0])).all()
    assert [step[1] for step in steps] == wanted["countdown"].astype(int).tolist()
    return np.abs(p_unsafe[checked] - 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))).max()


def hold(case, steps, noise):
    """Compare a run with the recorded one: decisions exactly, arrays to 1e-3."""
    assert hold_decisions(case, steps) < 2e-3
    wanted = expected(case)
    probes = [noise[0, :, ::9, ::9], *(step[3][0, :, ::9, ::9] for step in steps)]
    assert close(np.stack(probes), wanted["latents_probe"].reshape(len(probes), *probes[0].shape), 1e-3)
    assert close(np.stack([step[2][:, ::19, ::97] for step in steps]), wanted["embeds_probe"], 1e-3)
    assert close([np.linalg.norm(step[2]) for step in steps], wanted["embeds_norm"].ravel(), 1e-3)
    assert close(steps[-1][2], wanted["final_embeds"], 1e-3)
    assert close(steps[-1][3], wanted["final_latents"], 1e-3)


@TRACES
def test_trace_with_diffusers_schedulers(case, make_guard):
    hold(case, *run_with_diffusers(case, make_guard(case)))


def run_with_diffusers(case, guard):
    """A trace's steps, and its initial noise."""
    scheduler = SCHEDULERS[case["scheduler"]]()
    scheduler.set_timesteps(case["steps"])
    noise = normal(case["seed"], "loop.noise", (1, 4, case["height"], case["width"])) * float(scheduler.init_noise_sigma)

    def scaled(index, sample):
        if index >= len(scheduler.timesteps):
            return sample
        return scheduler.scale_model_input(torch.from_numpy(sample), scheduler.timesteps[index]).numpy()

    def advance(index, sample, prediction):
        following = scheduler.step(
            torch.from_numpy(prediction), scheduler.timesteps[index], torch.from_numpy(sample)
        ).prev_sample.numpy()
        return following, scaled(index + 1, following)

    timesteps = scheduler.timesteps.tolist()
    noise = noise.astype(np.float32)
    return guarded_run(case, guard, advance, timesteps, noise, scaled(0, noise)), noise


@TRACES
def test_trace_with_recurrences(case, make_guard):
    scheduler = SCHEDULERS[case["scheduler"]]()
    ours = recurrence(
        case["scheduler"].replace("lmsd", "lms"),
        case["steps"],
        SchedulerConfig.read({"_class_name": type(scheduler).__name__, **scheduler.config}),
    )
    shape = (1, 4, case["height"], case["width"])
    noise = (normal(case["seed"], "loop.noise", shape) * ours.init_noise_sigma).astype(np.float32)
    state = np.zeros((ours.slots, *shape), np.float32)
    state[0] = noise

    def advance(index, sample, prediction):
        nonlocal state
        state, model_input = apply_row(ours.matrices[index], state, prediction, np.zeros(shape, np.float32))
        return state[0], model_input

    first = (noise * ours.input_scale).astype(np.float32)
    hold(case, guarded_run(case, make_guard(case), advance, ours.timesteps, noise, first), noise)
