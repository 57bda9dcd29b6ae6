"""Mapped pages are given back, and only those that can be read again."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import pytest

from engines.backends import mapped_files
from engines.backends.mapped_files import release_pages

SIZE = 64 * mmap.PAGESIZE


def resident(path: Path) -> int:
    """Bytes of the file's mappings that are resident in this process."""
    mappings = re.findall(rf"{re.escape(str(path))}\n(?:.*\n)*?Rss: +(\d+) kB", Path("/proc/self/smaps").read_text())
    return 1024 * sum(map(int, mappings))


@pytest.fixture
def file(tmp_path):
    if not mapped_files.MAPS.exists():
        pytest.skip("this system has no /proc")
    path = tmp_path / "model.onnx.data"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    return path


def test_pages_are_given_back_and_read_again(file):
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as mapped:
        content = bytes(mapped)
        assert resident(file) == SIZE
        release_pages(file.with_name("other.onnx"))
        assert resident(file) == SIZE
        release_pages(file.with_name("model.onnx"))
        assert resident(file) == 0
        assert bytes(mapped) == content and resident(file) == SIZE


def test_what_was_written_stays(file):
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped[:4] = b"mine"
        release_pages(file)
        assert mapped[:4] == b"mine"


def test_other_systems_have_none(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped_files, "MAPS", tmp_path / "maps")
    release_pages(tmp_path)
