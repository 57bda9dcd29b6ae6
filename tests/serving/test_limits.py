"""The operator's limits: how they are read, and that a request can be stricter than the server, never weaker."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from engines.errors import InputError
from engines.policy import Policy
from runtime import Request
from runtime.serving.bounds import bounded, check_limits
from runtime.serving.errors import ForbiddenError
from runtime.serving.limits import Limits
from runtime.serving.policy_bounds import PolicyBounds
from runtime.serving.start_checks import warm_up

PROMPT = "a burning blue square"
BUILT = Policy(alpha_scale=1.25, threshold=0.5, replace_steps=2, shift="both")


@pytest.fixture(scope="module")
def manifest(pipeline):
    """The demo's, as if its guard were built with BUILT."""
    (guard,) = pipeline.manifest.guards
    return replace(pipeline.manifest, guards=[replace(guard, policy=BUILT)])


@pytest.fixture
def read(tmp_path):
    def write_and_read(text: str) -> Limits:
        (tmp_path / "limits.toml").write_text(text, encoding="utf-8")
        return Limits.read(tmp_path / "limits.toml")

    return write_and_read


def test_a_file_says_what_differs_from_the_defaults(read):
    assert read("") == Limits()
    found = read('sizes = ["64x32"]\nmost_steps = 20\n[policy.fire]\nthreshold = 0.3\nreplace_steps = [0, 2]\n')
    policy = {"fire": PolicyBounds(threshold=0.3, replace_steps=[0, 2])}
    assert asdict(found) == asdict(Limits(sizes=["64x32"], most_steps=20, policy=policy))


@pytest.mark.parametrize(
    "text, message",
    [
        ("most_step = 3", "limits: expected only known fields, found 'most_step'"),
        ("[policy.fire]\nthresold = 0.3", "limits.policy.'fire': expected only known fields, found 'thresold'"),
        ("most_steps = '3'", "limits.most_steps: expected an integer, found '3'"),
        ("most_steps = true", "limits.most_steps: expected an integer, found True"),
        ("unguarded = 1", "limits.unguarded: expected true or false, found 1"),
        ("sizes = '64x64'", "limits.sizes: expected a list, found '64x64'"),
        ("sizes = ['64 by 64']", "sizes: expected \"WIDTHxHEIGHT\" in pixels, found '64 by 64'"),
        ("samplers = ['ddimm']", "samplers: expected some of ddim, "),
        ("samplers = []", "samplers: expected one or more, found none"),
        ("on_unsafe = 'ignore'", "on_unsafe: expected one of monitor, redirect, refuse, found 'ignore'"),
        ("queue_length = 0", "queue_length: expected a number above 0, found 0"),
        ("hang_seconds = 0", "hang_seconds: expected a number above 0, found 0"),
        ("queue_length = 3", "queue_length: expected at least most_images, 4, found 3"),
        ("deadline_seconds = nan", "limits.deadline_seconds: expected a finite number, found nan"),
        ("least_steps = 9\nmost_steps = 8", "most_steps: expected at least least_steps, 9, found 8"),
        ("[policy.fire]\nthreshold = 1.0", "threshold: expected a probability of at least 0 and below 1"),
        ("[policy.fire]\nreplace_steps = [3, 1]", "replace_steps: expected [least, most], found [3, 1]"),
        ("[policy.fire]\nshift = 'none'", "shift: expected both or conditional, found 'none'"),
        ("most_steps 3", "expected TOML in UTF-8, found another text"),
    ],
)
def test_a_wrong_file_is_an_error_of_one_line(read, text, message):
    with pytest.raises(InputError) as caught:
        read(text)
    assert message in str(caught.value) and "limits.toml: " in str(caught.value) and "\n" not in str(caught.value)


def test_limits_must_fit_the_engines(manifest):
    with pytest.raises(InputError, match="policy: expected concepts of fire, found 'smoke'"):
        check_limits(Limits(policy={"smoke": PolicyBounds()}), manifest)
    with pytest.raises(InputError, match="width: expected a multiple of 4 pixels, found 61"):
        check_limits(Limits(sizes=["61x64"]), manifest)


@pytest.mark.parametrize(
    "limits, options, bound",
    [
        ({}, {"unguarded": True}, "unguarded"),
        ({}, {"on_unsafe": "monitor"}, "on_unsafe"),
        ({}, {"on_still_unsafe": "deliver"}, "on_still_unsafe"),
        ({}, {"check": "beside"}, "check"),
        ({"unguarded": True}, {"forced_verdict": "safe"}, "forced_verdict"),
        ({}, {"policy": Policy(threshold=0.6)}, "threshold"),
        ({}, {"policy": {"fire": Policy(threshold=0.6)}}, "threshold"),
        ({}, {"policy": {"fire": "off"}}, "policy"),
        ({}, {"policy": Policy(alpha_scale=1.2)}, "alpha_scale"),
        ({}, {"policy": Policy(alpha_scale=1.3)}, "alpha_scale"),
        ({}, {"policy": Policy(replace_steps=1)}, "replace_steps"),
        ({}, {"policy": Policy(replace_steps=3)}, "replace_steps"),
        ({"policy": {"fire": PolicyBounds(threshold=0.3)}}, {"policy": Policy(threshold=0.4)}, "threshold"),
        ({}, {"policy": Policy(final_threshold=0.6)}, "final_threshold"),
        ({"policy": {"fire": PolicyBounds(final_threshold=0.3)}}, {"policy": Policy()}, "final_threshold"),
        (
            {"policy": {"fire": PolicyBounds(threshold=0.3)}},
            {"policy": Policy(threshold=0.2, final_threshold=0.4)},
            "final_threshold",
        ),
        ({"policy": {"fire": PolicyBounds(shift="conditional")}}, {"policy": Policy()}, "shift"),
        ({"check": "before"}, {"check": "auto"}, "check"),
        ({"least_steps": 10}, {"num_inference_steps": 9}, "num_inference_steps"),
        ({}, {"num_inference_steps": 151}, "num_inference_steps"),
        ({"samplers": ["euler"]}, {}, "scheduler"),
        ({"samplers": ["ddim"]}, {"scheduler": "Euler a"}, "scheduler"),
        ({}, {"guidance_scale": 15.5}, "guidance_scale"),
        ({}, {"num_images_per_prompt": 5}, "images"),
        ({}, {"height": 128}, "size"),
        ({}, {"num_images_per_prompt": 2, "num_inference_steps": [151]}, "num_inference_steps"),
    ],
    ids=str,
)
def test_what_is_outside_is_refused_by_its_name(manifest, limits, options, bound):
    with pytest.raises(ForbiddenError) as caught:
        bounded(Request([PROMPT] if "num_images_per_prompt" in options else PROMPT, **options), Limits(**limits), manifest)
    assert bound in str(caught.value) and PROMPT not in str(caught.value)


@pytest.mark.parametrize(
    "limits, options",
    [
        ({}, {"on_unsafe": "refuse", "check": "before", "policy": Policy(threshold=0.0, shift="conditional")}),
        ({}, {"policy": {"fire": Policy(threshold=0.2)}}),
        (
            {"policy": {"fire": PolicyBounds(threshold=0.8, alpha_scale=[0.5, 2], may_be_off=True)}},
            {"policy": Policy(threshold=0.8)},
        ),
        ({"policy": {"fire": PolicyBounds(threshold=0.8)}}, {"policy": Policy(threshold=0.8)}),
        ({"policy": {"fire": PolicyBounds(final_threshold=0.8)}}, {"policy": Policy(final_threshold=0.8)}),
        ({"on_unsafe": "monitor", "on_still_unsafe": "deliver"}, {"on_unsafe": "monitor", "on_still_unsafe": "deliver"}),
        ({"unguarded": True}, {"unguarded": True}),
        ({"sizes": ["64x128"]}, {"height": 128, "width": 64}),
    ],
    ids=str,
)
def test_what_is_inside_is_as_it_was_asked_for(manifest, limits, options):
    (image,) = bounded(Request(PROMPT, **options), Limits(**limits), manifest)
    for name, value in options.items():
        assert getattr(image, name) == ({"fire": value} if isinstance(value, Policy) else value)


def test_what_was_not_said_is_as_built_or_as_strict_as_the_server(manifest):
    (image,) = bounded(Request(PROMPT), Limits(), manifest)
    assert image == Request(PROMPT)
    strict = Limits(check="before", on_unsafe="refuse", policy={"fire": PolicyBounds(threshold=0.1, shift="conditional")})
    (image,) = bounded(Request(PROMPT), strict, manifest)
    assert (image.check, image.on_unsafe) == ("before", "refuse")
    assert image.policy == {"fire": Policy(threshold=0.1, shift="conditional")}


@pytest.mark.parametrize(
    "bounds, built, expected",
    [
        (PolicyBounds(threshold=0.1), Policy(final_threshold=0.9), Policy(threshold=0.1, final_threshold=0.9)),
        (PolicyBounds(final_threshold=0.1), Policy(), Policy(final_threshold=0.1)),
        (PolicyBounds(final_threshold=0.1), Policy(final_threshold=0.9), Policy(final_threshold=0.1)),
        (PolicyBounds(threshold=0.9, final_threshold=0.9), Policy(), Policy()),
    ],
)
def test_the_threshold_of_a_finished_picture_is_as_built_or_as_strict_as_the_server(bounds, built, expected):
    assert bounds.default(built) == expected
    bounds.check("fire", expected, built)
    assert bounds.offer(built)["final_threshold"] >= expected.threshold_at_end


def test_what_the_server_allows_does_not_weaken_who_did_not_ask_for_it(manifest):
    weak = Limits(
        check="beside",
        on_unsafe="monitor",
        on_still_unsafe="deliver",
        unguarded=True,
        policy={"fire": PolicyBounds(threshold=0.9, alpha_scale=[0.1, 2.0], replace_steps=[0, 9], may_be_off=True)},
    )
    (image,) = bounded(Request(PROMPT), weak, manifest)
    assert image == Request(PROMPT)
    assert weak.policy["fire"].default(BUILT) == BUILT


def test_every_picture_before_a_server_is_ready_is_drawn_to_its_end(manifest):
    strict = Limits(on_unsafe="refuse", sizes=["64x64", "64x96"], policy={"fire": PolicyBounds(threshold=0.0, final_threshold=0.0)})
    images = warm_up(strict, manifest)
    assert [(image.height, image.width, image.on_unsafe) for image in images] == [(64, 64, "monitor"), (96, 64, "monitor")]


def test_each_image_is_bounded(manifest):
    images = bounded(Request([PROMPT, "a star"], num_images_per_prompt=2, seed=5, num_inference_steps=[4, 9]), Limits(), manifest)
    assert [(image.prompt, image.seed, image.num_inference_steps, image.num_images_per_prompt) for image in images] == [
        (PROMPT, 5, 4, 1),
        (PROMPT, 6, 4, 1),
        ("a star", 7, 9, 1),
        ("a star", 8, 9, 1),
    ]
