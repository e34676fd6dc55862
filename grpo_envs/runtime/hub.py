"""Asking the Hugging Face hub once and quickly, before a library asks it slowly and often."""

from typing import Literal


def missing_on_hub(
    repo_id: str, kind: Literal["model", "dataset"], revision: str | None = None
) -> str:
    """Return why `repo_id` cannot be had from the hub now, or '' when it can.

    Without this, loading an uncached model with no network retries for a minute and a half.
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
