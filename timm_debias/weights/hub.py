"""Uploads a released model to the Hugging Face hub."""

import logging
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import DebiasError, reason
from .folder import check_folder


def check_repository(repository: str) -> None:
    """Raise `DebiasError` for a name that no repository of the hub can have."""
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise DebiasError(f'--push-to-hub {repository}: {reason(error)}') from error


def push(folder: Path, repository: str) -> str:
    """Upload a released model to a repository of the hub, made where there is none, and return its address.

    The address of the hub and the token are huggingface_hub's: HF_ENDPOINT, HF_TOKEN or `hf auth login`.

    Raises:
        DebiasError: a folder that is not what its hashes say, or an upload that fails; the folder stays.
    """
    check_folder(folder)
    logging.getLogger('httpx').setLevel(logging.WARNING)  # It tells of every request.
    try:
        api = HfApi()
        url = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=url.repo_id, folder_path=folder, commit_message=f'Add {folder.name}')
    except Exception as error:  # The hub's client raises almost anything; all of it is about this upload.
        why = reason(error)[:300].rstrip('.')
        raise DebiasError(f'--push-to-hub {repository}: {why}; the folder to upload is {folder}') from error
    return str(url)
