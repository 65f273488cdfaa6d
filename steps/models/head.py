"""The output layer of a model with a wide vocabulary: what is asked of its logits is computed some places at a time.

At 151,936 entries the logits of 8,192 places take 5 GB in float32, and a loss and its gradient several times that: more
than a small model. So `read` gives, in place of the logits, `Places`, which knows what the output layer was given;
`per_place` applies a function of the logits to as many places as `AT_ONCE` allows, and keeps what it returns. For the
backward pass the logits of those places are computed again, and the gradients of the layer are summed in float32. That
is exact: no number is left out or estimated, and what differs from the plain computation is the order of sums.

Below `WIDE` entries `read` gives the logits themselves, and `per_place` is a call of the function: recomputing would
take longer than the memory is worth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from steps.core import processes

if TYPE_CHECKING:
    from torch import Tensor

# Entries from which a vocabulary is wide. The whole rule: nothing else decides.
WIDE = 2**15
# Logits at a time, by device: 64 MiB in float32 on a CPU, 512 on a GPU, which needs more rows to be busy.
AT_ONCE = {"cpu": 2**24, "cuda": 2**27}
# How far our logits of one place may lie from the model's own, of the largest of them: rounding, and not a scale or a
# cap that we do not know. Of products in 16 bits, and in float32, TF32 included: a cap of 30 takes 0.3 % from a logit
# of 3.
TOLERANCE, WIDE_TOLERANCE = 0.02, 1e-3


@dataclass(frozen=True)
class Layer:
    """An output layer, and what becomes of its numbers: cap(scale × (weight h + bias)) / temperature.

    Attributes:
        weight: [V, H].
        bias: [V], or None.
        scale: of Cohere's and Granite's kind.
        cap: c of c tanh(x / c), Gemma's.
        dtype: that the product is computed in.
    """

    weight: Tensor
    bias: Tensor | None
    scale: float
    cap: float | None
    dtype: Any
    temperature: float = 1.0

    def product(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """[n, V] from [n, H], in `dtype`; weight: the layer's in that dtype."""
        import torch.nn.functional as F

        return F.linear(hidden.to(self.dtype), weight, None if self.bias is None else self.bias.to(self.dtype))

    def logits(self, product: Tensor) -> Tensor:
        """[n, V] in float32, of `product`."""
        import torch

        logits = product.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.cap is not None:
            logits = self.cap * torch.tanh(logits / self.cap)
        return logits if self.temperature == 1.0 else logits / self.temperature


@dataclass(frozen=True)
class Places:
    """Stands for logits [..., V] that are not there: what the output layer was given, [..., H]. It is indexed, divided
    by a temperature and made wider as they would be; `per_place` computes with it."""

    hidden: Tensor
    layer: Layer

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.hidden.shape[:-1], self.layer.weight.shape[0])

    def __getitem__(self, index: Any) -> Places:
        """Of the places; the vocabulary stays whole."""
        return replace(self, hidden=self.hidden[index])

    def __truediv__(self, temperature: float) -> Places:
        return replace(self, layer=replace(self.layer, temperature=self.layer.temperature * temperature))

    def float(self) -> Places:
        """They are computed in float32."""
        return self

    def detach(self) -> Places:
        layer = replace(self.layer, weight=self.layer.weight.detach())
        return Places(self.hidden.detach(), replace(layer, bias=None if layer.bias is None else layer.bias.detach()))


def is_plain(model: Any) -> bool:
    """Whether a model's output layer is one matrix, with nothing of an adapter beside it."""
    import torch
    from accelerate.utils import extract_model_from_parallel

    # FSDP makes a class of its own of it.
    return isinstance(extract_model_from_parallel(model).get_output_embeddings(), torch.nn.Linear)


def is_readable(model: Any) -> bool:
    """Whether an output layer can be read without being called, as TRL's fused head does: what PEFT puts around rows of
    new tokens has a weight and no bias."""
    from accelerate.utils import extract_model_from_parallel

    return hasattr(extract_model_from_parallel(model).get_output_embeddings(), "bias")


def output_layer(model: Any) -> Any | None:
    """A model's output layer where it `is_plain` and not spread over processes."""
    from accelerate.utils import extract_model_from_parallel

    if processes.apart() or not is_plain(model):
        return None
    return extract_model_from_parallel(model).get_output_embeddings()


def is_wide(model: Any) -> bool:
    layer = output_layer(model)
    return layer is not None and layer.weight.shape[0] >= WIDE


def scale_and_cap(config: Any) -> tuple[float, float | None]:
    """What becomes of the products of a model's output layer, by the names that families have for it."""
    config = config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name)), cap
    # Granite divides by it.
    divisor = getattr(config, "logits_scaling", None)
    return 1.0 / divisor if divisor else 1.0, cap


def read(model: Any, wide: bool | None = None, **inputs: Any) -> Any:
    """A model's logits, [rows, places, V] in its own dtype, or the `Places` that stand for them.

    The model's own forward pass is made with all its hooks; its output layer sees one place of each row, by which what
    we know of that layer is held against what the model makes of it.

    Args:
        wide: which of both it gives, of models that are compared with another one; None goes by the model alone.
        inputs: of its forward pass, without labels.

    Raises:
        ValueError: the model computes other logits from its output layer than we do.
    """
    if not (is_wide(model) if wide is None else wide):
        return model(**inputs).logits
    import torch
    from accelerate.utils import extract_model_from_parallel

    own = extract_model_from_parallel(model)
    layer = output_layer(model)
    if layer is None:
        raise ValueError(
            f"{own.config.model_type}: this model's output layer is no single matrix, so that its logits"
            " cannot be computed in parts; compare it with models of another vocabulary"
        )
    seen: list[tuple[Any, Any]] = []

    def narrow(_: Any, arguments: tuple) -> tuple:
        hidden = arguments[0]
        on = torch.is_autocast_enabled(hidden.device.type)
        seen.append((hidden, torch.get_autocast_dtype(hidden.device.type) if on else hidden.dtype))
        return (hidden[..., :1, :], *arguments[1:])

    handle = layer.register_forward_pre_hook(narrow)
    try:
        first = model(**inputs).logits
    finally:
        handle.remove()
    ((hidden, dtype),) = seen
    weight, bias = layer.weight, layer.bias
    if not torch.is_grad_enabled():
        # Other weights may take the place of these before they are asked (steps/training/self_teacher.py).
        weight, bias = weight.detach(), None if bias is None else bias.detach()
    places = Places(hidden, Layer(weight, bias, *scale_and_cap(own.config), dtype))
    if not getattr(own, "_output_layer_known", False):
        check_layer(places, first, own)
        own._output_layer_known = True
    return places


def check_layer(places: Places, first: Tensor, model: Any) -> None:
    """Hold what we make of the first place of each row against what the model made of it."""
    import torch

    with torch.no_grad(), without_autocast(first.device.type):
        layer = places.layer
        ours = layer.logits(layer.product(places.hidden[:, 0], layer.weight.to(layer.dtype)))
        theirs = first[:, 0].float()
        tolerance = TOLERANCE if layer.dtype.itemsize < 4 else WIDE_TOLERANCE
        far = (ours - theirs).abs().max() > tolerance * theirs.abs().max()
    if far:
        raise ValueError(
            f"{model.config.model_type}: what this model makes of its output layer is unknown here; its logits cannot"
            " be computed in parts: report it with the model's config.json"
        )


@contextlib.contextmanager
def without_autocast(device: str) -> Iterator[None]:
    import torch

    with torch.autocast(device, enabled=False):
        yield


def per_place(function: Callable[..., Any], of: Sequence[Any], *beside: Tensor) -> Any:
    """A function of logits, place by place.

    Args:
        function: of the logits, one tensor [n, V] for each of `of`, and of the same places of `beside`; returns a
            tensor with n rows, or a tuple of them, and draws no random numbers. Where `of` are logits it is called
            once, with all as they are.
        of: logits, or `Places`, all with the same places [...]; gradients reach what they are made from.
        beside: tensors [..., more], without gradients.

    Returns:
        What the function does; [...] in place of n.
    """
    if not any(isinstance(one, Places) for one in of):
        return function(*of, *beside)
    assert all(isinstance(one, Places) for one in of), "of two models one is wide and one is not"
    import torch

    shape = of[0].hidden.shape[:-1]
    flat = [one.hidden.reshape(-1, one.hidden.shape[-1]) for one in of]
    rest = [one.reshape(-1, *one.shape[len(shape) :]) for one in beside]
    device = flat[0].device.type
    size = max(1, AT_ONCE.get(device, AT_ONCE["cuda"]) // max(one.layer.weight.shape[0] for one in of))
    task = _Task(function, [one.layer for one in of], size)
    tensors = [
        tensor for one, states in zip(of, flat, strict=True) for tensor in (states, one.layer.weight, one.layer.bias)
    ]
    with without_autocast(device):
        if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
            found = _chunked().apply(task, *tensors, *rest)
        else:
            found = task.values(tensors, rest)
    found = tuple(one.reshape(*shape, *one.shape[1:]) for one in found)
    return found if task.several else found[0]


class _Task:
    """A function over places, forward and backward."""

    def __init__(self, function: Callable[..., Any], layers: list[Layer], size: int):
        self.function, self.layers, self.size, self.several = function, layers, size, False

    def spans(self, count: int) -> list[slice]:
        """At least one, of which an empty text has none in it."""
        return [slice(begin, begin + self.size) for begin in range(0, max(count, 1), self.size)]

    def call(self, logits: list[Tensor], rest: list[Tensor], span: slice) -> tuple[Tensor, ...]:
        values = self.function(*logits, *(one[span] for one in rest))
        self.several = isinstance(values, tuple)
        return values if self.several else (values,)

    def weights(self, tensors: Sequence[Any]) -> list[Tensor]:
        return [weight.to(layer.dtype) for weight, layer in zip(tensors[1::3], self.layers, strict=True)]

    def values(self, tensors: Sequence[Any], rest: list[Tensor]) -> tuple[Tensor, ...]:
        import torch

        parts, weights = [], self.weights(tensors)
        with torch.no_grad():
            for span in self.spans(len(tensors[0])):
                logits = [
                    layer.logits(layer.product(hidden[span], weight))
                    for layer, hidden, weight in zip(self.layers, tensors[::3], weights, strict=True)
                ]
                parts.append(self.call(logits, rest, span))
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    def gradients(
        self, tensors: Sequence[Any], rest: list[Tensor], above: Sequence[Any], needed: Sequence[bool]
    ) -> list[Any]:
        """Of the tensors that need one, from those of the values."""
        import torch

        wide = [
            torch.zeros(t.shape, dtype=torch.promote_types(t.dtype, torch.float32), device=t.device) if n else None
            for t, n in zip(tensors, needed, strict=True)
        ]
        weights = self.weights(tensors)
        taught = [any(needed[3 * i : 3 * i + 3]) for i in range(len(self.layers))]
        for span in self.spans(len(tensors[0])):
            products = [
                layer.product(hidden[span], weight).requires_grad_(own)
                for layer, hidden, weight, own in zip(self.layers, tensors[::3], weights, taught, strict=True)
            ]
            with torch.enable_grad():
                logits = [layer.logits(product) for layer, product in zip(self.layers, products, strict=True)]
                values = self.call(logits, rest, span)
            pairs = [(v, g[span]) for v, g in zip(values, above, strict=True) if g is not None and v.requires_grad]
            if not pairs:
                continue
            sources = [product for product, own in zip(products, taught, strict=True) if own]
            found = iter(torch.autograd.grad([v for v, _ in pairs], sources, [g for _, g in pairs]))
            del logits, values
            for i, own in enumerate(taught):
                if own:
                    slope = next(found)
                    add_product(wide[3 * i], span, slope, weights[i])
                    if wide[3 * i + 1] is not None:
                        add_product(wide[3 * i + 1], slice(None), slope.t(), tensors[3 * i][span].to(slope.dtype))
                    if wide[3 * i + 2] is not None:
                        wide[3 * i + 2] += slope.sum(0, dtype=wide[3 * i + 2].dtype)
        return [None if w is None else w.to(t.dtype) for w, t in zip(wide, tensors, strict=True)]


def add_product(total: Tensor | None, span: slice, a: Tensor, b: Tensor) -> None:
    """total[span] += a b, summed in float32 whatever a and b are in."""
    import torch

    if total is None:
        return
    rows = total[span]
    if rows.device.type == "cuda" and a.dtype in (torch.float16, torch.bfloat16):
        torch.addmm(rows, a, b, out_dtype=torch.float32, out=rows)
    else:
        rows.addmm_(a.float(), b.float())


def _chunked() -> Any:
    """The autograd function; torch is imported where it is needed."""
    import torch

    class Chunked(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, task: _Task, *tensors: Any) -> tuple[Tensor, ...]:
            count = 3 * len(task.layers)
            ctx.task, ctx.count = task, count
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*tensors)
            values = task.values(tensors[:count], list(tensors[count:]))
            ctx.mark_non_differentiable(*(one for one in values if not one.is_floating_point()))
            return values

        @staticmethod
        def backward(ctx: Any, *above: Any) -> tuple[Any, ...]:
            tensors, rest = ctx.saved_tensors[: ctx.count], list(ctx.saved_tensors[ctx.count :])
            with without_autocast(tensors[0].device.type):
                found = ctx.task.gradients(tensors, rest, above, ctx.needs_input_grad[1 : ctx.count + 1])
            return (None, *found, *(None for _ in rest))

    return Chunked
