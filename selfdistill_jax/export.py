"""Puts a trained model on the Hugging Face hub.

    python -m selfdistill_jax.export --model=runs/distributed/model --push_to_hub=owner/name

Makes the repository where there is none, and uploads the folder as it is: read its README.md, which
becomes the model's page, before. Needs a token with the right to write (`hf auth login`, or
HF_TOKEN). For ONNX see docs/vectors.md.
"""

from pathlib import Path

import huggingface_hub
from absl import flags
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from selfdistill_jax.checkpoints.model_folder import read_folder
from selfdistill_jax.cli import options
from selfdistill_jax.cli.run import run_command
from selfdistill_jax.errors import InputError
from selfdistill_jax.io import expand
from selfdistill_jax.progress import show_log

_FLAGS = flags.FlagValues()
options.define_model(_FLAGS)
flags.DEFINE_string("push_to_hub", None, "Repository to upload to, owner/name.", flag_values=_FLAGS)
flags.DEFINE_bool("private", False, "Let nobody else see it.", flag_values=_FLAGS)


def main(argv: list[str]) -> None:
    show_log()
    options.refuse_rest(argv)
    options.required(_FLAGS, "model", "push_to_hub")
    folder = expand(_FLAGS.model)
    if not (folder / "modules.json").is_file():
        raise InputError(f"{folder}: no model's folder; expected that of a run, such as RUN/model")
    read_folder(str(folder))  # what does not open here opens nowhere
    print(push(folder, _FLAGS.push_to_hub, private=_FLAGS.private))


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Uploads a folder.

    Args:
      folder: all of it, hidden files aside.
      repository: ``owner/name``; made if it is not there.
      private: of a new repository; one that is there has to be.

    Returns:
      The model's address.

    Raises:
      InputError: no such name can be, no token, or whatever the hub or the way to it answers.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"--push_to_hub={repository}: {error}") from None
    if "/" not in repository:
        raise InputError(f"--push_to_hub={repository}: expected owner/name")
    if huggingface_hub.get_token() is None:
        raise InputError("no token for the hub; run `hf auth login`, or set HF_TOKEN")
    api = huggingface_hub.HfApi()
    try:
        url = api.create_repo(repository, private=private or None, exist_ok=True)
        public = private and not api.repo_info(repository).private
        if not public:
            api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message="A model of selfdistill_jax",
                ignore_patterns=[".*"],
            )
    except Exception as error:  # of the hub's client or of the HTTP library that it has this year
        raise InputError(
            f"--push_to_hub={repository}: {type(error).__name__}: {error}; is the network there, "
            "and may the token write?"
        ) from None
    if public:  # the hub leaves an old repository as it is, whatever is asked of a new one
        raise InputError(f"{url}: is there already and public; nothing was uploaded")
    return str(url)


if __name__ == "__main__":
    run_command(main, flag_values=_FLAGS)
