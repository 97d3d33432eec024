"""Modules and functions of nn.utils against PyTorch's, from the same weights, and captured."""

from __future__ import annotations

import numpy as np
import pytest

import fastgrad as fg

SHAPED = {
    "GELU": lambda nn: nn.GELU(), "GELU tanh": lambda nn: nn.GELU("tanh"), "SiLU": lambda nn: nn.SiLU(),
    "LeakyReLU": lambda nn: nn.LeakyReLU(0.2), "ELU": lambda nn: nn.ELU(0.5), "Softplus": lambda nn: nn.Softplus(2.0),
    "LayerNorm": lambda nn: nn.LayerNorm(4), "LayerNorm of two": lambda nn: nn.LayerNorm((3, 4), 0.1),
    "LayerNorm without bias": lambda nn: nn.LayerNorm(4, bias=False),
    "LayerNorm alone": lambda nn: nn.LayerNorm(4, elementwise_affine=False),
    "Dropout": lambda nn: nn.Dropout(0.3).eval(),
    "ModuleList": lambda nn: nn.ModuleList([nn.Linear(4, 4), nn.Tanh()])[0],
    "ModuleDict": lambda nn: nn.ModuleDict({"a": nn.Linear(4, 2)})["a"],
    "CELU": lambda nn: nn.CELU(0.5), "GLU": lambda nn: nn.GLU(), "SELU": lambda nn: nn.SELU(),
    "Hardshrink": lambda nn: nn.Hardshrink(0.3), "Softshrink": lambda nn: nn.Softshrink(0.3),
    "Hardsigmoid": lambda nn: nn.Hardsigmoid(), "Hardswish": lambda nn: nn.Hardswish(), "Mish": lambda nn: nn.Mish(),
    "Hardtanh": lambda nn: nn.Hardtanh(-0.5, 0.7), "ReLU6": lambda nn: nn.ReLU6(), "PReLU": lambda nn: nn.PReLU(3),
    "LogSigmoid": lambda nn: nn.LogSigmoid(), "Softsign": lambda nn: nn.Softsign(),
    "Softmin": lambda nn: nn.Softmin(-1),
    "Tanhshrink": lambda nn: nn.Tanhshrink(), "Threshold": lambda nn: nn.Threshold(0.2, 3.0),
    "RReLU": lambda nn: nn.RReLU().eval(), "AlphaDropout": lambda nn: nn.AlphaDropout(0.3).eval(),
    "Unflatten": lambda nn: nn.Unflatten(2, (2, 2)),
    "BatchNorm1d": lambda nn: nn.BatchNorm1d(3), "BatchNorm1d eval": lambda nn: nn.BatchNorm1d(3).eval(),
    "BatchNorm1d plain": lambda nn: nn.BatchNorm1d(3, 0.1, affine=False, track_running_stats=False),
    "BatchNorm1d mean": lambda nn: nn.BatchNorm1d(3, momentum=None), "GroupNorm": lambda nn: nn.GroupNorm(3, 3),
    "RMSNorm": lambda nn: nn.RMSNorm(4), "RMSNorm alone": lambda nn: nn.RMSNorm((3, 4), 0.1, elementwise_affine=False),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPED)
def test_modules_are_pytorchs(name):
    torch = pytest.importorskip("torch")
    ours, theirs = SHAPED[name](fg.nn), SHAPED[name](torch.nn)
    assert repr(ours) == repr(theirs)
    rng = np.random.default_rng(0)
    state = {key: np.abs(rng.normal(size=tuple(value.shape))).astype(str(value.dtype).removeprefix("torch."))
             for key, value in theirs.state_dict().items()}
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict({key: fg.tensor(value) for key, value in state.items()})
    theirs.load_state_dict({key: torch.tensor(value) for key, value in state.items()})
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    a, b = fg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    for module, leaf in ((ours, a), (theirs, b)):
        out = module(leaf)
        (out * out).sum().backward()
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-5, atol=1e-5)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-5, atol=1e-5)
    for key, value in theirs.state_dict().items():  # buffers may have changed
        np.testing.assert_allclose(ours.state_dict()[key].numpy(), value.numpy(), rtol=1e-5, atol=1e-6)


def test_batch_norm_needs_statistics():
    with pytest.raises(RuntimeError, match="running_mean and running_var are needed"):
        fg.nn.functional.batch_norm(fg.ones(2, 3), None, None)


PAIRED = {
    "SmoothL1Loss": lambda nn: nn.SmoothL1Loss(beta=0.5), "HuberLoss": lambda nn: nn.HuberLoss(delta=0.5),
    "KLDivLoss": lambda nn: nn.KLDivLoss(reduction="batchmean", log_target=True),
    "PoissonNLLLoss": lambda nn: nn.PoissonNLLLoss(full=True), "SoftMarginLoss": lambda nn: nn.SoftMarginLoss(),
    "HingeEmbeddingLoss": lambda nn: nn.HingeEmbeddingLoss(0.5), "Bilinear": lambda nn: nn.Bilinear(4, 4, 2),
    "MultiLabelSoftMarginLoss": lambda nn: nn.MultiLabelSoftMarginLoss(), "CosineSimilarity": lambda nn:
    nn.CosineSimilarity(), "PairwiseDistance": lambda nn: nn.PairwiseDistance(3.0, keepdim=True),
    "TripletMarginLoss": lambda nn: nn.TripletMarginLoss(swap=True), "GaussianNLLLoss": lambda nn: nn.GaussianNLLLoss(),
    "MarginRankingLoss": lambda nn: nn.MarginRankingLoss(0.3), "CosineEmbeddingLoss": lambda nn:
    nn.CosineEmbeddingLoss(0.3), "MultiMarginLoss": lambda nn: nn.MultiMarginLoss(p=2),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRED)
def test_modules_of_several_arguments_are_pytorchs(name):
    torch = pytest.importorskip("torch")
    ours, theirs = PAIRED[name](fg.nn), PAIRED[name](torch.nn)
    assert repr(ours) == repr(theirs)
    rng = np.random.default_rng(0)
    ours.load_state_dict({key: fg.tensor(value.numpy()) for key, value in theirs.state_dict().items()})
    x, y, z = (rng.uniform(0.1, 1, (3, 4)).astype(np.float32) for _ in range(3))
    more = {"TripletMarginLoss": [y, z], "GaussianNLLLoss": [y, z], "MarginRankingLoss": [y, np.sign(z - 0.5)],
            "CosineEmbeddingLoss": [y, np.array([1, -1, -1])], "MultiMarginLoss": [np.array([1, 0, 3])]}.get(name, [y])
    grads = []
    for module, library in ((ours, fg), (theirs, torch)):
        leaf = library.tensor(x, requires_grad=True)
        out = module(leaf, *[library.tensor(a) for a in more])
        (out * out).sum().backward()
        grads.append([leaf.grad.numpy(), out.detach().numpy()])
    for a, b in zip(*grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"kdim": 6, "vdim": 2}, {"bias": False, "batch_first": True}])
def test_attention_of_several_heads_is_pytorchs(options):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    ours, theirs = fg.nn.MultiheadAttention(8, 2, **options), torch.nn.MultiheadAttention(8, 2, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({key: fg.tensor(value.numpy()) for key, value in theirs.state_dict().items()})
    q, k, v = (rng.normal(size=(3, 3, options.get(size, 8))).astype(np.float32) for size in ("", "kdim", "vdim"))
    upper = np.triu(np.ones((3, 3), bool), 1)
    padding = np.array([[False, False, True]] * 3)
    cases = [{}, {"attn_mask": upper, "average_attn_weights": False}, {"key_padding_mask": padding, "attn_mask": upper},
             {"attn_mask": np.where(upper, -2.0, 0.5).astype(np.float32), "need_weights": False}]
    for keywords in cases:
        found = []
        for module, library in ((ours, fg), (theirs, torch)):
            leaf = library.tensor(q, requires_grad=True)
            out, weights = module(leaf, library.tensor(k), library.tensor(v), **{
                key: library.tensor(a) if isinstance(a, np.ndarray) else a for key, a in keywords.items()})
            (out * out).sum().backward()
            found.append([out.detach().numpy(), leaf.grad.numpy(),
                          None if weights is None else weights.detach().numpy()])
        for a, b in zip(*found, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    single = [m(*[lib.tensor(a[0]) for a in (q, k, v)])[0].detach().numpy() for m, lib in ((ours, fg), (theirs, torch))]
    np.testing.assert_allclose(*single, rtol=1e-4, atol=1e-5)


def test_embedding_is_pytorchs():
    torch = pytest.importorskip("torch")
    index = np.array([[0, 2, 1], [1, 4, 1]])
    ours, theirs = fg.nn.Embedding(5, 3, padding_idx=-4), torch.nn.Embedding(5, 3, padding_idx=-4)
    assert repr(ours) == repr(theirs)
    assert ours.weight[1].tolist() == [0, 0, 0]
    theirs.load_state_dict({"weight": torch.tensor(ours.weight.detach().numpy())})
    for module, library in ((ours, fg), (theirs, torch)):
        (module(library.tensor(index)) ** 2).sum().backward()
    np.testing.assert_allclose(ours.weight.grad.numpy(), theirs.weight.grad.numpy(), rtol=1e-6)
    with pytest.raises(IndexError):
        ours(fg.tensor([5]))


def test_dropout_keeps_the_mean_and_follows_the_seed():
    x = fg.ones(20000, requires_grad=True)
    fg.manual_seed(3)
    out = fg.nn.functional.dropout(x, 0.25)
    assert set(np.unique(out.detach().numpy())) == {0.0, np.float32(1 / 0.75)}
    assert abs(out.mean().item() - 1) < 0.02
    out.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), out.detach().numpy())
    fg.manual_seed(3)
    np.testing.assert_array_equal(fg.nn.functional.dropout(x, 0.25).detach().numpy(), out.detach().numpy())
    assert fg.nn.functional.dropout(x, 0.5, training=False) is x
    with pytest.raises(ValueError, match="between 0 and 1"):
        fg.nn.functional.dropout(x, 1.5)


@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0, float("inf")])
def test_clipping_is_pytorchs(norm):
    torch = pytest.importorskip("torch")
    arrays = [np.random.default_rng(i).normal(size=shape).astype(np.float32) for i, shape in enumerate([(3, 4), (5,)])]
    ours, theirs = ([library.tensor(a, requires_grad=True) for a in arrays] for library in (fg, torch))
    for library, params in ((fg, ours), (torch, theirs)):
        (params[0].sum() * 3 + (params[1] * params[1]).sum()).backward()
        total = library.nn.utils.clip_grad_norm_(params, 1.5, norm)
        params.append(total)
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-5)
    np.testing.assert_allclose(ours[2].item(), theirs[2].item(), rtol=1e-5)
    fg.nn.utils.clip_grad_value_(ours[:2], 0.1)
    assert max(abs(p.grad.numpy()).max() for p in ours[:2]) <= np.float32(0.1)


def test_vectors_of_parameters():
    model = fg.nn.Linear(3, 2)
    vector = fg.nn.utils.parameters_to_vector(model.parameters())
    assert vector.shape == (8,)
    fg.nn.utils.vector_to_parameters(fg.arange(8).float(), model.parameters())
    assert model.weight.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert model.bias.tolist() == [6, 7]


def test_lists_and_dicts_of_modules():
    layers = fg.nn.ModuleList([fg.nn.Linear(2, 2)])
    layers.append(fg.nn.Tanh())
    layers += [fg.nn.Linear(2, 1)]
    assert [type(m).__name__ for m in layers] == ["Linear", "Tanh", "Linear"]
    assert list(layers.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert len(layers[1:]) == 2
    layers.insert(0, fg.nn.ReLU())
    assert isinstance(layers.pop(0), fg.nn.ReLU)
    named = fg.nn.ModuleDict({"first": fg.nn.Linear(1, 2)})
    named["second"] = fg.nn.Tanh()
    assert list(named) == ["first", "second"] == list(named.keys())
    assert "first" in named
    assert len(list(named.parameters())) == 2
    del named["first"]
    assert len(named) == 1


@pytest.mark.parametrize("shape", [(3, 5), (1, 5), (3, 1), (2, 1, 3, 5)])
@pytest.mark.parametrize("kind", ["float", "bool", "infinite"])
def test_attention_with_a_mask_is_pytorchs(kind, shape):
    """Also where a query may look at nothing: it gives 0, and gradients are finite."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    q, k, v = (rng.uniform(-1, 1, (2, 2, n, 4)) for n in (3, 5, 5))
    mask = rng.uniform(-1, 1, shape)
    allowed = mask > -0.5
    allowed[..., -1, :] = False
    mask = {"float": mask, "bool": allowed, "infinite": np.where(allowed, mask, -np.inf)}[kind]
    found = []
    for library in (fg, torch):
        leaves = [library.tensor(a, requires_grad=True) for a in (q, k, v)]
        out = library.nn.functional.scaled_dot_product_attention(*leaves, library.tensor(mask))
        (out * out).sum().backward()
        found.append([out.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)])
    for got, want in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-14)


def test_a_vector_of_zeros_is_normalised_as_in_pytorch():
    torch = pytest.importorskip("torch")
    found = []
    for library in (fg, torch):
        x = library.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=library.float64, requires_grad=True)
        out = library.nn.functional.normalize(x)
        (out * library.tensor([1.0, 2.0])).sum().backward()
        found.append((out.tolist(), x.grad.tolist()))
    np.testing.assert_allclose(*found)


def test_a_small_transformer_captured():
    class Net(fg.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = fg.nn.Embedding(11, 8)
            self.norm = fg.nn.LayerNorm(8)
            self.layers = fg.nn.ModuleList(fg.nn.Linear(8, 8) for _ in range(3))
            self.out = fg.nn.Linear(8, 11)

        def forward(self, tokens):
            x = self.norm(self.embedding(tokens))
            q, k, v = (layer(x) for layer in self.layers)
            x = x + fg.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out(fg.nn.functional.gelu(x))

    history = []
    for wrap in (fg.capture, lambda function: function):
        fg.manual_seed(0)
        net = Net()
        optimizer = fg.optim.Adam(net.parameters(), lr=0.01)

        def step(tokens, net=net, optimizer=optimizer):
            logits = net(tokens[:, :-1])
            loss = fg.nn.functional.cross_entropy(logits.reshape(-1, 11), tokens[:, 1:].reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            fg.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            return loss

        run = wrap(step)
        rng = np.random.default_rng(0)
        history.append([run(fg.tensor(rng.integers(0, 11, (4, 7)))).item() for _ in range(6)])
    assert history[0] == history[1]
    assert run is step


# ---------------------------------------------------------------------------------------------- further modules

RECENT = {
    "BatchNorm1d": (lambda nn: nn.BatchNorm1d(3), [(4, 3)]),
    "BatchNorm1d of sequences": (lambda nn: nn.BatchNorm1d(3, eps=0.1, momentum=0.3), [(2, 3, 5)]),
    "BatchNorm1d average": (lambda nn: nn.BatchNorm1d(3, momentum=None), [(4, 3)]),
    "BatchNorm1d plain": (lambda nn: nn.BatchNorm1d(3, affine=False, track_running_stats=False), [(4, 3)]),
    "BatchNorm1d eval": (lambda nn: nn.BatchNorm1d(3).eval(), [(4, 3)]),
    "BatchNorm1d untracked eval": (lambda nn: nn.BatchNorm1d(3, track_running_stats=False).eval(), [(4, 3)]),
    "InstanceNorm1d": (lambda nn: nn.InstanceNorm1d(3), [(2, 3, 5)]),
    "InstanceNorm1d tracked": (lambda nn: nn.InstanceNorm1d(3, affine=True, track_running_stats=True), [(2, 3, 5)]),
    "InstanceNorm1d without batch": (lambda nn: nn.InstanceNorm1d(3, affine=True), [(3, 5)]),
    "BatchNorm2d": (lambda nn: nn.BatchNorm2d(3), [(2, 3, 4, 5)]),
    "BatchNorm2d eval": (lambda nn: nn.BatchNorm2d(3).eval(), [(2, 3, 4, 5)]),
    "BatchNorm3d": (lambda nn: nn.BatchNorm3d(3, eps=0.1), [(2, 3, 2, 1, 2)]),
    "InstanceNorm2d": (lambda nn: nn.InstanceNorm2d(3, affine=True), [(2, 3, 4, 5)]),
    "InstanceNorm2d without batch": (lambda nn: nn.InstanceNorm2d(3), [(3, 4, 5)]),
    "InstanceNorm3d": (lambda nn: nn.InstanceNorm3d(3), [(2, 3, 2, 1, 2)]),
    "Dropout2d eval": (lambda nn: nn.Dropout2d(0.3).eval(), [(2, 3, 2, 2)]),
    "GroupNorm": (lambda nn: nn.GroupNorm(2, 6), [(2, 6, 3)]),
    "GroupNorm plain": (lambda nn: nn.GroupNorm(3, 6, affine=False), [(2, 6)]),
    "RMSNorm": (lambda nn: nn.RMSNorm(4), [(2, 3, 4)]),
    **{f"{kind} by {p}": (lambda nn, k=kind, p=p: getattr(nn, k)(p), [(2, 3, 4, 5, 4)[-int(kind[-2]) - 2:]])
       for kind in ("ZeroPad1d", "ZeroPad2d", "ZeroPad3d", "ReflectionPad1d", "ReflectionPad2d", "ReplicationPad1d",
                    "ReplicationPad2d", "CircularPad1d", "CircularPad2d")
       for p in (2, (1, 2) * int(kind[-2]))},
    "ConstantPad1d": (lambda nn: nn.ConstantPad1d((1, 0), 2.5), [(2, 3, 4)]),
    "ConstantPad2d": (lambda nn: nn.ConstantPad2d(2, 2.5), [(3, 4, 5)]),
    "ConstantPad3d": (lambda nn: nn.ConstantPad3d((1, 0, 2, 0, 0, 1), 2.5), [(2, 3, 4, 5, 4)]),
    "RMSNorm of two": (lambda nn: nn.RMSNorm((3, 4), 0.1, elementwise_affine=False), [(2, 3, 4)]),
    "Bilinear": (lambda nn: nn.Bilinear(3, 4, 2), [(5, 3), (5, 4)]),
    "Bilinear of one": (lambda nn: nn.Bilinear(3, 4, 2, bias=False), [(3,), (4,)]),
    "Unflatten": (lambda nn: nn.Unflatten(1, (2, -1)), [(3, 6)]),
    "attention": (lambda nn: nn.MultiheadAttention(4, 2), [(3, 2, 4), (5, 2, 4), (5, 2, 4)]),
    "attention batch_first": (lambda nn: nn.MultiheadAttention(4, 2, batch_first=True), [(2, 3, 4)] * 3),
    "attention without batch": (lambda nn: nn.MultiheadAttention(4, 1, bias=False), [(3, 4), (5, 4), (5, 4)]),
    "attention kdim": (
        lambda nn: nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True, add_zero_attn=True),
        [(3, 2, 4), (5, 2, 3), (5, 2, 5)],
    ),
    "encoder layer": (lambda nn: nn.TransformerEncoderLayer(4, 2, 8, 0.0), [(3, 2, 4)]),
    "encoder layer norm_first": (
        lambda nn: nn.TransformerEncoderLayer(4, 2, 8, 0.0, "gelu", batch_first=True, norm_first=True), [(2, 3, 4)],
    ),
    "encoder": (
        lambda nn: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(4, 2, 8, 0.0), 2, nn.LayerNorm(4), enable_nested_tensor=False
        ),
        [(3, 2, 4)],
    ),
    "decoder layer": (lambda nn: nn.TransformerDecoderLayer(4, 2, 8, 0.0, "gelu"), [(3, 2, 4), (5, 2, 4)]),
    "decoder": (
        lambda nn: nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 8, 0.0, norm_first=True), 2, nn.LayerNorm(4)),
        [(3, 2, 4), (5, 2, 4)],
    ),
}  # fmt: skip


def exchange(ours, theirs, torch, seed=0):
    """Give PyTorch's module other values, both ways, by NumPy."""
    rng = np.random.default_rng(seed)
    state = {
        key: rng.uniform(0.5, 1.5, tuple(value.shape)).astype(value.numpy().dtype)
        for key, value in theirs.state_dict().items()
    }
    assert list(ours.state_dict()) == list(state)
    for key, value in ours.state_dict().items():
        assert tuple(value.shape) == state[key].shape
        assert value.dtype.name == state[key].dtype.name
    ours.load_state_dict({key: fg.tensor(value) for key, value in state.items()})
    back = {key: torch.tensor(value.numpy()) for key, value in ours.state_dict().items()}
    assert not theirs.load_state_dict(back).missing_keys


@pytest.mark.parametrize("name", RECENT)
def test_further_modules_are_pytorchs(name):
    torch = pytest.importorskip("torch")
    make, shapes = RECENT[name]
    ours, theirs = make(fg.nn), make(torch.nn)
    assert repr(ours) == repr(theirs)
    assert [(k, v.dtype.name) for k, v in ours.state_dict().items()] == [
        (k, str(v.dtype)[6:]) for k, v in theirs.state_dict().items()
    ]
    ours, theirs = ours.double(), theirs.double()
    exchange(ours, theirs, torch)
    rng = np.random.default_rng(1)
    for _ in range(2):  # twice: running statistics move
        arrays = [rng.uniform(-2, 2, shape) for shape in shapes]
        compare_calls(ours, theirs, torch, arrays, {})
    for (key, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12, atol=1e-12, err_msg=key)


def compare_calls(ours, theirs, torch, arrays, keywords):
    results, leaves = [], []
    for module, library in ((ours, fg), (theirs, torch)):
        inputs = [library.tensor(array, requires_grad=True) for array in arrays]
        given = {key: library.tensor(v) if isinstance(v, np.ndarray) else v for key, v in keywords.items()}
        module.zero_grad()
        out = module(*inputs, **given)
        out = out if isinstance(out, tuple) else (out,)
        sum((t * t * t).sum() for t in out if t is not None).backward()
        results.append(out)
        leaves.append([*(x.grad for x in inputs), *(p.grad for p in module.parameters())])
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert tuple(a.shape) == tuple(b.shape)
            np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-10, atol=1e-12)
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-13 * max(1e3, float(b.abs().max())))


MASKS = {
    "no weights": {"need_weights": False},
    "weights of heads": {"average_attn_weights": False},
    "mask": {"attn_mask": np.triu(np.ones((3, 5), bool), 3)},
    "float mask": {"attn_mask": np.random.default_rng(0).normal(size=(3, 5))},
    "mask of heads": {"attn_mask": np.random.default_rng(0).uniform(size=(4, 3, 5)) > 0.7},
    "padding": {"key_padding_mask": np.array([[False] * 4 + [True], [False] * 3 + [True] * 2])},
    "both": {
        "key_padding_mask": np.array([[False] * 4 + [True], [False] * 5]), "need_weights": False,
        "attn_mask": np.triu(np.ones((3, 5), bool), 3),
    },
    "causal": {"attn_mask": np.triu(np.ones((3, 5), bool), 1), "is_causal": True},
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("extra", [False, True])
def test_masks_of_attention_are_pytorchs(name, extra):
    torch = pytest.importorskip("torch")
    if extra and MASKS[name].get("is_causal"):
        pytest.skip("PyTorch refuses it")
    keywords = {"add_bias_kv": extra, "add_zero_attn": extra}
    ours, theirs = fg.nn.MultiheadAttention(4, 2, **keywords), torch.nn.MultiheadAttention(4, 2, **keywords)
    ours, theirs = ours.double(), theirs.double()
    exchange(ours, theirs, torch)
    rng = np.random.default_rng(1)
    arrays = [rng.uniform(-1, 1, shape) for shape in [(3, 2, 4), (5, 2, 4), (5, 2, 4)]]
    compare_calls(ours, theirs, torch, arrays, MASKS[name])


BAD_CALLS = [
    lambda nn, t: nn.BatchNorm1d(3)(t.ones(1, 3)),
    lambda nn, t: nn.BatchNorm1d(3)(t.ones(3)),
    lambda nn, t: nn.BatchNorm1d(3)(t.ones(2, 4)),
    lambda nn, t: nn.InstanceNorm1d(3)(t.ones(2, 3, 1)),
    lambda nn, t: nn.GroupNorm(4, 6),
    lambda nn, t: nn.GroupNorm(2, 6)(t.ones(2, 5)),
    lambda nn, t: nn.RMSNorm(4)(t.ones(2, 3)),
    lambda nn, t: nn.Bilinear(0, 2, 1),
    lambda nn, t: nn.Bilinear(2, 2, 1)(t.ones(2, 2), t.ones(3, 2)),
    lambda nn, t: nn.Unflatten(1, 3),
    lambda nn, t: nn.Unflatten(1, (2, 2))(t.ones(2, 6)),
    lambda nn, t: nn.MultiheadAttention(4, 3),
    lambda nn, t: nn.MultiheadAttention(4, 0),
    lambda nn, t: nn.MultiheadAttention(4, 2)(t.ones(3), t.ones(3), t.ones(3)),
    lambda nn, t: nn.MultiheadAttention(4, 2)(t.ones(2, 3), t.ones(2, 3), t.ones(2, 3)),
    lambda nn, t: nn.MultiheadAttention(4, 2)(*[t.ones(2, 4)] * 3, attn_mask=t.ones(3, 3)),
    lambda nn, t: nn.MultiheadAttention(4, 2)(*[t.ones(2, 4)] * 3, is_causal=True),
    lambda nn, t: nn.ParameterList([t.ones(1)])[1],
    lambda nn, t: nn.ParameterList()(),
    lambda nn, t: nn.ParameterList(t.ones(2)).extend(3),
    lambda nn, t: nn.ParameterDict()["a"],
    lambda nn, t: nn.ParameterDict({3: t.ones(1)}),
    lambda nn, t: nn.init.sparse_(t.ones(2), 0.1),
]


@pytest.mark.parametrize("number", range(len(BAD_CALLS)))
def test_further_modules_raise_what_pytorch_raises(number):
    torch = pytest.importorskip("torch")
    kinds = []
    for library in (torch, fg):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            BAD_CALLS[number](library.nn, library)
        kinds.append(caught.type)
    assert kinds[0] is kinds[1]


def use_parameters(nn, t):
    values = nn.ParameterList([t.ones(2), nn.Parameter(t.zeros(1, 3))])
    values.append(t.ones(4))
    values += [t.ones(5)]
    values[1] = t.ones(2, 2)
    named = nn.ParameterDict({"a": t.ones(2), "b": nn.Parameter(t.zeros(1, 3))})
    named["c"] = t.ones(3)
    named.update({"d": t.ones(1)})
    popped = named.pop("a")
    more = named | {"e": t.ones(6)}
    more.setdefault("f", t.ones(7))
    return [
        list(values.state_dict()), list(named.state_dict()), list(more), len(values), len(named), "b" in named,
        tuple(popped.shape), [type(p).__name__ for p in values], [tuple(p.shape) for p in values[1:]],
        tuple(values[-1].shape), list(named.keys()), named.get("q"), len(list(values.parameters())), more.popitem()[0],
    ]  # fmt: skip


def test_lists_and_dicts_of_parameters_are_pytorchs():
    torch = pytest.importorskip("torch")
    assert use_parameters(fg.nn, fg) == use_parameters(torch.nn, torch)
    assert repr(fg.nn.ParameterList([fg.ones(2, 3), fg.ones(1)])) == (
        "ParameterList(\n    (0): Parameter containing: [fastgrad.float32 of size 2x3]\n"
        "    (1): Parameter containing: [fastgrad.float32 of size 1]\n)"
    )


def test_truncated_and_sparse_starts():
    w = fg.nn.init.trunc_normal_(fg.empty(200, 50), 0.5, 2.0, -1.0, 1.5)
    assert -1 <= w.min().item() < -0.9
    assert 1.4 < w.max().item() <= 1.5
    fg.manual_seed(0)
    w = fg.nn.init.sparse_(fg.empty(10, 400), 0.25)
    assert ((w == 0).sum(0) == 3).all()
    assert abs(w[w != 0].std().item() - 0.01) < 0.001
    with pytest.warns(UserWarning, match="more than 2 std"):
        fg.nn.init.trunc_normal_(fg.empty(3), 9.0)


@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0, float("inf")])
def test_total_norms_are_pytorchs(norm):
    torch = pytest.importorskip("torch")
    arrays = [np.random.default_rng(i).normal(size=shape).astype(np.float32) for i, shape in enumerate([(3, 4), (5,)])]
    totals = [library.nn.utils.get_total_norm([library.tensor(a) for a in arrays], norm) for library in (fg, torch)]
    np.testing.assert_allclose(totals[0].item(), totals[1].item(), rtol=1e-5)
    w = fg.ones(2, requires_grad=True)
    (w * float("inf")).sum().backward()
    with pytest.raises(RuntimeError, match="non-finite"):
        fg.nn.utils.clip_grad_norm_([w], 1.0, norm, error_if_nonfinite=True)
    assert fg.nn.utils.clip_grad_norm_(iter([w]), 1.0, norm).item() == float("inf")


def test_batch_norm_and_an_encoder_captured():
    histories = []
    for wrap in (fg.capture, lambda function: function):
        fg.manual_seed(0)
        net = fg.nn.Sequential(
            fg.nn.Linear(4, 6), fg.nn.BatchNorm1d(6, momentum=None), fg.nn.ReLU(), fg.nn.Unflatten(1, (3, 2)),
            fg.nn.TransformerEncoderLayer(2, 1, 4, 0.0, batch_first=True), fg.nn.Flatten(), fg.nn.Linear(6, 1),
        )  # fmt: skip
        optimizer = fg.optim.SGD(net.parameters(), lr=0.01)

        def step(x, net=net, optimizer=optimizer):
            loss = (net(x) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        run = wrap(step)
        rng = np.random.default_rng(0)
        losses = [run(rng.uniform(-1, 1, (5, 4)).astype(np.float32)).item() for _ in range(4)]
        histories.append([losses, net[1].running_var.tolist(), net[1].num_batches_tracked.item()])
    assert histories[0] == histories[1]


CAPTURED = {
    "batch norm": lambda nn: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)),
    "mean of all batches": lambda nn: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=None), nn.Linear(8, 2)),
    "groups": lambda nn: nn.Sequential(nn.Linear(4, 8), nn.GroupNorm(2, 8), nn.Mish(), nn.RMSNorm(8), nn.Linear(8, 2)),
    "random": lambda nn: nn.Sequential(nn.Linear(4, 8), nn.SELU(), nn.AlphaDropout(0.2), nn.Linear(8, 2), nn.RReLU()),
    "gates": lambda nn: nn.Sequential(nn.Linear(4, 8), nn.GLU(), nn.Hardswish(), nn.PReLU(), nn.Linear(4, 2)),
}


@pytest.mark.parametrize("optimizer", ["Adam", "RMSprop"])
@pytest.mark.parametrize("name", CAPTURED)
def test_captured_steps_have_the_same_bits(name, optimizer):
    """Running statistics, counts of batches and random numbers too."""
    found = []
    for wrap in (lambda function: function, fg.capture):
        fg.manual_seed(0)
        model = CAPTURED[name](fg.nn)
        update = getattr(fg.optim, optimizer)(model.parameters(), lr=0.01)

        def step(x, y, model=model, update=update):
            loss = ((model(x) - y) ** 2).mean()
            update.zero_grad()
            loss.backward()
            update.step()
            return loss

        function = wrap(step)
        losses = []
        for i in range(6):
            rng = np.random.default_rng(i)
            x, y = (fg.tensor(rng.normal(size=(8, n)).astype(np.float32)) for n in (4, 2))
            losses.append(function(x, y).item())
        found.append((losses, {key: value.numpy().tobytes() for key, value in model.state_dict().items()}))
    assert found[0] == found[1]
    assert function.program.replays >= 3


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_a_transformer_with_masks_is_pytorchs(norm_first):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    source, target = rng.uniform(-1, 1, (5, 2, 4)), rng.uniform(-1, 1, (3, 2, 4))
    hidden = np.zeros((2, 5), bool)
    hidden[1, 3:] = True
    ours, theirs = (lib.nn.Transformer(4, 2, 1, 1, 8, 0.0, norm_first=norm_first) for lib in (fg, torch))
    exchange(ours, theirs, torch)
    found = []
    for library, module in ((fg, ours.double()), (torch, theirs.double())):
        mask = library.nn.Transformer.generate_square_subsequent_mask(3)
        out = module(
            library.tensor(source), library.tensor(target), tgt_mask=mask.double(),
            src_key_padding_mask=library.tensor(hidden), memory_key_padding_mask=library.tensor(hidden),
        )  # fmt: skip
        (out * out).sum().backward()
        found.append((mask.numpy(), out.detach().numpy(), *(p.grad.numpy() for p in module.parameters())))
    assert repr(ours) == repr(theirs)
    for got, want in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_channels_are_dropped_whole(n):
    fg.manual_seed(0)
    shape = (40, 50, *[3] * n)
    layer = getattr(fg.nn, f"Dropout{n}d")(0.25)
    x = fg.ones(*shape, requires_grad=True)
    out = layer(x)
    channels = out.detach().numpy().reshape(2000, -1)
    assert (channels == channels[:, :1]).all()
    assert set(np.unique(channels)) == {0.0, np.float32(1 / 0.75)}
    assert abs((channels[:, 0] == 0).mean() - 0.25) < 0.05
    out.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), out.detach().numpy())
    assert layer(x[0]).shape == shape[1:]
    assert layer.eval()(x) is x
    with pytest.raises(RuntimeError):
        layer.train()(fg.ones(3))


@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
def test_embedding_bag_is_pytorchs(mode):
    torch = pytest.importorskip("torch")
    ours, theirs = (lib.nn.EmbeddingBag(5, 3, mode=mode, padding_idx=2) for lib in (fg, torch))
    assert repr(ours) == repr(theirs)
    exchange(ours, theirs, torch)
    found = []
    for library, module in ((fg, ours), (torch, theirs)):
        rows = library.tensor([[0, 1, 2], [4, 2, 4], [2, 2, 2]])
        outputs = [module(rows), module(rows.reshape(-1), library.tensor([0, 0, 4]))]
        sum((out * out).sum() for out in outputs).backward()
        found.append([*(out.detach().numpy() for out in outputs), module.weight.grad.numpy()])
    for got, want in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)
