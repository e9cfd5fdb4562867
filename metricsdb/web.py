"""What the HTTP server asks of those who come: the `web` section of the configuration, and hashes of passwords.

Field names are those of Prometheus' web configuration where it has them, so that such a file can be given as it is.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from metricsdb.errors import ConfigError
from metricsdb.times import Duration

__all__ = ["Credential", "PasswordCheck", "Right", "Secret", "Tls", "Web", "hash_password", "password_check"]

# What a request may do: look at data, add data, look at the server's configuration and end queries of others.
Right = Literal["read", "write", "admin"]
PasswordCheck = Callable[[bytes], bool]
S = TypeVar("S", bound=msgspec.Struct)

# OWASP's parameters of scrypt for servers of little memory: 32 MiB and some 0.3 s of CPU for a check.
_LOG_N, _R, _P = 15, 8, 3
_SCRYPT = re.compile(r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)", re.ASCII)
_SCRYPT_BYTES_MAX = 256 << 20
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}", re.ASCII)
# Each step doubles the time of a check; sixteen is some five seconds.
_BCRYPT_COST_MAX = 16
_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}", re.ASCII)


class Secret:
    """Text that no dump, error or log shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "<secret>"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Certificate and key of the server, as PEM files; with `client_ca_file` clients may or must show one, too."""

    cert_file: str
    key_file: str
    client_ca_file: str | None = None
    client_auth_type: Literal["NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"] = "NoClientCert"
    min_version: Literal["TLS12", "TLS13"] = "TLS12"

    def __post_init__(self) -> None:
        if (self.client_ca_file is None) != (self.client_auth_type == "NoClientCert"):
            raise ValueError(
                f"`client_auth_type` is {self.client_auth_type} and `client_ca_file` {self.client_ca_file}; "
                "give both, or neither"
            )


class Credential(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may do what: a bearer token, or the name and password of basic authentication. One source of the secret."""

    name: str
    scopes: list[Right]
    token_file: str | None = None
    token_env: str | None = None
    password_file: str | None = None
    password_env: str | None = None
    password_hash: Secret | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError("`name` must be 1 to 64 of letters, digits and _ . @ -")
        if not self.scopes:
            raise ValueError(f"credential {self.name!r} has no scopes; list some of read, write, admin")
        given = [name for name in self.__struct_fields__[2:] if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"credential {self.name!r} has {' and '.join(given) or 'no secret'}; "
                "give one of token_file, token_env, password_file, password_env, password_hash"
            )
        if self.password_hash is not None:
            check_hash_form(self.password_hash.reveal(), self.name)


class Web(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """TLS, credentials, and the limits of connections and requests."""

    tls_server_config: Tls | None = None
    basic_auth_users: dict[str, Secret] = {}
    credentials: list[Credential] = []
    allow_unauthenticated: bool = False
    header_bytes_max: int = 64 << 10
    headers_max: int = 100
    header_timeout: Duration = msgspec.field(default_factory=lambda: Duration("10s"))
    body_timeout: Duration = msgspec.field(default_factory=lambda: Duration("30s"))
    answer_timeout: Duration = msgspec.field(default_factory=lambda: Duration("30s"))
    connections_max: int = 4096
    requests_max: int = 1000
    write_bytes_max: int = 256 << 20

    def __post_init__(self) -> None:
        for name in ("header_bytes_max", "headers_max", "connections_max", "requests_max", "write_bytes_max"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give a number above zero")
        for name, hashed in self.basic_auth_users.items():
            if not name or ":" in name or not name.isprintable():
                raise ValueError("a name in `basic_auth_users` is empty, has a colon, or a character that is not shown")
            check_hash_form(hashed.reveal(), name)
        names = [c.name for c in self.credentials] + list(self.basic_auth_users)
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two credentials are called {name!r}; give each its own name")

    @property
    def authenticates(self) -> bool:
        """Whether nobody gets in without a secret or a certificate."""
        by_certificate = self.tls_server_config is not None and (
            self.tls_server_config.client_auth_type == "RequireAndVerifyClientCert"
        )
        return bool(self.basic_auth_users or self.credentials) or by_certificate

    def relative_to(self, folder: Path) -> Web:
        """With file names as seen from `folder`, where the file that named them lies."""
        return msgspec.structs.replace(
            self,
            tls_server_config=self.tls_server_config
            and _moved(self.tls_server_config, folder, "cert_file", "key_file", "client_ca_file"),
            credentials=[_moved(c, folder, "token_file", "password_file") for c in self.credentials],
        )


def _moved(struct: S, folder: Path, *names: str) -> S:
    paths = {name: getattr(struct, name) for name in names}
    return msgspec.structs.replace(struct, **{n: str(folder / p) for n, p in paths.items() if p is not None})


def hash_password(password: bytes) -> str:
    """A hash for `password_hash` and `basic_auth_users`: scrypt, with its parameters and a new salt."""
    salt = secrets.token_bytes(16)
    return f"$scrypt$ln={_LOG_N},r={_R},p={_P}${_b64(salt)}${_b64(_scrypt(password, salt, _LOG_N, _R, _P, 32))}"


def check_hash_form(text: str, name: str) -> None:
    """Raises ValueError if `text` is no hash that can be checked; never shows it."""
    scrypt, bcrypt = _SCRYPT.fullmatch(text), _BCRYPT.fullmatch(text)
    if scrypt is None and bcrypt is None:
        raise ValueError(
            f"the password of {name!r} is no hash of scrypt or bcrypt; make one with `metricsdb hash-password`"
        )
    if bcrypt is not None and int(bcrypt[1]) > _BCRYPT_COST_MAX:
        raise ValueError(f"the hash of {name!r} has a cost of {bcrypt[1]}; hash again with {_BCRYPT_COST_MAX} at most")
    if scrypt is not None:
        log_n, r, p = (int(n) for n in scrypt.groups()[:3])
        if not (log_n and r and p) or 128 * r * 2**log_n > _SCRYPT_BYTES_MAX or p > 16:
            raise ValueError(
                f"the hash of {name!r} needs more than {_SCRYPT_BYTES_MAX} bytes or 16 rounds; "
                "make one with `metricsdb hash-password`"
            )
        if _unb64(scrypt[4]) is None or not _unb64(scrypt[5]):
            raise ValueError(f"the hash of {name!r} is cut; make one with `metricsdb hash-password`")


def password_check(text: str, name: str) -> PasswordCheck:
    """The test of a password against a hash of the right form. Raises ConfigError where bcrypt is needed and absent."""
    if _BCRYPT.fullmatch(text):
        try:
            bcrypt = importlib.import_module("bcrypt")
        except ImportError:
            raise ConfigError(
                f"the hash of {name!r} is bcrypt, which needs a package: pip install 'metricsdb[bcrypt]'; "
                "or make a hash of scrypt with `metricsdb hash-password`"
            ) from None
        # Longer passwords bcrypt cannot tell apart.
        return lambda password: len(password) <= 72 and bool(bcrypt.checkpw(password, text.encode()))
    match = _SCRYPT.fullmatch(text)
    if match is None:
        raise ConfigError(f"the password of {name!r} is no hash; make one with `metricsdb hash-password`")
    log_n, r, p = (int(n) for n in match.groups()[:3])
    salt, expected = _unb64(match[4]) or b"", _unb64(match[5]) or b""
    return lambda password: hmac.compare_digest(_scrypt(password, salt, log_n, r, p, len(expected)), expected)


def _scrypt(password: bytes, salt: bytes, log_n: int, r: int, p: int, size: int) -> bytes:
    # The margin is what OpenSSL holds beside the table.
    return hashlib.scrypt(password, salt=salt, n=2**log_n, r=r, p=p, maxmem=_SCRYPT_BYTES_MAX * 2, dklen=size)


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode().rstrip("=")


def _unb64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return None
