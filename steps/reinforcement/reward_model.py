"""The reward model as a judge: what stage reward trained, read for the reward of kind preference."""

import math
from collections.abc import Sequence
from pathlib import Path

from steps.engines.interface import code_apart
from steps.models import checkpoints
from steps.models.chat import Chat
from steps.models.context import context

# Texts that it reads at a time.
BATCH = 16


class RewardModel:
    """A sequence classifier with one label: the higher, the better people would like the response.

    Raises:
        ValueError: the folder is no such model, or its tokenizer cannot pad or has no chat template.
    """

    def __init__(self, folder: Path):
        import torch
        from transformers.utils import logging

        logging.disable_progress_bar()

        labels = checkpoints.load_config(folder).num_labels
        if labels != 1:
            raise ValueError(f"{folder}: a reward model has one label, and this one has {labels}; train one by reward")
        self.folder = folder
        self.tokenizer = checkpoints.load_tokenizer(folder)
        if self.tokenizer.pad_token is None:
            raise ValueError(f"{folder}: the tokenizer has no pad_token; set it in the reward model's tokenizer files")
        self.chat = Chat(self.tokenizer)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = checkpoints.load_classifier(folder, checkpoints.computed_dtype(folder))
        # It finds a text's last token by it.
        model.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id
        self.model = model.to(device).eval()
        self.max_length = context(model.config)

    def score(self, conversations: list[list[dict[str, str]]]) -> list[float]:
        """One number per conversation; one longer than the context loses its beginning."""
        import torch

        replies = [self.chat.closed(messages) for messages in conversations]

        def encode(texts: Sequence[str]) -> list[list[int]]:
            return [one.ids for one in self.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)]

        coded = code_apart(encode, [(reply.prompt, reply.text) for reply in replies])
        ids = [tokens[-self.max_length :] for tokens, _ in coded]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        scores = [0.0] * len(ids)
        for begin in range(0, len(order), BATCH):
            batch = order[begin : begin + BATCH]
            given = self.tokenizer.pad(
                {"input_ids": [ids[i] for i in batch]}, padding_side="right", return_tensors="pt"
            ).to(self.model.device)
            with torch.inference_mode():
                logits = self.model(**given).logits
            assert logits.shape == (len(batch), 1)
            for i, value in zip(batch, logits.squeeze(1).float().tolist(), strict=True):
                scores[i] = value
        if not all(map(math.isfinite, scores)):
            raise ValueError(f"{self.folder}: the reward model's scores are NaN or infinite; train it again")
        return scores
