"""Files and folders are whole or not there, whoever is killed, and nothing else is touched."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engines.errors import InputError
from engines.store import atomic
from engines.store.atomic import recover_folder, remove_leftovers, replacing, replacing_folder, sole_writer

ROOT = Path(__file__).resolve().parent.parent.parent


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def no_report(text: str) -> None:
    raise AssertionError(text)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.json"
    for text in ("old", "new"):
        with replacing(path) as temporary:
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "old"
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "new" and names(tmp_path) == ["report.json"]
    assert path.stat().st_mode == (tmp_path / "report.json").stat().st_mode


def test_others_can_read_what_the_umask_lets_them(tmp_path):
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("x")
    (tmp_path / "plain").write_text("x")
    with sole_writer(tmp_path / "folder", no_report), replacing_folder(tmp_path / "folder"):
        pass
    (tmp_path / "made").mkdir()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "folder").stat().st_mode == (tmp_path / "made").stat().st_mode


def test_temporary_names_differ_and_are_closed_to_others(tmp_path):
    with replacing(tmp_path / "file") as first, replacing(tmp_path / "file") as second:
        assert first.parent != second.parent and first.parent.parent == tmp_path
        assert first.parent.stat().st_mode & 0o077 == 0
        first.write_text("1")
        second.write_text("2")
    (tmp_path / "victim").write_text("years of work")
    for name in (".file.tmp", "file.tmp"):
        (tmp_path / name).symlink_to("victim")
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("3")
    assert (tmp_path / "victim").read_text() == "years of work"


def test_links_stay_and_what_is_behind_them_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file")
    for text in ("made", "replaced"):
        with replacing(tmp_path / "link") as temporary:
            temporary.write_text(text)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "file").read_text() == text
    (tmp_path / "folder").symlink_to("there")
    with sole_writer(tmp_path / "folder", no_report), replacing_folder(tmp_path / "folder") as folder:
        (folder / "new").write_text("x")
    assert (tmp_path / "folder").is_symlink() and names(tmp_path / "there") == ["new"] and len(names(tmp_path)) == 3


def test_devices_and_pipes_are_written_to():
    with replacing(Path(os.devnull)) as temporary:
        temporary.write_text("x")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_a_fifo(tmp_path):
    path, read = tmp_path / "fifo", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    with replacing(path) as temporary:
        temporary.write_text("report")
    reader.join(10)
    assert read == ["report"] and stat.S_ISFIFO(path.stat().st_mode)


def test_standard_output(tmp_path):
    code = "from engines.store.atomic import replacing; from pathlib import Path\n"
    code += "with replacing(Path('/dev/stdout')) as path: path.write_text('report')"
    with open(tmp_path / "file", "wb") as file:
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=file, check=True)
    assert (tmp_path / "file").read_text() == "report" and names(tmp_path) == ["file"]


def test_errors_name_the_users_file(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "no" / "report.json", tmp_path / "file" / "report.json", tmp_path):
        with pytest.raises(OSError) as raised, replacing(path) as temporary:
            temporary.write_text("x")
        assert raised.value.filename == str(path) and raised.value.strerror
    with pytest.raises(OSError) as raised, replacing(tmp_path / "report.json") as temporary:
        temporary.with_name("missing").read_text()
    assert raised.value.filename == str(tmp_path / "report.json")
    with pytest.raises(OSError) as raised, replacing(tmp_path / "report.json"):
        (tmp_path / "other").read_text()
    assert raised.value.filename == str(tmp_path / "other")
    with pytest.raises(InputError) as refused, replacing_folder(tmp_path / "demo") as folder:
        raise InputError(f"{folder}/unet/model.onnx: too large")
    assert str(refused.value) == f"{tmp_path}/demo/unet/model.onnx: too large"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(tmp_path):
    with pytest.raises(OSError, match="No space left") as raised, replacing(Path("/dev/full")) as temporary:
        temporary.write_text("x")
    assert raised.value.filename == "/dev/full"
    with pytest.raises(OSError, match="No space left") as raised, replacing(tmp_path / "file"), open("/dev/full", "w") as file:
        file.write("x")
    assert raised.value.filename == str(tmp_path / "file")


KILLED = """
import os, sys
from pathlib import Path
from engines.store import atomic
target, at = Path(sys.argv[1]), int(sys.argv[2])
rename, calls = os.rename, []
def counting(*paths):
    calls.append(paths)
    if len(calls) == at:
        os._exit(9)
    rename(*paths)
os.rename = counting
with atomic.sole_writer(target, print), atomic.replacing_folder(target) as folder:
    (folder / "new").write_text("new")
"""


def kill(target: Path, at: int) -> None:
    """Replace a folder in a process that dies before its rename number `at`."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(target), str(at)], cwd=ROOT)
    assert done.returncode == 9


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "old").write_text("old")
    return folder


@pytest.mark.parametrize("at, found", [(1, "old"), (2, "old"), (3, "new")])
def test_a_process_killed_while_it_replaces_a_folder(target, tmp_path, at, found):
    kill(target, at)
    assert target.exists() == (at != 2) and len(names(tmp_path)) > 1
    recover_folder(target)
    assert names(target) == [found]
    with sole_writer(target, no_report):
        assert names(target) == [found] and len([name for name in names(tmp_path) if not name.endswith(atomic.LOCK)]) == 1
    assert names(tmp_path) == ["demo"]


def test_leftovers_of_the_dead_go_and_of_the_living_stay(tmp_path):
    path = tmp_path / "out.png"
    code = "import os, sys; from pathlib import Path; from engines.store.atomic import replacing\n"
    code += "with replacing(Path(sys.argv[1])) as path: path.write_text('x'); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT)
    (left,) = names(tmp_path)
    (tmp_path / ".out.png.notes.saferedir-new").mkdir()
    with replacing(path) as temporary:
        temporary.write_text("picture")
        remove_leftovers(path)
    assert names(tmp_path) == [".out.png.notes.saferedir-new", "out.png"] and left not in names(tmp_path)


def test_the_second_writer_waits_and_says_so(target, tmp_path):
    order, waiting = [], threading.Event()

    def second() -> None:
        with sole_writer(target, lambda text: (order.append(text), waiting.set())):
            order.append("second")

    thread = threading.Thread(target=second)
    with sole_writer(target, no_report):
        thread.start()
        assert waiting.wait(10)
        order.append("first")
    thread.join(10)
    assert order == [f"{target}: another process is writing it; waiting for that to end", "first", "second"]
    assert names(tmp_path) == ["demo"]


def test_many_writers(target, tmp_path):
    inside: list[int] = []

    def write(number: int) -> None:
        with sole_writer(target, lambda text: None):
            inside.append(number)
            assert inside == [number]
            inside.remove(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not inside and names(tmp_path) == ["demo"]


def test_a_folder_that_changed_meanwhile_stays(target, tmp_path):
    def check() -> None:
        if (target / "thesis.txt").exists():
            raise InputError("found 'thesis.txt'")

    with pytest.raises(InputError), sole_writer(target, no_report), replacing_folder(target, check):
        (target / "thesis.txt").write_text("years of work")
    assert names(target) == ["old", "thesis.txt"] and names(tmp_path) == ["demo"]
