from pathlib import Path

import pytest

from tests.support import packed_data
from tests.support.preflight_data import VOCABULARY, make_model


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A good dataset of 8 packs of 512 tokens, and the model whose tokenizer packed it."""
    model = make_model(tmp_path / "model", VOCABULARY)
    return packed_data.make_dataset(tmp_path / "packed", tokenizer=str(model), vocab_size=100)
