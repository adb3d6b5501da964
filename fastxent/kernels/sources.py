"""What compiled code is made from: a hash of the kernels' sources, which names the folder that the code is kept in."""

import hashlib
from pathlib import Path

__all__ = ["AT_IMPORT", "digest"]


def digest() -> str:
    """A hash of every source file of the kernels, as they are now."""
    found = hashlib.sha256()
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        found.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return found.hexdigest()


# Taken by the package, before Python reads its other modules. Where it is another one by the time that something was
# compiled, nobody knows which sources that was made from.
AT_IMPORT = digest()
