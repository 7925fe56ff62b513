"""Upload of an export to Hugging Face."""

from __future__ import annotations

from pathlib import Path

from autospike.console import note
from autospike.errors import UserError


def push(out: Path, name: str) -> None:
    """Upload the folder of an export to Hugging Face, with the credentials of its own command line.

    Args:
        out: The folder.
        name: The repository, OWNER/NAME; created if it does not exist.

    Raises:
        UserError: The upload is refused, or the server cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=out, ignore_patterns=[".*"])
    except Exception as error:  # of huggingface_hub or of its HTTP client, which is another one from version to version
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--push {name}: {reason}; give OWNER/NAME, log in with: hf auth login, and check the network") from None
    note(f"export: uploaded to {api.endpoint}/{name}; load it with timm.create_model('hf-hub:{name}')")
