"""Sizes that engines are built for: how they are written, and what they refuse."""

from __future__ import annotations

import dataclasses
import json

import pytest

from engines.errors import InputError, ManifestError
from engines.manifest import Manifest
from engines.sizes import Sizes, Span


@pytest.mark.parametrize(
    "text, message",
    [
        ("4:2:8", "rising order"),
        ("a", "MIN:OPT:MAX"),
        ("1:2", "MIN:OPT:MAX"),
        ("1:2:3:4", "MIN:OPT:MAX"),
        ("64:64:٩٩", "MIN:OPT:MAX"),
        ("16:+32:64", "MIN:OPT:MAX"),
        ("0", "rising order"),
        ("64:64:16400", "at most 16384"),
        ("", "MIN:OPT:MAX"),
        ("64:100:128", "expected multiples of 16 pixels, found 100; nearest: 96 or 112"),
    ],
)
def test_spans(text, message):
    assert Span.parse("height", "64", 16) == Span(64, 64, 64) and str(Span.parse("height", "16:32:64", 16)) == "16:32:64"
    with pytest.raises(InputError, match=f"height: .*{message}"):
        Span.parse("height", text, 16)


def test_what_they_take():
    Sizes().check(batch_size=99, height=8, width=8)
    sizes = Sizes("2:2:4", "64:64:64")
    sizes.check(batch_size=3, height=64, width=8)
    assert sizes.only is None and sizes.smallest_batch == 2 and Sizes().smallest_batch == 1
    assert Sizes("1", "64:64:64", "96").only == (1, 64, 96)
    with pytest.raises(InputError, match=r"^batch_size: expected 2 to 4, for which .* built, found 1; .* build --batch-size MIN"):
        sizes.check(batch_size=1)
    with pytest.raises(InputError, match="^height: expected 64, for which these engines were built, found 72; rebuild with"):
        sizes.check(height=72)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sizes": {"height": "64:32:16"}}, "height: expected MIN:OPT:MAX in rising order"),
        ({"sizes": {"depth": "64"}}, "found 'depth'"),
        ({"target": {"library": "l", "compute_capabilities": "c"}}, "sizes: expected MIN:OPT:MAX for each, as plans have them"),
    ],
    ids=str,
)
def test_a_manifest_with_others(demo_engines, tmp_path, changes, message):
    manifest = dataclasses.asdict(Manifest.read(demo_engines)[0])
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    with pytest.raises(ManifestError, match=message):
        Manifest.read(tmp_path)
