"""The way to the hub, with a stand-in for the hub's client."""

import shutil
from types import SimpleNamespace
from unittest import mock

import huggingface_hub
import pytest

from selfdistill_jax import export
from tests.tiny import fails


@pytest.fixture
def hub(monkeypatch):
    """Takes the real client's arguments and no others."""
    api = mock.create_autospec(huggingface_hub.HfApi, instance=True)
    api.create_repo.side_effect = lambda repo_id, **_: f"https://huggingface.co/{repo_id}"
    api.repo_info.return_value = SimpleNamespace(private=True)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    return api


def test_a_model_is_pushed(hub, start, model):
    given = [f"--model={model}", "--push_to_hub=me/mine"]
    assert start(export, *given) == (0, "https://huggingface.co/me/mine\n", "")
    hub.create_repo.assert_called_once_with("me/mine", private=None, exist_ok=True)
    (uploaded,) = (call.kwargs for call in hub.upload_folder.call_args_list)
    assert (uploaded["repo_id"], uploaded["folder_path"]) == ("me/mine", model)
    assert start(export, *given, "--private")[0] == 0
    assert hub.create_repo.call_args.kwargs["private"] is True


def test_private_is_never_public(hub, start, model):
    hub.repo_info.return_value.private = False
    result = start(export, f"--model={model}", "--push_to_hub=me/mine", "--private")
    assert fails(result, "https://huggingface.co/me/mine: is there already and public; nothing was")
    hub.upload_folder.assert_not_called()


def test_wrong_names_and_folders(hub, start, tiny, model, tmp_path):
    name = "--push_to_hub=me/mine"
    assert fails(start(export, f"--model={model}"), "--push_to_hub is missing; repository to")
    assert fails(start(export, f"--model={tmp_path}", name), f"{tmp_path}: no model's folder; ")
    hub_id = "sentence-transformers/all-MiniLM-L6-v2"
    assert fails(start(export, f"--model={hub_id}", name), f"{hub_id}: no model's folder; expected")
    broken = shutil.copytree(model, tmp_path / "model")
    (broken / "model.safetensors").write_bytes(b"0")
    assert fails(start(export, f"--model={broken}", name), f"{broken}/model.safetensors: not a")
    for wrong, words in (("mine", "expected owner/name"), ("me/my model", "Repo id must")):
        result = start(export, f"--model={model}", f"--push_to_hub={wrong}")
        assert fails(result, f"--push_to_hub={wrong}: {words}")
    hub.create_repo.assert_not_called()


def test_without_a_token(hub, start, model, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    result = start(export, f"--model={model}", "--push_to_hub=me/mine")
    assert fails(result, "no token for the hub; run `hf auth login`, or set HF_TOKEN")
    hub.create_repo.assert_not_called()


def test_without_a_network(start, model, monkeypatch):
    """The real client, which tests keep offline."""
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    result = start(export, f"--model={model}", "--push_to_hub=me/mine")
    assert fails(result, "--push_to_hub=me/mine: OfflineModeIsEnabled: Cannot reach https://hugg")
    assert result[2].endswith("is the network there, and may the token write?\n")
