"""Who comes, and what they may do: bearer tokens and basic authentication, each with rights.

Secrets are kept as keyed digests. A password that is known by its hash alone costs a slow check once; after that its
digest is remembered, one a name. Wrong passwords are checked by one thread, and so many may wait.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from metricsdb.errors import ConfigError
from metricsdb.logs import printable
from metricsdb.web import Credential, PasswordCheck, Right, Web, hash_password, password_check

__all__ = ["Auth", "Busy", "Identity"]

log = logging.getLogger("metricsdb.auth")

# A token is compared fast, so it must not be guessable: sixteen characters at least.
TOKEN_CHARACTERS_MIN = 16
SECRET_BYTES_MAX = 4096
# Slow checks that wait for the thread: some seconds of work.
CHECKS_WAITING_MAX = 16
EVERYTHING: frozenset[Right] = frozenset({"read", "write", "admin"})


class Busy(Exception):
    """So many passwords wait to be checked that this one was not."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks; `name` is a credential's, and may be logged."""

    name: str
    rights: frozenset[Right]


@dataclass(slots=True)
class _User:
    """A name of basic authentication: the digest of its password once that is known, and else the slow check."""

    identity: Identity
    digest: bytes | None = None
    check: PasswordCheck | None = field(default=None)


class Auth:
    """The credentials of one server. Raises ConfigError where a secret cannot be read; no message holds one."""

    def __init__(self, web: Web, environ: Mapping[str, str]) -> None:
        self._web, self._environ = web, environ
        self._key = secrets.token_bytes(32)
        self._tokens: list[tuple[bytes, Identity]] = []
        self._users: dict[str, _User] = {}
        self._nobody: PasswordCheck | None = None
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="metricsdb-password")
        self._waiting = 0
        self.load()

    @property
    def required(self) -> bool:
        return bool(self._tokens or self._users)

    @property
    def challenges(self) -> list[str]:
        """What `WWW-Authenticate` says."""
        basic = ['Basic realm="MetricsDB", charset="UTF-8"'] if self._users else []
        return basic + ['Bearer realm="MetricsDB"'] * bool(self._tokens)

    def load(self) -> None:
        """Reads the secrets again. Raises ConfigError, and then keeps those that it has."""
        tokens: list[tuple[bytes, Identity]] = []
        users: dict[str, _User] = {}
        for name, hashed in self._web.basic_auth_users.items():
            users[name] = _User(Identity(name, EVERYTHING), check=password_check(hashed.reveal(), name))
        for credential in self._web.credentials:
            self._add(credential, tokens, users)
        if self._nobody is None and any(user.check is not None for user in users.values()):
            # Who gives no name that is known waits as long as who gives a wrong password.
            self._nobody = password_check(hash_password(secrets.token_bytes(16)), "nobody")
        self._tokens, self._users = tokens, users

    def _add(self, credential: Credential, tokens: list[tuple[bytes, Identity]], users: dict[str, _User]) -> None:
        identity = Identity(credential.name, frozenset(credential.scopes))
        if credential.password_hash is not None:
            check = password_check(credential.password_hash.reveal(), credential.name)
            users[credential.name] = _User(identity, check=check)
            return
        is_token = credential.token_file is not None or credential.token_env is not None
        secret = _secret(
            credential.name,
            credential.token_file or credential.password_file,
            credential.token_env or credential.password_env or "",
            self._environ,
        )
        if not is_token:
            named = f"{credential.name}:".encode()
            users[credential.name] = _User(identity, digest=self._digest(named + secret))
            return
        if len(secret) < TOKEN_CHARACTERS_MIN:
            raise ConfigError(
                f"the token of {credential.name!r} has {len(secret)} characters; use {TOKEN_CHARACTERS_MIN} or more, "
                "such as those of `openssl rand -hex 32`"
            )
        digest = self._digest(secret)
        if any(hmac.compare_digest(digest, other) for other, _ in tokens):
            raise ConfigError(f"the token of {credential.name!r} is another credential's, too; give each its own")
        tokens.append((digest, identity))

    async def identify(self, header: bytes) -> Identity | None:
        """Who sends this ``Authorization``, or None. Raises Busy."""
        scheme, _, rest = header.partition(b" ")
        rest = rest.strip()
        if len(rest) > 2 * SECRET_BYTES_MAX:
            return None
        if scheme.lower() == b"bearer":
            return self._by_token(rest)
        if scheme.lower() == b"basic":
            return await self._by_password(rest)
        return None

    def _by_token(self, token: bytes) -> Identity | None:
        digest, found = self._digest(token), None
        for other, identity in self._tokens:  # all of them, so that the time says nothing
            if hmac.compare_digest(digest, other):
                found = identity
        return found

    async def _by_password(self, encoded: bytes) -> Identity | None:
        try:
            pair = base64.b64decode(encoded, validate=True)
            name = pair.partition(b":")[0].decode()
        except ValueError:
            return None
        user = self._users.get(name) if b":" in pair else None
        digest = self._digest(pair)
        if user is not None and user.digest is not None and hmac.compare_digest(digest, user.digest):
            return user.identity
        check = self._nobody if user is None else user.check
        if check is None or not await self._slowly(check, pair[len(name.encode()) + 1 :]) or user is None:
            return None
        user.digest = digest
        return user.identity

    async def _slowly(self, check: PasswordCheck, password: bytes) -> bool:
        if self._waiting >= CHECKS_WAITING_MAX:
            raise Busy
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._checker, check, password)
        finally:
            self._waiting -= 1

    def _digest(self, secret: bytes) -> bytes:
        return hashlib.blake2b(secret, key=self._key, digest_size=32).digest()

    def close(self) -> None:
        self._checker.shutdown(wait=False, cancel_futures=True)


def _secret(name: str, path: str | None, variable: str, environ: Mapping[str, str]) -> bytes:
    """The secret without blanks at its ends, from a file or a variable."""
    if path is not None:
        try:
            with Path(path).open("rb") as file:
                raw = file.read(SECRET_BYTES_MAX + 1)
        except OSError as error:
            where = printable(path)
            raise ConfigError(f"the secret of {name!r}: {where} cannot be read: {error.strerror}") from None
        where = printable(path)
    else:
        if variable not in environ:
            raise ConfigError(f"the secret of {name!r}: the environment has no {variable}; set it")
        raw, where = environ[variable].encode(), variable
    raw = raw.strip()
    if not raw or len(raw) > SECRET_BYTES_MAX or b"\n" in raw:
        raise ConfigError(f"the secret of {name!r}: {where} must hold one line of 1 to {SECRET_BYTES_MAX} bytes")
    return raw
