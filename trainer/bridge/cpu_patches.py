"""Run Megatron-Bridge without CUDA, for trying things out: float32, gloo, megatron-core's local layers.

Each patch states why Bridge 0.6.2 or megatron-core 0.19.2 needs it. Nothing here runs on a machine with CUDA.
"""

import logging
import os
from typing import Any


def prepare() -> None:
    """Set the environment. Call before torch is imported."""
    # megatron-core's jit_fuser is torch.compile, which would need a C++ compiler at run time.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


def install() -> None:
    """Apply all patches. Call after Bridge is imported and before its config is built.

    Raises RuntimeError on a machine with CUDA.
    """
    import torch

    if torch.cuda.is_available():
        raise RuntimeError("device: cpu is for machines without CUDA; use device: cuda here.")
    _devices()
    _cuda_module()
    _random_state()
    _bridge()
    _packed_attention()


def _on_cpu(device: Any) -> Any:
    """Return "cpu" for any name of a CUDA device ("cuda", "cuda:0", an index), else the device."""
    import torch

    if device is None or isinstance(device, bool):
        return device
    names_cuda = (
        isinstance(device, int)
        or (isinstance(device, str) and device.startswith("cuda"))
        or (isinstance(device, torch.device) and device.type == "cuda")
    )
    return "cpu" if names_cuda else device


def _devices() -> None:
    """Keep tensors on the CPU that are created on CUDA or moved to it."""
    import torch

    class CpuMode(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = dict(kwargs or {})
            if "device" in kwargs:
                kwargs["device"] = _on_cpu(kwargs["device"])
            if function is torch.Tensor.to and len(args) > 1:
                args = (args[0], _on_cpu(args[1]), *args[2:])
            return function(*args, **kwargs)

    CpuMode().__enter__()
    torch.Tensor.cuda = lambda self, *_args, **_kwargs: self
    torch.nn.Module.cuda = lambda self, *_args, **_kwargs: self
    _tensor_type()


def _tensor_type() -> None:
    """Report CUDA type names: megatron-core's optimizers accept only parameters with these."""
    import torch

    original = torch.Tensor.type

    def type_(self: Any, *args: Any, **kwargs: Any) -> Any:
        name = original(self, *args, **kwargs)
        # CpuMode makes this call run twice.
        is_cpu_name = isinstance(name, str) and "cuda" not in name
        return name.replace("torch.", "torch.cuda.", 1) if is_cpu_name else name

    torch.Tensor.type = type_


class _Nothing:
    """A stand-in for a stream or event. A CPU runs everything in order."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __getattr__(self, _name: str) -> Any:
        return lambda *_args, **_kwargs: None

    def __enter__(self) -> "_Nothing":
        return self

    def __exit__(self, *_error: object) -> None:
        pass


def _cuda_module() -> None:
    """The calls of torch.cuda that Bridge makes unconditionally."""
    import torch

    cuda = torch.cuda
    # With 0 devices Bridge would not seed the model-parallel random tracker.
    cuda.device_count = lambda: 1
    cuda.current_device = lambda: 0
    for name in ("synchronize", "empty_cache", "set_device", "set_stream", "reset_peak_memory_stats"):
        setattr(cuda, name, lambda *_args, **_kwargs: None)
    cuda.current_stream = cuda.default_stream = cuda.stream = cuda.Stream = cuda.Event = _Nothing


def _random_state() -> None:
    """Use the CPU's random generator for CUDA's, also in checkpoints."""
    import megatron.core.tensor_parallel.random as mcore_random
    import torch

    cuda = torch.cuda
    cuda.get_rng_state = cuda.random.get_rng_state = lambda *_args, **_kwargs: torch.get_rng_state()
    cuda.set_rng_state = cuda.random.set_rng_state = lambda state, *_a, **_k: torch.set_rng_state(state)
    seed = torch.default_generator.manual_seed
    cuda.manual_seed = cuda.manual_seed_all = cuda.random.manual_seed = seed
    mcore_random._set_cuda_rng_state = lambda state, *_args, **_kwargs: torch.set_rng_state(state)
    # megatron-core warns at each step that the CPU's state changed, which is expected here.
    logging.getLogger(mcore_random.__name__).setLevel(logging.ERROR)


def _bridge() -> None:
    import megatron.bridge.peft.utils as peft
    import megatron.bridge.training.setup as setup

    # Without allow_no_cuda it raises "Megatron requires CUDA."
    original = setup.initialize_megatron
    setup.initialize_megatron = lambda **kwargs: original(allow_no_cuda=True, **kwargs)
    # Without Transformer Engine, megatron-core defines its names as None, which misleads Bridge's probe.
    peft.HAVE_TE = False


def _packed_attention() -> None:
    """Give megatron-core's attention a block-diagonal causal mask: it rejects packed input."""
    from megatron.core.transformer.dot_product_attention import DotProductAttention

    original = DotProductAttention.forward

    def forward(
        self: Any,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any,
        attn_mask_type: Any = None,
        attention_bias: Any = None,
        packed_seq_params: Any = None,
    ) -> Any:
        if packed_seq_params is None:
            return original(self, query, key, value, attention_mask, attn_mask_type, attention_bias)
        mask = _blocks(packed_seq_params, query.size(0))
        flat = query.dim() == 3  # [tokens, heads, channels]: without the batch dimension
        q, k, v = (x.unsqueeze(1) if flat else x for x in (query, key, value))
        context = original(self, q, k, v, mask)
        return context.squeeze(1) if flat else context

    DotProductAttention.forward = forward


def _blocks(packed: Any, tokens: int) -> Any:
    """Mask [1, 1, tokens, tokens]: True where attention is masked, for later tokens and other sequences."""
    import torch

    padded = packed.cu_seqlens_q_padded
    bounds = padded if padded is not None else packed.cu_seqlens_q
    position = torch.arange(tokens)
    sequence = torch.searchsorted(bounds.reshape(-1).contiguous(), position.to(bounds.dtype), right=True)
    elsewhere = sequence[:, None] != sequence[None, :]
    future = position[:, None] < position[None, :]
    return (elsewhere | future)[None, None]
