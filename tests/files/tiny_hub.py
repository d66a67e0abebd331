"""A model of transformers as save_pretrained writes it: two layers of BERT, 16 wide, random weights."""

import json
import warnings
from pathlib import Path

import torch

SETTINGS = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "vocab_size": 60, "max_position_embeddings": 24,
}  # fmt: skip


def write(folder, kind="BertForSequenceClassification", tokenizer=None, **settings):
    """Write a model of ``kind`` into a folder, and settings of a tokenizer; return the module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        transformers.utils.logging.disable_progress_bar()
        torch.manual_seed(0)
        cls = getattr(transformers, kind)
        module = cls(cls.config_class(**{**SETTINGS, **settings}))
        module.save_pretrained(folder)
    if tokenizer is not None:
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return module.eval()
