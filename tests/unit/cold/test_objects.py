"""Stores of any kind are one, their errors are typed, and no credential is ever shown."""

from __future__ import annotations

import builtins
import traceback
from pathlib import Path

import obstore.store
import pytest

from metricsdb.errors import ColdStoreError, ConfigError, StorageError
from metricsdb.lifecycle.cold import objects as module
from metricsdb.lifecycle.cold.objects import Missing, Objects, Taken

SECRET = "wJalrXUtnFEMI0"
S3 = {
    "access_key_id": "AKIAVISIBLE",
    "secret_access_key": SECRET,
    "endpoint": "http://127.0.0.1:1",
    "allow_http": "true",
}


@pytest.fixture(params=["memory", "directory", "path", "url"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    where = {
        "memory": "memory:///",
        "directory": tmp_path / "a",
        "path": str(tmp_path / "b"),
        "url": f"file://{tmp_path}/c",
    }
    return Objects(where[request.param])


def test_what_is_put_comes_back(objects: Objects) -> None:
    objects.put("a/day=1/x", b"0123456789")
    assert objects.get("a/day=1/x") == b"0123456789"
    assert objects.ranges("a/day=1/x", [(0, 2), (5, 9)]) == [b"01", b"5678"]
    assert objects.ranges("a/day=1/x", []) == []
    assert (objects.bytes_read, objects.bytes_written) == (16, 10)
    (found,) = objects.list("a/")
    assert (found.key, found.bytes) == ("a/day=1/x", 10)
    objects.put("a/day=1/x", b"new")
    assert objects.get("a/day=1/x") == b"new"
    objects.delete(["a/day=1/x", "a/never"])
    assert list(objects.list("")) == []


def test_an_object_is_created_once(objects: Objects) -> None:
    objects.create("m/1", b"first")
    with pytest.raises(Taken, match="m/1"):
        objects.create("m/1", b"second")
    assert objects.get("m/1") == b"first"


def test_what_is_missing_or_short_is_said(objects: Objects) -> None:
    with pytest.raises(Missing, match="cannot read a/none: not there"):
        objects.get("a/none")
    objects.put("a/x", b"01")
    with pytest.raises(ColdStoreError, match="a/x"):
        objects.ranges("a/x", [(0, 9)])


def test_a_directory_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects(tmp_path)
    objects.put("a/x", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module.os, "fsync", full)
        with pytest.raises(ColdStoreError, match="cannot write a/x: .*No space left"):
            objects.put("a/x", b"new")
    assert objects.get("a/x") == b"old"
    assert {path.name for path in tmp_path.rglob("*")} == {"a", "x", "tmp"}


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("s3://user:pass@bucket/some/prefix?token=abc", "s3://bucket/some/prefix"),
        ("memory:///", "memory://"),
        ("relative/dir", f"file://{Path.cwd()}/relative/dir"),
        (obstore.store.S3Store("bucket", prefix="a/b", config={"region": "eu-west-1"}), "s3://bucket/a/b"),
        (obstore.store.MemoryStore(), "memory://"),
    ],
)
def test_the_name_of_a_store_has_no_credentials(where: object, name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_from_url", lambda *_: obstore.store.MemoryStore())
    assert Objects(where).name == name
    assert repr(Objects(where)) == f"Objects({name!r})"


@pytest.mark.parametrize("given", ["options", "store", "environment"])
def test_no_error_shows_a_credential(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRIES", {"max_retries": 0})
    if given == "options":
        objects = Objects("s3://bucket/x", S3)
    elif given == "store":
        config = {name: value for name, value in S3.items() if name != "allow_http"}
        store = obstore.store.S3Store(
            "bucket", prefix=SECRET, config=config, client_options={"allow_http": True}, retry_config={"max_retries": 0}
        )
        objects = Objects(store)
        objects.name = "s3://bucket"
    else:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAVISIBLE")
        monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:1")
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        objects = Objects("s3://bucket/x")
    with pytest.raises(ColdStoreError, match="cannot write x: .*try again") as caught:
        objects.put("x", b"y")
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + repr(objects) + repr(vars(caught.value))
    assert isinstance(caught.value, StorageError)
    assert caught.value.store.startswith("s3://bucket")
    assert "try again" in caught.value.remedy


def test_queries_of_urls_are_not_shown() -> None:
    objects = Objects("memory:///")
    error = objects.error("error at https://x.net/c?sig=abc%3D&se=1 or //u:p@host\nDebug source:\nsecret", "look")
    assert str(error) == "cold store memory://: error at https://x.net/c?*** or //***@host; look"


@pytest.mark.parametrize("where", ["ftp://host/x", "s3://bucket/x", 7])
def test_what_is_no_store_is_refused(where: object, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "s3://bucket/x":
        with pytest.raises(ConfigError, match="cold s3://bucket/x: .*flavour"):
            Objects(where, {"flavour": "odd"})
    else:
        with pytest.raises(ConfigError, match=f"cold {where}"):
            Objects(where)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name == "obstore":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        ConfigError, match=r"cold storage needs obstore; install it with: pip install 'metricsdb\[cold\]'"
    ):
        Objects("memory:///")


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("PermissionDeniedError", "give credentials that may read, write, list and delete there"),
        ("UnauthenticatedError", "give credentials that may read, write, list and delete there"),
        ("NotSupportedError", "use a store that can create an object only once"),
        ("PreconditionError", "read it and try again"),
        ("GenericError", "see whether it can be reached, and try again"),
    ],
)
def test_every_error_has_a_remedy(raised: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects("memory:///")
    kind = getattr(obstore.exceptions, raised)

    def fails(*_: object, **__: object) -> None:
        raise kind("no")

    monkeypatch.setattr(objects._obstore, "put", fails)
    with pytest.raises(ColdStoreError) as caught:
        objects.create("x", b"")
    assert caught.value.remedy == said
