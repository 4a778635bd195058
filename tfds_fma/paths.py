"""Names of files and folders as people type them."""

import re
from pathlib import Path

from tfds_fma.errors import UserError


def local_path(name: str | Path) -> Path:
    """Returns a path of this machine, with the user's home in place of ``~``.

    Raises:
      UserError: the home folder is not known, or it is a URL. `Path` makes a folder ``gs:`` of it, or ``s3:``, and
        everything seems to work.
    """
    if url := re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(name)):
        raise UserError(
            f"{name}: files and folders must be on this machine, or mounted; {url[0]}/ cannot be read or written. "
            "Copy or mount it, and give that path"
        )
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise UserError(f"{name}: the home folder of that user is not known; give the whole path") from error
