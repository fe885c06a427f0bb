"""The full names that a checkpoint may have: classes in pickles, and targets in run_config.yaml.

Measured on what Megatron-Bridge 0.6.2 with megatron-core 0.19.2 writes: full fine-tuning and LoRA,
optimizers, one and several ranks, and the configs of its recipes and of the text models that it supports.

Read the code of a name before you add it here: with any arguments, and with results of the other names as
arguments, it must neither run code of the caller's choice nor open files. values.py has rules for those that
are safe with some arguments only.
"""

from collections.abc import Iterator


def _names(modules: dict[str, str]) -> Iterator[str]:
    return (f"{module}.{name}" for module, names in modules.items() for name in names.split())


DTYPES = """
    bfloat16 bool complex128 complex64 float16 float32 float64 float8_e4m3fn float8_e5m2
    int16 int32 int64 int8 uint16 uint32 uint64 uint8
"""
STORAGES = """
    BFloat16Storage BoolStorage ByteStorage CharStorage ComplexDoubleStorage ComplexFloatStorage
    DoubleStorage FloatStorage HalfStorage IntStorage LongStorage ShortStorage
"""

# The index, `.metadata`. Asynchronous saves keep the plans of all ranks in it.
_INDEX = {
    "collections": "OrderedDict",
    "torch": f"Size device {DTYPES}",
    "torch.serialization": "_get_layout",
    "torch.distributed.checkpoint.metadata": """
        BytesStorageMetadata ChunkStorageMetadata Metadata MetadataIndex StorageMeta TensorProperties
        TensorStorageMetadata _MEM_FORMAT_ENCODING
    """,
    "torch.distributed.checkpoint.filesystem": "_StorageInfo _StoragePrefix",
    "torch.distributed.checkpoint.planner": """
        BytesIOWriteData SavePlan TensorWriteData WriteItem WriteItemType
    """,
    "megatron.core.dist_checkpointing.strategies.torch": "MCoreMetadata MCoreSavePlan",
}
# What torch.save wrote: objects in .distcp files, train_state.pt, common.pt, weights of Hugging Face models.
# The random state has an array of numpy.
_OBJECTS = {
    "_codecs": "encode",
    "collections": "OrderedDict",
    "torch": f"Size device {DTYPES} {STORAGES}",
    "torch.storage": "UntypedStorage",
    "torch._utils": "_rebuild_parameter _rebuild_tensor_v2 _rebuild_tensor_v3",
    "numpy": "dtype ndarray",
    "numpy._core.multiarray": "_reconstruct",
    "numpy.core.multiarray": "_reconstruct",
    "megatron.core.rerun_state_machine": "RerunDiagnostic RerunMode RerunState",
}
# Transformer Engine pickles its scaling factors into a tensor of bytes, `_extra_state`.
# _load_from_bytes loads the tensors in it, which extra_state.py and checkpoint_guard.py inspect, too.
_EXTRA_STATE = {
    "collections": "OrderedDict",
    "torch": f"Size device {DTYPES}",
    "torch._utils": "_rebuild_tensor_v2",
    "torch.storage": "_load_from_bytes",
    "megatron.core.safe_globals": "safe_load_from_bytes",
    "transformer_engine.common.recipe": """
        DelayedScaling Float8BlockScaling Float8CurrentScaling Format MMParams MXFP8BlockScaling
        NVFP4BlockScaling QParams _FormatHelper
    """,
    "megatron.core.extensions.transformer_engine": "TEDelayedScaling",
}
INDEX_CLASSES = frozenset(_names(_INDEX))
OBJECT_CLASSES = frozenset(_names(_OBJECTS))
EXTRA_STATE_CLASSES = frozenset(_names(_EXTRA_STATE))
CLASSES = INDEX_CLASSES | OBJECT_CLASSES | EXTRA_STATE_CLASSES

# `_target_` of run_config.yaml: sections of a config ...
_SECTIONS = {
    "megatron.bridge.data.builders.gpt_sft": "GPTSFTDatasetConfig",
    "megatron.bridge.data.packing.config": "PackedSequenceSpecs",
    "megatron.bridge.peft.lora": "LoRA",
    "megatron.bridge.training.comm_overlap": """
        BulkOverlapCfg CommOverlapConfig PipelineOverlapCfg RingExchangeOverlapCfg
        TransformerLayerTPOverlapCfg _CommOverlapConfig
    """,
    "megatron.bridge.training.config": """
        CheckpointConfig ConfigContainer DistributedDataParallelConfig DistributedInitConfig
        FaultToleranceConfig InProcessRestartConfig LoggerConfig NVRxStragglerDetectionConfig OptimizerConfig
        OptimizerConfigOverrideProvider ProfilingConfig RerunStateMachineConfig SchedulerConfig
        StragglerDetectionConfig TensorInspectConfig TrainingConfig
    """,
    "megatron.bridge.training.mixed_precision": "MixedPrecisionConfig",
    "megatron.bridge.training.tokenizers.config": "TokenizerConfig",
    "megatron.training.config.common_config": "RNGConfig",
    "megatron.training.config.training_config": "ValidationConfig",
}
# ... models, and the functions that name their layers ...
_MODELS = {
    "ernie.ernie_45_bridge": "_ernie45_decoder_block_spec",
    "exaone.exaone4.exaone4_provider": "exaone4_layer_spec",
    "exaone.exaone_moe.exaone_moe_provider": "ExaoneMoeModelProvider _build_exaone_moe_layer_spec",
    "falcon_h1.falconh1_provider": "FalconH1ModelProvider get_default_falconh1_stack_spec",
    "gemma.gemma2_provider": "Gemma2ModelProvider gemma2_layer_spec",
    "gemma.gemma3_provider": "Gemma3ModelProvider gemma3_layer_spec",
    "gemma.gemma4_provider": "Gemma4DenseProvider Gemma4ModelProvider",
    "gemma.gemma_provider": "GemmaModelProvider",
    "gpt_provider": """
        GPTModelProvider default_layer_spec local_layer_spec transformer_engine_full_layer_spec
        transformer_engine_layer_spec
    """,
    "hybrid.hybrid_provider": """
        HybridModelProvider get_default_hybrid_stack_spec transformer_engine_hybrid_stack_spec
    """,
    "llama_nemotron.llama_nemotron_provider": "LlamaNemotronHeterogeneousProvider heterogeneous_layer_spec",
    "mamba.mamba_provider": """
        MambaModelProvider get_default_mamba_stack_spec transformer_engine_mamba_stack_spec
    """,
    "minimax_m2.minimax_m2_provider": "minimax_m2_layer_spec",
    "ministral3.ministral3_provider": "Ministral3ModelProvider ministral_layer_spec",
    "mistral.mistral_provider": "MistralModelProvider",
    "mla_provider": "MLAModelProvider",
    "olmoe.olmoe_provider": "OlMoEModelProvider olmoe_layer_spec",
}
# ... their values, and what a run has set on the config of its model.
_VALUES = {
    "megatron.core.models.gpt.gpt_layer_specs": "get_gpt_decoder_block_spec",
    "megatron.core.models.gpt.experimental_attention_variant_module_specs": """
        get_transformer_block_with_experimental_attention_variant_spec
    """,
    "megatron.core.activations": "fast_gelu quick_gelu squared_relu",
    "megatron.core.fusions.fused_bias_geglu": "quick_gelu",
    "megatron.core.transformer.enums": """
        AttnBackend AttnMaskType CudaGraphModule CudaGraphScope InferenceCudaGraphScope ModelType
    """,
    "megatron.core.transformer.pipeline_parallel_layer_layout": "PipelineParallelLayerLayout",
    "megatron.core.distributed.distributed_data_parallel_config": "DistributedDataParallelConfig",
    "megatron.core.distributed.distributed_data_parallel": """
        DistributedDataParallel.no_sync DistributedDataParallel.start_grad_sync
        DistributedDataParallel.start_param_sync
    """,
    "megatron.core.distributed.finalize_model_grads": "finalize_model_grads",
    "megatron.core.optimizer.optimizer": "ChainedOptimizer.scale_loss MegatronOptimizer.scale_loss",
    "megatron.core.process_groups_config": "ProcessGroupCollection",
    "megatron.core.timers": "Timers",
    "signal": "Signals",
    "torch": DTYPES,
    "torch._C._nn": "gelu",
    "torch.nn.functional": "gelu relu silu",
    "torch.nn.init": "normal_ xavier_uniform_",
    "transformers.generation.configuration_utils": "GenerationConfig.from_dict",
}
_UNDER_MODELS = {f"megatron.bridge.models.{module}": names for module, names in _MODELS.items()}
TARGETS = frozenset(_names(_SECTIONS | _UNDER_MODELS | _VALUES))

# Keys that make a library import code, beside `_target_`: in run_config.yaml, in the JSON files of a model,
# and in requests. Runs of this service leave all of them empty.
RUNS_CODE = frozenset({
    "_builder_", "allow_custom_feature_dirs", "custom_generate", "custom_manager_class", "custom_pipelines",
    "feature_dirs", "hf_trust_remote_code", "trust_remote_code",
})  # fmt: skip

# `auto_map` of the models of trainer/config/models.py. transformers has their classes itself, and the code
# beside them is never imported.
_REMOTE = {
    "configuration_nemotron_h": "NemotronHConfig",
    "modeling_nemotron_h": "NemotronHForCausalLM NemotronHModel",
}
REMOTE_CLASSES = frozenset(_names(_REMOTE))
