"""Certificates for tests, made with the openssl program: authorities, and what they sign."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_CONFIGURATION = """
[req]
distinguished_name = name
prompt = no
[name]
CN = {name}
[authority]
basicConstraints = critical, CA:TRUE
[other]
basicConstraints = critical, CA:FALSE
subjectAltName = {address}
"""


@dataclass(frozen=True)
class Certificate:
    """PEM files."""

    certificate: Path
    key: Path

    def toml(self, authority: Path) -> str:
        """Lines of a node's configuration."""
        return f'certificate = "{self.certificate}"\nkey = "{self.key}"\nauthority = "{authority}"\n'


class Authority:
    """Signs certificates; files are in `folder`, which is made."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self._folder = folder
        self._own = self._make("authority", days=2)
        self.certificate = self._own.certificate

    def sign(self, name: str, *, address: str = "IP:127.0.0.1", days: int = 2) -> Certificate:
        """A certificate; of -1 days it has expired."""
        return self._make(name, days=days, address=address, signed=True)

    def _make(self, name: str, *, days: int, address: str = "DNS:none", signed: bool = False) -> Certificate:
        made = Certificate(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        settings, request = self._folder / f"{name}.cnf", self._folder / f"{name}.csr"
        settings.write_text(_CONFIGURATION.format(name=name, address=address))
        _openssl(
            "req", "-new", "-config", settings, "-newkey", "rsa:2048", "-nodes", "-keyout", made.key, "-out", request
        )
        extensions = ["-extfile", settings, "-extensions", "other" if signed else "authority", "-days", str(days)]
        signer = ["-CA", self._own.certificate, "-CAkey", self._own.key, "-CAcreateserial"] if signed else []
        signer = signer or ["-signkey", made.key]
        _openssl("x509", "-req", "-in", request, "-out", made.certificate, *signer, *extensions)
        return made


def _openssl(*arguments: object) -> None:
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("openssl is not installed")
    subprocess.run([tool, *map(str, arguments)], check=True, capture_output=True, timeout=60)
