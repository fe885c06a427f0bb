"""Bridge imports without optional packages."""

import sys
from pathlib import Path

import pytest

from trainer.bridge.compat import is_installed


def test_a_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing Transformer Engine's wheel before torch fails."""
    inner = tmp_path / "needs_torch" / "inner"
    inner.mkdir(parents=True)
    (inner.parent / "__init__.py").write_text("raise OSError('libnccl.so.2: cannot open')")
    (inner / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert is_installed("needs_torch")
    assert is_installed("needs_torch.inner")
    assert not is_installed("needs_torch.other")
    assert not is_installed("is_not_there")
    assert not is_installed("is_not_there.inner")
    assert "needs_torch" not in sys.modules
