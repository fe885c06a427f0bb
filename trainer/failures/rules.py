"""Log patterns of each failure, in one table. tests/trainer has a log sample for each failure."""

import re


def _rule(name: str, *patterns: str) -> tuple[str, re.Pattern[bytes]]:
    return name, re.compile("|".join(patterns).encode(), re.MULTILINE)


# Begin of an exception's line, with the prefix that torch adds to uncaught exceptions.
_RAISED = r"^(?:\[rank\d+\]: )?(?:\w+\.)*"

# If two rules match the same line, the first one wins.
RULES = (
    _rule(
        "tokenizer_mismatch",
        r"^.{0,300}Assertion `srcIndex < srcSelectDimSize` failed",
        r"^.{0,300}Assertion `t >= 0 && t < n_classes` failed",
        _RAISED + r"IndexError: index out of range in self",
    ),
    _rule(
        "host_oom",
        r"DefaultCPUAllocator: (?:can't allocate|not enough) memory",
        _RAISED + r"MemoryError\b",
        r"\[Errno 12\] Cannot allocate memory",
        r"what\(\):\s+std::bad_alloc",
        r"[Uu]nable to (?:mmap|open shared memory object|allocate shared memory)\b",
        r"DataLoader worker \(pid[^\n]{0,80}\) is killed by signal: (?:Killed|Bus error)",
        r"error: Detected \d+ oom[-_]kill event",
        r"^slurmstepd\S*: error: .{0,100}[Ee]xceeded (?:job )?memory limit",
        r"^srun: error: .{0,200}: Out Of Memory",
        r"Memory cgroup out of memory: Killed process",
        r"\bOOMKilled\b",
    ),
    _rule(
        "oom",
        r"CUDA out of memory\. Tried to allocate",
        r"CUDA error: out of memory",
        r"\bCUBLAS_STATUS_ALLOC_FAILED\b",
        r"Cuda failure \d* ?'out of memory'",
    ),
    _rule("quota", r"\[Errno 122\] Disk quota exceeded", r"^(?:cp|tee|mkdir): .{0,300}: Disk quota exceeded"),
    _rule(
        "disk_full",
        r"\[Errno 28\] No space left on device",
        r"^(?:cp|tee|mkdir|tar): .{0,300}: No space left on device",
        r"PytorchStreamWriter failed writing file",
    ),
    _rule(
        "node_fail",
        r"CUDA error: uncorrectable ECC error",
        r"CUDA error: (?:hardware|misaligned NVLink|system not yet initialized)",
        r"NVRM: Xid .{0,80}: (?:48|62|63|64|74|79|92|94|95|119|120)\b",
        r"GPU has fallen off the bus",
        r"DUE TO NODE FAILURE",
        r"^srun: error: Node failure on ",
    ),
    _rule(
        "preempted",
        r"\*\*\* (?:JOB|STEP) .{0,200} DUE TO PREEMPTION",
        r"^This attempt has begun before: the service begins another one\.",
    ),
    _rule(
        "time_limit",
        r"\*\*\* (?:JOB|STEP) .{0,200} DUE TO TIME LIMIT",
        r"^The run was ended at its time limit of \d+ minutes\.",
    ),
    _rule(
        "image_pull",
        r"pyxis: failed to import docker image",
        r"pyxis: .{0,80}\[ERROR\] ",
        r"pyxis: couldn't start container",
        r"\b(?:ImagePullBackOff|ErrImagePull)\b",
        r"\b(?:manifest unknown|pull access denied)\b",
    ),
    _rule(
        "bad_parallel_batch_shape",
        r"world[_ ]size ?\(\d+\) is not divisible by",
        r"[Gg]lobal[_ ]batch[_ ]size \(\d+\) (?:is not|must be) divisible by",
        r"\(\d+\) must be a multiple (?:or divisor )?of tensor",
        r"num_attention_heads .{0,80} must be a multiple of|num_query_groups .{0,80} must be a multiple",
        r"num_layers.{0,80} (?:should|must) be divisible by",
        r"Number of layers .{0,80} divisible by",
        r"num_moe_experts .{0,80} should be divisible by",
        r"[Mm]icro batch size should be 1 when training with packed sequence",
        r"Not enough (?:train|valid|validation|test) samples for a single global batch",
        r"Duplicate GPU detected",
        _RAISED + r"AssertionError: \d+ is not divisible by \d+",
    ),
    _rule(
        "seq_length_mismatch",
        r"Please ensure sequence length configuration",
        r"assert cu_seqlens\[-1\]\[-1\] <= max_length",
    ),
    _rule(
        "missing_packed_data",
        r"MissingPackedData: ",
        r"packed_(?:train|val)_data_path could not be resolved",
    ),
    _rule(
        "bad_packed_data",
        r"Packed Parquet dataset is empty",
        r"Packed Parquet file .{0,300} is missing required columns",
        r"Dataset problem: input_ids and position_ids",
        _RAISED + r"ArrowInvalid: ",
    ),
    _rule(
        "hub_unreachable",
        r"[Cc]ouldn't connect to '?https?://",
        _RAISED + r"(?:LocalEntryNotFoundError|OfflineModeIsEnabled)\b",
    ),
    _rule(
        "hostile_checkpoint",
        r"\bnot in the list of allowed (?:classes|targets)\b",
        r"\bRejected a checkpoint that\b",
        r"\bWeights only load failed\b",
    ),
    _rule(
        "bad_checkpoint",
        r"Global shape mismatch for loaded",
        r"\bhas a damaged pickle: ",
        r"global metadata read failed",
        r"is not a distributed checkpoint",
        r"PytorchStreamReader failed",
        r"Invalid magic number; corrupt file",
        r"SafetensorError: ",
        r"(?:size|shape) mismatch (?:for|between) ",
        r"Error\(s\) in loading state_dict",
        r"Missing key in checkpoint state_dict",
        r"does not appear to have a file named ",
        r"is not a valid model identifier",
        r"Cannot access gated repo",
        r"Finetuning requires loading from an available pretrained checkpoint",
        r"Unable to instantiate HuggingFace AutoTokenizer|Couldn't instantiate the backend tokenizer",
        r"Failed to load configuration from ",
        _RAISED + r"(?:Incomplete|MissingWeights|UnpicklingError): ",
        _RAISED + r"EOFError: Ran out of input",
    ),
    _rule("checkpoint_error", r"\bCheckpoint(?:ing)?Exception: "),
    _rule("port_taken", r"\bEADDRINUSE\b", r"[Aa]ddress already in use"),
    _rule(
        "terminated",
        _RAISED + r"SystemExit(?:: \d+)?$",
        r"SignalException: Process \d+ got signal: 15",
    ),
    _rule("crashed", r"Signal (?:4|7|8|11) \(SIG\w+\) received by PID"),
    _rule("aborted", r"Signal 6 \(SIGABRT\) received by PID"),
    _rule("killed", r"Signal 9 \(SIGKILL\) received by PID"),
    _rule(
        "nccl_timeout",
        r"Watchdog caught collective operation timeout",
        r"gloo/transport.{0,80}Timed out waiting \d+ms",
        r"store->get\(.{0,80} got error: wait timeout",
        r"DistStoreError: [Tt]imed out after",
        r"RendezvousTimeoutError",
    ),
    _rule(
        "peer_lost",
        r"Connection (?:closed|reset) by (?:remote )?peer",
        r"\bnccl(?:Remote|System|Internal)Error\b",
        r"remote process exited or there was a network error",
        r"NCCL communicator was aborted",
        r"\bDist(?:Backend|Network|Store)Error: ",
        r"\bgloo/transport/",
    ),
)
