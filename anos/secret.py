"""The gateway's own secret: from the configuration, else from a file beside the database."""

import os
from hashlib import blake2b
from pathlib import Path

from anos.config_sections import Server

_KEY_BYTES = 32


def load(server: Server) -> bytes:
    """32 bytes that stay the same from start to start.

    `server.secret` decides; without it the file `<database>.key` does, which is made, readable by
    its owner only, if it is missing. Raises OSError.
    """
    if server.secret is not None:
        return blake2b(server.secret.encode(), digest_size=_KEY_BYTES).digest()
    path = Path(f"{server.database}.key")
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(fd, "wb") as file:
            file.write(os.urandom(_KEY_BYTES).hex().encode() + b"\n")
            file.flush()
            os.fsync(fd)
    text = path.read_bytes().strip()
    if len(text) < _KEY_BYTES:
        raise OSError(f"{path} holds no secret; restore it, or remove it to have a new one made")
    return blake2b(text, digest_size=_KEY_BYTES).digest()


def derive(secret: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose, from which neither the secret nor another key follows."""
    return blake2b(purpose.encode(), digest_size=_KEY_BYTES, key=secret).digest()
