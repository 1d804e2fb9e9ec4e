"""Image files for the fuzzer: NIfTI, NRRD and MetaImage written by hand, and ways to spoil them.

The headers are typed here from the formats' descriptions, not written by a library: so each field can hold anything,
and what a right reader makes of the file is known.
"""

from __future__ import annotations

import gzip
import random
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SHAPE = (3, 12, 14)
"""(S, H, W)."""

# fmt: off
NIFTI_FIELDS = {  # name -> (offset, struct format, number), after nifti1.h
    "sizeof_hdr": (0, "i", 1), "dim": (40, "h", 8), "datatype": (70, "h", 1), "bitpix": (72, "h", 1),
    "pixdim": (76, "f", 8), "vox_offset": (108, "f", 1), "scl_slope": (112, "f", 1), "scl_inter": (116, "f", 1),
    "xyzt_units": (123, "b", 1), "intent_code": (68, "h", 1), "qform_code": (252, "h", 1), "sform_code": (254, "h", 1),
    "quatern": (256, "f", 3), "qoffset": (268, "f", 3), "srow": (280, "f", 12), "magic": (344, "4s", 1),
}
NUMBERS = (0, 1, -1, 2, 3, 4, 5, 7, 8, 16, 64, 100, 255, 512, 768, 1024, 2048, 32767, -32768)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-30, 1e30, float("nan"), float("inf"), float("-inf"), 352.0, 351.0, 1e9)
TEXTS = (
    "", " ", "0", "1", "-1", "2 2 2", "14 12 3", "14 12", "14 12 3 1", "14 12 3 2", "nan nan nan", "inf 1 1", "abc",
    "1e999", "99999999999", "100000 100000 100000", "short", "float", "MET_SHORT", "MET_FLOAT", "MET_USHORT",
    "MET_NO_SUCH", "gzip", "raw", "bzip2", "hex", "big", "little", "True", "False", "left-posterior-superior",
    "right-anterior-superior", "scanner-xyz", "(1,0,0) (0,1,0) (0,0,1)", "(1,0,0) (0,1,0) (0,0.3,1)",
    "(0,0,0) (0,1,0) (0,0,1)", "(1,0) (0,1)", "none (1,0,0) (0,1,0)", "(nan,0,0) (0,1,0) (0,0,1)",
    "1 0 0 0 1 0 0 0 1", "1 0 0 0 1 0 0 0.3 1", "0 0 0 0 0 0 0 0 0", "LOCAL", "LIST", "other.raw", "../scan.raw",
    "\"mm\" \"mm\" \"mm\"", "\"um\" \"um\" \"um\"", "block", "RAI", "domain domain domain", "vector domain domain",
    "é", "7" * 5000,
)
NRRD_FIELDS = (
    "type", "dimension", "sizes", "encoding", "endian", "space", "space dimension", "space directions",
    "space origin", "kinds", "spacings", "space units", "data file", "byte skip", "line skip", "axis mins",
    "thicknesses", "centerings", "content", "measurement frame", "old min",
)
MHA_FIELDS = (
    "ObjectType", "NDims", "BinaryData", "BinaryDataByteOrderMSB", "CompressedData", "CompressedDataSize",
    "TransformMatrix", "Offset", "CenterOfRotation", "AnatomicalOrientation", "ElementSpacing", "DimSize",
    "ElementType", "ElementDataFile", "ElementNumberOfChannels", "HeaderSize", "ElementSize", "ElementMin",
    "Position", "Orientation",
)
# fmt: on


@dataclass
class ImageFile:
    """A file to be: header and voxels.

    Attributes:
        suffix: ".nii", ".nii.gz", ".nrrd" or ".mha".
        fields: of the header: bytes by name for NIfTI, text by name for the others, in this order.
        voxels: (S, H, W).
        data: those voxels as bytes.
        edits: of the finished bytes: (from, to, what goes there), places as fractions.
        lines: added to a header of lines.
        cut: this part of the bytes is written, then `tail`.
        named: the suffix of the file's name, where it is another.
    """

    suffix: str
    fields: dict[str, bytes | str]
    voxels: np.ndarray
    data: bytes
    edits: list[tuple[float, float, bytes]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    cut: float = 1.0
    tail: bytes = b""
    named: str = ""

    @property
    def base(self) -> str:
        return f"{self.suffix} {self.voxels.dtype}"

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        head = {".nii": self._nifti, ".nii.gz": self._nifti, ".nrrd": self._nrrd, ".mha": self._mha}[self.suffix]()
        content = head + self.data
        for begin, end, new in self.edits:
            content = content[: int(begin * len(content))] + new + content[int(end * len(content)) :]
        content = content[: int(self.cut * len(content))] + self.tail
        path = folder / f"scan{self.named or self.suffix}"
        path.write_bytes(gzip.compress(content, 1) if self.suffix == ".nii.gz" else content)
        return path

    def _nifti(self) -> bytes:
        header = bytearray(352)
        for name, value in self.fields.items():
            offset = NIFTI_FIELDS[name][0]
            header[offset : offset + len(value)] = value
        return bytes(header)

    def _nrrd(self) -> bytes:
        lines = ["NRRD0004", *(f"{name}: {value}" for name, value in self.fields.items()), *self.lines]
        return ("\n".join(lines) + "\n\n").encode()

    def _mha(self) -> bytes:
        fields = dict(self.fields)
        last = fields.pop("ElementDataFile", None)
        lines = [*(f"{name} = {value}" for name, value in fields.items()), *self.lines]
        lines += [] if last is None else [f"ElementDataFile = {last}"]
        return ("\n".join(lines) + "\n").encode()


def base_names() -> list[str]:
    return [f"{suffix} {dtype}" for suffix in (".nii", ".nii.gz", ".nrrd", ".mha") for dtype in ("int16", "float32")]


def base_image(name: str) -> ImageFile:
    """A fresh file of one kind, whose voxels and place are known."""
    suffix, dtype = name.split()
    voxels = np.random.default_rng(len(name)).integers(-1000, 1500, SHAPE).astype(dtype)
    fields = _nifti_fields(dtype) if suffix.startswith(".nii") else _lines(suffix, dtype)
    return ImageFile(suffix, fields, voxels, voxels.tobytes())


def _nifti_fields(dtype: str) -> dict[str, bytes | str]:
    s, h, w = SHAPE
    code, bits = {"int16": (4, 16), "float32": (16, 32)}[dtype]
    rows = (-0.7, 0, 0, 10, 0, -0.8, 0, 20, 0, 0, 2.5, -30)
    return {
        "sizeof_hdr": struct.pack("<i", 348),
        "dim": struct.pack("<8h", 3, w, h, s, 1, 1, 1, 1),
        "datatype": struct.pack("<h", code),
        "bitpix": struct.pack("<h", bits),
        "pixdim": struct.pack("<8f", 1, 0.7, 0.8, 2.5, 0, 0, 0, 0),
        "vox_offset": struct.pack("<f", 352),
        "xyzt_units": b"\x02",
        "qform_code": struct.pack("<h", 1),
        "sform_code": struct.pack("<h", 1),
        "quatern": struct.pack("<3f", 0, 0, 1),
        "qoffset": struct.pack("<3f", 10, 20, -30),
        "srow": struct.pack("<12f", *rows),
        "magic": b"n+1\0",
    }


def _lines(suffix: str, dtype: str) -> dict[str, bytes | str]:
    s, h, w = SHAPE
    if suffix == ".nrrd":
        return {
            "type": {"int16": "short", "float32": "float"}[dtype],
            "dimension": "3",
            "space": "left-posterior-superior",
            "sizes": f"{w} {h} {s}",
            "space directions": "(0.7,0,0) (0,0.8,0) (0,0,2.5)",
            "kinds": "domain domain domain",
            "endian": "little",
            "encoding": "raw",
            "space origin": "(10,20,-30)",
        }
    return {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "10 20 -30",
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": "0.7 0.8 2.5",
        "DimSize": f"{w} {h} {s}",
        "ElementType": {"int16": "MET_SHORT", "float32": "MET_FLOAT"}[dtype],
        "ElementDataFile": "LOCAL",
    }


def odd_field(image: ImageFile, rng: random.Random) -> str:
    """A field of the header with another value."""
    if not image.suffix.startswith(".nii"):
        name = rng.choice(NRRD_FIELDS if image.suffix == ".nrrd" else MHA_FIELDS)
        image.fields[name] = rng.choice(TEXTS)
        return f"{name}: {image.fields[name][:40]!r}"
    name = rng.choice(list(NIFTI_FIELDS))
    _, code, count = NIFTI_FIELDS[name]
    if code == "4s":
        image.fields[name] = rng.choice((b"ni1\0", b"n+2\0", b"\0\0\0\0", b"abcd"))
        return f"{name} {image.fields[name]!r}"
    size = struct.calcsize(code)
    at = rng.randrange(count)
    number = rng.choice(FLOATS) if code == "f" else rng.choice([n for n in NUMBERS if code != "b" or -128 <= n < 128])
    value = bytearray(image.fields.get(name, bytes(size * count)))
    value[at * size : (at + 1) * size] = struct.pack("<" + code, number)
    image.fields[name] = bytes(value)
    return f"{name}[{at}] {number}"


def missing_field(image: ImageFile, rng: random.Random) -> str:
    name = rng.choice(list(image.fields))
    del image.fields[name]
    return f"no {name}"


def doubled_field(image: ImageFile, rng: random.Random) -> str:
    """A line a second time with another value; in NIfTI, whose fields have fixed places, a byte too much."""
    if image.suffix.startswith(".nii"):
        image.edits.append((0.1, 0.1, b"\0"))
        return "a byte too much in the header"
    name = rng.choice(NRRD_FIELDS if image.suffix == ".nrrd" else MHA_FIELDS)
    text = rng.choice(TEXTS)
    image.lines.append(f"{name}{':' if image.suffix == '.nrrd' else ' ='} {text}")
    return f"{name} a second time: {text[:40]!r}"


def not_finite(image: ImageFile, rng: random.Random) -> str:
    if image.voxels.dtype.kind != "f":
        return "nothing"
    value = rng.choice((np.nan, np.inf, -np.inf, 1e30, -1e30, 0.5))
    image.voxels[1, 2, 3] = value
    image.data = image.voxels.tobytes()
    return f"a voxel of {value}"


def resized(image: ImageFile, rng: random.Random) -> str:
    image.cut = rng.choice((1.0, 0.999, 0.9, 0.5, 0.2, 0.05, 0.0))
    image.tail = b"" if rng.random() < 0.7 else bytes(rng.choice((1, 2, 100)))
    return f"cut to {image.cut:g} of the length, {len(image.tail)} bytes added"


def flipped(image: ImageFile, rng: random.Random) -> str:
    """Bytes of the first half changed."""
    for _ in range(rng.choice((1, 2, 8))):
        place = rng.random() / 2
        image.edits.append((place, place + 1e-3, rng.randbytes(1)))
    return f"{len(image.edits)} bytes changed"


def named_otherwise(image: ImageFile, rng: random.Random) -> str:
    """The suffix of another format."""
    image.named = rng.choice((".nii", ".nii.gz", ".nrrd", ".mha", ".nhdr", ".mhd"))
    return f"named {image.named}"


MUTATIONS = (
    *(odd_field, odd_field, odd_field, odd_field, missing_field, doubled_field),
    *(not_finite, resized, flipped, named_otherwise),
)
