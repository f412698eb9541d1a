"""Downloads from a local server that behaves well, badly, slowly or not at all.

The official addresses are not asked: that their checksums are those of the real files is tested on a copy.
"""

import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from image_files import LABELS, PIXELS, cifar, idx, real_data

from kpoison import cli
from kpoison.datasets import download, load_cifar10, load_cifar100, load_mnist
from kpoison.datasets.files import FOLDERS

room = sys.modules["kpoison.datasets._download"]
NOISE = np.random.default_rng(1).bytes(3_000)


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def tarball(entries):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in entries:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


MNIST = {
    f"{prefix}-{kind}-ubyte.gz": gzip.compress(idx(array))
    for prefix in ("train", "t10k")
    for kind, array in (("images-idx3", PIXELS), ("labels-idx1", LABELS))
}
CIFAR10 = {name: cifar([i, 1, 2, 3]) for i, name in enumerate(room._SOURCES["cifar10"].members)}
CIFAR100 = {"train.bin": cifar([1, 2, 3, 4], [5, 6, 7, 8]), "test.bin": cifar([0, 0, 0, 1], [9, 9, 9, 8])}
OTHERS = [("../escaped.bin", b"x"), ("/tmp/escaped.bin", b"x"), ("readme.html", NOISE), ("link", None)]


def archive(folder, members):
    inside = [(f"{folder}/{name}", content) for name, content in members.items()]
    return tarball([*OTHERS, *inside, (f"{folder}/../escaped.bin", b"x")])


class Server(ThreadingHTTPServer):
    """Serves `files`; the next answers are those that `behaviour` lists, then good ones."""

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.behaviour, self.asked, self.released = files, [], [], threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/data"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        name = self.path.removeprefix("/data/")
        requested = self.headers.get("Range")
        self.server.asked.append((name, requested))
        how = self.server.behaviour.pop(0) if self.server.behaviour else "good"
        content = self.server.files.get(name)
        if content is None or isinstance(how, int):
            self.send_error(how if isinstance(how, int) else 404)
            return
        start = 0
        if requested and how != "without ranges":
            start = int(requested.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
        if how == "corrupt":
            content = bytes(byte ^ 1 for byte in content)
        self.send_response(206 if start else 200)
        if start:
            shift = 1 if how == "another range" else 0
            start -= shift
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if how != "without length":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start:]
        if how in ("truncated", "silent", "slow"):
            self.wfile.write(rest[: len(rest) // 2])
            self.wfile.flush()
            if how != "truncated":
                self.server.released.wait(20 if how == "silent" else 0.3)
            if how == "slow":
                self.wfile.write(rest[len(rest) // 2 :])
            return
        self.wfile.write(rest)


@pytest.fixture
def server(monkeypatch):
    files = dict(MNIST)
    files["cifar-10-binary.tar.gz"] = archive(FOLDERS["cifar10"], CIFAR10)
    files["cifar-100-binary.tar.gz"] = archive(FOLDERS["cifar100"], CIFAR100)
    with Server(files) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        for name, members in (("mnist", {}), ("cifar10", CIFAR10), ("cifar100", CIFAR100)):
            checksums = {file: md5(files[file]) for file in room._SOURCES[name].checksums}
            sizes = {member: len(content) for member, content in members.items()}
            monkeypatch.setitem(room._SOURCES, name, room._Source((server.url + "/",), checksums, sizes))
        monkeypatch.setattr(room, "_CHUNK", 1)  # the files are small
        yield server
        server.released.set()
        server.shutdown()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


FIRST = "train-images-idx3-ubyte.gz"


def test_mnist(server, tmp_path):
    assert download("mnist", tmp_path) == tmp_path / "mnist"
    assert names(tmp_path / "mnist") == sorted(MNIST)
    np.testing.assert_array_equal(load_mnist(tmp_path, "test").images[..., 0] * 255, PIXELS)
    server.asked.clear()
    download("mnist", tmp_path)
    assert server.asked == []  # all is there


@pytest.mark.parametrize(
    ("name", "members", "loader"), [("cifar10", CIFAR10, load_cifar10), ("cifar100", CIFAR100, load_cifar100)]
)
def test_cifar(server, tmp_path, name, members, loader):
    folder = download(name, tmp_path / "new" / "directory")
    assert names(folder) == sorted(members)  # neither the archive nor anything else of it
    assert {path.name for path in tmp_path.rglob("*")} == {"new", "directory", folder.name, *members}
    assert {file: (folder / file).read_bytes() for file in members} == members
    assert len(loader(folder.parent)) == 4 * (len(members) - 1)
    server.asked.clear()
    download(name, folder.parent)
    assert server.asked == []
    (folder / "test.bin" if name == "cifar100" else folder / "test_batch.bin").write_bytes(b"short")
    download(name, folder.parent)
    assert {file: (folder / file).read_bytes() for file in members} == members


def test_the_environment_names_the_directory(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KPOISON_DATA", str(tmp_path))
    assert cli.main(["download", "mnist"]) == 0
    assert len(load_mnist()) == 7


@pytest.mark.parametrize("how", ["slow", "without length", "without ranges"])
def test_answers_that_are_good_in_the_end(server, tmp_path, how):
    server.behaviour = [how]
    download("mnist", tmp_path)
    assert len(load_mnist(tmp_path)) == 7


@pytest.mark.parametrize("how", ["good", "without ranges", "another range"])
def test_what_was_truncated_is_continued(server, tmp_path, how):
    server.behaviour = ["truncated", how]
    download("mnist", tmp_path)
    half = len(MNIST[FIRST]) // 2
    assert server.asked[:2] == [(FIRST, None), (FIRST, f"bytes={half}-")]
    assert names(tmp_path / "mnist") == sorted(MNIST)


def test_a_silent_server_is_given_up_and_the_next_call_continues(server, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "_ATTEMPTS", 1)
    server.behaviour = ["silent", 503]
    with pytest.raises(OSError, match="503"):
        download("mnist", tmp_path, timeout=0.2)
    half = len(MNIST[FIRST]) // 2
    assert names(tmp_path / "mnist") == [FIRST + ".part"]
    with pytest.raises(FileNotFoundError, match="kpoison download mnist"):
        load_mnist(tmp_path)
    download("mnist", tmp_path)
    assert (FIRST, f"bytes={half}-") in server.asked
    assert len(load_mnist(tmp_path)) == 7


def test_a_server_that_is_always_silent(server, tmp_path):
    server.behaviour = ["silent"] + ["truncated"] * 40
    start = time.monotonic()
    with pytest.raises(OSError, match=rf"{FIRST}: the .*; [\d,]+ bytes are kept, and the next download continues them"):
        download("mnist", tmp_path, timeout=0.2)
    assert time.monotonic() - start < 10


@pytest.mark.slow
def test_a_killed_download_leaves_no_whole_file_and_is_continued(server, tmp_path):
    server.behaviour = ["silent"]
    script = f"""
        from kpoison.datasets import download
        download("mnist", {str(tmp_path)!r}, base_url={server.url!r})
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stderr=subprocess.PIPE)
    part, half = tmp_path / "mnist" / (FIRST + ".part"), len(MNIST[FIRST]) // 2
    deadline = time.monotonic() + 120
    # What was received is flushed only in blocks; that the file is there says that the answer has begun.
    while not part.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert not (set(names(tmp_path / "mnist")) & set(MNIST))
    part.write_bytes(MNIST[FIRST][:half])
    download("mnist", tmp_path)
    assert (FIRST, f"bytes={half}-") in server.asked
    assert len(load_mnist(tmp_path)) == 7


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_corrupt_answers_are_refused(server, tmp_path, name):
    server.behaviour = ["corrupt"]
    with pytest.raises(ValueError, match=r"MD5 hash of downloaded file .* does not match"):
        download(name, tmp_path)
    assert names(tmp_path / FOLDERS[name]) == []
    download(name, tmp_path)


def test_a_partial_file_of_something_else(server, tmp_path):
    """Whether it is longer than the file or just wrong, it is thrown away."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    (folder / (FIRST + ".part")).write_bytes(bytes(10 * len(MNIST[FIRST])))
    download("mnist", tmp_path)
    (folder / FIRST).unlink()
    (folder / (FIRST + ".part")).write_bytes(bytes(100))
    with pytest.raises(ValueError, match="does not match"):
        download("mnist", tmp_path)
    assert FIRST + ".part" not in names(folder)
    download("mnist", tmp_path)
    assert len(load_mnist(tmp_path)) == 7


def test_the_next_mirror_is_asked(server, tmp_path, monkeypatch):
    source = room._SOURCES["mnist"]
    dead = room._Source(("http://127.0.0.1:1/", *source.addresses), source.checksums, {})
    monkeypatch.setitem(room._SOURCES, "mnist", dead)
    monkeypatch.setattr(room, "_ATTEMPTS", 1)
    download("mnist", tmp_path)
    server.behaviour = ["corrupt"]
    monkeypatch.setitem(room._SOURCES, "mnist", room._Source(source.addresses * 2, source.checksums, {}))
    download("mnist", tmp_path / "again")
    assert len(load_mnist(tmp_path / "again")) == 7


@pytest.mark.parametrize(
    ("base_url", "message"),
    [("http://127.0.0.1:1", "could not be reached"), (None, "404")],
    ids=["no network", "not found"],
)
def test_no_answer(server, tmp_path, monkeypatch, capsys, base_url, message):
    server.files.clear()
    with pytest.raises(OSError, match=message):
        download("mnist", tmp_path, base_url=base_url)
    assert names(tmp_path / "mnist") == []
    if base_url is None:
        assert cli.main(["download", "mnist", "--data-dir", str(tmp_path)]) == 2
        assert "kpoison: 404" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mnist", "cifar100"])
def test_a_full_disk_is_noticed_before(server, tmp_path, monkeypatch, name):
    needed = len(server.files["cifar-100-binary.tar.gz"]) + sum(map(len, CIFAR100.values()))
    free = len(MNIST[FIRST]) - 1 if name == "mnist" else needed - 1
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    with pytest.raises(OSError, match=r"takes .* more on the disk, of which .* are free") as full:
        download(name, tmp_path)
    assert full.value.errno == 28
    assert names(tmp_path / FOLDERS[name]) == []


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"train.bin": CIFAR100["train.bin"]}, "cifar-100-binary/test.bin not among its files"),
        ({**CIFAR100, "test.bin": b"short"}, "test.bin to be a file of 12296 bytes, got 5"),
        ({**CIFAR100, "test.bin": None}, "test.bin to be a file of 12296 bytes, got 0"),
    ],
    ids=["missing", "short", "link"],
)
def test_archives_that_do_not_hold_the_files(server, tmp_path, monkeypatch, entries, message):
    content = tarball([(f"cifar-100-binary/{name}", data) for name, data in entries.items()])
    server.files["cifar-100-binary.tar.gz"] = content
    source = room._SOURCES["cifar100"]
    changed = room._Source(source.addresses, {"cifar-100-binary.tar.gz": md5(content)}, source.members)
    monkeypatch.setitem(room._SOURCES, "cifar100", changed)
    with pytest.raises(ValueError, match=message):
        download("cifar100", tmp_path)
    assert "test.bin" not in names(tmp_path / FOLDERS["cifar100"])


def test_bad_arguments(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("KPOISON_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="no data directory given"):
        download("mnist")
    for timeout in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="timeout must be finite and > 0"):
            download("mnist", tmp_path, timeout=timeout)
    with pytest.raises(ValueError, match="name must be one of 'mnist', 'cifar10', 'cifar100', got 'svhn'"):
        getattr(download, "__wrapped__", download)("svhn", tmp_path)  # without the checks of types, where they are on
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        download("mnist", tmp_path / "file")
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r"pip install 'kpoison\[download\]'"):
        download("mnist", tmp_path)
    assert cli.main(["download", "mnist", "--data-dir", str(tmp_path)]) == 2
    assert "kpoison[download]" in capsys.readouterr().err


def test_nothing_is_downloaded_unasked(server, tmp_path):
    for loader in (load_mnist, load_cifar10, load_cifar100):
        with pytest.raises(FileNotFoundError, match=r"kpoison download \w+` \(kpoison.datasets.download\)"):
            loader(tmp_path)
    assert server.asked == []


def test_checksums_are_those_of_the_real_files():
    folder = real_data("mnist") / "mnist"
    assert {path.name: md5(path.read_bytes()) for path in folder.iterdir()} == room._SOURCES["mnist"].checksums
