"""An object store behind six verbs: errors are typed and hold no credentials, and bytes read are counted."""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from metricsdb.errors import ColdStoreError, ConfigError
from metricsdb.files import sync_folder

__all__ = ["SCRATCH", "Missing", "Objects", "Stored", "Taken", "library"]

# How long a request is tried again after 5xx, dropped connections and time-outs, with a growing wait in between.
RETRIES = {
    "max_retries": 6,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
}
CLIENT = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=30)}
# Shorter values are no secrets, and parts of words.
SECRET_LENGTH = 6
_SECRET = re.compile(r"key|secret|token|password|sas|credential|signature", re.IGNORECASE)
# Larger objects go up in pieces.
MULTIPART_BYTES = 64 << 20
SCRATCH = "tmp/"


class Missing(ColdStoreError):
    """There is no such object: it was replaced meanwhile, or somebody else deleted it."""


class Taken(ColdStoreError):
    """An object of this name is there already."""


@dataclass(frozen=True, slots=True)
class Stored:
    key: str
    bytes: int
    modified_ms: int


def library(name: str) -> Any:
    """The module of that name. Raises ``ConfigError`` where the extra is not installed."""
    try:
        return __import__(name, fromlist=["*"])
    except ImportError as error:
        raise ConfigError(f"cold storage needs {name}; install it with: pip install 'metricsdb[cold]'") from error


class Objects:
    """Objects under one prefix: ``s3://bucket/prefix``, ``gs://…``, ``az://…``, ``file:///dir``, a path, or an
    obstore store.

    Credentials come from the environment, as the store's own tools read them, or from ``options`` (obstore's names,
    such as ``endpoint``, ``region``, ``allow_http``). Raises ``ConfigError``, ``ColdStoreError``.
    """

    def __init__(self, where: Any, options: Mapping[str, Any] | None = None) -> None:
        self._obstore = library("obstore")
        stores = library("obstore.store")
        options = dict(options or {})
        self._secrets = [str(value) for name, value in options.items() if _SECRET.search(name)]
        try:
            if isinstance(where, Path):
                self._store, self.name = stores.LocalStore(where, mkdir=True), f"file://{where.absolute()}"
            elif isinstance(where, str):
                self.name = _clean(where)
                self._store = _from_url(stores, where, options)
            elif type(where).__module__.startswith("obstore"):
                self._store, self.name = where, _name(where)
            else:
                raise TypeError("give a URL, a path or a store of obstore")
        except Exception as error:
            raise ConfigError(f"cold {self._scrub(str(where))}: {self._scrub(str(error))}") from None
        self._secrets += [str(v) for k, v in (getattr(self._store, "config", None) or {}).items() if _SECRET.search(k)]
        prefix = getattr(self._store, "prefix", None)
        self._root = Path(prefix) if type(self._store).__name__ == "LocalStore" and prefix else None
        self.directory = None if self._root is None else self._root.resolve()
        """Where the objects are files."""
        self.owner = "nobody"
        """In the names of what a directory has of unfinished writes."""
        self.bytes_read = 0
        self.bytes_written = 0
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Objects({self.name!r})"

    def get(self, key: str) -> bytes:
        with self._errors(f"read {key}"):
            body = bytes(self._obstore.get(self._store, key).bytes())
        self._count(len(body))
        return body

    def ranges(self, key: str, ranges: list[tuple[int, int]]) -> list[bytes]:
        """The bytes of ``[start, end)`` each; neighbours are asked for together."""
        if not ranges:
            return []
        starts, ends = zip(*ranges, strict=True)
        with self._errors(f"read {key}"):
            found = self._obstore.get_ranges(self._store, key, starts=starts, ends=ends)
            bodies = [bytes(body) for body in found]
        self._count(sum(map(len, bodies)))
        for (start, end), body in zip(ranges, bodies, strict=True):
            if len(body) != end - start:
                raise self.error(f"{key} ends at {start + len(body)}, before {end}", "restore the object")
        return bodies

    def put(self, key: str, body: bytes) -> None:
        with self._errors(f"write {key}"):
            if self._root is not None:
                _write(self._root, self.owner, key, body, os.replace)
            else:
                self._obstore.put(self._store, key, body, use_multipart=None if len(body) > MULTIPART_BYTES else False)
        with self._lock:
            self.bytes_written += len(body)

    def create(self, key: str, body: bytes) -> None:
        """Writes an object that must not be there yet.

        Raises ``Taken``, also where an earlier try of ours got through and its answer did not.
        """
        with self._errors(f"create {key}"):
            if self._root is not None:
                _write(self._root, self.owner, key, body, os.link)
            else:
                self._obstore.put(self._store, key, body, mode="create")

    def list(self, prefix: str) -> Iterator[Stored]:
        with self._errors(f"list {prefix}"):
            for page in self._obstore.list(self._store, prefix):
                for found in page:
                    yield Stored(found["path"], found["size"], int(found["last_modified"].timestamp() * 1000))

    def delete(self, keys: Iterable[str]) -> None:
        """Deletes what is there of these objects."""
        for key in keys:
            try:
                with self._errors(f"delete {key}"):
                    self._obstore.delete(self._store, key)
            except Missing:
                continue

    def error(self, message: str, remedy: str) -> ColdStoreError:
        return ColdStoreError(self.name, self._scrub(message), remedy)

    def _count(self, read: int) -> None:
        with self._lock:
            self.bytes_read += read

    def _scrub(self, text: str) -> str:
        first = text.partition("\n")[0].strip()
        for secret in self._secrets:
            first = first.replace(secret, "***") if len(secret) >= SECRET_LENGTH else first
        return re.sub(r"//[^/@\s]+@", "//***@", re.sub(r"\?\S+", "?***", first))

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        known = self._obstore.exceptions
        try:
            yield
        except FileExistsError:
            raise Taken(self.name, f"cannot {what}: there already", "read it and try again") from None
        except FileNotFoundError:
            raise Missing(self.name, f"cannot {what}: not there", "ask again, or look who else deletes there") from None
        except (known.AlreadyExistsError, known.PreconditionError):
            raise Taken(self.name, f"cannot {what}: there already", "read it and try again") from None
        except (known.PermissionDeniedError, known.UnauthenticatedError) as error:
            remedy = "give credentials that may read, write, list and delete there"
            raise self.error(f"cannot {what}: {error}", remedy) from None
        except known.NotSupportedError as error:
            raise self.error(f"cannot {what}: {error}", "use a store that can create an object only once") from None
        except (known.BaseError, OSError, ValueError) as error:
            raise self.error(f"cannot {what}: {error}", "see whether it can be reached, and try again") from None


def _from_url(stores: Any, url: str, options: dict[str, Any]) -> Any:
    scheme = urlsplit(url).scheme
    if not scheme:
        return stores.LocalStore(Path(url), mkdir=True)
    if scheme == "file":
        return stores.LocalStore.from_url(url, mkdir=True)
    if scheme == "memory":
        return stores.MemoryStore()
    client: dict[str, Any] = dict(CLIENT)
    if (http := options.pop("allow_http", None)) is not None:
        client["allow_http"] = http in (True, "true", "1")
    return stores.from_url(url, config=options, client_options=client, retry_config=RETRIES)


def _write(root: Path, owner: str, key: str, body: bytes, move: Callable[[Path, Path], None]) -> None:
    """To a directory: whole and on the disk, or not at all; the store library would not sync."""
    target, scratch = root / key, root / SCRATCH / f"{owner}-{secrets.token_hex(6)}"
    for folder in (target.parent, scratch.parent):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with scratch.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        move(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)
    folder = target.parent
    while True:
        sync_folder(folder)
        if folder == root:
            return
        folder = folder.parent


def _clean(url: str) -> str:
    """Without what may be a credential: user, password, query."""
    parts = urlsplit(url)
    if not parts.scheme:
        return f"file://{Path(url).absolute()}"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def _name(store: Any) -> str:
    kind = type(store).__name__
    config = getattr(store, "config", None) or {}
    where = config.get("bucket") or config.get("container_name") or ""
    prefix = getattr(store, "prefix", None) or ""
    return f"{kind.removesuffix('Store').lower()}://{'/'.join(str(p).strip('/') for p in (where, prefix) if p)}"
