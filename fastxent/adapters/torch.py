"""torch's losses under its own signatures, for tensors on the CPU: loss and gradient from one read of the logits.

The gradient is made in the forward pass and kept; the backward pass scales it in place, where it has to at all, and
hands it on. Numbers are fastxent's: every sum is exact, results are rounded once to the input's dtype. What torch would
do silently is refused: a target distribution that does not sum to 1 within 1e-3, or that requires grad.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fastxent
from fastxent.checks import ABSENT
from fastxent.kernels.batch import SERIAL_ELEMENTS, hard_cross_entropy
from fastxent.kernels.gradient_calls import small_gradient

try:
    import torch
except ImportError:
    message = "fastxent.adapters.torch needs torch: pip install 'fastxent[torch]'"
    raise ImportError(message, name="torch") from None

__all__ = ["BCEWithLogitsLoss", "CrossEntropyLoss", "binary_cross_entropy_with_logits", "cross_entropy"]

HALVES = (torch.float16, torch.bfloat16)
WIDE = (torch.float32, torch.float64)
PLAIN = (torch.Tensor, torch.nn.Parameter)
SMALL, MOST_INDEX = SERIAL_ELEMENTS // 2, 1 << 62
MOST_UNITS = 15  # 2^15 is a float16, and so is its product with any share of a mean


def cross_entropy(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Cross-entropy of logits, as torch.nn.functional.cross_entropy, with its gradient from the same pass.

    Parameters
    ----------
    input : tensor, shape (C,), (N, C) or (N, C, d1, ...), float16, bfloat16, float32 or float64, on the CPU
        Logits, of any strides; -inf is a class of probability 0.
    target : integer tensor, shape (), (N,) or (N, d1, ...); or floating tensor of the input's shape
        Class indices 0..C-1, or distributions (non-negative, summing to 1 within 1e-3), which may not require grad.
    weight : tensor, shape (C,), optional
        Class weights: finite, at least 0.
    ignore_index : int
        Rows with this label are not read: loss and gradient 0, weight 0 in the mean. Not for distributions.
    reduction : {"mean", "sum", "none"}
        The mean divides by the sum of the labels' class weights; for distributions by the number of rows.
    label_smoothing : float
        ε in [0, 1]: the target becomes (1 - ε) p + ε / C.

    Returns
    -------
    tensor of the input's dtype (under autocast float32 for halves)
        In nats: shape (), or the target's without classes for reduction="none". Differentiable once, by `input`.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value.

    References
    ----------
    torch.nn.functional.cross_entropy.

    Examples
    --------
    >>> import torch
    >>> from fastxent.adapters.torch import cross_entropy
    >>> logits = torch.tensor([[0.0, 0.0], [0.0, 100.0]], requires_grad=True)
    >>> cross_entropy(logits, torch.tensor([0, 1])).backward()
    >>> logits.grad[0]
    tensor([-0.2500,  0.2500])
    """
    compiling = torch.compiler.is_compiling()
    if weight is None and not label_smoothing and not compiling:
        small = _of_small(input, target, ignore_index, reduction)
        if small is not None:
            return small
    _check(input, target=target, weight=weight)
    options = (ignore_index, reduction, float(label_smoothing), _result_dtype(input))
    wants_gradient = input.requires_grad and torch.is_grad_enabled()
    if compiling:
        loss: torch.Tensor = _operator(input, target, weight, *options, wants_gradient)[0]
        return loss
    if wants_gradient:
        return _Kept.apply(
            _loss_and_gradient, _class_axis(input), _units(input, reduction), input, target, weight, *options
        )
    return _loss(input, target, weight, *options)


def binary_cross_entropy_with_logits(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    reduction: str = "mean",
    pos_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of one logit a row, as torch.nn.functional.binary_cross_entropy_with_logits, with its gradient.

    Parameters
    ----------
    input : tensor, any shape, float16, bfloat16, float32 or float64, on the CPU
        Logits of the positive class, of any strides.
    target : tensor, the same shape
        0, 1 or a probability between; may not require grad.
    weight : tensor, of a shape that expands to the input's, optional
        Weights of the losses: finite, at least 0. The mean divides by the number of losses nevertheless.
    reduction : {"mean", "sum", "none"}
    pos_weight : tensor of one number, optional
        Multiplies the loss of the positive class. One for each class, as torch takes too, is refused.

    Returns
    -------
    tensor of the input's dtype (under autocast float32 for halves)
        In nats. Differentiable once, by `input`.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, the first offending row and the value.

    References
    ----------
    torch.nn.functional.binary_cross_entropy_with_logits.

    Examples
    --------
    >>> import torch
    >>> from fastxent.adapters.torch import binary_cross_entropy_with_logits
    >>> binary_cross_entropy_with_logits(torch.tensor([0.0, 100.0]), torch.tensor([1.0, 1.0]), reduction="sum")
    tensor(0.6931)
    """
    _check(input, target=target, weight=weight, pos_weight=pos_weight)
    if pos_weight is not None and pos_weight.numel() != 1:
        raise ValueError(f"pos_weight: {pos_weight.numel()} numbers; need one, for all: call this once for each class")
    given = input, target, weight, pos_weight, reduction, _result_dtype(input)
    wants_gradient = input.requires_grad and torch.is_grad_enabled()
    if torch.compiler.is_compiling():
        loss: torch.Tensor = _binary_operator(*given, wants_gradient)[0]
        return loss
    if wants_gradient:
        return _Kept.apply(_binary_loss_and_gradient, None, _units(input, reduction, rows=input.numel()), *given)
    return _binary_loss_and_gradient(*given, wants_gradient=False)[0]


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`cross_entropy` as a module: torch.nn.CrossEntropyLoss with the loss and gradient of this package.

    Parameters
    ----------
    weight, ignore_index, reduction, label_smoothing
        As in `cross_entropy`.

    Examples
    --------
    >>> import torch
    >>> from fastxent.adapters.torch import CrossEntropyLoss
    >>> CrossEntropyLoss(reduction="sum")(torch.zeros(3, 4), torch.tensor([0, 1, -100]))
    tensor(2.7726)
    """

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss."""
        return cross_entropy(input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing)


class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss):
    """`binary_cross_entropy_with_logits` as a module: torch.nn.BCEWithLogitsLoss with the loss of this package.

    Parameters
    ----------
    weight, reduction, pos_weight
        As in `binary_cross_entropy_with_logits`.

    Examples
    --------
    >>> import torch
    >>> from fastxent.adapters.torch import BCEWithLogitsLoss
    >>> BCEWithLogitsLoss()(torch.zeros(3), torch.tensor([0.0, 1.0, 0.5]))
    tensor(0.6931)
    """

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss."""
        return binary_cross_entropy_with_logits(input, target, self.weight, self.reduction, self.pos_weight)


# What is computed


def _check(input: Any, **others: Any) -> None:
    """Tensors on the CPU, of which the input alone may require grad."""
    for name, x in (("input", input), *others.items()):
        if x is None and name in ("weight", "pos_weight"):
            continue
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{name}: an object of type {type(x).__name__} is no tensor")
        if x.device.type != "cpu":
            raise TypeError(f"{name}: a tensor on {x.device}; this loss is for the CPU, on others use torch's own")
        if name != "input" and x.requires_grad:
            raise ValueError(f"{name}: requires grad, which is not computed here; pass {name}.detach()")
    if not input.dtype.is_floating_point:
        raise TypeError(f"input: dtype {input.dtype}; need float16, bfloat16, float32 or float64")


def _result_dtype(input: torch.Tensor) -> torch.dtype:
    return torch.float32 if input.dtype in HALVES and torch.is_autocast_enabled("cpu") else input.dtype


def _class_axis(input: torch.Tensor) -> int:
    return 1 if input.ndim > 2 else -1


def _arguments(
    input: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, ignore_index: int, smoothing: float
) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """Those of fastxent's functions: the same memory."""
    soft = input.shape == target.shape
    options = {
        "weight": weight,
        "ignore_index": None if soft else ignore_index,
        "label_smoothing": smoothing,
        "axis": _class_axis(input),
    }
    return (_array(input), _array(target)), options


def _array(x: torch.Tensor) -> Any:
    """A tensor's memory as NumPy sees it; what it has no type for stays as it is."""
    if x.dtype is torch.bfloat16:
        return x
    return x.detach().numpy() if x.requires_grad else x.numpy()


def _tensor(x: Any, dtype: torch.dtype) -> torch.Tensor:
    """A number or an array in a dtype, rounded once if at all."""
    if isinstance(x, float):
        return torch.scalar_tensor(x, dtype=dtype)
    if dtype == torch.bfloat16 and x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view("i2")).view(dtype)
    made = torch.from_numpy(x)
    return made if made.dtype is dtype else made.to(dtype)


@contextmanager
def _errors() -> Iterator[None]:
    """Errors about our arguments in torch's words."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("logits", "input")) from None


def _loss(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    ignore_index: int,
    reduction: str,
    smoothing: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    arrays, options = _arguments(input, target, weight, ignore_index, smoothing)
    with _errors():
        loss = fastxent.cross_entropy(*arrays, reduction=reduction, **options)
    return _tensor(loss, dtype)


def _loss_and_gradient(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    ignore_index: int,
    reduction: str,
    smoothing: float,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and the gradient times `_units`, in memory of NumPy's: its large pages come three times as fast."""
    arrays, options = _arguments(input, target, weight, ignore_index, smoothing)
    scale = _units(input, reduction)
    with _errors():
        loss, gradient = fastxent.cross_entropy_value_and_grad(
            *arrays, reduction=reduction, grad_scale=scale, **options
        )
    return _tensor(loss, dtype), _tensor(gradient, input.dtype)


def _binary_loss_and_gradient(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    pos_weight: torch.Tensor | None,
    reduction: str,
    dtype: torch.dtype,
    *,
    wants_gradient: bool = True,
) -> tuple[torch.Tensor, Any]:
    """The loss, and the gradient times `_units`."""
    n, scale = input.numel(), _units(input, reduction, rows=input.numel())
    options: dict[str, Any] = {"pos_weight": None if pos_weight is None else pos_weight.item(), "reduction": reduction}
    share = 1.0
    if weight is not None:
        options["sample_weight"] = _array(weight.expand(input.shape))
        if reduction == "mean" and n:  # torch's divides by the number of losses, ours by the sum of the weights
            options["reduction"], share = "sum", 1.0 / n
    arrays, gradient = (_array(input), _array(target)), None
    with _errors():
        if wants_gradient:
            loss, made = fastxent.binary_cross_entropy_value_and_grad(*arrays, grad_scale=scale * share, **options)
            gradient = _tensor(made, input.dtype)
        else:
            loss = fastxent.binary_cross_entropy(*arrays, **options)
    return _tensor(loss * share if share != 1.0 else loss, dtype), gradient


def _units(input: torch.Tensor, reduction: str, rows: int | None = None) -> float:
    """What the kept gradient is multiplied with: float16 would lose most of a mean over many rows."""
    if input.dtype != torch.float16 or reduction != "mean":
        return 1.0
    n_rows = input.numel() // max(input.shape[_class_axis(input)], 1) if rows is None else rows
    return 2.0 ** min(MOST_UNITS, int(math.log2(max(n_rows, 1))))


def _of_small(input: Any, target: Any, ignore_index: Any, reduction: Any) -> torch.Tensor | None:
    """The usual small call, quickly; None for all others, and for what is refused, for its error."""
    if type(input) not in PLAIN or type(target) not in PLAIN or type(ignore_index) is not int:
        return None
    if input.dtype not in WIDE or target.dtype is not torch.int64 or input.ndim != 2 or target.ndim != 1:
        return None
    n_rows, n_classes = input.shape
    if not 0 < n_rows * n_classes <= SMALL or target.shape[0] != n_rows or not abs(ignore_index) < MOST_INDEX:
        return None
    if reduction not in ("mean", "sum") or not (input.is_cpu and target.is_cpu):
        return None
    if not (input.is_contiguous() and target.is_contiguous()):
        return None
    z, labels, gradient = input.detach().numpy()[None], target.numpy(), None
    if not (input.requires_grad and torch.is_grad_enabled()):
        call = hard_cross_entropy(z, labels, ABSENT, ABSENT, True, ignore_index, 0.0, 1.0)
        _, refused, total, mass = call.run_all(ABSENT)
    else:
        gradient, mass, weight = torch.empty_like(input), float(n_rows), 0.0
        while mass != weight:  # once again where some are ignored
            weight, scale = mass, 1.0 / mass if reduction == "mean" else 1.0
            _, refused, total, mass = small_gradient(z, labels, gradient.data_ptr(), scale, ignore_index)
            if refused or mass == 0.0:
                return None
    if refused or mass == 0.0:
        return None
    loss = total / mass if reduction == "mean" else total
    return torch.scalar_tensor(loss, dtype=input.dtype) if gradient is None else _Small.apply(input, gradient, loss)


class _Small(torch.autograd.Function):
    """A small loss with its gradient, which is copied rather than given away.

    32 rows of 10 classes, forward and backward: 49 us, 28 of which any Function in Python takes; torch's own 34.
    """

    @staticmethod
    def forward(ctx: Any, input: Any, gradient: Any, loss: float) -> Any:
        ctx.save_for_backward(gradient)
        ctx.input = input
        return torch.scalar_tensor(loss, dtype=input.dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return gradient * grad_output, None, None
        with torch.no_grad():  # create_graph=True
            scaled = gradient * grad_output
        return _Last.apply(scaled, grad_output, ctx.input), None, None


class _Kept(torch.autograd.Function):
    """A loss; its gradient is kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, compute: Any, axis: int | None, units: float, input: Any, target: Any, weight: Any, *options: Any
    ) -> Any:
        loss, ctx.gradient = compute(input, target, weight, *options)
        ctx.save_for_backward(input, target, weight)
        ctx.compute, ctx.axis, ctx.units, ctx.options = compute, axis, units, options
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Any) -> Any:
        if torch.is_grad_enabled():  # create_graph=True
            with torch.no_grad():
                gradient = _scaled(ctx, grad_output)
            gradient = _Last.apply(gradient, grad_output, ctx.saved_tensors[0])
        else:
            gradient = _scaled(ctx, grad_output)
        return None, None, None, gradient, None, None, *(None,) * len(ctx.options)


def _scaled(ctx: Any, grad_output: torch.Tensor) -> torch.Tensor:
    """The kept gradient times that of the loss."""
    gradient, ctx.gradient = ctx.gradient, None  # given away, so that it may be scaled in place
    if gradient is None:  # a second time: of a graph that was freed this raises
        _, gradient = ctx.compute(*ctx.saved_tensors, *ctx.options)
    if grad_output.ndim and any(grad_output.stride()):
        gradient.mul_(grad_output if ctx.axis is None else grad_output.unsqueeze(ctx.axis))
    elif grad_output.numel():
        factor = (grad_output[(0,) * grad_output.ndim] if grad_output.ndim else grad_output).item() / ctx.units
        if factor != 1.0:
            gradient.mul_(factor)
    return gradient


class _Last(torch.autograd.Function):
    """A gradient that cannot be differentiated again."""

    @staticmethod
    def forward(ctx: Any, gradient: Any, *sources: Any) -> Any:
        return gradient

    @staticmethod
    def backward(ctx: Any, _: Any) -> Any:
        raise RuntimeError("fastxent.adapters.torch has no second derivatives; use torch's own loss for them")


# Inside torch.compile: operators that the compiler does not look into. (What keeps it from looking into a function is
# torch.compiler.disable, which takes 2 s to import.)


@torch.library.custom_op("fastxent::cross_entropy", mutates_args=())
def _operator(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    dtype: torch.dtype,
    wants_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss, the gradient and one over its units."""
    given = input, target, weight, ignore_index, reduction, label_smoothing, dtype
    loss, gradient = _loss_and_gradient(*given) if wants_gradient else (_loss(*given), None)
    return _promised(input, loss, gradient, _units(input, reduction))


@torch.library.custom_op("fastxent::binary_cross_entropy", mutates_args=())
def _binary_operator(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    pos_weight: torch.Tensor | None,
    reduction: str,
    dtype: torch.dtype,
    wants_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same of one logit a row."""
    given = input, target, weight, pos_weight, reduction, dtype
    loss, gradient = _binary_loss_and_gradient(*given, wants_gradient=wants_gradient)
    return _promised(input, loss, gradient, _units(input, reduction, rows=input.numel()))


def _promised(
    input: torch.Tensor, loss: torch.Tensor, gradient: torch.Tensor | None, units: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What an operator returns, as the compiler was told of it."""
    if gradient is None:
        gradient = input.new_empty(0)
    elif gradient.stride() != torch.empty_like(input, device="meta").stride():
        gradient = torch.empty_like(input).copy_(gradient)
    return loss, gradient, torch.scalar_tensor(1.0 / units, dtype=torch.float64)


def _shapes(input: Any, rows: list[int], reduction: str, dtype: torch.dtype, wants_gradient: bool) -> Any:
    """What the compiler is told: no numbers, but their shapes and dtypes."""
    gradient = torch.empty_like(input) if wants_gradient else input.new_empty(0)
    loss = input.new_empty(rows if reduction == "none" else [], dtype=dtype)
    return loss, gradient, input.new_empty((), dtype=torch.float64)


@_operator.register_fake
def _operator_shapes(
    input: Any, target: Any, weight: Any, ignore_index: Any, reduction: str, label_smoothing: Any, *rest: Any
) -> Any:
    rows = list(input.shape)
    del rows[_class_axis(input)]
    return _shapes(input, rows, reduction, *rest)


@_binary_operator.register_fake
def _binary_operator_shapes(input: Any, target: Any, weight: Any, pos_weight: Any, *rest: Any) -> Any:
    return _shapes(input, list(input.shape), *rest)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.n_others = len(inputs) - 1


def _backward(ctx: Any, grad_loss: Any, *_: Any) -> Any:
    gradient, units = ctx.saved_tensors
    wide = torch.float32 if gradient.dtype in HALVES else gradient.dtype
    scale = (grad_loss * units).to(wide)
    if 0 < scale.ndim < gradient.ndim:  # a number for each row of classes
        scale = scale.unsqueeze(_class_axis(gradient))
    return (gradient.to(wide) * scale).to(gradient.dtype), *(None,) * ctx.n_others


for _made in (_operator, _binary_operator):
    _made.register_autograd(_backward, setup_context=_keep)
