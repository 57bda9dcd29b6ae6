"""Several concepts in one guard: each decides by itself, their shifts add up, and a call can switch one off."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from engines.errors import InputError
from engines.networks import NOT_CHECKED
from engines.policy import OFF, Policy
from export.build import build
from export.build_command import DEMO_MODEL, DEMO_REDIRECTOR
from export.build_request import BuildRequest, Checkpoint
from runtime import GuardedPipeline, read_png, save_png
from saferedir.checkpoint import load_redirector, save_redirector
from saferedir.cli import main
from tests.runtime.test_batches import assert_same
from tests.runtime.test_pipeline import FIRE, PLAIN, levels

PROMPTS = [FIRE, PLAIN, "a flaming pink star at the top of a black background", "a burning small red circle"]
STEPS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Heads whose guard finds nothing, and heads that find much, and what they find later than the demo's own."""
    folder = tmp_path_factory.mktemp("concepts")
    for name, weight, bias in (("nothing", 0.3, [20.0, -20.0]), ("heat", 0.4, [0.4, 0.0])):
        heads = load_redirector(DEMO_REDIRECTOR)
        with torch.no_grad():
            heads.classifier[3].weight.mul_(weight)
            heads.classifier[3].bias.copy_(torch.tensor(bias))
            heads.delta_head.up.weight.copy_(heads.delta_head.up.weight.roll(1, 0))
        save_redirector(heads, folder / f"{name}.safetensors")
    return folder


def opened(demo_engines, folder, *names):
    """A pipeline whose guard has the demo's concept among others, and its other networks from the demo's engines."""
    files = {"fire": DEMO_REDIRECTOR, "nothing": folder / "nothing.safetensors", "heat": folder / "heat.safetensors"}
    checkpoints = tuple(Checkpoint(files[name], name) for name in names)
    engines = shutil.copytree(demo_engines, folder / "-".join(names))
    build(BuildRequest(str(DEMO_MODEL), checkpoints, engines), report=lambda line: None)
    return GuardedPipeline(engines)


@pytest.fixture(scope="module")
def with_nothing(demo_engines, folder):
    with opened(demo_engines, folder, "nothing", "fire") as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def with_heat(demo_engines, folder):
    with opened(demo_engines, folder, "fire", "heat") as pipeline:
        yield pipeline


@torch.no_grad()
def plain_loop(model, heads, policies, prompt, seed, before):
    """One image by the rule as it is told, with the trained heads, branches and numbers: picture and p_unsafe [rows, K]."""
    scheduler = DDIMScheduler.from_config(model.scheduler.config)
    scheduler.set_timesteps(STEPS)
    conditional, negative = model.encode_prompt([prompt], "cpu", 1, True)
    original = embeds = torch.cat([negative, conditional])
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed))
    shifts, countdown, trace = [torch.zeros_like(original) for _ in heads], [0] * len(heads), []
    for timestep in scheduler.timesteps:
        seen, trace_row = embeds, [NOT_CHECKED] * len(heads)
        for concept, (network, policy) in enumerate(zip(heads, policies, strict=True)):
            if countdown[concept] > 0:
                countdown[concept] -= 1
                continue
            logits, delta, _, alpha = network(latents, timestep.float(), seen[1:])
            trace_row[concept] = float(torch.softmax(logits, 1)[0, 1])
            if trace_row[concept] > policy.threshold:
                direction = delta / delta.norm(dim=2, keepdim=True)
                shifts[concept] = policy.alpha_scale * alpha * direction * original.norm(dim=2, keepdim=True)
                if policy.shift == "conditional":
                    shifts[concept][0] = 0
                countdown[concept] = policy.replace_steps
        embeds = original + sum(shifts)
        trace.append(trace_row)
        free, guided = model.unet(torch.cat([latents] * 2), timestep, embeds if before else seen).sample.chunk(2)
        latents = scheduler.step(free + 7.5 * (guided - free), timestep, latents).prev_sample
    decoded = model.vae.decode(latents / model.vae.config.scaling_factor).sample
    return ((decoded[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8), np.array(trace)


OWN = Policy(threshold=0.3, replace_steps=1), Policy(threshold=0.35, replace_steps=0, alpha_scale=0.4, shift="conditional")


@pytest.mark.parametrize("check, policies", [("before", (Policy(), Policy())), ("beside", OWN)], ids=["before", "beside"])
def test_two_concepts_equal_a_plain_loop(with_heat, diffusers_pipeline, folder, check, policies):
    heads = [load_redirector(path) for path in (DEMO_REDIRECTOR, folder / "heat.safetensors")]
    by_name = dict(zip(("fire", "heat"), policies, strict=True))
    options = {"check": check, "policy": by_name, "scheduler": "ddim", "on_still_unsafe": "deliver"}
    found = with_heat(PROMPTS, seed=3, num_inference_steps=STEPS, **options)
    unsafe = set()
    for index, (prompt, image, report) in enumerate(zip(PROMPTS, found.images, found.reports, strict=True)):
        picture, trace = plain_loop(diffusers_pipeline, heads, policies, prompt, 3 + index, check == "before")
        for concept, (guard, policy) in enumerate(zip(report.guards, policies, strict=True)):
            assert not (np.abs(trace[:, concept] - policy.threshold) < 1e-3).any(), "too near the threshold to tell"
            assert guard.unsafe_steps == np.nonzero(trace[:, concept] > policy.threshold)[0].tolist()
            assert guard.checked == (trace[:, concept] != NOT_CHECKED).tolist()
            unsafe |= {(guard.concept, bool(guard.unsafe_steps))}
        assert levels(image, picture) <= 1
    assert unsafe == {("fire", True), ("fire", False), ("heat", True), ("heat", False)}


def test_a_second_concept_that_finds_nothing_changes_nothing(pipeline, with_nothing):
    options = {"seed": 3, "num_inference_steps": STEPS, "policy": {"fire": Policy()}, "on_still_unsafe": "deliver"}
    expected, found = pipeline(PROMPTS, **options), with_nothing(PROMPTS, **options)
    assert max(map(levels, found.images, expected.images)) <= 1
    for report, reference in zip(found.reports, expected.reports, strict=True):
        nothing, fire = report.guards
        assert (nothing.concept, fire.concept) == ("nothing", "fire") and report.verdict == reference.verdict
        assert not nothing.unsafe_steps and fire.unsafe_steps == reference.guards[0].unsafe_steps
        assert fire.responsible_tokens == reference.guards[0].responsible_tokens and not nothing.responsible_tokens


def test_each_concept_has_a_policy_of_its_own(with_nothing):
    policy = {"nothing": Policy(threshold=0.0, alpha_scale=0.01, replace_steps=3), "fire": Policy(threshold=0.9999999)}
    nothing, fire = with_nothing(FIRE, seed=3, num_inference_steps=8, policy=policy).reports[0].guards
    assert nothing.checked == [step % 4 == 0 for step in range(8)] and fire.policy.threshold > 0.99
    assert (nothing.policy, fire.policy) == (policy["nothing"], policy["fire"])
    assert nothing.unsafe_steps == [0, 4]


@pytest.mark.parametrize("check", ["before", "beside"])
def test_a_concept_that_is_off_is_as_if_it_were_not_there(pipeline, with_heat, check):
    options = {"seed": 3, "num_inference_steps": STEPS, "check": check, "on_still_unsafe": "deliver"}
    fire = {"fire": Policy()}
    expected, found = pipeline(PROMPTS, policy=fire, **options), with_heat(PROMPTS, policy={**fire, "heat": OFF}, **options)
    assert max(map(levels, found.images, expected.images)) <= 1
    for report, reference in zip(found.reports, expected.reports, strict=True):
        fire, heat = report.guards
        assert report.verdict == reference.verdict and fire.unsafe_steps == reference.guards[0].unsafe_steps
        assert fire.checked == reference.guards[0].checked and fire.policy == reference.guards[0].policy
        assert heat.off and not any(heat.checked) and heat.p_unsafe == [None] * STEPS and heat.final_p_unsafe is None
        assert not (heat.unsafe_steps or heat.redirected_steps or heat.responsible_tokens or heat.still_unsafe)
    assert found.reports[1].verdict == "safe" and str(found.reports[1]).endswith("; heat: off, not guarded against")


def test_the_report_in_a_picture_says_what_was_off(with_heat, tmp_path, capsys):
    result = with_heat(PLAIN, seed=3, num_inference_steps=4, policy={"fire": OFF})
    save_png(result.images[0], result.reports[0], tmp_path / "out.png")
    inside = read_png(tmp_path / "out.png")
    assert [guard["policy"] for guard in inside["guards"]] == ["off", vars(Policy())]
    assert inside["defaults"].count("policy.heat") == 1 and "policy.fire" not in inside["defaults"]
    assert main(["inspect", str(tmp_path / "out.png")]) == 0
    assert "guards.0.policy                off" in capsys.readouterr().out


def test_images_of_a_batch_have_concepts_of_their_own(with_heat):
    per_image = [{"fire": OFF}, None, {"heat": OFF}, {"heat": Policy(replace_steps=0), "fire": OFF}]
    together = with_heat(PROMPTS, seed=3, num_inference_steps=STEPS, policy=per_image)
    for index, (prompt, policy) in enumerate(zip(PROMPTS, per_image, strict=True)):
        alone = with_heat(prompt, seed=3 + index, num_inference_steps=STEPS, policy=policy)
        assert_same((together.images[index], together.reports[index]), (alone.images[0], alone.reports[0]))


@pytest.mark.parametrize("policy", [{"fire": OFF, "heat": OFF}, [None, {"fire": OFF, "heat": OFF}]], ids=["all", "one image"])
def test_all_off_is_unguarded_which_must_be_asked_for(with_heat, policy):
    with pytest.raises(InputError, match="policy: expected a concept to guard against, found fire, heat off; .* unguarded"):
        with_heat([FIRE, PLAIN], policy=policy, num_inference_steps=2)
    report = with_heat([FIRE, PLAIN], policy=policy, num_inference_steps=2, unguarded=True).reports[1]
    assert report.verdict == "unguarded" and report.guards == []


def test_on_the_command_line(with_heat, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call = ["generate", PLAIN, "--engine-dir", str(folder / "fire-heat"), "--num-inference-steps", "4", "--seed", "3"]
    policy = ["--policy", "fire:off", "--policy", "heat:threshold=0.4,replace-steps=1", "--alpha-scale", "1.5"]
    assert main([*call, *policy, "--report", "report.json"]) == 0
    guards = json.loads((tmp_path / "report.json").read_text())[0]["guards"]
    expected = vars(replace(Policy(), threshold=0.4, replace_steps=1, alpha_scale=1.5))
    assert [guard["policy"] for guard in guards] == ["off", expected]
    assert "fire: off, not guarded against" in capsys.readouterr().out
    assert main([*call, "--policy", "fire:off", "--policy", "heat:off"]) == 2
    assert "expected a concept to guard against, found fire, heat off" in capsys.readouterr().err
