"""boft with more than one factor, without PEFT's CUDA extension."""

from typing import Any


class BlockDiagonal:
    """What PEFT's CUDA extension for boft computes, in PyTorch: blocks of shape (N, D, H, H) on N diagonals.

    Without that extension, which it tries to compile on the spot for each layer, PEFT takes one factor instead of the
    number asked for. An adapter with more loads where the extension compiles, and where `enable_butterfly`
    was called.
    """

    @staticmethod
    def forward(blocks: Any) -> list[Any]:
        """[(N, D H, D H)]"""
        import torch

        factors, count, size, _ = blocks.shape
        diagonal = torch.arange(count)
        dense = blocks.new_zeros(factors, count, size, count, size)
        dense[:, diagonal, :, diagonal, :] = blocks.transpose(0, 1)
        return [dense.view(factors, count * size, count * size)]

    @staticmethod
    def backward(gradient: Any, blocks: Any) -> list[Any]:
        """[(N, D, H, H)]"""
        import torch

        factors, count, size, _ = blocks.shape
        diagonal = torch.arange(count)
        dense = gradient.reshape(factors, count, size, count, size)
        return [dense[:, diagonal, :, diagonal, :].transpose(0, 1).contiguous()]


def enable_butterfly() -> None:
    """Let PEFT's boft have more than one factor on every machine."""
    import peft.tuners.boft.layer

    peft.tuners.boft.layer._FBD_CUDA = BlockDiagonal
