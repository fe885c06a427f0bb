"""Files of a cluster, local and over SSH: whatever a run leaves under a path, the service keeps working."""

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.sshd import Sshd
from trainer.run_layout import RunLayout
from worker.backends.access import ssh
from worker.backends.access.files import BehindLink, Files
from worker.backends.access.local_files import LocalFiles
from worker.backends.access.ssh import SshTransport
from worker.backends.local import supervisor
from worker.errors import BackendUnavailable

HOSTILE = [
    "two words",
    "a\nb",
    "end\n",
    "-rf",
    "'\"",
    "$(id)",
    "`id`;#",
    "*",
    "\\",
    "é",
    "\udcff\udcfe",
    "~",
    "=%f",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    running = Sshd(tmp_path_factory.mktemp("sshd"))
    running.start()
    yield running
    ssh.disconnect()
    running.stop()


@pytest.fixture(params=["local", "ssh"])
def files(request: pytest.FixtureRequest) -> Files:
    if request.param == "local":
        return LocalFiles()
    server = request.getfixturevalue("server")
    keys = {"identity": server.identity, "known_hosts": server.known_hosts}
    return SshTransport("127.0.0.1", server.user, server.port, **keys).files()


def make(path: Path, kind: str) -> Path:
    """Put something in place of a file; return the path to use."""
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        return Path("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    elif kind == "no possible name":
        return path.with_name("x" * 300)
    elif kind == "below a file":
        path.touch()
        return path / "file"
    return path


NO_FILES = [
    "link",
    "dangling link",
    "pipe",
    "device",
    "directory",
    "nothing",
    "below a file",
    "no possible name",
]


# -- reading ---------------------------------------------------------------------------------------


def test_a_file_is_read_from_an_offset(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert files.stat(path).size == 10
    assert files.read(path, 3, 4) == b"3456"
    assert files.read(path, 8, 4) == b"89"
    assert files.read(path, 10, 4) == b""
    assert files.read(path, 1000, 4) == b""


def test_a_large_piece_is_read_completely(files: Files, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "file").write_bytes(content)
    assert files.read(tmp_path / "file", 12345, 2 << 20) == content[12345 : 12345 + (2 << 20)]


def test_a_hole_of_a_terabyte_is_skipped(files: Files, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.seek(1 << 40)
        file.write(b"end")
    assert files.read(tmp_path / "file", 1 << 40, 100) == b"end"


def test_a_file_that_grows_is_read_without_a_hole(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    assert files.read(path, 0, 1) == b""

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            for _ in range(100):
                file.write(b"x" * (1 << 20))

    offset = 0
    with ThreadPoolExecutor(1) as threads:
        growing = threads.submit(grow)
        while not growing.done() or offset < path.stat().st_size:
            piece = files.read(path, offset, 16 << 20)
            assert piece.strip(b"x") == b""
            offset += len(piece)
        growing.result()
    assert offset == 100 << 20


def test_a_change_is_seen(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    os.utime(path, (1, 1))
    before = files.stat(path)
    os.utime(path, (5, 5))
    assert before.modified_ns == 1_000_000_000
    assert files.stat(path) == (1, 5_000_000_000)


@pytest.mark.parametrize("kind", NO_FILES)
def test_anything_but_a_regular_file_is_missing(files: Files, tmp_path: Path, kind: str) -> None:
    path = make(tmp_path / "file", kind)
    with pytest.raises(FileNotFoundError):
        files.stat(path)
    with pytest.raises(FileNotFoundError):
        files.read(path, 0, 10)
    assert files.sizes([path]) == {}


def test_a_read_error_is_not_absence(files: Files) -> None:
    with pytest.raises(BackendUnavailable):
        files.read(Path("/proc/self/mem"), 0, 10)  # EIO as an example


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_a_denied_path_is_not_missing(files: Files, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "file").write_text("x")
    (closed / "file").chmod(0)
    with pytest.raises(BackendUnavailable):
        files.read(closed / "file", 0, 1)
    closed.chmod(0)
    for change in _changes(files, closed / "file"):
        with pytest.raises(BackendUnavailable):
            change()
    closed.chmod(0o700)
    assert [path.name for path in closed.iterdir()] == ["file"]


def _changes(files: Files, path: Path) -> list[Callable[[], object]]:
    return [
        lambda: files.stat(path),
        lambda: files.write(path, b"x"),
        lambda: files.create(path, b"x"),
        lambda: files.make_directory(path / "below"),
        lambda: files.remove(path),
        lambda: files.remove_tree(path / "below", path.parent),
    ]


def test_thousands_of_sizes_are_read_in_one_call(files: Files, tmp_path: Path) -> None:
    paths = [tmp_path / f"file-{number}" for number in range(5000)]
    for number, path in enumerate(paths[:4000]):
        path.write_bytes(b"x" * (number % 7))
    assert files.sizes(paths) == {path: number % 7 for number, path in enumerate(paths[:4000])}
    assert files.sizes([]) == {}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_only_a_name(files: Files, tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    files.make_directory(directory / name)
    path = directory / name / name
    assert files.create(path, b"one")
    assert not files.create(path, b"two")
    assert files.read(path, 0, 10) == b"one"
    files.write(path, b"three")
    assert files.sizes([path, tmp_path]) == {path: 5}
    assert files.tree_size(directory / name, tmp_path) == 5
    files.remove_tree(directory / name, tmp_path)
    assert list(directory.iterdir()) == []


# -- reading where a run may put links ----------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A file deep below the directory `root`, and one of the same name outside of it."""
    for top, content in (("root/job/iter", b"saved"), ("outside/job/iter", b"other")):
        (tmp_path / top).mkdir(parents=True)
        (tmp_path / top / "weights").write_bytes(content)
    return tmp_path / "root/job/iter/weights"


def test_a_file_below_a_directory_is_read(files: Files, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "root").rename(tmp_path / "moved")
    (tmp_path / "root").symlink_to("moved")  # the operator's own link
    root = tmp_path / "root"
    assert files.read(saved, 1, 3, root) == b"ave"
    assert files.stat(saved, root).size == 5
    with files.open(saved, root) as file:
        assert (file.stat().size, file.read(0, 100), file.read(4, 9), file.read(5, 9)) == (
            5, b"saved", b"d", b"",
        )  # fmt: skip


@pytest.mark.parametrize("linked", ["job", "job/iter", "job/iter/weights"])
@pytest.mark.parametrize("target", ["outside", "inside"])
def test_no_file_is_read_through_a_link(
    files: Files, saved: Path, tmp_path: Path, linked: str, target: str
) -> None:
    place = tmp_path / "root" / linked
    place.rename(tmp_path / "root/aside")
    place.symlink_to(tmp_path / "outside" / linked if target == "outside" else tmp_path / "root/aside")
    assert saved.read_bytes()
    with pytest.raises(BehindLink):
        files.stat(saved, tmp_path / "root")
    with pytest.raises(FileNotFoundError):
        files.read(saved, 0, 10, tmp_path / "root")
    with pytest.raises(FileNotFoundError), files.open(saved, tmp_path / "root"):
        pass


@pytest.mark.parametrize("path", ["root", "root/../outside/job/iter/weights", "outside/job/iter/weights"])
def test_a_path_that_leads_elsewhere_is_not_below(files: Files, saved: Path, path: str) -> None:
    root = saved.parents[2]
    with pytest.raises(FileNotFoundError):
        files.read(root.parent / path, 0, 10, root)
    with pytest.raises(FileNotFoundError), files.open(root.parent / path, root):
        pass


@pytest.mark.parametrize("kind", [*NO_FILES, "socket"])
def test_only_regular_files_are_opened(files: Files, tmp_path: Path, kind: str) -> None:
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "file"))
    path = tmp_path / "file" if kind == "socket" else make(tmp_path / "file", kind)
    with pytest.raises(FileNotFoundError), files.open(path, path.parent):
        pass


def test_nothing_lies_below_a_missing_directory(files: Files, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.read(tmp_path / "jobs/job/events.jsonl", 0, 10, tmp_path / "jobs")


@pytest.mark.parametrize("swap", ["file", "directory", "link"])
def test_an_open_file_stays_the_same_file(files: Files, saved: Path, tmp_path: Path, swap: str) -> None:
    with files.open(saved, tmp_path / "root") as file:
        assert file.read(0, 2) == b"sa"
        if swap == "directory":
            saved.parent.rename(tmp_path / "root/aside")
            (tmp_path / "outside/job/iter").rename(saved.parent)
        else:
            saved.rename(saved.with_name("aside"))
            other = tmp_path / "outside/job/iter/weights"
            saved.symlink_to(other) if swap == "link" else other.rename(saved)
        assert saved.read_bytes() == b"other"
        assert file.read(2, 10) == b"ved"
        assert file.stat().size == 5


def holders(path: Path) -> int:
    """How many descriptors of a file all processes have, that of the SFTP server included."""
    count = 0
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # it was closed meanwhile, or belongs to another account
            count += link.readlink() == path
    return count


def test_open_files_are_closed(files: Files, saved: Path, tmp_path: Path) -> None:
    with files.open(saved, tmp_path / "root"):
        assert holders(saved) == 1 or os.geteuid() != 0  # only root sees those of sshd
    assert holders(saved) == 0
    with pytest.raises(RuntimeError), files.open(saved, tmp_path / "root"):
        raise RuntimeError
    assert holders(saved) == 0
    files.read(saved, 0, 1, tmp_path / "root")
    assert holders(saved) == 0


def test_a_link_that_comes_and_goes_never_shows_the_other_file(saved: Path, tmp_path: Path) -> None:
    """Reads of a path whose parent is swapped all the time: its own content, or none. Not over SFTP."""
    over = threading.Event()

    def swap_repeatedly() -> None:
        job, aside = saved.parents[1], tmp_path / "aside"
        while not over.is_set():
            job.rename(aside)
            job.symlink_to(tmp_path / "outside/job")
            job.unlink()
            aside.rename(job)

    seen = set()
    with ThreadPoolExecutor(1) as threads:
        swapping = threads.submit(swap_repeatedly)
        for _ in range(3000):
            with suppress(FileNotFoundError):
                seen.add(LocalFiles().read(saved, 0, 10, tmp_path / "root"))
        over.set()
        swapping.result()
    assert seen == {b"saved"}


# -- writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1_000_000])
def test_a_file_is_written_with_its_mode(files: Files, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    files.write(tmp_path / "file", content, 0o640)
    assert (tmp_path / "file").read_bytes() == content
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    files.write(tmp_path / "file", b"again")
    assert (tmp_path / "file").read_bytes() == b"again"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_link_is_replaced_and_not_followed(files: Files, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other")
    (tmp_path / "file").symlink_to("other")
    files.write(tmp_path / "file", b"new")
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "other").read_text() == "other"


def test_readers_see_old_or_new_content(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * (1 << 18) for number in range(10)]
    path.write_bytes(contents[0])
    seen, over = set(), threading.Event()

    def read_repeatedly() -> None:
        while not over.is_set():
            seen.add(path.read_bytes())

    with ThreadPoolExecutor(1) as threads:
        reader = threads.submit(read_repeatedly)
        for content in contents:
            files.write(path, content)
        over.set()
        reader.result()
    assert seen <= set(contents)


@pytest.mark.parametrize("kind", ["nothing", "below a file"])
def test_a_write_needs_an_existing_directory(files: Files, tmp_path: Path, kind: str) -> None:
    path = make(tmp_path / "file", kind) / "file"
    for change in (files.write, files.create):
        with pytest.raises(BackendUnavailable):
            change(path, b"x")


def test_a_directory_is_not_replaced_by_a_file(files: Files, tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(BackendUnavailable):
        files.write(tmp_path / "file", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "directory"])
def test_an_existing_path_is_not_created(files: Files, tmp_path: Path, kind: str) -> None:
    make(tmp_path / "file", kind)
    assert not files.create(tmp_path / "file", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_one_of_several_writers_creates_the_complete_file(files: Files, tmp_path: Path) -> None:
    start = threading.Barrier(10)

    def create(number: int) -> bool:
        start.wait()
        return files.create(tmp_path / "file", bytes([number]) * 100_000, 0o640)

    with ThreadPoolExecutor(10) as threads:
        told = list(threads.map(create, range(10)))
    assert sorted(told) == [False] * 9 + [True]
    assert (tmp_path / "file").read_bytes() == bytes([told.index(True)]) * 100_000
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_directory_is_made_with_its_parents(files: Files, tmp_path: Path) -> None:
    files.make_directory(tmp_path / "a" / "b" / "c", 0o770)
    for path in ("a", "a/b", "a/b/c"):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == 0o770
    files.make_directory(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o770


@pytest.mark.parametrize("kind", ["dangling link", "pipe", "below a file"])
def test_a_directory_is_not_made_in_the_place_of_something_else(
    files: Files, tmp_path: Path, kind: str
) -> None:
    path = make(tmp_path / "file", kind)
    with pytest.raises(BackendUnavailable):
        files.make_directory(path)


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "nothing", "below a file"])
def test_a_file_or_link_is_removed(files: Files, tmp_path: Path, kind: str) -> None:
    path = make(tmp_path / "file", kind)
    files.remove(path)
    assert not path.is_symlink()
    assert not path.exists()
    assert Path("/etc/passwd").exists()


def test_a_directory_is_not_removed_as_a_file(files: Files, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(BackendUnavailable):
        files.remove(tmp_path / "directory")


# -- trees -----------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of 30 bytes with links to files outside that have to stay."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x" * 1000)
    tree = tmp_path / "jobs" / "job"
    (tree / "below").mkdir(parents=True)
    (tree / "file").write_text("x" * 10)
    (tree / "below" / "file").write_text("x" * 20)
    (tree / "below" / "out").symlink_to(outside)
    return tree


def test_a_tree_is_measured_and_removed_without_following_links(files: Files, tree: Path) -> None:
    below, outside = tree.parent, tree.parent.parent / "outside"
    assert files.tree_size(tree, below) == 30
    files.remove_tree(tree, below)
    assert not tree.exists()
    assert (outside / "precious").exists()


def test_a_file_is_a_tree_too(files: Files, tree: Path) -> None:
    files.remove_tree(tree / "file", tree.parent)
    assert not (tree / "file").exists()


def test_a_link_in_place_of_the_tree_is_removed_alone(files: Files, tree: Path) -> None:
    outside = tree.parent.parent / "outside"
    link = tree.parent / "link"
    link.symlink_to(outside)
    assert files.tree_size(link, tree.parent) < 1000
    files.remove_tree(link, tree.parent)
    assert not link.is_symlink()
    assert (outside / "precious").exists()


def test_no_path_leads_through_a_link(files: Files, tree: Path) -> None:
    outside = tree.parent.parent / "outside"
    (outside / "logs").mkdir()
    for action in (files.tree_size, files.remove_tree):
        with pytest.raises(FileNotFoundError):
            action(tree / "below" / "out" / "logs", tree.parent)
    assert (outside / "logs").exists()


@pytest.mark.parametrize("path", ["gone", "job/file/below", "job/gone/below"])
def test_a_missing_tree_is_an_error(files: Files, tree: Path, path: str) -> None:
    for action in (files.tree_size, files.remove_tree):
        with pytest.raises(FileNotFoundError):
            action(tree.parent / path, tree.parent)


def test_without_its_own_directory_the_service_removes_nothing(files: Files, tree: Path) -> None:
    """An unmounted file system does not mean that a job's files are gone."""
    for action in (files.tree_size, files.remove_tree):
        with pytest.raises(BackendUnavailable):
            action(tree.parent.parent / "unmounted" / "job", tree.parent.parent / "unmounted")


# -- records of runs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", '"x"', '{"pid": "x"}', '{"reason": 7, "message": 8}']
)
def test_invalid_records_mean_a_dead_run_with_an_unreadable_end(tmp_path: Path, text: str) -> None:
    for name in ("pid.json", "exit.json"):
        (tmp_path / name).write_text(text)
    assert supervisor.was_started(RunLayout(tmp_path))
    assert not supervisor.is_alive(RunLayout(tmp_path))
    record = supervisor.exit_record(RunLayout(tmp_path))
    assert record is not None
    assert record["reason"] == "unreadable"
