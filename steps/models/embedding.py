"""Texts as vectors: the states of a model's last layer, averaged over a text's tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steps.models import checkpoints
from steps.models.files import read_config
from steps.models.fit import fitted

_CAUSAL = "ForCausalLM"


class Embedder:
    """A language model or an encoder that turns texts into vectors.

    Raises:
        ValueError: the folder holds no such model, or not all of it.
    """

    def __init__(self, folder: Path, max_tokens: int, batch_size: int):
        """
        Args:
            max_tokens: of a text, whose end is left out.
            batch_size: texts at once.
        """
        import torch

        self.max_tokens, self.batch_size = max_tokens, batch_size
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = checkpoints.load_tokenizer(folder)
        self.model = _load(folder).to(self.device).eval()
        self.width = int(self.model.config.hidden_size)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [texts, width]; of a text without a token zeros."""
        import torch

        found = np.zeros((len(texts), self.width), np.float32)
        encodings = self.tokenizer.backend_tokenizer.encode_batch([*texts])
        coded = [encoding.ids[: self.max_tokens] for encoding in encodings]
        # Of one length nearly, so that little is padding.
        order = sorted((i for i, ids in enumerate(coded) if ids), key=lambda i: len(coded[i]))
        for start in range(0, len(order), self.batch_size):
            members = order[start : start + self.batch_size]
            longest = len(coded[members[-1]])
            ids = torch.full((len(members), longest), self.tokenizer.pad_token_id)
            mask = torch.zeros((len(members), longest), dtype=torch.int64)
            for place, member in enumerate(members):
                ids[place, : len(coded[member])] = torch.tensor(coded[member])
                mask[place, : len(coded[member])] = 1
            with torch.inference_mode():
                states = self.model(ids.to(self.device), attention_mask=mask.to(self.device)).last_hidden_state.float()
            weights = mask.to(self.device)[..., None].float()
            found[members] = ((states * weights).sum(1) / weights.sum(1)).cpu().numpy()
        return found


def _load(folder: Path) -> Any:
    import torch
    from transformers import AutoModel

    if checkpoints.is_adapter(folder):
        return checkpoints.load_model(folder, torch.float32).base_model
    architectures = read_config(folder / checkpoints.CONFIG).get("architectures") or [_CAUSAL]
    if architectures[0].endswith(_CAUSAL):
        return checkpoints.load_model(folder, torch.float32).base_model
    checkpoints.check_weights(folder, AutoModel)
    return fitted(AutoModel, folder, checkpoints.weight_files(folder), torch.float32)
