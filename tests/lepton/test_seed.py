"""The two Lepton command lines of NVIDIA's reference step, through the service."""

from typing import Any

import pytest
import yaml

from tests.support.lepton.service import LeptonService

pytestmark = [pytest.mark.slow, pytest.mark.lepton]
PROFILE = "lepton_sft_megatron_bridge"


def given(service: LeptonService, **more: Any) -> dict[str, Any]:
    """Return a request with packed data on the workspace's storage, which the service does not inspect."""
    packed = service.lepton.directory / "workspace" / "packed"
    return {
        "name": "seed",
        "cluster": PROFILE,
        "attached": True,
        "inputs": {"packed_parquet": str(packed)},
        **more,
    }


def ran(service: LeptonService, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a job; return its spec on Lepton and the config of its run."""
    job = service.wait_for(service.submit(body)["id"], timeout=120)
    assert job["state"] == "SUCCEEDED", service.log(job["id"])
    config = yaml.safe_load((service.directory(job["id"]) / "config.yaml").read_text())
    return service.on_lepton(job["id"]).spec, config


def test_the_tiny_validation_run_on_two_nodes(service: LeptonService) -> None:
    """nemotron steps run sft/megatron_bridge -c tiny -r lepton_sft_megatron_bridge"""
    spec, config = ran(service, given(service, config="tiny"))
    assert (spec["completions"], spec["parallelism"], spec["resource_shape"]) == (2, 2, "gpu.8xh100-sxm")
    assert "--nproc-per-node 8" in spec["container"]["command"][2]
    assert config["train"]["train_iters"] == 10


def test_an_attached_run_on_super_with_eight_and_four_way_parallelism(service: LeptonService) -> None:
    """... -c default -r lepton_sft_megatron_bridge hf_model_path=... recipe.tensor_model_parallel_size=8 ...

    On four nodes, because eight by four ranks do not fit on the profile's two nodes.
    """
    overrides = [
        "hf_model_path=nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16",
        "recipe.tensor_model_parallel_size=8",
        "recipe.pipeline_model_parallel_size=4",
    ]
    body = given(service, config="default", overrides=overrides, resources={"nodes": 4})
    spec, config = ran(service, body)
    assert (spec["completions"], spec["intra_job_communication"]) == (4, True)
    assert config["hf_model_path"].endswith("Super-120B-A12B-BF16")
    recipe = config["recipe"]
    assert (recipe["tensor_model_parallel_size"], recipe["pipeline_model_parallel_size"]) == (8, 4)
