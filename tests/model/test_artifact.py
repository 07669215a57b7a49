"""A saved model scores as it did, with all that it took from the train fold."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from qin.config import load_params
from qin.model.artifact import TrainedModel, load_model, save_model
from qin.model.build import build_model
from qin.runtime.errors import ArtifactError
from qin.runtime.files import file_crc32, read_exact_json, write_exact_json
from qin.shards.loader import read_batch
from qin.train.inputs import fit_inputs
from tests.planted import SCHEMA, write_planted
from tests.project import ROOT

NUM_ROWS = 300
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"pooled_history": False, "numeric_bins": 0, "min_count": 0},
    "fitted": {"pooled_history": True, "numeric_bins": 5, "min_count": 4},
    "separate": {"min_count": 4, "separate_attention_embedding": True},
    "mlp": {"attention_score": "mlp", "attention_bias": "constant"},
    "published": {"preset": "published", "pooled_history": True, "numeric_bins": 5, "min_count": 4},
}


def make_model(folder: Path, **variant: Any) -> tuple[TrainedModel, torch.Tensor]:
    """A model, and its logits of some rows."""
    reader = write_planted(folder / "log", num_rows=NUM_ROWS)
    small = {"embedding_dim": 4, "attention_dim": 8, "num_layers": 2}
    params = load_params(ROOT / "params.yaml").model.network.model_copy(update={**small, **variant})
    is_train = np.arange(NUM_ROWS) < 200
    network = build_model(SCHEMA, params, fit_inputs(reader, is_train, params, seed=0), seed=1)
    network.init_parameters(torch.Generator().manual_seed(2), embedding_std=0.5)
    network.eval()
    batch = read_batch(reader, np.arange(NUM_ROWS))
    with torch.no_grad():
        return TrainedModel((network,), SCHEMA, params, {}), network(batch.categorical, batch.numeric, batch.sequences)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_loaded_model_scores_as_the_saved_one(tmp_path: Path, variant: str) -> None:
    model, expected = make_model(tmp_path, **VARIANTS[variant])
    save_model(tmp_path, model)
    loaded = load_model(tmp_path)
    batch = read_batch(write_planted(tmp_path / "again", num_rows=NUM_ROWS), np.arange(NUM_ROWS))
    with torch.no_grad():
        assert torch.equal(loaded.networks[0](batch.categorical, batch.numeric, batch.sequences), expected)
    assert loaded.params == model.params
    state = model.networks[0].state_dict()
    assert ("embedding.is_rare" in state) == (variant in ("fitted", "separate"))
    assert ("bins.edges" in state) == (variant == "fitted")


def test_weights_of_other_settings_are_refused(tmp_path: Path) -> None:
    """What an earlier version wrote lacks what this one's settings ask for."""
    model, _ = make_model(tmp_path, min_count=4)
    save_model(tmp_path, model)
    weights = load_file(tmp_path / "weights.safetensors")
    del weights["embedding.is_rare"]
    save_file(weights, tmp_path / "weights.safetensors")
    tree, checksum = read_exact_json(tmp_path / "model.json"), file_crc32(tmp_path / "weights.safetensors")
    write_exact_json(tmp_path / "model.json", {**tree, "weights_crc32": {"weights.safetensors": checksum}})
    with pytest.raises(ArtifactError, match="a model of another version; run the train stage again"):
        load_model(tmp_path)


def test_a_model_from_before_a_setting_is_what_it_was(tmp_path: Path) -> None:
    """A setting that came later is at its default in an earlier model, which does not name it."""
    model, expected = make_model(tmp_path, **VARIANTS["plain"])
    save_model(tmp_path, model)
    tree = read_exact_json(tmp_path / "model.json")
    del tree["params"]["attention_score"]
    write_exact_json(tmp_path / "model.json", tree)
    batch = read_batch(write_planted(tmp_path / "again", num_rows=NUM_ROWS), np.arange(NUM_ROWS))
    loaded = load_model(tmp_path)
    assert loaded.params == model.params
    with torch.no_grad():
        assert torch.equal(loaded.networks[0](batch.categorical, batch.numeric, batch.sequences), expected)


def test_networks_keep_their_order_and_their_files_are_checked(tmp_path: Path) -> None:
    """More than ten, whose names do not sort as their numbers do."""
    model, _ = make_model(tmp_path, **VARIANTS["plain"])
    networks = []
    for number in range(12):
        network = copy.deepcopy(model.networks[0])
        with torch.no_grad():
            network.network.fc.bias.fill_(number)
        networks.append(network)
    save_model(tmp_path, replace(model, networks=tuple(networks)))
    loaded = load_model(tmp_path)
    assert [int(network.network.fc.bias.item()) for network in loaded.networks] == list(range(12))
    assert not any(network.training for network in loaded.networks)
    last = tmp_path / "weights.11.safetensors"
    last.write_bytes(last.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ArtifactError, match=r"weights\.11\.safetensors: damaged"):
        load_model(tmp_path)
    last.unlink()
    with pytest.raises(ArtifactError, match=r"weights\.11\.safetensors: file not found"):
        load_model(tmp_path)
