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
    with pytest.raises(RuntimeError, match="running_mean and running_var to be defined"):
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


@pytest.mark.parametrize("boolean", [False, True])
def test_attention_with_a_mask_is_pytorchs(boolean):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    q, k, v = (rng.uniform(-1, 1, (2, 2, n, 4)) for n in (3, 5, 5))
    mask = rng.uniform(-1, 1, (3, 5))
    mask = mask > -0.5 if boolean else mask
    got = fg.nn.functional.scaled_dot_product_attention(*map(fg.tensor, (q, k, v, mask)))
    want = torch.nn.functional.scaled_dot_product_attention(*map(torch.tensor, (q, k, v, mask)))
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-12)


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
