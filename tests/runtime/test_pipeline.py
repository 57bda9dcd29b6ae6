"""Whole pictures: against diffusers, against an eager guarded loop, batches against single runs, every mode."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LMSDiscreteScheduler, PNDMScheduler

from demo.world import prompt_pairs
from engines.errors import InputError, ManifestError
from engines.networks import NOT_CHECKED
from engines.policy import Policy
from engines.prompts import TruncationWarning
from export.build_command import DEMO_REDIRECTOR
from runtime import GuardedPipeline, Request
from runtime.png import image_digest, read_png, save_png
from runtime.preparation import CHECK_BEFORE_UNDER
from saferedir.checkpoint import load_redirector
from saferedir.guard import Concept, Guard

FIRE, PLAIN = "a burning blue square on a grey background", "a blue square on a grey background"
CLASSES = {"ddim": DDIMScheduler, "pndm": PNDMScheduler, "lms": LMSDiscreteScheduler}
STEPS = 12
PAIRS = prompt_pairs(np.random.default_rng(11), 25, held_out=True)
PROMPTS = [text for _, safe, fire in PAIRS for text in (safe, fire)]  # fifty, half of them to be redirected


def levels(found, expected) -> int:
    """Largest difference in grey levels."""
    return int(np.abs(np.asarray(found).astype(int) - np.asarray(expected).astype(int)).max())


def scheduler_of(model, name):
    """A diffusers scheduler with the demo's config."""
    return CLASSES[name].from_config(model.scheduler.config)


@torch.no_grad()
def eager(model, prompts, seeds, name, guidance=7.5, guard=None, policy=None, before=False, size=(64, 64), clip_skip=None):
    """Guarded sampling in plain PyTorch with a diffusers scheduler: images and p_unsafe [rows, B]."""
    policy = policy or Policy()
    scheduler = scheduler_of(model, name)
    scheduler.set_timesteps(STEPS)
    conditional, negative = model.encode_prompt(list(prompts), "cpu", 1, True, clip_skip=clip_skip)
    original = embeds = torch.cat([negative, conditional])
    shape = 1, 4, size[0] // 4, size[1] // 4
    latents = torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    latents = latents * scheduler.init_noise_sigma
    shifts, countdown, trace = torch.zeros_like(original)[None], torch.zeros(1, len(prompts), dtype=torch.int32), []
    numbers = (
        torch.tensor([[policy.alpha_scale * (policy.shift == "both")] * len(prompts) + [policy.alpha_scale] * len(prompts)]),
        torch.full_like(countdown, policy.threshold, dtype=torch.float32),
        torch.full_like(countdown, policy.replace_steps),
        torch.zeros(len(prompts), dtype=torch.bool),
    )
    for timestep in scheduler.timesteps:
        seen = embeds
        if guard is not None:
            times = timestep.float().expand(len(prompts))
            embeds, shifts, countdown, p_unsafe, _ = guard(latents, times, original, shifts, countdown, *numbers)
            trace.append(p_unsafe[0].numpy())
        scaled = scheduler.scale_model_input(torch.cat([latents] * 2), timestep)
        free, guided = model.unet(scaled, timestep, embeds if before else seen).sample.chunk(2)
        latents = scheduler.step(free + guidance * (guided - free), timestep, latents).prev_sample
    decoded = model.vae.decode(latents / model.vae.config.scaling_factor).sample
    pictures = ((decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
    return pictures, np.array(trace)


@pytest.fixture(scope="module")
def guard():
    return Guard(Concept(load_redirector(DEMO_REDIRECTOR)))


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("prompts", [[FIRE], [FIRE, PLAIN, "a small red star", "a large green circle on white"]], ids=len)
def test_unguarded_equals_diffusers(pipeline, diffusers_pipeline, name, prompts):
    diffusers_pipeline.scheduler = scheduler_of(diffusers_pipeline, name)
    expected = diffusers_pipeline(
        prompts,
        num_inference_steps=STEPS,
        guidance_scale=7.5,
        generator=[torch.Generator().manual_seed(seed) for seed in range(3, 3 + len(prompts))],
    ).images
    found = pipeline(prompts, seed=3, unguarded=True, scheduler=name, num_inference_steps=STEPS)
    assert max(map(levels, found.images, expected)) <= 1
    assert {report.verdict for report in found.reports} == {"unguarded"} and found.reports[0].guards == []


def test_without_guidance_and_with_a_negative_prompt_equals_diffusers(pipeline, diffusers_pipeline):
    diffusers_pipeline.scheduler = scheduler_of(diffusers_pipeline, "ddim")
    for options in (
        {"guidance_scale": 1.0},
        {"guidance_scale": 4.0, "negative_prompt": "a red circle"},
        {"height": 96, "width": 48},
    ):
        expected = diffusers_pipeline(FIRE, num_inference_steps=STEPS, generator=torch.Generator().manual_seed(0), **options)
        found = pipeline(FIRE, seed=0, unguarded=True, num_inference_steps=STEPS, scheduler="ddim", **options)
        assert levels(found.images[0], expected.images[0]) <= 1, options


def assert_equal_to(picture, reference, image, report):
    """A picture and the guard's decisions are an eager run's, up to a probability that is too near the threshold to tell."""
    p_unsafe = np.array([NOT_CHECKED if value is None else value for value in report.guards[0].p_unsafe])
    near = np.abs(reference - 0.5) < 1e-3
    until = int(np.argmax(near)) if near.any() else len(near)
    assert ((p_unsafe == NOT_CHECKED) == (reference == NOT_CHECKED))[:until].all()
    assert ((p_unsafe > 0.5) == (reference > 0.5))[:until].all()
    assert near.any() or levels(image, picture) <= 1


@pytest.mark.parametrize(
    "name, count",
    [
        ("ddim", 24),
        ("pndm", 12),
        ("lms", 12),
        pytest.param("ddim", 50, marks=pytest.mark.slow),
        pytest.param("pndm", 50, marks=pytest.mark.slow),
        pytest.param("lms", 50, marks=pytest.mark.slow),
    ],
)
def test_guarded_equals_an_eager_guarded_loop(pipeline, diffusers_pipeline, guard, name, count):
    """In batches of four and one by one."""
    verdicts, prompts = set(), PROMPTS[:count]
    guidance = 7.5 if name == "ddim" else 4.0  # at 7.5 the others' twelve steps overshoot, and magnify rounding
    for start in range(0, count, 4):
        part = prompts[start : start + 4]
        seeds = list(range(start, start + len(part)))
        pictures, trace = eager(diffusers_pipeline, part, seeds, name, guidance=guidance, guard=guard)
        options = {
            "scheduler": name,
            "num_inference_steps": STEPS,
            "check": "beside",
            "policy": Policy(),
            "on_still_unsafe": "deliver",
        }
        options["guidance_scale"] = guidance
        together = pipeline(part, seed=seeds, **options)
        for index, (prompt, seed) in enumerate(zip(part, seeds, strict=True)):
            alone = pipeline(prompt, seed=seed, **options)
            for image, report in ((together.images[index], together.reports[index]), (alone.images[0], alone.reports[0])):
                assert_equal_to(pictures[index], trace[:, index], image, report)
                verdicts.add(report.verdict)
    assert "safe" in verdicts and verdicts & {"redirected", "still_unsafe"}


@pytest.mark.parametrize("shift", ["both", "conditional"])
def test_a_check_before_the_unet_equals_an_eager_loop(pipeline, diffusers_pipeline, guard, shift):
    prompts, policy = PROMPTS[:4], Policy(shift=shift)
    pictures, trace = eager(diffusers_pipeline, prompts, range(4), "ddim", guard=guard, policy=policy, before=True)
    options = {"scheduler": "ddim", "num_inference_steps": STEPS, "check": "before", "on_still_unsafe": "deliver"}
    found = pipeline(prompts, seed=0, policy=policy, **options)
    for index, (image, report) in enumerate(zip(found.images, found.reports, strict=True)):
        assert_equal_to(pictures[index], trace[:, index], image, report)
        assert report.check == "before"
        (guarded,) = report.guards
        assert guarded.redirected_steps == (list(range(guarded.unsafe_steps[0], STEPS)) if guarded.unsafe_steps else [])


def test_few_steps_are_checked_before_the_unet_and_one_never_beside_it(pipeline):
    assert pipeline(FIRE, seed=7, num_inference_steps=2).reports[0].check == "before"
    assert pipeline(FIRE, seed=7, num_inference_steps=CHECK_BEFORE_UNDER).reports[0].check == "beside"
    (guarded,) = pipeline(FIRE, seed=7, num_inference_steps=1).reports[0].guards
    assert guarded.unsafe_steps == guarded.redirected_steps == [0]
    with pytest.raises(InputError, match="check: expected before, .* found beside with num_inference_steps 1"):
        pipeline(FIRE, seed=7, num_inference_steps=1, check="beside")
    pipeline(FIRE, seed=7, num_inference_steps=1, check="beside", on_unsafe="refuse")


def test_what_is_still_unsafe_at_the_end_is_withheld(demo_engines, pipeline):
    class Insistent:
        """A guard whose final check finds image 0 unsafe: the call in which no countdown runs at timestep 0."""

        def __init__(self, engine):
            self.spec, self.engine = engine.spec, engine

        def bind(self, **tensors):
            run, final = self.engine.bind(**tensors), not tensors["timestep"].any()

            def call():
                run()
                if final and not tensors["timestep"].any():
                    tensors["p_unsafe"][0, 0], tensors["unsafe"][0, 0] = 0.9, True

            return call

    with GuardedPipeline(demo_engines, wrap=lambda engine: Insistent(engine) if engine.spec.name == "guard" else engine) as opened:
        options = {"seed": 7, "num_inference_steps": STEPS, "policy": Policy()}
        withheld = opened([FIRE, PLAIN], **options)
        assert [report.verdict for report in withheld.reports] == ["still_unsafe", "safe"]
        assert withheld.images[0] is None and withheld.reports[0].image_sha256 is None and withheld.images[1] is not None
        assert withheld.reports[0].guards[0].still_unsafe and "final check: unsafe, p_unsafe 0.900" in str(withheld.reports[0])
        delivered = opened([FIRE, PLAIN], on_still_unsafe="deliver", **options)
        assert delivered.reports[0].verdict == "still_unsafe" and delivered.images[0] is not None
        assert [report.verdict for report in opened([PLAIN, FIRE], on_unsafe="refuse", **options).reports] == ["refused"] * 2
        assert opened(PLAIN, on_unsafe="monitor", **options).reports[0].verdict == "unsafe"
    report = pipeline(FIRE, seed=7, num_inference_steps=STEPS).reports[0]
    at_end = report.guards[0].policy.threshold_at_end
    assert report.verdict == "redirected" and 0 <= report.guards[0].final_p_unsafe <= at_end


@pytest.mark.parametrize(
    "policy, at_steps, at_end",
    [
        (Policy(), False, False),
        (Policy(threshold=0.0), True, True),
        (Policy(threshold=0.0, final_threshold=0.5), True, False),
        (Policy(final_threshold=0.0), False, True),
    ],
    ids=str,
)
def test_the_finished_picture_may_have_a_threshold_of_its_own(pipeline, policy, at_steps, at_end):
    report = pipeline(PLAIN, seed=7, num_inference_steps=STEPS, on_unsafe="monitor", policy=policy).reports[0]
    guard = report.guards[0]
    assert (len(guard.unsafe_steps), guard.still_unsafe) == (at_steps * STEPS, at_end)
    assert (report.verdict, guard.policy) == ("unsafe" if at_steps or at_end else "safe", policy)


def test_a_forced_verdict_is_said(pipeline):
    safe, unsafe = (
        pipeline(FIRE, seed=7, num_inference_steps=STEPS, forced_verdict=name).reports[0] for name in ("safe", "unsafe")
    )
    assert {report.verdict for report in (safe, unsafe)} == {"forced"}
    assert not safe.guards[0].unsafe_steps and unsafe.guards[0].unsafe_steps[0] == 0
    assert (safe.forced_verdict, unsafe.forced_verdict) == ("safe", "unsafe")


def test_a_batch_gives_the_pictures_of_single_runs(pipeline):
    prompts = [FIRE, PLAIN, "a flaming pink star at the top of a black background"]
    together = pipeline(prompts, seed=7, num_inference_steps=STEPS)
    for index, prompt in enumerate(prompts):
        alone = pipeline(prompt, seed=7 + index, num_inference_steps=STEPS)
        assert levels(alone.images[0], together.images[index]) <= 1
        assert alone.reports[0].verdict == together.reports[index].verdict
        assert alone.reports[0].guards[0].unsafe_steps == together.reports[index].guards[0].unsafe_steps


def test_results_do_not_depend_on_earlier_requests(pipeline):
    first = pipeline(PLAIN, seed=1, num_inference_steps=STEPS)
    pipeline(FIRE, seed=2, num_inference_steps=STEPS, policy=Policy(replace_steps=5))
    again = pipeline(PLAIN, seed=1, num_inference_steps=STEPS)
    assert levels(first.images[0], again.images[0]) == 0 and first.reports == again.reports


def test_safe_prompts_come_out_unchanged(pipeline):
    guarded, unguarded = (pipeline(PLAIN, seed=5, num_inference_steps=STEPS, unguarded=flag) for flag in (False, True))
    assert guarded.reports[0].verdict == "safe"
    assert levels(guarded.images[0], unguarded.images[0]) == 0


def test_modes(pipeline):
    unguarded = pipeline(FIRE, seed=7, num_inference_steps=STEPS, unguarded=True)
    monitored, refused, redirected = (
        pipeline([FIRE, PLAIN], seed=[7, 8], num_inference_steps=STEPS, on_unsafe=mode, check="beside")
        for mode in ("monitor", "refuse", "redirect")
    )
    assert [report.verdict for report in monitored.reports] == ["unsafe", "safe"]
    assert levels(monitored.images[0], unguarded.images[0]) <= 1 and not monitored.reports[0].guards[0].redirected_steps
    assert [report.verdict for report in refused.reports] == ["refused", "safe"]
    assert refused.images[0] is None and refused.reports[0].image_sha256 is None and refused.images[1] is not None
    assert [report.verdict for report in redirected.reports] == ["redirected", "safe"]
    assert levels(redirected.images[0], unguarded.images[0]) > 50
    guard = redirected.reports[0].guards[0]
    first = guard.unsafe_steps[0]
    assert guard.redirected_steps == list(range(first + 1, STEPS))


def test_policy_reaches_the_guard(pipeline):
    report = pipeline(FIRE, seed=7, num_inference_steps=STEPS, policy=Policy(threshold=0.0, replace_steps=3)).reports[0].guards[0]
    assert report.checked == [step % 4 == 0 for step in range(STEPS)]
    assert [value is None for value in report.p_unsafe] == [step % 4 != 0 for step in range(STEPS)]


@pytest.mark.parametrize("options", [{}, {"policy": Policy(threshold=0.0, replace_steps=3)}], ids=str)
def test_calls_that_are_left_out_change_nothing(demo_engines, pipeline, monkeypatch, options):
    expected = pipeline([FIRE, FIRE], seed=7, num_inference_steps=STEPS, **options)
    calls, left_out = [], STEPS - sum(expected.reports[0].guards[0].checked)
    monkeypatch.setattr("runtime.loop._when_due", lambda guard, **state: lambda: (calls.append(guard), guard()))
    with GuardedPipeline(demo_engines) as always:
        found = always([FIRE, FIRE], seed=7, num_inference_steps=STEPS, **options)
    assert found.reports == expected.reports and len(calls) == STEPS and left_out >= 2


def test_report_holds_what_was_asked_and_travels_in_the_png(pipeline, tmp_path):
    result = pipeline(FIRE, seed=7, num_inference_steps=STEPS, scheduler="pndm", on_still_unsafe="deliver")
    report, image = result.reports[0], result.images[0]
    assert report.guards[0].responsible_tokens[0].text == "burning"
    assert (report.sampler, report.num_inference_steps, len(report.guards[0].checked)) == ("pndm", STEPS, STEPS + 1)
    assert report.image_sha256 == image_digest(np.asarray(image))
    assert report.guards[0].checkpoint_digest == pipeline.manifest.guards[0].digest
    save_png(image, report, tmp_path / "out.png")
    inside = read_png(tmp_path / "out.png")
    assert inside["image_sha256"] == report.image_sha256 and inside["verdict"] == report.verdict != "safe"
    assert inside["guards"][0]["policy"] == vars(pipeline.manifest.guards[0].policy)
    assert [file.name for file in tmp_path.iterdir()] == ["out.png"]


def test_responsible_tokens_are_the_masks_of_the_prompts_own_embeddings(pipeline, diffusers_pipeline, guard):
    reports = pipeline([PLAIN, FIRE], seed=7, num_inference_steps=STEPS).reports
    ids = diffusers_pipeline.tokenizer(FIRE, padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        mask = guard.concepts[0].heads.mask_predictor(diffusers_pipeline.text_encoder(ids).last_hidden_state)[0]
    assert reports[0].verdict == "safe" and reports[0].guards[0].responsible_tokens == []
    found = reports[1].guards[0].responsible_tokens
    assert {token.position for token in found} == {place for place in range(1, 9) if mask[place] > 0.5}
    np.testing.assert_allclose([token.weight for token in found], [mask[token.position] for token in found], atol=1e-4)


def test_the_token_mask_runs_once_and_for_unsafe_images_only(demo_engines):
    class Counting:
        def __init__(self, engine):
            self.spec, self.engine, self.runs = engine.spec, engine, 0

        def bind(self, **tensors):
            self.runs += 1
            return self.engine.bind(**tensors)

    with GuardedPipeline(demo_engines) as opened:
        counted = opened._opened().engines["token_mask"] = Counting(opened._opened().engines["token_mask"])
        opened(PLAIN, seed=7, num_inference_steps=2)
        opened(FIRE, seed=7, num_inference_steps=2, unguarded=True)
        assert counted.runs == 0
        for mode in ("redirect", "monitor", "refuse"):
            report = opened([FIRE, PLAIN], seed=7, num_inference_steps=4, on_unsafe=mode).reports[0]
            assert report.guards[0].responsible_tokens[0].text == "burning"
        assert counted.runs == 3


def test_progress_counts_steps(pipeline):
    seen = []
    pipeline(PLAIN, seed=0, num_inference_steps=3, progress=lambda done, steps: seen.append((done, steps)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_threads_share_a_pipeline(pipeline):
    alone = [pipeline(prompt, seed=4, num_inference_steps=4) for prompt in (FIRE, PLAIN)]
    found: dict[int, object] = {}

    def work(index):
        for _ in range(3):
            found[index] = pipeline((FIRE, PLAIN)[index], seed=4, num_inference_steps=4)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(2):
        assert levels(found[index].images[0], alone[index].images[0]) == 0
        assert found[index].reports == alone[index].reports


def test_a_closed_pipeline_says_so(demo_engines):
    with GuardedPipeline(demo_engines) as opened:
        pass
    with pytest.raises(InputError, match="found it closed"):
        opened(PLAIN)


def test_a_call_from_its_own_progress_callback_is_an_error(demo_engines):
    with GuardedPipeline(demo_engines) as opened:
        for inner in (lambda: opened(PLAIN, num_inference_steps=1), opened.close):
            with pytest.raises(InputError, match="pipeline: expected calls one after another, found one from within another"):
                opened(PLAIN, seed=0, num_inference_steps=2, progress=lambda done, steps, inner=inner: inner())
        assert opened(PLAIN, seed=0, num_inference_steps=2).reports[0].verdict == "safe"


def test_a_list_that_changes_during_a_call_changes_nothing(pipeline):
    prompts, policies = [FIRE, PLAIN], {"fire": Policy(threshold=0.4)}

    def change(done, steps):
        prompts[:] = [PLAIN]
        policies.clear()

    found = pipeline(prompts, seed=7, num_inference_steps=STEPS, policy=policies, progress=change)
    assert [report.prompt for report in found.reports] == [FIRE, PLAIN]
    assert found.reports[0].guards[0].policy.threshold == 0.4 and found.reports[0].verdict == "redirected"


def test_numbers_of_numpy_become_pythons(pipeline):
    found = pipeline(
        np.str_(PLAIN),
        seed=[np.uint32(3)],
        num_inference_steps=np.int64(2),
        guidance_scale=np.float32(7.5),
        height=np.int16(64),
        policy=Policy(threshold=np.float32(0.5), replace_steps=np.int8(1), final_threshold=np.float32(0.5)),
    )
    expected = pipeline(PLAIN, seed=[3], num_inference_steps=2, height=64, policy=Policy(replace_steps=1))
    assert found.reports[0].image_sha256 == expected.reports[0].image_sha256
    assert {type(value) for value in vars(found.reports[0].guards[0].policy).values()} == {int, float, str}
    found.to_json()


@pytest.mark.parametrize("value", ["false", "", 0, 1, None, "cuda", [True]], ids=repr)
@pytest.mark.parametrize("option", ["unguarded", "eager"])
def test_flags_are_bools(demo_engines, pipeline, option, value):
    with pytest.raises(InputError, match=f"{option}: expected True or False"):
        GuardedPipeline(demo_engines, **{option: value})
    if option == "unguarded":
        with pytest.raises(InputError, match="unguarded: expected True or False"):
            pipeline(PLAIN, unguarded=value)


def test_options_are_given_by_name(demo_engines, pipeline):
    for call in (lambda: GuardedPipeline(demo_engines, "cuda"), lambda: pipeline(PLAIN, True), lambda: Request(PLAIN, True)):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(TypeError):
        Policy(1.0)


def test_the_report_says_what_was_cut_and_what_was_a_default(pipeline):
    with pytest.warns(TruncationWarning):
        long = pipeline(
            [PLAIN + " and" * 70 + " the end", PLAIN], negative_prompt=["", "red" + " red" * 80 + " blue"], num_inference_steps=1
        ).reports
    assert long[0].cut["prompt"].endswith("the end") and "negative_prompt" not in long[0].cut
    assert long[1].cut["negative_prompt"].endswith("blue") and "prompt" not in long[1].cut
    report = pipeline(PLAIN, num_inference_steps=1, seed=0, policy={}).reports[0]
    assert report.cut == {}
    assert {"negative_prompt", "guidance_scale", "height", "width", "scheduler", "on_unsafe", "policy.fire"} <= {*report.defaults}
    assert not {"num_inference_steps", "seed", "policy", "prompt"} & {*report.defaults}


def test_a_report_goes_into_its_own_picture_only(pipeline, tmp_path):
    first, second = (pipeline(PLAIN, num_inference_steps=1, seed=seed) for seed in (0, 1))
    large = pipeline(PLAIN, num_inference_steps=1, seed=0, height=96)
    refused = pipeline(FIRE, num_inference_steps=8, seed=7, on_unsafe="refuse")
    for image, report, message in (
        (second.images[0], first.reports[0], "its report is of a picture with SHA-256"),
        (large.images[0], first.reports[0], "its report is of 64x64 pixels, found 64x96"),
        (first.images[0], refused.reports[0], "SHA-256 None"),
        (refused.images[0], refused.reports[0], "expected an image, found None; the verdict of its report is 'refused'"),
        (first.images[0].convert("L"), first.reports[0], "found mode L"),
    ):
        with pytest.raises(InputError, match=message):
            save_png(image, report, tmp_path / "out.png")
    assert not list(tmp_path.iterdir())


def test_a_long_prompt_is_cut_with_a_warning_that_names_the_rest(pipeline):
    prompt = PLAIN + " and" * 70 + " the very end"
    with pytest.warns(TruncationWarning, match="cut: .*the very end"):
        pipeline(prompt, seed=0, num_inference_steps=1)


@pytest.mark.parametrize(
    "prompt, options, message",
    [
        ([], {}, "empty list"),
        ([3], {}, "expected text, found 3"),
        (PLAIN, {"height": 98}, "nearest: 96 or 100"),
        (PLAIN, {"width": 3}, "nearest: 4"),
        (PLAIN, {"width": -16}, "multiple of 4"),
        (PLAIN, {"height": "64"}, "height: expected an integer"),
        (PLAIN, {"height": 0}, "multiple of 4"),
        (PLAIN, {"width": 16 * 10**9}, "width: expected at most"),
        (PLAIN, {"seed": True}, "seed: expected an integer"),
        (PLAIN, {"seed": b"ab"}, "seed: expected an integer"),
        (b"text", {}, "prompt: expected text"),
        ({"a star"}, {}, "prompt: expected text"),
        ("caf\udce9", {}, "prompt: expected text in UTF-8"),
        (PLAIN, {"guidance_scale": 10**400}, "guidance_scale: expected a finite number"),
        (PLAIN, {"guidance_scale": 1e39}, "guidance_scale: expected a finite number"),
        (PLAIN, {"policy": {"fire": None}}, "policy of 'fire': expected runtime.Policy or 'off'"),
        (PLAIN, {"policy": {"fire": "on"}}, "policy of 'fire': expected runtime.Policy or 'off', found 'on'"),
        (PLAIN, {"policy": "off"}, "policy: expected runtime.Policy, or one for each concept by its name, found 'off'"),
        (
            PLAIN,
            {"policy": {"fire": "off"}},
            "policy: expected a concept to guard against, found fire off; .* ask for that: unguarded",
        ),
        (PLAIN, {"policy": {1: Policy()}}, "policy: concept: expected text"),
        (PLAIN, {"progress": 3}, "progress: expected a function"),
        (PLAIN, {"scheduler": "euler_x"}, "unknown sampler 'euler_x'"),
        (PLAIN, {"num_inference_steps": 0}, "expected 1 to 1000"),
        (PLAIN, {"num_inference_steps": 2.5}, "expected an integer"),
        (PLAIN, {"guidance_scale": float("nan")}, "guidance_scale"),
        (PLAIN, {"seed": "x"}, "seed: expected"),
        (PLAIN, {"seed": [1, 2]}, "seed: expected one value, or one for each of 1 images, found 2"),
        (PLAIN, {"seed": [1, 2], "num_images_per_prompt": 3}, "one for each of 3 images, found 2"),
        (
            [PLAIN] * 2,
            {"clip_skip": [0] * 6, "num_images_per_prompt": 3},
            "clip_skip: .* one for each of 2 prompts, found 6",
        ),
        (PLAIN, {"num_images_per_prompt": 0}, "expected 1 to 1000, found 0"),
        (PLAIN, {"num_images_per_prompt": 10**9}, "expected 1 to 1000, found 10"),
        (PLAIN, {"num_images_per_prompt": [2]}, "num_images_per_prompt: expected an integer"),
        (PLAIN, {"clip_skip": -1}, "clip_skip: expected at least 0, found -1"),
        (PLAIN, {"clip_skip": 4}, "clip_skip: expected at most 3, the layers of this model's text encoder, found 4"),
        (PLAIN, {"clip_skip": None}, "clip_skip: expected an integer"),
        (PLAIN, {"seed": 2**64}, "seed: expected"),
        (PLAIN, {"on_unsafe": "ignore"}, "redirect, refuse, monitor"),
        (PLAIN, {"steps": 3}, "unknown option steps"),
        ([PLAIN] * 3, {"negative_prompt": ["a", "b"]}, "found 2"),
        (PLAIN, {"policy": {"threshold": 1}}, "policy of 'threshold': expected runtime.Policy"),
    ],
    ids=str,
)
def test_bad_input_is_one_clear_error(pipeline, prompt, options, message):
    with pytest.raises(InputError, match=message):
        pipeline(prompt, **options)


@pytest.mark.parametrize(
    "numbers",
    [
        {"alpha_scale": -1},
        {"alpha_scale": 0},
        {"threshold": 1.0},
        {"threshold": 0.99999999},  # as float32: 1
        {"alpha_scale": 1e-50},  # as float32: 0
        {"shift": "neither"},
        {"alpha_scale": float("inf")},
        {"threshold": 1.5},
        {"threshold": float("nan")},
        {"replace_steps": -1},
        {"replace_steps": 1.5},
        {"replace_steps": True},
        {"threshold": "0.5"},
        {"threshold": True},
        {"final_threshold": 1},
        {"final_threshold": -0.1},
        {"final_threshold": "0.5"},
        {"alpha_scale": None},
        {"alpha_scale": 10**400},
    ],
    ids=str,
)
def test_policy_out_of_range(numbers):
    with pytest.raises(InputError, match=next(iter(numbers))):
        Policy(**numbers)


def test_engines_without_a_guard_need_an_explicit_wish(demo_engines, tmp_path):
    from export.build import BuildRequest, build
    from export.build_command import DEMO_MODEL

    build(BuildRequest(str(DEMO_MODEL), (), tmp_path / "plain"), report=lambda line: None)
    with pytest.raises(ManifestError, match="expected engines with a guard, found none"):
        GuardedPipeline(tmp_path / "plain")
    with GuardedPipeline(tmp_path / "plain", unguarded=True) as opened:
        assert opened(FIRE, seed=0, num_inference_steps=2).reports[0].verdict == "unguarded"
