"""The configuration of a node: a TOML file, read into dataclasses whose values are checked."""

from __future__ import annotations

import fnmatch
import ipaddress
import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from ASCONDenoiseLib.checked_json import FieldError, from_json, shown
from ASCONDenoiseLib.errors import InputError

T = TypeVar("T")

AE_TITLE = {"wanted": "an AE title: 1 to 16 characters, no backslash"}
PORT = {"wanted": "a port, 1 to 65535"}
STRENGTH = {"wanted": "a number from 0 to 1"}
NOT_NEGATIVE = {"wanted": "a number of 0 or more"}
PORT_OR_NONE = {"wanted": "a port, 1 to 65535, or 0 for none"}
CALLERS = {"wanted": 'a list of AE titles that may send, such as ["CT_1", "PACS*"], each of 1 to 16 characters,'}
NETWORK = {"wanted": 'a list of networks, such as ["192.168.4.0/24"],'}
RANGE = {"wanted": "two numbers, the smaller first"}


@dataclass(frozen=True)
class Tls:
    """Files (PEM) for DICOM TLS.

    Attributes:
        certificate: that this side shows.
        key: of the certificate.
        authority: certificates of those who may sign the other side's; None: the system's.
        client_certificate: of a listener: whoever connects must show one that `authority` signed.
        server_name: of a destination: the name in its certificate, where that is not its host.
    """

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None
    client_certificate: bool = True
    server_name: str | None = None


@dataclass(frozen=True)
class Listen:
    """Who may send, and where to.

    Attributes:
        ae_title: of the node; who calls another is refused.
        address: to listen at; "0.0.0.0" is every network card.
        callers: AE titles that may send; * and ? stand for characters.
        networks: that may connect.
        other_objects: what is no CT image is refused, or kept and left alone.
        associations: most at once.
        tls: None: plain DICOM.
    """

    callers: tuple[str, ...] = field(metadata=CALLERS)
    networks: tuple[str, ...] = field(metadata=NETWORK)
    ae_title: str = field(default="ASCON", metadata=AE_TITLE)
    address: str = "0.0.0.0"
    port: int = field(default=11112, metadata=PORT)
    other_objects: Literal["refuse", "keep"] = "refuse"
    associations: int = 50
    tls: Tls | None = None

    def __post_init__(self) -> None:
        _check_address(self.ae_title, self.port)
        if not self.callers or not all(1 <= len(caller) <= 16 for caller in self.callers):
            raise FieldError("wrong", "callers", self.callers, CALLERS["wanted"])
        if not self.networks:
            raise FieldError("wrong", "networks", self.networks, NETWORK["wanted"])
        for network in self.networks:
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError:
                raise FieldError("wrong", "networks", network, NETWORK["wanted"]) from None
        if self.associations < 1:
            raise FieldError("wrong", "associations", self.associations, "a whole number of 1 or more")

    def lets_in(self, address: str) -> bool:
        """Whether a computer may connect."""
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        ip = getattr(ip, "ipv4_mapped", None) or ip
        return any(ip in ipaddress.ip_network(network, strict=False) for network in self.networks)

    def knows(self, ae_title: str) -> bool:
        """Whether an AE title may send."""
        return any(fnmatch.fnmatchcase(ae_title.strip(), caller) for caller in self.callers)


@dataclass(frozen=True)
class Storage:
    """Where series lie, and for how long once they are through, in days that the node runs.

    Attributes:
        folder: of everything; best a disk of its own.
        least_free_gb: with less, senders are told that there is no room.
    """

    folder: Path
    keep_originals_days: float = field(default=3, metadata=NOT_NEGATIVE)
    keep_results_days: float = field(default=14, metadata=NOT_NEGATIVE)
    least_free_gb: float = field(default=5, metadata=NOT_NEGATIVE)

    def __post_init__(self) -> None:
        for name in ("keep_originals_days", "keep_results_days", "least_free_gb"):
            if getattr(self, name) < 0:
                raise FieldError("wrong", name, getattr(self, name), NOT_NEGATIVE["wanted"])


@dataclass(frozen=True)
class Destination:
    """Where results are sent.

    Attributes:
        name: by which rules call it.
        give_up_days: after which a series that it does not take has failed.
    """

    name: str
    ae_title: str = field(metadata=AE_TITLE)
    host: str
    port: int = field(metadata=PORT)
    tls: Tls | None = None
    give_up_days: float = field(default=7, metadata=NOT_NEGATIVE)

    def __post_init__(self) -> None:
        _check_address(self.ae_title, self.port)


@dataclass(frozen=True)
class Rule:
    """What is done with the series it fits. What a rule leaves out fits everything; texts are patterns with * and ?.

    Attributes:
        thickness_mm: least and most.
        description: of the series.
        sender: AE title that sent it.
        leave_alone: nothing is done; else the rest says what.
        model: name or file; None: the default.
        send_to: names of destinations; None: all.
    """

    name: str = ""
    modality: str = "*"
    body_part: str = "*"
    kernel: str = "*"
    thickness_mm: tuple[float, float] | None = field(default=None, metadata=RANGE)
    description: str = "*"
    sender: str = "*"
    leave_alone: bool = False
    model: str | None = None
    strength: float = field(default=1.0, metadata=STRENGTH)
    send_to: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise FieldError("wrong", "strength", self.strength, STRENGTH["wanted"])
        if self.thickness_mm is not None and self.thickness_mm[0] > self.thickness_mm[1]:
            raise FieldError("wrong", "thickness_mm", self.thickness_mm, RANGE["wanted"])


@dataclass(frozen=True)
class Page:
    """The status page.

    Attributes:
        address: best only this computer.
        port: 0: none.
        patient_names: whether they are on it.
    """

    address: str = "127.0.0.1"
    port: int = field(default=8104, metadata=PORT_OR_NONE)
    patient_names: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise FieldError("wrong", "port", self.port, PORT_OR_NONE["wanted"])


@dataclass(frozen=True)
class NodeConfig:
    """All of it.

    Attributes:
        quiet_s: a series is complete when nothing of it came for so long.
        device: for the network, as `ascon denoise --device`.
        precision: as `ascon denoise --precision`.
        attempts: of denoising a series, where it is not its own fault, before it has failed.
    """

    listen: Listen
    storage: Storage
    destinations: tuple[Destination, ...]
    rules: tuple[Rule, ...]
    page: Page = field(default_factory=Page)
    quiet_s: float = field(default=30, metadata=NOT_NEGATIVE)
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    attempts: int = 5

    def __post_init__(self) -> None:
        names = [destination.name for destination in self.destinations]
        if len(set(names)) < len(names):
            raise FieldError("wrong", "destinations", names, "names that differ")
        for rule in self.rules:
            if unknown := set(rule.send_to or ()) - set(names):
                raise FieldError("wrong", "rules.send_to", min(unknown), f"one of {', '.join(names) or 'none'}")
        if not self.quiet_s >= 0:
            raise FieldError("wrong", "quiet_s", self.quiet_s, NOT_NEGATIVE["wanted"])

    def receivers(self, rule: Rule) -> tuple[str, ...]:
        """Names of the destinations of a rule."""
        return tuple(one.name for one in self.destinations) if rule.send_to is None else rule.send_to


def read_config(path: str | Path) -> NodeConfig:
    """Read a configuration; its relative paths are those from its own folder.

    Raises:
        InputError: it is not there, no TOML, or a value is missing, unknown or makes no sense.
    """
    path = Path(path)
    config, here = _read(NodeConfig, path, "`ascon node init` writes one to fill in"), path.resolve().parent
    return replace(
        config,
        storage=replace(config.storage, folder=here / config.storage.folder),
        listen=replace(config.listen, tls=_absolute(config.listen.tls, here)),
        destinations=tuple(replace(one, tls=_absolute(one.tls, here)) for one in config.destinations),
        rules=tuple(replace(rule, model=_model_path(rule.model, here)) for rule in config.rules),
    )


@dataclass(frozen=True)
class _Rules:
    """A file of rules alone."""

    rules: tuple[Rule, ...]


def read_rules(path: str | Path) -> tuple[Rule, ...]:
    """Read a file that holds rules and nothing else; model files are those from its own folder.

    Raises:
        InputError: as `read_config`.
    """
    path = Path(path)
    rules, here = _read(_Rules, path, "it holds [[rules]], as a node's").rules, path.resolve().parent
    return tuple(replace(rule, model=_model_path(rule.model, here)) for rule in rules)


def _read(cls: type[T], path: Path, remedy: str) -> T:
    """The dataclass `cls` in a TOML file."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: {remedy}.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check its permissions.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no valid TOML: {error}.") from None
    try:
        return from_json(cls, values)
    except FieldError as error:
        if error.problem == "missing":
            raise InputError(f"{path} lacks {error.name}: {error.wanted}.") from None
        if error.problem == "unknown":
            raise InputError(f"{path} has {error.name}, which is unknown; known are {error.wanted}.") from None
        raise InputError(f"{path}: {error.name} is {shown(error.value)}, where {error.wanted} is needed.") from None


def _absolute(tls: Tls | None, here: Path) -> Tls | None:
    if tls is None:
        return None
    files = {name: getattr(tls, name) for name in ("certificate", "key", "authority")}
    return replace(tls, **{name: here / file for name, file in files.items() if file is not None})


def _model_path(model: str | None, here: Path) -> str | None:
    """A file beside the configuration, or a name as it is."""
    return str(here / model) if model is not None and model.endswith(".safetensors") else model


def _check_address(ae_title: str, port: int) -> None:
    if not re.fullmatch(r"[ -\[\]-~]{1,16}", ae_title) or not ae_title.strip():
        raise FieldError("wrong", "ae_title", ae_title, AE_TITLE["wanted"])
    if not 1 <= port <= 65535:
        raise FieldError("wrong", "port", port, PORT["wanted"])


TEMPLATE = """\
# The node of ASCON: `ascon node --config THIS-FILE`; `ascon node check --config THIS-FILE` tries the whole road.
# Paths are those from the folder of this file. What stands behind # is the default.

# quiet_s = 30              # a series is complete when nothing of it came for so many seconds
# device = "auto"           # auto, cpu, cuda, cuda:0
# precision = "auto"        # auto, fp32, bf16
# attempts = 5              # of denoising a series, where a fault is not its own

[listen]
ae_title = "ASCON"
# address = "0.0.0.0"       # every network card
# port = 11112
callers = ["CT_SCANNER", "PACS*"]          # AE titles that may send; * and ? stand for characters
networks = ["127.0.0.0/8", "192.168.4.0/24"]   # computers that may connect
# other_objects = "refuse"  # what is no CT image; "keep": it is stored and left alone
# associations = 50         # most at once

# [listen.tls]              # DICOM TLS, with PEM files
# certificate = "node.crt"
# key = "node.key"
# authority = "ca.crt"
# client_certificate = true   # who connects must show one that the authority signed

[storage]
folder = "node-data"        # best a disk of its own
# keep_originals_days = 3   # after a series is through, in days that the node runs
# keep_results_days = 14
# least_free_gb = 5         # with less, senders are told that there is no room

[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "192.168.4.10"
port = 104
# give_up_days = 7
# [destinations.tls]
# authority = "ca.crt"
# certificate = "node.crt"
# key = "node.key"

# The first rule that fits a series decides; a series that none fits is left alone. A rule may name modality, body_part,
# kernel, description (of the series) and sender (AE title), as patterns with * and ?, and thickness_mm. What has been
# denoised already is always left alone.

[[rules]]
name = "scouts and dose reports stay as they are"
description = "*scout*"
leave_alone = true

[[rules]]
name = "thin slices of the abdomen"
modality = "CT"
body_part = "*ABDOMEN*"
thickness_mm = [1.25, 3.0]
strength = 0.9              # 0 to 1
# model = "ascon-esaunet-v0.3"   # name or file; default: the default model
# send_to = ["pacs"]        # default: all destinations

[page]
# address = "127.0.0.1"     # the status page, for this computer only
# port = 8104               # 0: none
# patient_names = false
"""
