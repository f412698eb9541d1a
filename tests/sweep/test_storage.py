"""A sweep on disk: the same numbers back, killed and continued, and nothing mixed in."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from problem import AXES, DIRECTION, Y2, assert_as_for_another_shape, clean, poison

import kpoison as kp
from kpoison.resumable import storage

HERE = Path(__file__).parent
# Small chunks: one for each probe and a few multiplicities.
CUT = {"memory": 8_000}


def swept(posterior=None, **options):
    return kp.sweep(
        clean() if posterior is None else posterior,
        options.pop("poison", poison()),
        direction=DIRECTION,
        **(AXES | options),
    )


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_back_without_loss(tmp_path, suffix, outputs):
    if suffix == ".zarr":
        pytest.importorskip("zarr")
    posterior = clean() if outputs == 1 else clean(y=Y2)
    options = {"kernels": {"rbf": kp.kernels.RBF(1.0), "linear": kp.kernels.Linear()}, "label": None, **CUT}
    p = poison() if outputs == 1 else poison(np.array([1.0, 0.0]))
    in_memory = swept(posterior, poison=p, **options)
    out = tmp_path / f"grid{suffix}"
    with swept(posterior, poison=p, out=out, **options) as on_disk:
        xr.testing.assert_identical(on_disk.load(), in_memory)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    # Given again, it is read and not computed.
    before = out.stat().st_mtime_ns
    with swept(posterior, poison=p, out=str(out), **options) as again:
        xr.testing.assert_identical(again.load(), in_memory)
    assert out.stat().st_mtime_ns == before


PROGRAM = """
import sys, time
import jax; jax.config.update("jax_enable_x64", True)
sys.path.insert(0, {here!r})
from problem import *
from kpoison.resumable import storage
write = storage.ChunkStore.write
def slowly(self, index, arrays):
    write(self, index, arrays)
    print("chunk", index, flush=True)
    time.sleep({pause})
storage.ChunkStore.write = slowly
with kp.sweep(clean(), poison(), direction=DIRECTION, **AXES, out={out!r}, memory=8_000) as result:
    result.load()
"""


def command(out, pause):
    return [sys.executable, "-c", PROGRAM.format(here=str(HERE), out=str(out), pause=pause)]


@pytest.mark.slow
def test_killed_is_not_lost(tmp_path):
    whole, killed = tmp_path / "whole.nc", tmp_path / "killed.nc"
    swept(out=whole, **CUT).close()
    with subprocess.Popen(command(killed, 30), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    parts = sorted((tmp_path / "killed.nc.parts").glob("*.npz"))
    assert len(parts) == 1
    assert not killed.exists()
    finished = parts[0].stat().st_mtime_ns, parts[0].name
    done = subprocess.run(command(killed, 0), capture_output=True, text=True, check=True)
    computed = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert int(finished[1].split("-")[0]) not in computed
    assert computed == list(range(1, len(computed) + 1))
    assert killed.read_bytes() == whole.read_bytes()


@pytest.fixture
def half_done(tmp_path, monkeypatch):
    """The path of a sweep of which two chunks are finished."""
    out, write = tmp_path / "grid.nc", storage.ChunkStore.write

    def stop_after_two(self, index, arrays):
        if index == 2:
            raise KeyboardInterrupt
        write(self, index, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(storage.ChunkStore, "write", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            swept(out=out, **CUT)
    return out


@pytest.mark.slow
def test_another_plan_of_chunks_is_continued_as_it_was(half_done):
    with swept(out=half_done) as result:
        for name, variable in swept().items():
            assert_as_for_another_shape(result[name], variable, name)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param({"m": [1.0, 2.0, 3.0, 4.0]}, "points_hash", marks=pytest.mark.slow),
        ({"law": "isolated"}, "law"),
        ({"quantities": ("gain",)}, "quantities"),
        ({"metadata": {"seed": 1}}, "metadata"),
        ({"poison": poison(-1.0)}, "points_hash"),
        ({"posterior": clean(kp.kernels.RBF(1.6))}, "kernels"),
        ({"posterior": clean(y=-np.asarray(clean().y))}, "data_hash"),
    ],
    ids=lambda change: "" if isinstance(change, str) else next(iter(change)),
)
def test_a_changed_argument_is_refused(half_done, change, named):
    with pytest.raises(FileExistsError, match=named):
        swept(out=half_done, **CUT, **change)
    swept(out=half_done, **CUT).close()
    with pytest.raises(FileExistsError, match="another sweep"):
        swept(out=half_done, **CUT, **change)


def test_a_damaged_chunk_is_refused(half_done):
    chunk = sorted(half_done.with_name("grid.nc.parts").glob("*.npz"))[1]
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{chunk.name} is damaged.*Delete it"):
        swept(out=half_done, **CUT)
    chunk.unlink()
    with swept(out=half_done, **CUT) as result:
        xr.testing.assert_identical(result.load(), swept(**CUT))


@pytest.mark.parametrize("content", ["", "{}", "not json"])
def test_a_damaged_manifest_is_refused(half_done, content):
    (half_done.with_name("grid.nc.parts") / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest.json is damaged"):
        swept(out=half_done, **CUT)


def test_a_full_disk_keeps_what_is_finished(tmp_path, monkeypatch):
    out, real = tmp_path / "grid.nc", os.fsync
    calls = []

    def full_after_three(descriptor):
        calls.append(descriptor)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_after_three)
        with pytest.raises(OSError, match=r"could not be written.*No space.*2 finished ones are kept"):
            swept(out=out, **CUT)
    parts = out.with_name("grid.nc.parts")
    assert len(list(parts.glob("*.npz"))) == 2
    assert not list(parts.glob(".*"))
    with swept(out=out, **CUT) as result:
        xr.testing.assert_identical(result.load(), swept(**CUT))


def test_too_little_room_is_seen_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: type("usage", (), {"free": 1000}))
    with pytest.raises(OSError, match=r"out needs 0.00 GiB .* are free"):
        swept(out=tmp_path / "grid.nc")
    assert not list(tmp_path.iterdir())


def test_unwritable_paths(tmp_path):
    for out, error, message in (
        (tmp_path / "grid.txt", ValueError, "must end in .nc"),
        (tmp_path / "missing" / "grid.nc", FileNotFoundError, "folder that exists"),
    ):
        with pytest.raises(error, match=message):
            swept(out=out)
    for content in (b"something else", b"\x89HDF\r\n\x1a\n"):
        other = tmp_path / "other.nc"
        other.write_bytes(content)
        with pytest.raises(FileExistsError, match="no sweep"):
            swept(out=other)
        assert other.read_bytes() == content


def test_a_finished_sweep_of_other_arguments_is_kept(tmp_path):
    out = tmp_path / "grid.nc"
    swept(out=out).close()
    before = out.read_bytes()
    with pytest.raises(FileExistsError, match="another sweep"):
        swept(out=out, m=[5.0])
    assert out.read_bytes() == before


@pytest.mark.slow
def test_time_is_not_in_the_file(tmp_path):
    files = []
    for name in ("a.nc", "b.nc"):
        swept(out=tmp_path / name).close()
        files.append((tmp_path / name).read_bytes())
        time.sleep(1.1)
    assert files[0] == files[1]
