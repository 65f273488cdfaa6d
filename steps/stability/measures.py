"""How far one linear layer moved: its weights, and its outputs on the same tokens. The measures of PEFT-Arena.

As its code has them (`docs/geometry_diagnostics.md`, `tools/csd_single_checkpoint.py`,
`activation_geometry_single_checkpoint.py` and `spectral_analysis.py` of its repository); where it leaves something
open, the function says what was chosen.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from steps.settings.axes import CAPABILITIES

if TYPE_CHECKING:
    from torch import Tensor


OF_WEIGHTS = (
    "frobenius",
    "relative_frobenius",
    "spectral",
    "relative_spectral",
    "stable_rank",
    "retention",
    "adaptation",
)
OF_ACTIVATIONS = ("csd_abs", "csd_rel", "csd_un", "procrustes", "procrustes_raw", "gram", "cka", "cosine")
# The columns of modules.csv: of weights, and of the activations on the prompts of each axis.
MEASURES = (*OF_WEIGHTS, *(f"{measure}_{axis}" for axis in CAPABILITIES for measure in OF_ACTIVATIONS))
EPSILON = 1e-12  # PEFT-Arena's, added where it adds one


# --- the update of a weight matrix ---------------------------------------------------------------


def weight_measures(before: Tensor, after: Tensor, top: int) -> dict[str, float]:
    """Size and shape of ΔW = W₁ − W₀, and what it does to the main directions of W₀ = U S Vᵀ (PEFT-Arena, spectral).

    Args:
        before, after: W₀ and W₁, [out, in].
        top: directions looked at, from the largest singular value down; all where there are fewer.

    Returns:
        frobenius, relative_frobenius: ‖ΔW‖_F, and as a share of ‖W₀‖_F.
        spectral, relative_spectral: ‖ΔW‖₂, and as a share of ‖W₀‖₂.
        stable_rank: ‖ΔW‖_F² / ‖ΔW‖₂², 1 for rank one, at most the rank; NaN without an update.
        retention: mean over i of |u_iᵀ W₁ v_i − σ_i|, 0 where the main directions keep their strength.
        adaptation: mean over i of ‖ΔW v_i‖₂, 0 where the update lies outside the main directions.
        The means are ours: PEFT-Arena draws both over i.
    """
    import torch

    before, update = before.double(), after.double() - before.double()
    # LAPACK takes a third of the time for a matrix that is higher than it is wide.
    wide = before.shape[0] < before.shape[1]
    left, sigma, right = torch.linalg.svd(before.T if wide else before, full_matrices=False)
    u, v = (right.T, left) if wide else (left, right.T)
    largest = torch.linalg.svdvals(update.T if wide else update)[0].item()
    frobenius = update.norm().item()
    moved = update @ v[:, :top]
    return {
        "frobenius": frobenius,
        "relative_frobenius": frobenius / before.norm().item(),
        "spectral": largest,
        "relative_spectral": largest / sigma[0].item(),
        "stable_rank": frobenius**2 / largest**2 if largest else math.nan,
        # u_iᵀ W₁ v_i − σ_i = u_iᵀ ΔW v_i.
        "retention": (u[:, :top] * moved).sum(0).abs().mean().item(),
        "adaptation": moved.norm(dim=0).mean().item(),
    }


# --- capability-conditioned drift ----------------------------------------------------------------


def energies(inputs: Tensor, products: Tensor, update: Tensor) -> Tensor:
    """Sums over tokens that `conditioned_drift` is made of; those of parts add up to those of the whole.

    Args:
        inputs: h, [tokens, in], what the layer reads in the base.
        products: W₀ h, [tokens, out], without the bias.
        update: ΔW, [out, in].

    Returns:
        [3] float64: Σ‖ΔW h‖², Σ‖W₀ h‖², Σ‖h‖².
    """
    import torch

    return torch.stack([rows.double().square().sum() for rows in (inputs @ update.T, products, inputs)])


def conditioned_drift(sums: Tensor, tokens: int, frobenius: float) -> dict[str, float]:
    """Capability-conditioned drift of one layer (PEFT-Arena, csd): what the update does to inputs of one capability.

    Ratios of means, not means of ratios. With E over tokens and the reference's ε = 1e-12:

    Args:
        sums: [3], of `energies`.
        tokens: how many they were summed over.
        frobenius: ‖ΔW‖_F.

    Returns:
        csd_abs: E‖ΔW h‖².
        csd_rel: E‖ΔW h‖² / (E‖W₀ h‖² + ε).
        csd_un: E‖ΔW h‖² / ((‖ΔW‖_F² + ε)(E‖h‖² + ε)), between 0 and 1: how well the update points at these inputs,
            1/in for inputs without a direction. NaN without an update, for which ε would make it 0.
    """
    moved, output, entered = (sums / tokens).tolist()
    aligned = moved / ((frobenius**2 + EPSILON) * (entered + EPSILON))
    return {
        "csd_abs": moved,
        "csd_rel": moved / (output + EPSILON),
        "csd_un": aligned if frobenius else math.nan,
    }


# --- representations -----------------------------------------------------------------------------


def procrustes(before: Tensor, after: Tensor) -> tuple[float, float]:
    """The drift of outputs when the best rotation is taken out, and the whole of it (PEFT-Arena, activations).

    With column means taken off: min over orthogonal R of ‖X₁ R − X₀‖_F / ‖X₀‖_F, and the same with R = I. The best R
    is U Vᵀ of the singular value decomposition of X₁ᵀ X₀ (Schönemann 1966), so that
    ‖X₁ R − X₀‖² = ‖X₀‖² + ‖X₁‖² − 2 Σσ_i: the singular values are enough. In float64 the difference is good to 1e-7.

    Args:
        before, after: X₀ and X₁, [tokens, width], of the same tokens.

    Returns:
        (aligned, raw), both ≥ 0 and aligned ≤ raw.
    """
    import torch

    before, after = centred(before), centred(after)
    size = before.norm().item()
    raw = (after - before).norm().item() / (size + EPSILON)
    overlap = torch.linalg.svdvals(thin(after).T @ thin(before)).sum().item()
    left = max(0.0, size**2 + after.norm().item() ** 2 - 2 * overlap)
    # R = I is one of the choices: the bound makes unchanged outputs an exact 0.
    return min(math.sqrt(left) / (size + EPSILON), raw), raw


def linear_cka(before: Tensor, after: Tensor) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019, arXiv:1905.00414, equation 5, examples as tokens).

    ‖X₀ᵀ X₁‖_F² / (‖X₀ᵀ X₀‖_F ‖X₁ᵀ X₁‖_F) with column means taken off: 1 for outputs that are equal but for a rotation
    and a factor, near 0 for unrelated ones when tokens are many more than columns.

    Args:
        before, after: X₀ and X₁, [tokens, width], of the same tokens.

    Returns:
        Between 0 and 1; NaN where all tokens have the same output.
    """
    before, after = thin(centred(before)), thin(centred(after))
    own = (before.T @ before).norm().item() * (after.T @ after).norm().item()
    return (before.T @ after).norm().item() ** 2 / own if own else math.nan


def gram_distortion(before: Tensor, after: Tensor) -> float:
    """How the angles between tokens changed (PEFT-Arena, activations): ‖K₁ − K₀‖_F / ‖K₀‖_F, 0 for a rotation.

    K = Z Zᵀ, where Z is X with every row scaled to length 1; column means stay.

    Args:
        before, after: X₀ and X₁, [tokens, width], of the same tokens.
    """
    import torch.nn.functional as F

    before, after = F.normalize(before.double()), F.normalize(after.double())
    kernel = before @ before.T
    return (after @ after.T - kernel).norm().item() / (kernel.norm().item() + EPSILON)


def angular_drift(before: Tensor, after: Tensor) -> float:
    """1 − the mean over tokens of the cosine between a token's output before and after: 0 to 2.

    As half of the squared distance of the rows scaled to length 1, which is the same and exact for small angles.

    Args:
        before, after: X₀ and X₁, [tokens, width], of the same tokens.
    """
    import torch.nn.functional as F

    before, after = F.normalize(before.double()), F.normalize(after.double())
    return (after - before).square().sum(1).mean().item() / 2


def centred(outputs: Tensor) -> Tensor:
    """With column means taken off, in float64."""
    outputs = outputs.double()
    return outputs - outputs.mean(0)


def thin(outputs: Tensor) -> Tensor:
    """The same rows in as many columns as there are tokens, where there are more: turned, which no measure feels.

    Singular values of X₁ᵀ X₀ and norms stay, and the matrices are as small as the token cap allows.
    """
    import torch

    tokens, width = outputs.shape
    return torch.linalg.qr(outputs.T, mode="r").R.T if width > tokens else outputs
