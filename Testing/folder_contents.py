"""What lies in a folder, to see that nothing changed."""

import hashlib
from pathlib import Path


def files_in(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too, with the SHA-256 of its content."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
