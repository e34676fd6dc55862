"""One quick request to the Hugging Face hub, before a library retries slowly."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from grpo_envs.errors import ConfigError


def missing_on_hub(
    repo_id: str, kind: Literal["model", "dataset"], revision: str | None = None
) -> str:
    """Return why the hub cannot provide `repo_id` now, or '' if it can.

    Without this check, loading an uncached model without a network retries for 90 seconds.
    """
    from huggingface_hub import HfApi  # kept off the import path of grpo_envs
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        HfApi().repo_info(repo_id, repo_type=kind, revision=revision, timeout=10)
    except HFValidationError:
        return "no such folder, and not the form of a hub id"
    except RevisionNotFoundError:
        return f"no such folder, and the hub has no revision {revision} of it"
    except RepositoryNotFoundError:
        return "no such folder, and the hub has none of that name"
    except Exception as error:  # noqa: BLE001  of whichever HTTP library the hub client uses
        return f"no such folder, and the hub cannot be reached ({type(error).__name__})"
    return ""


def require_pushable(repo_id: str) -> None:
    """Refuse a repository that cannot be pushed to, before any work is done.

    Raises:
        ConfigError: not the form of a hub id, no token, or no network.
    """
    from huggingface_hub import HfApi

    with _in_one_line(repo_id, "Allowed: NAME or OWNER/NAME, after `hf auth login`."):
        HfApi().whoami()
        HfApi().repo_exists(repo_id)  # raises if this is not the form of an id


def push(folder: Path, repo_id: str) -> str:
    """Upload a folder to a model's repository, which is made if it does not exist.

    Returns:
        The address of the repository.

    Raises:
        ConfigError: the hub refuses the upload, or cannot be reached.
    """
    from huggingface_hub import HfApi

    with _in_one_line(repo_id, f"What it would get is in {folder}."):
        repo = HfApi().create_repo(repo_id, exist_ok=True)
        HfApi().upload_folder(repo_id=repo.repo_id, folder_path=folder)
    return str(repo)


@contextmanager
def _in_one_line(repo_id: str, more: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of whichever HTTP library the hub client uses
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"--push {repo_id}: {cause} {more}") from error
