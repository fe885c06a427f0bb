"""Make Megatron-Bridge 0.6.2 work as a wheel, and without optional packages."""

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any

# Module of Bridge -> packages that it imports unconditionally, although SFT does not use them.
UNGUARDED = {
    "megatron.bridge.peft.lora_layers": ("transformer_engine", "transformer_engine.pytorch"),
    "megatron.bridge.training.pretrain": ("nvidia_resiliency_ext", "nvidia_resiliency_ext.inprocess"),
    "megatron.bridge.data.energon.base_energon_datamodule": ("megatron.energon",),
}


def install() -> None:
    """Replace missing packages of UNGUARDED by stand-ins. Call before Bridge is imported."""
    absent = {
        module: tuple(name for name in packages if not is_installed(name))
        for module, packages in UNGUARDED.items()
    }
    sys.meta_path.insert(0, _StandIns({module: names for module, names in absent.items() if names}))


def keep_compiled_helpers() -> None:
    """Disable Bridge's `make` of a helper. Call after Bridge is imported.

    A wheel has no Makefile, so `make` would end the process, but it has the helper compiled. A checkout
    without the compiled helper still compiles it.
    """
    import megatron.bridge.training.initialize as initialize

    if is_installed("megatron.core.datasets.helpers_cpp"):
        initialize.compile_helpers = lambda: None


def is_installed(name: str) -> bool:
    """Whether a package is installed. Neither the package nor its parents are imported.

    Transformer Engine's wheel uses NCCL from torch, and importing it before torch fails.
    """
    path: Sequence[str] | None = None
    parts = name.split(".")
    for depth in range(len(parts)):
        spec = _spec(".".join(parts[: depth + 1]), path)
        if spec is None:
            return False
        path = spec.submodule_search_locations or ()
    return True


def _spec(name: str, path: Sequence[str] | None) -> importlib.machinery.ModuleSpec | None:
    """Find the import spec of a module. path: directories of its parent package."""
    found = (finder.find_spec(name, path) for finder in sys.meta_path)
    return next((spec for spec in found if spec is not None), None)


class _Empty(type):
    """A class with every attribute, each of which is such a class. It can be subclassed and does nothing."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Empty(name, (), {})


class _Absent(types.ModuleType):
    """A stand-in for a module that is not installed."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Empty(name, (), {})


class _StandIns(importlib.abc.MetaPathFinder):
    """Provides stand-ins to a module only while that module is imported.

    Other modules of Bridge and megatron-core probe the same packages with try/except, and these probes
    must still fail.
    """

    def __init__(self, absent: dict[str, tuple[str, ...]]) -> None:
        self.absent = absent

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.absent:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            stand_ins = _stand_ins(self.absent[fullname])
            sys.modules.update(stand_ins)
            try:
                execute(module)
            finally:
                for name in stand_ins:
                    sys.modules.pop(name, None)

        loader.exec_module = exec_module
        return spec


def _stand_ins(names: Sequence[str]) -> dict[str, types.ModuleType]:
    modules: dict[str, types.ModuleType] = {name: _Absent(name) for name in names}
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        if parent in modules:
            setattr(modules[parent], child, module)
    return modules
