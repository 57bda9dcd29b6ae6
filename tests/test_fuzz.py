"""Inputs of any type and files of any content: a right result or one SafeRedirError, whatever is given.

`pytest tests/test_fuzz.py -m slow` runs the long trials, which are left out otherwise; all are seeded, so each run is the same.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engines.canary import Canary
from engines.errors import InputError, ManifestError, SafeRedirError
from engines.manifest import Manifest
from engines.policy import TYPES, Policy
from engines.summary import summary
from export.build_command import DEMO_REDIRECTOR
from runtime import GuardedPipeline, Request
from runtime.png import read_png
from runtime.preparation import Preparation
from runtime.request_values import PER_IMAGE
from runtime.samplers.registry import SAMPLERS
from runtime.samplers.schedules import SchedulerConfig
from saferedir.checkpoint import CheckpointError, load_redirector
from saferedir.metadata import KEY, Metadata, read_metadata

PLAIN, FIRE = "a blue square", "a burning blue square"
METADATA = Metadata([Canary(FIRE, True, 0), Canary(PLAIN, False, 1)], policy=Policy(threshold=0.25)).to_json().encode()
PICTURES = 1_000  # at most, of the requests of one trial that can be honoured
OPENED = 300  # folders, at most, of the manifests of one trial that can be read


def trials(count: int) -> settings:
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


class Unprintable:
    """A value whose repr fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


NUMBERS = st.one_of(
    st.integers(),
    st.integers(-3, 70),
    st.sampled_from([2**63, 2**64, 10**400, -(10**400)]),
    st.floats(),
    st.floats(width=32).map(np.float32),
    st.integers(-128, 127).map(np.int8),
    st.integers(0, 2**32 - 1).map(np.uint32),
    st.fractions(),
    st.decimals(),
    st.complex_numbers(),
)
ANY_TEXT = st.one_of(st.text(st.characters(), max_size=30), st.text(max_size=400), st.sampled_from(["\x1b[2J", "a\0b", "\ud800"]))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.booleans().map(np.bool_),
    NUMBERS,
    ANY_TEXT,
    st.binary(max_size=8),
    st.builds(Unprintable),
    st.just(np.zeros((2, 2))),
    st.just(Policy),
    st.builds(Policy),
    st.just(len),
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(ANY_TEXT, st.integers()), inner, max_size=3),
        st.sets(st.integers(), max_size=3),
        st.lists(st.integers(0, 9), max_size=3).map(np.array),
    ),
    max_leaves=4,
)
POLICIES = st.builds(
    Policy,
    alpha_scale=st.floats(0, 3, exclude_min=True, width=32),
    threshold=st.floats(0, 1, exclude_max=True, width=32),
    replace_steps=st.integers(0, 5),
    shift=st.sampled_from(["both", "conditional"]),
)
SENSIBLE = {
    "negative_prompt": st.one_of(st.just(""), st.text(max_size=40)),
    "clip_skip": st.integers(0, 3),
    "num_inference_steps": st.integers(1, 3),
    "guidance_scale": st.one_of(st.floats(-2, 20), st.integers(0, 9), st.floats(0, 9, width=16).map(np.float16)),
    "seed": st.one_of(st.none(), st.integers(-(2**63), 2**64 - 1)),
    "scheduler": st.sampled_from([None, *SAMPLERS, "DDIMScheduler", "DPM++ 2M Karras", "Euler a"]),
    "schedule_type": st.sampled_from([None, None, None, "automatic", "SGM Uniform"]),
    "eta": st.sampled_from([0.0, 0.0, 0.0, 0.5]),
    "policy": st.one_of(st.none(), POLICIES, st.just({}), st.fixed_dictionaries({"fire": st.one_of(POLICIES, st.just("off"))})),
    "on_unsafe": st.sampled_from(["redirect", "refuse", "monitor"]),
    "on_still_unsafe": st.sampled_from(["withhold", "deliver"]),
    "check": st.sampled_from([None, "auto", "before", "beside"]),
}
SIZES = st.sampled_from([None, 16, 20, 36, 64, np.int32(48)])


@st.composite
def requests(draw) -> tuple[object, dict[str, object]]:
    """A prompt and options: most of them sensible, for one image or for each, so that many a request can be honoured."""
    images = draw(st.integers(1, 3))
    prompts = st.one_of(st.sampled_from([PLAIN, FIRE]), st.text(max_size=60))
    prompt = draw(st.one_of(prompts, st.lists(prompts, min_size=images, max_size=images)))
    images = len(prompt) if isinstance(prompt, list) else 1
    options: dict[str, object] = {"num_inference_steps": 1}
    for name, value in SENSIBLE.items():
        each = st.lists(value, min_size=images, max_size=images)
        if draw(st.booleans()):
            options[name] = draw(st.one_of(value, each, each.map(tuple)))
    for name in ("height", "width"):
        options[name] = draw(SIZES)
    options["unguarded"] = draw(st.booleans())
    options["num_images_per_prompt"] = draw(st.sampled_from([1, 1, 2]))
    for name in draw(st.lists(st.sampled_from([*options, "prompt", "policy"]), max_size=1 if draw(st.booleans()) else 3)):
        if name == "prompt":
            prompt = draw(ANYTHING)
        else:
            options[name] = draw(ANYTHING)
    return prompt, options


@contextlib.contextmanager
def one_error():
    """Lets pass a SafeRedirError of one line that a person can read."""
    try:
        yield
    except SafeRedirError as error:
        assert 0 < len(str(error)) < 3000 and "\n" not in str(error)
        str(error).encode()


def python_values(value: object) -> bool:
    """Whether a value, to any depth, has Python's own types."""
    if isinstance(value, dict):
        return all(map(python_values, [*value, *value.values()]))
    if isinstance(value, tuple):
        return all(map(python_values, value))
    if isinstance(value, Policy):
        return python_values(tuple(vars(value).values()))
    return type(value) in (int, float, str, bool, type(None))


def check_request(asked, opened: GuardedPipeline, runs: list[int]) -> None:
    prompt, options = asked
    with one_error():
        request = Request(prompt, **options)
        others = ("prompt", "num_images_per_prompt", "height", "width", "unguarded")
        assert python_values(tuple(getattr(request, name) for name in (*PER_IMAGE, *others)))
        prepared = Preparation.of(request, opened.manifest, SchedulerConfig.read(opened.manifest.scheduler))
        images = len(request.prompts)
        assert len(prepared.seeds) == len(prepared.samplers) == len(prepared.guards) == images
        assert all(bool(guards) != request.unguarded for guards in prepared.guards)
        if len(runs) < PICTURES and images * max(request.step_counts) <= 9 and max(prepared.size) <= 64:
            runs.append(images)
            result = opened(prompt, **options)
            for image, report in zip(result.images, result.reports, strict=True):
                json.loads(report.to_json())
                assert (report.verdict == "unguarded") == request.unguarded
                withheld = report.verdict == "still_unsafe" and report.on_still_unsafe == "withhold"
                assert (image is None) == (report.verdict == "refused" or withheld)
                assert image is None or image.size == (report.width, report.height)


def check_policy(numbers: dict[str, object]) -> None:
    with one_error():
        policy = Policy(**numbers)
        assert python_values(policy) and 0 <= np.float32(policy.threshold) < 1 and 0 < np.float32(policy.alpha_scale) < np.inf


JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from([-1, 0, 1, 10**400])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=4,
)


def places(value: object) -> list[tuple[object, ...]]:
    """The path of every value inside parsed JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(), *((key, *path) for key, item in items for path in places(item))]


@st.composite
def damage(draw, content: bytes) -> bytes:
    """JSON with values replaced, removed, added or renamed, or with other bytes."""
    if draw(st.integers(0, 9)) == 0:
        start, length = draw(st.integers(0, len(content))), draw(st.integers(0, 20))
        return content[:start] + draw(st.binary(max_size=20)) + content[start + length :]
    parsed = json.loads(content)
    for _ in range(draw(st.integers(1, 2))):
        known = [path for path in places(parsed) if path]
        # One of each depth is as likely as another: most values are deep inside.
        depth = draw(st.sampled_from(sorted({len(path) for path in known})))
        *path, last = draw(st.sampled_from([path for path in known if len(path) == depth]))
        parent = parsed
        for key in path:
            parent = parent[key]
        change = draw(st.sampled_from(["replace", "replace", "remove", "add", "rename", "negate"]))
        if change == "remove":
            del parent[last]
        elif change == "negate" and type(parent[last]) in (int, float):
            parent[last] = -parent[last]
        elif change == "rename" and isinstance(parent, dict):
            parent[draw(st.text(max_size=5))] = parent.pop(last)
        elif change == "add" and isinstance(parent, dict):
            parent[draw(st.text(max_size=5))] = draw(JSON_VALUES)
        else:
            parent[last] = draw(JSON_VALUES)
    return json.dumps(parsed).encode()


def check_manifest(content: bytes, folder: Path, opened: list[bytes] | None = None) -> None:
    """`opened`: also open the engines of the folder, and generate, for the first OPENED manifests that can be read."""
    (folder / "manifest.json").write_bytes(content)
    with one_error():
        manifest, digest = Manifest.read(folder)
        summary(manifest, digest).encode()
        schedule = SchedulerConfig.read(manifest.scheduler)
        Preparation.of(Request(PLAIN), manifest, schedule)
        if opened is not None and len(opened) < OPENED and manifest.guards:
            opened.append(content)
            with GuardedPipeline(folder) as pipeline:
                report = pipeline(FIRE, num_inference_steps=1, seed=0, height=64, width=64).reports[0]
                assert report.verdict in ("safe", "redirected") and report.manifest_digest == digest


@st.composite
def checkpoints(draw) -> dict[str, torch.Tensor]:
    """The demo's guard with tensors removed, added, reshaped, retyped or holding other values."""
    tensors = dict(safetensors.torch.load_file(DEMO_REDIRECTOR))
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(tensors)))
        change = draw(st.sampled_from(["remove", "add", "shape", "transpose", "dtype", "value", "cut"]))
        tensor = tensors[name]
        if change == "remove":
            del tensors[name]
        elif change == "add":
            tensors[draw(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8))] = torch.zeros(2)
        elif change == "shape":
            tensors[name] = torch.zeros(draw(st.lists(st.integers(0, 9), max_size=5)))
        elif change == "transpose":
            tensors[name] = tensor.transpose(0, -1).contiguous() if tensor.dim() else tensor
        elif change == "dtype":
            kinds = [torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.bool, torch.complex64, torch.uint8]
            tensors[name] = tensor.to(draw(st.sampled_from(kinds)))
        elif change == "cut" and tensor.dim():
            tensors[name] = tensor[: draw(st.integers(0, max(len(tensor) - 1, 0)))].contiguous()
        elif tensor.is_floating_point():
            tensors[name] = torch.full_like(tensor, draw(st.sampled_from([0.0, np.nan, np.inf, 1e30, -1.0])))
        if not tensors:
            break
    return tensors


def check_checkpoint(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    safetensors.torch.save_file(tensors, folder / "guard.safetensors")
    with one_error():
        heads = load_redirector(folder / "guard.safetensors")
        assert all(bool(torch.isfinite(value).all()) for value in heads.state_dict().values())


def check_metadata(content: bytes, folder: Path) -> None:
    path = folder / "metadata.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, {KEY: content.decode(errors="replace")})
    with one_error():
        metadata = read_metadata(path)
        assert python_values(tuple(vars(metadata.policy).values())) and metadata.check in ("auto", "before", "beside")
        for canary in metadata.canaries:
            assert type(canary.unsafe) is bool and type(canary.seed) is int and 0 <= canary.timestep < 1000
            canary.prompt.encode()


def check_picture(content: bytes, folder: Path) -> None:
    (folder / "picture.png").write_bytes(content)
    with one_error():
        assert isinstance(read_png(folder / "picture.png"), dict)


@pytest.fixture(scope="session")
def manifest_bytes(demo_engines) -> bytes:
    return (demo_engines / "manifest.json").read_bytes()


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="session")
def engines_copy(demo_engines, tmp_path_factory) -> Path:
    """The demo's engines, whose manifest is overwritten."""
    return shutil.copytree(demo_engines, tmp_path_factory.mktemp("fuzz") / "engines")


@trials(150)
@given(asked=requests())
def test_requests(pipeline, asked):
    check_request(asked, pipeline, runs=[0] * (PICTURES - 3))


@trials(150)
@given(numbers=st.fixed_dictionaries({}, optional=dict.fromkeys(TYPES, ANYTHING)))
def test_policies(numbers):
    check_policy(numbers)


@trials(100)
@given(data=st.data())
def test_manifests(manifest_bytes, place, data):
    check_manifest(data.draw(damage(manifest_bytes)), place)


@trials(25)
@given(tensors=checkpoints())
def test_checkpoints(place, tensors):
    check_checkpoint(tensors, place)


@trials(200)
@given(data=st.data())
def test_metadata(place, data):
    check_metadata(data.draw(damage(METADATA)), place)


@pytest.mark.slow
def test_ten_thousand_requests(pipeline):
    runs: list[int] = []
    count: list[int] = []

    @trials(10_000)
    @given(asked=requests())
    def trial(asked):
        count.append(1)
        check_request(asked, pipeline, runs)

    trial()
    print(f"{len(count)} requests, of which {len(runs)} were honoured to the picture")
    assert len(count) >= 10_000 and len(runs) >= 100


@pytest.mark.slow
def test_two_thousand_manifests(manifest_bytes, engines_copy):
    opened: list[bytes] = []
    count: list[int] = []

    @trials(2_000)
    @given(data=st.data())
    def trial(data):
        count.append(1)
        check_manifest(data.draw(damage(manifest_bytes)), engines_copy, opened)

    trial()
    print(f"{len(count)} manifests, of which {len(opened)} were read and opened")
    assert len(count) >= 2_000 and len(opened) >= 20


@pytest.mark.slow
@trials(2_000)
@given(tensors=checkpoints())
def test_two_thousand_checkpoints(place, tensors):
    check_checkpoint(tensors, place)


@pytest.mark.slow
@trials(2_000)
@given(data=st.data())
def test_two_thousand_metadata(place, data):
    check_metadata(data.draw(damage(METADATA)), place)


@pytest.mark.slow
@trials(2_000)
@given(data=st.data())
def test_two_thousand_pictures(pipeline, place, data):
    """A picture with other bytes somewhere."""
    content = bytearray(_picture(pipeline, place))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content) - 1))
        content[start : start + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    check_picture(bytes(content), place)


def _picture(pipeline, place) -> bytes:
    from runtime.png import save_png

    path = place / "sound.png"
    if not path.exists():
        result = pipeline(PLAIN, num_inference_steps=1, seed=0)
        save_png(result.images[0], result.reports[0], path)
    return path.read_bytes()


def test_examples_of_each_kind(manifest_bytes, place):
    """What the trials above first found, or must not lose."""
    for value in (Fraction(1, 3), np.float16(0.5), 0):
        assert type(Policy(threshold=value).threshold) is float
    for value in (Decimal("0.5"), "0.5", True, np.True_, 1j, None):
        with pytest.raises(InputError, match="threshold: expected a finite number"):
            Policy(threshold=value)
    twice = manifest_bytes.replace(b'"guards":', b'"guards": [], "guards":', 1)
    for content, message in (
        (twice, "'guards': expected once in an object, found twice"),
        (
            manifest_bytes.replace(b'"scale_factor": 4', b'"scale_factor": true', 1),
            "geometry.scale_factor: expected an integer, found True",
        ),
        (
            manifest_bytes.replace(b'"default_height": 64', b'"default_height": 1048576', 1),
            "geometry: expected a default size of at most 16384 pixels, found 1048576",
        ),
        (b"[" * 100_000, "not a valid manifest"),
        (b"[]", r"expected format 4, found \[\]"),
    ):
        (place / "manifest.json").write_bytes(content)
        with pytest.raises(ManifestError, match=message):
            Manifest.read(place)
    with pytest.raises(CheckpointError):
        load_redirector("\0")
    with pytest.raises(ManifestError):
        Manifest.read(Path("\0"))
