"""Files of others: plain ones only, within a bound, inside their folder or in the Hub's cache."""

from __future__ import annotations

import ast
import os
import socket
from pathlib import Path

import pytest

from tuneport.errors import ForeignFileError, TuneportError
from tuneport.files import opening, writing


def odd(kind: str, place: Path) -> None:
    match kind:
        case "a named pipe":
            os.mkfifo(place)
        case "a socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(place))
        case _:
            place.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["a named pipe", "a device", "a socket"])
def test_what_is_no_plain_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    odd(kind, tmp_path / "x")
    for read in (opening.read_bytes, opening.read_text, opening.open_descriptor, opening.check_file):
        with pytest.raises(ForeignFileError, match=kind):
            read(tmp_path / "x")
    with pytest.raises(ForeignFileError), opening.opened(tmp_path / "x"):
        pass


def test_an_error_is_one_of_the_system_and_one_of_ours(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(TuneportError) as caught:
        opening.read_bytes(tmp_path / "x")
    assert isinstance(caught.value, OSError) and caught.value.filename == str(tmp_path / "x")
    assert str(caught.value) == f"{tmp_path / 'x'}: {caught.value.strerror}."
    with pytest.raises(IsADirectoryError):
        opening.read_bytes(tmp_path)
    with pytest.raises(FileNotFoundError):
        opening.read_bytes(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        opening.read_bytes(tmp_path / "loop")
    assert not any(opening.check_file(tmp_path / name) for name in ("nothing", "loop", "x/y", "."))
    assert opening.resolved(tmp_path / "loop").name == "loop"


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ForeignFileError, match="more than 1,000 bytes"):
        opening.read_bytes(tmp_path / "x", most=1000)
    os.truncate(tmp_path / "x", 1000)
    assert opening.read_bytes(tmp_path / "x", most=1000) == bytes(1000)
    if Path("/proc/self/status").exists():  # a file that tells no size
        assert opening.read_bytes("/proc/self/status").startswith(b"Name:")


def test_a_link_leads_within_its_folder_and_nowhere_else(tmp_path: Path) -> None:
    folder, other = tmp_path / "folder", tmp_path / "folder-2"
    for place in (folder / "inner", other):
        place.mkdir(parents=True)
        (place / "x").write_text("x")
    (folder / "within").symlink_to("inner/x")
    (folder / "absolute").symlink_to(folder / "inner" / "x")
    (folder / "out").symlink_to("../folder-2/x")
    (folder / "twice").symlink_to("out")
    (folder / "parent").symlink_to("../folder-2")
    for name in ("within", "absolute", "inner/x"):
        assert opening.read_text(folder / name, folder) == "x"
    for name in ("out", "twice", "parent/x", "../folder-2/x"):
        for read in (opening.read_text, opening.check_file):
            with pytest.raises(ForeignFileError, match="leads out of the folder"):
                read(folder / name, folder)
    with pytest.raises(ForeignFileError, match="leads out of the folder"):
        opening.check_inside(folder / "..", folder)
    assert opening.read_text(folder / "out") == "x", "without a folder links lead anywhere"
    (tmp_path / "named").symlink_to(folder)
    assert opening.read_text(tmp_path / "named" / "within", tmp_path / "named") == "x", (
        "the folder itself may be a link"
    )


def test_a_link_leads_into_the_blobs_of_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    for place in (cache, elsewhere):
        (place / "models--o--m" / "blobs").mkdir(parents=True)
        (place / "models--o--m" / "blobs" / "abc").write_text("blob")
        snapshot = place / "models--o--m" / "snapshots" / "1"
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").symlink_to("../../blobs/abc")
        (snapshot / "out").symlink_to("../../../../secret")
        assert opening.read_text(snapshot / "config.json", snapshot) == "blob"
        with pytest.raises(ForeignFileError):
            opening.check_file(snapshot / "out", snapshot) or opening.check_inside(snapshot / "out", snapshot)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "ours").symlink_to(cache / "models--o--m" / "blobs" / "abc")
    (folder / "theirs").symlink_to(elsewhere / "models--o--m" / "blobs" / "abc")
    for name, value in (("HF_HUB_CACHE", str(cache)), ("HF_HOME", str(tmp_path / "home"))):
        monkeypatch.setenv(name, value)
        monkeypatch.delenv({"HF_HOME": "HF_HUB_CACHE", "HF_HUB_CACHE": "HF_HOME"}[name], raising=False)
        if name == "HF_HOME":
            (tmp_path / "home").mkdir()
            (tmp_path / "home" / "hub").symlink_to(cache)
        assert opening.read_text(folder / "ours", folder) == "blob"
        with pytest.raises(ForeignFileError):
            opening.read_text(folder / "theirs", folder)


def test_the_hubs_cache_is_where_its_client_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    assert opening._hub_cache() == Path(constants.HF_HUB_CACHE).resolve()


@pytest.mark.parametrize("write", ["write_new", "create", "open_own"])
@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_nothing_is_written_through_a_link(tmp_path: Path, write: str, link: object) -> None:
    mine, place = tmp_path / "mine", tmp_path / "x"
    mine.write_text("mine")
    link(place, mine)  # type: ignore[operator] # a method of Path, taken off it
    if write == "write_new":
        writing.write_new(place, b"new")
    elif write == "create":
        with writing.create(place) as file:
            file.write(b"new")
    else:
        with pytest.raises(ForeignFileError):
            writing.open_own(place, os.O_RDWR)
    assert mine.read_text() == "mine"
    assert write == "open_own" or (place.read_text() == "new" and not place.is_symlink())


# What opens a file, by its name as it is called.
OPENING = {"open", "read_text", "read_bytes", "copyfile", "copy2", "copytree", "fromfile", "memmap", "read_table"}
OPENING |= {"update_mmap", "cat_file", "loadtxt", "safe_open", "load_file", "shutil.copy", "torch.load", "np.load"}
# Files of nobody else: those that come with tuneport or a library, those of the system, and its null device.
OWN = (
    "resources.files(",
    "(resources.files(",
    "(files(",
    "(here / ",
    "os.open(os.devnull",
    "open('/proc/",
    "open(f'/proc/",
)
OWN += ("Path('/proc/", "Path(f'/proc/")
KNOWN = {
    ("checkpoint/pytorch_bin.py", "torch.load"): "after check_file; torch maps the file itself",
    (
        "checkpoint/open_files.py",
        "os.open",
    ): "opened first by open_descriptor or open_own; the caller's flags, and its check of the file",
    ("scoring/named.py", "path.read_text"): "lm_eval's own task files",
    ("reporting/render/page.py", "file.read_text"): "files of this package and of plotly's",
    ("scoring/tasks/__init__.py", "fsspec.open"): "a file of lm_eval's data set, downloaded by its address",
    ("families/versions.py", "torch.load"): "the state of a training that the lab itself goes on with",
    ("files/writing.py", "os.open"): "our own files, made anew or opened to go on; no link is followed",
    ("files/holding.py", "os.open"): "the run's own folder, to lock it; no link is followed",
    (
        "studies/run/step_records.py",
        "hasher.update_mmap",
    ): "what a step wrote itself; finished_files gives plain files only",
    ("studies/run/scratch.py", "os.open"): "a new file, O_EXCL",
    ("terminal.py", "open"): "a standard stream's descriptor",
    ("tuning/logbook.py", "open"): "just written anew by write_whole, in a folder without links",
}


def test_every_file_of_others_is_opened_here_and_every_other_place_has_a_reason() -> None:
    source = Path(opening.__file__).parents[1]
    met, files = set(), sorted(source.rglob("*.py"))
    assert len(files) > 200
    for path in files:
        place = path.relative_to(source).as_posix()
        if place == "files/opening.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called, whole = ast.unparse(node.func), ast.unparse(node)
            if not {called, called.rpartition(".")[2]} & OPENING or whole.startswith(OWN):
                continue
            if "." not in called and called != "open":
                continue  # a function of tuneport.files.opening
            assert (place, called) in KNOWN, f"{place}: {whole}: open it by tuneport.files.opening"
            met.add((place, called))
    assert met == set(KNOWN), "a reason for what is not there any more"
