"""Downloads are verified and whole; the readers of IDX and CIFAR files refuse what is not theirs."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from vaekit.config.schema import DataConfig
from vaekit.data import cifar
from vaekit.data.download import RemoteFile, data_root, fetch, locate
from vaekit.data.plain_pickle import read_plain_pickle
from vaekit.data.sources import SOURCES, Source, read_idx
from vaekit.data.splits import load_splits
from vaekit.errors import DataError, StorageError

NOBODY = "http://127.0.0.1:9"  # the discard port: refuses connections


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def idx(array: np.ndarray) -> bytes:
    lengths = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return bytes([0, 0, 8, array.ndim]) + lengths + array.astype(np.uint8).tobytes()


@dataclass
class Made:
    """A small data set in MNIST's layout: the source and the bytes of each file."""

    source: Source
    files: dict[str, bytes]  # decompressed, by path below the data root, without .gz

    def write(self, folder: Path, *, compress: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for path, data in self.files.items():
            (folder / (Path(path).name + ".gz" * compress)).write_bytes(
                gzip.compress(data, mtime=0) if compress else data
            )


def make_mnist(by: str = "md5") -> Made:
    """By which sum the files are known: of the decompressed or of the compressed bytes, or by size only."""
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, (40, 5, 6)), np.arange(40) % 10, random.integers(0, 256, (8, 5, 6)), np.arange(8)]
    files, table = {}, []
    for entry, array in zip(SOURCES["mnist"].files, arrays, strict=True):
        data = idx(array)
        files[f"MNIST/raw/{entry.name.removesuffix('.gz')}"] = data
        sums: dict[str, Any] = {
            "md5": md5(data),
            "md5_compressed": md5(gzip.compress(data, mtime=0)),
            "size": len(data),
        }
        table.append(RemoteFile(entry.folder, entry.name, f"{NOBODY}/{entry.name}", **{by: sums[by]}))
    return Made(replace(SOURCES["mnist"], files=tuple(table), validation=0.1), files)


def load(made: Made, root: Path) -> list[int]:
    splits = load_splits(DataConfig(source="mnist", root=str(root)), sources={"mnist": made.source})
    assert splits.train.shape == (1, 5, 6)
    return [len(splits.train), len(splits.validation), len(splits.test)]


@dataclass
class Server:
    """Serves bytes by path; may cut the connection half-way, and looks around while it sends."""

    files: dict[str, bytes]
    url: str = ""
    cut: bool = False
    requests: list[str] = field(default_factory=list)
    midway: Callable[[], None] = lambda: None


@pytest.fixture
def server(socket_enabled: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server({})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            data = state.files.get(self.path)
            if data is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            state.midway()
            if not state.cut:
                self.wfile.write(data[len(data) // 2 :])

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        state.url = f"http://127.0.0.1:{http.server_port}"
        monkeypatch.setenv("VAEKIT_MIRROR", state.url + "/")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield state
        http.shutdown()


def serve(server: Server, made: Made) -> None:
    server.files = {f"/{path}.gz": gzip.compress(data, mtime=0) for path, data in made.files.items()}


@pytest.mark.parametrize("place", ["MNIST/raw", "raw", "."])
@pytest.mark.parametrize("compress", [True, False])
def test_files_on_disk_are_used_where_they_lie(tmp_path: Path, place: str, compress: bool) -> None:
    made = make_mnist()
    made.write(tmp_path / place, compress=compress)
    before = sorted(tmp_path.rglob("*"))
    assert load(made, tmp_path) == [36, 4, 8]
    assert sorted(tmp_path.rglob("*")) == before


def test_mnist_is_recognised_by_its_decompressed_bytes(tmp_path: Path) -> None:
    made = make_mnist()
    made.write(tmp_path)
    for file in tmp_path.iterdir():
        file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()), compresslevel=1))
    assert load(made, tmp_path) == [36, 4, 8]


@pytest.mark.parametrize(
    ("by", "compress"),
    [("md5", True), ("md5", False), ("md5_compressed", True), ("size", True), ("size", False)],
)  # a decompressed file of which only the archive's sum is known is checked by its header alone
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, by: str, compress: bool) -> None:
    made = make_mnist(by)
    name = "MNIST/raw/train-labels-idx1-ubyte"
    made.files[name] = made.files[name][:-1] + (b"\x08" if by != "size" else b"\x08\x08")
    made.write(tmp_path, compress=compress)
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte.* expected") as caught:
        load(made, tmp_path)
    if by == "md5":
        assert md5(made.files[name]) in str(caught.value), "the sum that was found is named"


def test_a_cut_gzip_file_is_refused_by_name(tmp_path: Path) -> None:
    made = make_mnist()
    made.write(tmp_path)
    file = tmp_path / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz is damaged"):
        load(made, tmp_path)


@pytest.mark.parametrize("by", ["md5", "md5_compressed"])
def test_downloads_happen_once(server: Server, tmp_path: Path, by: str) -> None:
    made = make_mnist(by)
    serve(server, made)
    assert load(made, tmp_path) == [36, 4, 8]
    assert sorted(server.requests) == sorted(server.files)
    assert load(made, tmp_path) == [36, 4, 8]
    assert len(server.requests) == 4
    assert all((tmp_path / name.lstrip("/")).read_bytes() == data for name, data in server.files.items())


def test_a_cut_connection_leaves_nothing_behind(server: Server, tmp_path: Path) -> None:
    made = make_mnist()
    serve(server, made)
    server.cut = True
    with pytest.raises(DataError, match="cannot be downloaded"):
        load(made, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    server.cut = False
    assert load(made, tmp_path) == [36, 4, 8]


def test_a_file_has_its_name_only_when_it_is_whole(server: Server, tmp_path: Path) -> None:
    made = make_mnist()
    serve(server, made)
    seen: list[bool] = []
    server.midway = lambda: seen.append((tmp_path / server.requests[-1].lstrip("/")).exists())
    load(made, tmp_path)
    assert seen == [False] * 4


@pytest.mark.parametrize("by", ["md5", "md5_compressed"])
def test_another_file_from_the_server_is_refused(server: Server, tmp_path: Path, by: str) -> None:
    made = make_mnist(by)
    serve(server, made)
    server.files["/MNIST/raw/train-images-idx3-ubyte.gz"] = gzip.compress(idx(np.zeros((40, 5, 6))), mtime=0)
    with pytest.raises(DataError, match=r"sent something else .*train-images-idx3-ubyte"):
        load(made, tmp_path)
    assert locate(made.source.files[0], tmp_path) is None


def test_two_downloads_at_once_both_succeed(server: Server, tmp_path: Path) -> None:
    made = make_mnist()
    serve(server, made)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(fetch, "mnist", made.source.files, tmp_path, lambda *_: None) for _ in range(2)]
        assert runs[0].result() == runs[1].result()
    assert not list(tmp_path.rglob("*.part"))


def test_offline_names_every_file_and_place(
    socket_enabled: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("VAEKIT_MIRROR", raising=False)
    made = make_mnist()
    with pytest.raises(DataError) as caught:
        load(made, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for file in made.source.files:
        assert file.name in message
    for place in (tmp_path / "MNIST" / "raw", tmp_path / "raw", f"{tmp_path};", "VAEKIT_DATA"):
        assert str(place) in message


def test_a_root_that_cannot_be_written_is_a_storage_error(server: Server, tmp_path: Path) -> None:
    made = make_mnist()
    serve(server, made)
    (tmp_path / "MNIST").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match=r"cannot write .*MNIST/raw"):
        load(made, tmp_path)


def test_the_root_is_the_configs_then_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEKIT_DATA", "/from/environment")
    assert data_root("/from/config") == Path("/from/config")
    assert data_root(None) == Path("/from/environment")
    monkeypatch.delenv("VAEKIT_DATA")
    assert data_root(None) == Path.home() / ".cache" / "vaekit" / "data"


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4)])
def test_idx_is_read_as_it_was_written(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    assert np.array_equal(read_idx(idx(array), "made"), array)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0\0", idx(np.zeros((2, 3)))[:-1], idx(np.zeros(3)) + b"\0", b"\0\0\x0d\x01" + bytes(8), b"GIF89a.."],
)
def test_idx_refuses_other_bytes(data: bytes) -> None:
    with pytest.raises(DataError, match="made"):
        read_idx(data, "made")


def test_more_images_than_labels_are_refused(tmp_path: Path) -> None:
    made = make_mnist("size")
    made.files["MNIST/raw/train-labels-idx1-ubyte"] = idx(np.zeros(39))
    made.write(tmp_path, compress=False)
    files = tuple(file._replace(size=None) for file in made.source.files)
    with pytest.raises(DataError, match="40 images but 39 labels"):
        load(replace(made, source=replace(made.source, files=files)), tmp_path)


def make_cifar() -> tuple[dict[str, bytes], np.ndarray]:
    """Six members of five records each, and all images (30, 3, 32, 32)."""
    random = np.random.default_rng(2)
    records = random.integers(0, 256, (6, 5, 3073)).astype(np.uint8)
    records[:, :, 0] %= 10
    names = [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]
    members = {name: part.tobytes() for name, part in zip(names, records, strict=True)}
    return {"batches.meta.txt": b"airplane\n", **members}, records[:, :, 1:].reshape(30, 3, 32, 32)


def archive(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def cifar_source(data: bytes) -> dict[str, Source]:
    entry = SOURCES["cifar10"].files[0]._replace(md5_compressed=md5(data))
    return {"cifar10": replace(SOURCES["cifar10"], files=(entry,), validation=0)}


def test_cifar_is_read_from_its_archive_and_from_its_folder(tmp_path: Path) -> None:
    members, images = make_cifar()
    packed = archive(members)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(packed)
    splits = load_splits(DataConfig(source="cifar10", root=str(tmp_path)), sources=cifar_source(packed))
    assert np.array_equal(splits.train.images.numpy(), images[:25])
    assert np.array_equal(splits.test.images.numpy(), images[25:])
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-binary.tar.gz"], "nothing is unpacked"

    unpacked = tmp_path / "other" / "cifar-10-batches-bin"
    unpacked.mkdir(parents=True)
    for name, data in members.items():
        (unpacked / name).write_bytes(data)
    again = load_splits(DataConfig(source="cifar10", root=str(unpacked.parent)), sources=cifar_source(b""))
    assert again.facts["fingerprint"] == splits.facts["fingerprint"]


def test_another_cifar_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(archive(make_cifar()[0]))
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz is damaged or another file"):
        load_splits(DataConfig(source="cifar10", root=str(tmp_path)), sources=cifar_source(b"other"))


def test_a_cifar_archive_without_a_member_is_refused(tmp_path: Path) -> None:
    members, _ = make_cifar()
    del members["data_batch_3.bin"]
    packed = archive(members)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(packed)
    with pytest.raises(DataError, match=r"data_batch_3\.bin .* has 0 bytes"):
        load_splits(DataConfig(source="cifar10", root=str(tmp_path)), sources=cifar_source(packed))


def for_python(members: dict[str, bytes], dump: Callable[[dict[Any, Any]], bytes]) -> dict[str, bytes]:
    """The same records as torchvision keeps them: a dict in a pickle for each file."""
    batches = {}
    for name, data in list(members.items())[1:]:
        records = np.frombuffer(data, np.uint8).reshape(-1, 3073)
        held = {b"batch_label": b"a", b"labels": records[:, 0].tolist(), b"data": records[:, 1:].copy()}
        batches[name.removesuffix(".bin")] = dump({**held, b"filenames": [b"x.png"] * len(records)})
    return batches


def as_python_2(held: dict[Any, Any]) -> bytes:
    """As Python 2 wrote the published files: protocol 2, text of one byte a letter, NumPy's old module name."""
    return pickle.dumps(held, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.mark.parametrize("dump", [as_python_2, lambda held: pickle.dumps(held, 4)])
def test_cifar_is_read_as_torchvision_keeps_it(tmp_path: Path, monkeypatch, dump) -> None:
    members, images = make_cifar()
    batches = for_python(members, dump)
    monkeypatch.setattr("vaekit.data.cifar.PYTHON_SUMS", {name: md5(data) for name, data in batches.items()})
    monkeypatch.setattr(cifar.read_cifar10, "__defaults__", (cifar.PYTHON_SUMS,))
    packed = archive(batches)
    monkeypatch.setattr(cifar, "PYTHON", cifar.PYTHON._replace(md5_compressed=md5(packed)))
    unpacked = tmp_path / "cifar-10-batches-py"
    unpacked.mkdir()
    for name, data in batches.items():
        (unpacked / name).write_bytes(data)
    splits = load_splits(DataConfig(source="cifar10", root=str(tmp_path)), sources=cifar_source(b""))
    assert np.array_equal(splits.train.images.numpy(), images[:25])
    assert np.array_equal(splits.test.images.numpy(), images[25:])
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "cifar-10-python.tar.gz").write_bytes(packed)
    again = load_splits(DataConfig(source="cifar10", root=str(tmp_path / "packed")), sources=cifar_source(b""))
    assert again.facts["fingerprint"] == splits.facts["fingerprint"]
    damaged = bytearray(batches["test_batch"])
    damaged[-40] ^= 1
    (unpacked / "test_batch").write_bytes(damaged)
    with pytest.raises(DataError, match="test_batch is missing, damaged or another file"):
        load_splits(DataConfig(source="cifar10", root=str(tmp_path)), sources=cifar_source(b""))


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "hostile",
    [
        lambda mark: Call(os.system, f"touch {mark}"),
        lambda mark: Call(eval, f"open({str(mark)!r}, 'w')"),
        lambda mark: Call(open, str(mark), "w"),
        lambda mark: Call(getattr, "", "join"),
        lambda mark: [{"deep": (1, [Call(Path.touch, mark)])}],
        lambda mark: np.array([Call(os.system, f"touch {mark}")], dtype=object),
        lambda mark: {1, 2},
        lambda mark: Path(mark),
        lambda mark: complex(1, 2),
    ],
    ids=["system", "eval", "open", "getattr", "deep", "object array", "set", "path", "complex"],
)
def test_a_pickle_that_asks_for_anything_else_is_refused_and_starts_nothing(tmp_path, hostile, protocol) -> None:
    mark = tmp_path / "started"
    data = pickle.dumps(hostile(mark), protocol)
    with pytest.raises(DataError) as refused:
        read_plain_pickle(data, "data_batch_1")
    assert "data_batch_1" in str(refused.value) and "\n" not in str(refused.value)
    assert not mark.exists()


def test_damaged_pickles_end_in_one_line_or_in_plain_values() -> None:
    whole = pickle.dumps({"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": [1, 2, 3], "name": "a"}, 2)
    assert np.array_equal(read_plain_pickle(whole, "it")["data"], np.arange(12).reshape(3, 4))
    for position in range(len(whole)):
        for bit in (1, 32):
            flipped = bytearray(whole)
            flipped[position] ^= bit
            try:
                read_plain_pickle(bytes(flipped), "it")
            except DataError as refused:
                assert "\n" not in str(refused)
        with pytest.raises(DataError):
            read_plain_pickle(whole[:position], "it")
