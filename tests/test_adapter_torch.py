"""fastxent.adapters.torch: torch's numbers, gradients and manners, from real training runs to torch.compile."""

import copy
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastxent.arrays import as_array

torch = pytest.importorskip("torch")
adapter = pytest.importorskip("fastxent.adapters.torch")
pytestmark = pytest.mark.peers

f = torch.nn.functional
DTYPES = ("float64", "float32", "bfloat16", "float16")
# Of the largest number compared: a rounding of the result's dtype, and what torch itself loses on the way in it.
TOLERANCE = {"float64": 1e-14, "float32": 1e-6, "bfloat16": 2e-2, "float16": 2e-3}


def tensors(dtype="float64", shape=(24, 7), seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(*shape, generator=generator, dtype=torch.float64).mul_(2).to(getattr(torch, dtype))
    rows = (*shape[:1], *shape[2:])
    y = torch.randint(0, shape[1], rows, generator=generator)
    p = torch.softmax(torch.randn(*shape, generator=generator, dtype=torch.float64), 1)
    w = torch.rand(shape[1], generator=generator, dtype=torch.float64) + 0.5
    return z, y, p, w.to(z.dtype)


def value_and_grad(loss, z, *args, upstream=None, **options):
    z = z.detach().requires_grad_()
    result = loss(z, *args, **options)
    (gradient,) = torch.autograd.grad(result, z, torch.ones_like(result) if upstream is None else upstream)
    return result.detach(), gradient


def close(got, want, tolerance):
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    got, want = got.double(), want.double()
    assert (got - want).abs().max() <= tolerance * want.abs().max()


@pytest.mark.parametrize(("dtype", "soft"), [*((dtype, False) for dtype in DTYPES), ("float32", True)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_loss_and_gradient_are_torchs(dtype, reduction, soft):
    """Those of torch in float64, rounded, and the dtype, shape and strides of torch's own."""
    for shape in ((24, 7), (4, 7, 3, 2)):
        z, y, p, w = tensors(dtype, shape)
        wide = z.double()
        y = y.clone()
        y.view(-1)[::5] = -100
        for options in ({}, {"weight": w, "label_smoothing": 0.1}):
            target = p if soft else y
            upstream = torch.rand(y.shape).to(z.dtype) if reduction == "none" else torch.tensor(3.0, dtype=z.dtype)
            given = {"reduction": reduction, **options}
            got = value_and_grad(adapter.cross_entropy, z, target, upstream=upstream, **given)
            own = value_and_grad(f.cross_entropy, z, target.to(z.dtype) if soft else target, **given)
            given |= {"weight": w.double()} if options else {}
            want = value_and_grad(f.cross_entropy, wide, target, upstream=upstream.double(), **given)
            for ours, exact, theirs in zip(got, want, own, strict=True):
                close(ours, exact.to(z.dtype), TOLERANCE[dtype])
                assert ours.stride() == theirs.stride()


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_binary_loss_and_gradient_are_torchs(dtype, reduction):
    z, _, p, w = tensors(dtype)
    p[::2] = p[::2].round()
    for options in ({}, {"weight": w}, {"weight": p + 1, "pos_weight": torch.tensor([2.5])}):
        upstream = torch.rand(z.shape).to(z.dtype) if reduction == "none" else torch.tensor(3.0, dtype=z.dtype)
        given = {"reduction": reduction, **options}
        got = value_and_grad(adapter.binary_cross_entropy_with_logits, z, p, upstream=upstream, **given)
        given |= {k: v.double() for k, v in options.items()}
        want = value_and_grad(f.binary_cross_entropy_with_logits, z.double(), p, upstream=upstream.double(), **given)
        for ours, exact in zip(got, want, strict=True):
            close(ours, exact.to(z.dtype), TOLERANCE[dtype])
        with torch.no_grad():
            close(adapter.binary_cross_entropy_with_logits(z, p, **given).to(z.dtype), got[0], TOLERANCE[dtype])
    module = adapter.BCEWithLogitsLoss(reduction=reduction)
    close(module(z, p), f.binary_cross_entropy_with_logits(z, p.to(z.dtype), reduction=reduction), TOLERANCE[dtype])


def test_binary_gradcheck_and_refusals():
    z, _, p, w = tensors("float64", (5, 4))
    loss = adapter.binary_cross_entropy_with_logits
    assert torch.autograd.gradcheck(lambda z: loss(z, p, w), z.clone().requires_grad_())
    for says, options in (("pos_weight: 4 numbers", {"pos_weight": w}), ("weight: requires grad", {"weight": w + z})):
        with pytest.raises(ValueError, match=says):
            loss(z, p, **{k: v.detach().requires_grad_("grad" in says) for k, v in options.items()})
    with pytest.raises(ValueError, match="^target: row 0"):
        loss(z, p + 1)


def test_one_row_and_a_target_without_axes():
    z, y, p, _ = tensors()
    for target in (y[0], p[0]):
        got, want = (value_and_grad(loss, z[0], target) for loss in (adapter.cross_entropy, f.cross_entropy))
        for ours, theirs in zip(got, want, strict=True):
            close(ours, theirs, 1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("soft", [False, True], ids=["indices", "distributions"])
def test_gradcheck(reduction, soft):
    z, y, p, w = tensors("float64", (5, 4))
    options = {"weight": w, "label_smoothing": 0.2, "reduction": reduction}
    target = p if soft else y
    assert torch.autograd.gradcheck(lambda z: adapter.cross_entropy(z, target, **options), z.requires_grad_())


@pytest.mark.parametrize(
    "change", [lambda z: z.T.contiguous().T, lambda z: z[::2], lambda z: z[:, ::3], lambda z: z.flip(0)]
)
def test_tensors_of_any_strides(change):
    z, y, _, _ = tensors("float32", (24, 12))
    z = change(z)
    y = y[: len(z)] % z.shape[1]
    got, want = (value_and_grad(adapter.cross_entropy, x, y) for x in (z, z.contiguous()))
    for ours, plain in zip(got, want, strict=True):
        assert torch.equal(ours, plain)


def test_nothing_is_copied_and_the_gradient_is_handed_on(monkeypatch):
    """The core reads the logits' own memory and writes the memory that autograd gets; ones cost no multiplication."""
    import fastxent

    seen = []
    core = fastxent.cross_entropy_value_and_grad

    def watched(logits, target, **options):
        loss, gradient = core(logits, target, **options)
        seen.extend(as_array(x, "x")[0].__array_interface__["data"][0] for x in (logits, target, gradient))
        return loss, gradient

    monkeypatch.setattr(fastxent, "cross_entropy_value_and_grad", watched)
    for dtype in DTYPES:
        z, y, _, _ = tensors(dtype, (2000, 9))
        z.requires_grad_()
        for upstream in (1.0, 4.0):
            gradient = torch.autograd.grad(adapter.cross_entropy(z, y), z, torch.tensor(upstream, dtype=z.dtype))[0]
            assert seen == [x.data_ptr() for x in (z, y, gradient)]
            seen.clear()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_small_call_gives_the_bits_of_a_large_one(dtype, monkeypatch):
    """Loss and gradient, of indices with and without ignored ones; the input's own memory is read."""
    seen, core = [], adapter.small_gradient

    def watched(z, labels, *args):
        seen.append((z.__array_interface__["data"][0], labels.__array_interface__["data"][0]))
        return core(z, labels, *args)

    for shape in ((24, 7), (1, 70), (160, 100)):
        z, y, _, _ = tensors(dtype, shape)
        for ignored in (False, True):
            y = torch.where(torch.arange(len(y)) % 3 == 1, -100, y) if ignored else y
            for reduction in ("mean", "sum"):
                with monkeypatch.context() as patch:
                    patch.setattr(adapter, "SMALL", 0)
                    want = value_and_grad(adapter.cross_entropy, z, y, reduction=reduction)
                with monkeypatch.context() as patch:
                    patch.setattr(adapter, "small_gradient", watched)
                    got = value_and_grad(adapter.cross_entropy, z, y, reduction=reduction)
                assert seen == [(z.data_ptr(), y.data_ptr())] * len(seen) != []
                seen.clear()
                assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
                with torch.no_grad():
                    assert torch.equal(adapter.cross_entropy(z, y, reduction=reduction), want[0])


def test_without_grad_there_is_no_gradient(monkeypatch):
    monkeypatch.setattr("fastxent.cross_entropy_value_and_grad", None)
    z, y, _, _ = tensors()
    want = f.cross_entropy(z, y)
    results = [adapter.cross_entropy(z, y)]
    z.requires_grad_()
    with torch.no_grad():
        results.append(adapter.cross_entropy(z, y))
    with torch.inference_mode():
        results.append(adapter.cross_entropy(z, y))
        results.append(adapter.cross_entropy(z * 1, y))
    for result in results:
        close(result, want, 1e-14)
        assert not result.requires_grad


def test_a_retained_graph_gives_the_gradient_again():
    z, y, _, _ = tensors()
    z.requires_grad_()
    loss = adapter.cross_entropy(z, y)
    first, second = (torch.autograd.grad(loss, z, torch.tensor(k), retain_graph=True)[0] for k in (2.0, 3.0))
    assert torch.allclose(first / 2, second / 3, rtol=1e-15, atol=0)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_a_second_derivative_is_refused():
    z, y, _, _ = tensors()
    for reduction in ("mean", "none"):
        z = z.detach().requires_grad_()
        upstream = torch.full((24,) if reduction == "none" else (), 2.0, dtype=z.dtype, requires_grad=True)
        loss = adapter.cross_entropy(z, y, reduction=reduction)
        (gradient,) = torch.autograd.grad(loss, z, upstream, create_graph=True)
        for source in (z, upstream):
            with pytest.raises(RuntimeError, match="no second derivatives; use torch's own"):
                torch.autograd.grad(gradient.sum(), source, retain_graph=True)


def test_what_cannot_be_done_is_refused_in_one_line():
    z, y, p, w = tensors()
    bad = y.clone()
    bad[3] = 7
    for error, says, args, options in (
        (ValueError, "target: requires grad", (z, p.clone().requires_grad_()), {}),
        (ValueError, "weight: requires grad", (z, y, w.clone().requires_grad_()), {}),
        (TypeError, "input: a tensor on meta", (z.to("meta"), y), {}),
        (TypeError, "target: a tensor on meta", (z, y.to("meta")), {}),
        (TypeError, "input: an object of type ndarray is no tensor", (z.numpy(), y), {}),
        (TypeError, "input: dtype torch.int64", (y[:, None], y), {}),
        (ValueError, "target: row 3 is 7, outside 0..6", (z, bad), {}),
        (ValueError, "target: shape (23,) does not go with input", (z, y[1:]), {}),
        (ValueError, "target: row 0 sums to 2", (z, 2 * p), {}),
        (ValueError, "weight: shape (6,)", (z, y, w[1:]), {}),
        (ValueError, "reduction: 'all'", (z, y), {"reduction": "all"}),
        (ValueError, "label_smoothing: 2.0", (z, y), {"label_smoothing": 2}),
    ):
        for first in (args[0], args[0].clone().requires_grad_() if args[0] is z else args[0]):
            with pytest.raises(error) as caught:
                adapter.cross_entropy(first, *args[1:], **options)
            assert says in str(caught.value)
            assert "\n" not in str(caught.value)


def test_no_row_to_average_is_nan_with_a_warning_and_a_gradient_of_zeros():
    z, y, _, _ = tensors()
    with pytest.warns(RuntimeWarning, match="mean of no rows"):
        loss, gradient = value_and_grad(adapter.cross_entropy, z, torch.full_like(y, -100))
    assert loss.isnan()
    assert not gradient.any()


def test_a_float16_mean_over_many_rows_keeps_its_gradient():
    """A loss scaled as torch's GradScaler does: entries that float16 would lose without the scale."""
    z, y, _, _ = tensors("float16", (4096, 50))
    scale = 1024.0
    _, gradient = value_and_grad(lambda z: adapter.cross_entropy(z, y).float() * scale, z)
    _, want = value_and_grad(lambda z: f.cross_entropy(z, y) * scale, z.double())
    assert ((gradient.double() - want).abs() <= want.abs() * 2**-10 + 2**-24).all()


def test_autocast_gives_float32_as_torchs_does():
    z, y, _, _ = tensors("float32")
    layer = torch.nn.Linear(7, 5)
    y = y % 5
    results = []
    for loss in (adapter.cross_entropy, f.cross_entropy):
        layer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = loss(layer(z), y)
        result.backward()
        results.append((result.detach(), layer.weight.grad.clone()))
    for ours, theirs in zip(*results, strict=True):
        close(ours, theirs, 1e-2)
    assert abs(results[0][0] - results[1][0]) < 1e-6


def test_the_module_is_torchs():
    z, y, _, w = tensors()
    ours = adapter.CrossEntropyLoss(weight=w, ignore_index=2, reduction="sum", label_smoothing=0.1)
    theirs = torch.nn.CrossEntropyLoss(weight=w, ignore_index=2, reduction="sum", label_smoothing=0.1)
    close(ours(z, y), theirs(z, y), 1e-14)
    assert isinstance(ours, torch.nn.CrossEntropyLoss)
    theirs.load_state_dict(ours.state_dict())
    copy.deepcopy(ours)


def train(loss, epochs=12):
    """The losses of an MLP on scikit-learn's digits, batch by batch."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.data / 16, dtype=torch.float32)
    y = torch.tensor(data.target)
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(64, 48), torch.nn.ReLU(), torch.nn.Linear(48, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    curve = []
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(256):
            optimizer.zero_grad()
            value = loss(model(x[rows]), y[rows])
            value.backward()
            optimizer.step()
            curve.append(value.item())
    with torch.no_grad():
        return np.array(curve), (model(x).argmax(1) == y).float().mean().item()


def test_a_classifier_trains_to_the_same_curve():
    pytest.importorskip("sklearn")
    ours, right = train(adapter.CrossEntropyLoss(label_smoothing=0.05))
    theirs, also_right = train(torch.nn.CrossEntropyLoss(label_smoothing=0.05))
    assert np.abs(ours - theirs).max() < 1e-3
    assert ours[-8:].mean() < ours[0] / 2
    assert right > 0.95
    assert abs(right - also_right) < 0.005


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy_with_logits"])
def test_torch_compile_takes_it_into_one_graph(backend, reduction, name):
    z, y, p, w = tensors("float32")
    layer = torch.nn.Linear(7, 7)
    if name == "cross_entropy":
        target, options = y, {"weight": w, "label_smoothing": 0.1}
    else:
        target, options = p.float(), {"pos_weight": torch.tensor([2.5])}

    def forward(loss):
        return (loss(layer(z), target, reduction=reduction, **options) * 1.5).sum()

    torch._dynamo.reset()
    compiled = torch.compile(forward, backend=backend, fullgraph=True)  # where the graph breaks that raises
    ours, results = getattr(adapter, name), []
    for call, loss in ((compiled, ours), (forward, getattr(f, name))):
        layer.zero_grad()
        result = call(loss)
        result.backward()
        results.append((result.detach(), layer.weight.grad.clone()))
    for got, want in zip(*results, strict=True):
        close(got, want, 1e-5)
    with torch.no_grad():
        close(compiled(ours), results[0][0], 1e-6)


@pytest.mark.slow
def test_importing_it_leaves_the_compiler_alone():
    code = "import sys, fastxent.adapters.torch\nprint('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr


WORKERS = """
import torch
from fastxent.adapters.torch import cross_entropy

z, y = torch.randn(4000, 30, generator=torch.Generator().manual_seed(0)), torch.arange(4000) % 30
want = cross_entropy(z, y)

class Losses(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        rows = z.clone().requires_grad_()
        loss = cross_entropy(rows, y)
        loss.backward()
        return loss.detach(), rows.grad.sum()

for context in CONTEXTS:
    for losses, _ in torch.utils.data.DataLoader(Losses(), 2, num_workers=2, multiprocessing_context=context):
        assert (losses == want).all()
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_workers_of_a_data_loader_that_are_forked_after_a_first_call():
    assert "fork" in multiprocessing.get_all_start_methods()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", WORKERS.replace("CONTEXTS", "['fork']")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "done\n", done.stderr


def test_the_readmes_example():
    pytest.importorskip("sklearn")
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (example,) = [
        block for block in re.findall(r"^```py\n(.*?)^```$", readme, re.M | re.S) if "adapters.torch" in block
    ]
    names = {}
    torch.manual_seed(0)
    exec(example, names)
    assert names["loss"].item() < 1


def test_without_torch_it_says_what_to_install():
    code = "import sys; sys.modules['torch'] = None\nimport fastxent.adapters.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "pip install 'fastxent[torch]'" in done.stderr
