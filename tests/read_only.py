"""Commands on a folder that they may not write to."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

# In a mount namespace of its own, so the mount ends with the process. Exit code 77: it is not allowed.
MOUNT = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" || exit 77; exec "$@"'


def run_read_only(folder: Path, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command while a folder is read-only: by a mount for root, whom permissions do not stop, else by permissions."""
    if os.geteuid() == 0:
        if shutil.which("unshare") is None:
            pytest.skip("no unshare here, and root may write to every folder")
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", MOUNT, str(folder), *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if done.returncode == 77 or done.stderr.startswith("unshare:"):
            pytest.skip("root may not mount a folder read-only here")
        return done
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)
