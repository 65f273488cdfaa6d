"""What an adapter does to the weights that it leaves frozen: 4 bits, singular triplets taken out."""

import os
from typing import Any

from steps.core.progress import Progress
from steps.models.adapters.files import NAME
from steps.models.adapters.layers import linear_layers, passed_by


def take_triplets(model: Any, smallest: bool) -> None:
    """Move the r largest or smallest singular triplets of each weight from the weight to its LoRA.

    W = U S V' becomes (W - s B A) + s B A with s B A = U_r S_r V_r', split evenly: A = sqrt(S_r / s) V_r' and
    B = U_r sqrt(S_r / s) (PiSSA eq. 2-4, MiLoRA section 3.2). PEFT has the first of the two only.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    # Each of several processes has a GPU of its own.
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    progress = Progress("singular values", len(layers), "layer")
    for done, layer in enumerate(layers, start=1):
        weight, r, scale = layer.get_base_layer().weight, layer.r[NAME], layer.scaling[NAME]
        # (out, in), which those of Conv1D are not.
        matrix = weight.data.T if layer.fan_in_fan_out else weight.data
        left, values, right = torch.linalg.svd(matrix.float().to(device), full_matrices=False)
        chosen = slice(len(values) - r, None) if smallest else slice(r)
        root = (values[chosen] / scale).sqrt()
        a, b = root[:, None] * right[chosen], left[:, chosen] * root
        layer.lora_A[NAME].weight.data = a.to(weight).contiguous()
        layer.lora_B[NAME].weight.data = b.to(weight).contiguous()
        matrix -= (scale * b @ a).to(weight)
        progress.update(done)


def quantise(model: Any) -> None:
    """Replace the linear layers of the blocks by 4-bit ones: NF4 in blocks of 64, their scales quantised again.

    A weight that is multiplied without its layer stays, for nothing would unpack it.
    """
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    found = linear_layers(model)
    past = passed_by(model, [*found])
    # Of a class of its own, such as a router's, a layer does more than to multiply.
    layers = [(name, layer) for name, layer in found.items() if type(layer) is torch.nn.Linear and name not in past]
    progress = Progress("4 bits", len(layers), "layer")
    for done, (name, layer) in enumerate(layers, start=1):
        packed = Linear4bit(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        packed.weight = Params4bit(layer.weight.data, quant_type="nf4", compress_statistics=True, module=packed)
        packed.bias = layer.bias
        # On CPUs that multiply in bfloat16 it packs the weights anew at the first evaluation, and from then on lets no
        # gradient through in training either.
        packed.support_avx512bf16_for_cpu = False
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, packed.to(layer.weight.device))
        progress.update(done)
    model.is_loaded_in_4bit = True
