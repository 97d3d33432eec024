"""Lines as people write them around tensors, modules and optimisers: run with PyTorch's names bound to either library.

What they print must be the same text. The names of autograd's nodes are left out.
"""

import contextlib
import copy
import io
import math
import pickle
import re

import numpy as np
import pytest

import fastgrad
from fastgrad import nn
from fastgrad.nn import functional
from fastgrad.nn.utils import rnn
from fastgrad.utils import data as loaders

torch = pytest.importorskip("torch")
data = pytest.importorskip("torch.utils.data")

TEXT = r'''
x = torch.tensor([[1., 2.], [3., 4.]]); print(x, x.shape, x.dtype, x.device, x.size(), x.size(0), x.dim(), x.numel())
---
for x in ([1e-5, 1.0, 1e6], [math.nan, math.inf, 1.0], [1e10, 1.0], [0.1, 100.25], [1e38, -1e-38], [123456789.], [0.]):
    print(torch.tensor(x), torch.tensor(x, dtype=torch.float64))
---
print(torch.arange(2000.), torch.zeros(100, 100), torch.arange(1000).reshape(10, 10, 10), torch.arange(60.) / 7)
print(torch.tensor([]), torch.zeros(0, 3), torch.zeros(2, 0, dtype=torch.int32), torch.zeros(2, 1, 2, 1))
---
torch.set_printoptions(precision=2)
print(torch.tensor([1.23456, 2.0]))
torch.set_printoptions(sci_mode=False)
print(torch.tensor([1.23456e-5, 2000.0]))
torch.set_printoptions(threshold=5, edgeitems=2, linewidth=40)
print(torch.arange(100.), torch.ones(9, 9))
torch.set_printoptions(profile="full")
print(torch.arange(1500))
torch.set_printoptions(profile="short", sci_mode=True)
print(torch.tensor([1.5, 2000.0]), torch.tensor([0.0]))
torch.set_printoptions(profile="default")
print(torch.tensor([1.5, 2000.0]))
---
print(torch.get_default_dtype())
torch.set_default_dtype(torch.float64)
print(torch.tensor([1.0]), torch.ones(2), torch.ones(2, dtype=torch.float32), torch.finfo().bits)
torch.set_default_dtype(torch.float32)
---
loss = torch.tensor(1.23456789)
print(f"{loss:.4f} {loss.item():.3f} {loss} {torch.tensor(3):>5}| {torch.tensor([1.])} {nn.Parameter(loss)} {loss!r}")
print("%.2f" % loss, "{:.3f}".format(loss), "{}".format(loss), str(loss))
---
print("{:.4f}".format(torch.tensor([2.5])))
---
s = torch.zeros(2, 3, 4).shape
print(s, s[1:], s[-1], s[:-1] + (5,), (5,) + s, s * 2, s[1:].numel(), s == (2, 3, 4), [*s], hash(s) == hash((2, 3, 4)))
print(type(s[1:]).__name__, torch.zeros(2, 3).view((-1,) + s[1:2]).shape, torch.Size([2, 3]) + torch.Size([1]))
---
torch.zeros(2).shape + [1]
---
print(torch.float32, repr(torch.int64), torch.double, torch.bool, torch.long, torch.float32.is_floating_point)
for d in (torch.float32, torch.float64):
    f = torch.finfo(d)
    print(f, f.bits, f.eps, f.max, f.min, f.tiny, f.smallest_normal, f.resolution, f.dtype)
for d in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
    i = torch.iinfo(d)
    print(i, i.bits, i.max, i.min, i.dtype)
print(torch.promote_types(torch.float32, torch.int64), torch.promote_types(torch.uint8, torch.int8))
---
torch.finfo(torch.int32)
---
torch.iinfo(torch.float32)
---
torch.iinfo(torch.bool)
---
print(torch.FloatTensor([1, 2]), torch.LongTensor([1, 2]), torch.BoolTensor([1, 0]), torch.DoubleTensor(2, 3).shape)
print(torch.LongTensor(np.array([1., 2.])), torch.FloatTensor(), torch.IntTensor([3]), torch.ByteTensor([1]))
print(torch.tensor([1]).type(), torch.tensor([True]).type(), torch.ones(1).type(), torch.ones(1).double().type())
---
torch.LongTensor(torch.ones(2))
---
print(torch.pi, torch.e, torch.inf, torch.nan, torch.newaxis, torch.ones(2)[:, torch.newaxis].shape)
---
print(torch.where(torch.tensor([0, 1, 2]) > 0), torch.where(torch.eye(2)), torch.where(torch.tensor(True), 1., 2.))
---
torch.where(torch.tensor([True]), torch.ones(1))
---
for mode in (None, "floor", "trunc"):
    for a in (torch.tensor([7, -7, 6, -1]), torch.tensor([7., -7., 6., -1.])):
        print(torch.div(a, torch.tensor([2, 2, -3, 4]), rounding_mode=mode), a.div(2, rounding_mode=mode))
---
torch.div(torch.ones(1), 2, rounding_mode="up")
---
device = torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
torch.cuda.manual_seed_all(0)
torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
print(device, device.type, device.index, torch.device(type="cpu") == device, torch.cuda.device_count())
print(torch.zeros(2, device=device), torch.ones(2).to(device, torch.float64), torch.arange(2, device="cpu").device)
print(torch.rand_like(torch.ones(2), dtype=torch.float64, device=device).dtype, torch.randn(1, device=device).is_cuda)
print(torch.ones(1).get_device(), torch.ones(1).is_sparse, torch.ones(1).is_complex(), torch.accelerator.is_available())
---
torch.use_deterministic_algorithms(True)
print(torch.are_deterministic_algorithms_enabled())
torch.use_deterministic_algorithms(False)
torch.set_float32_matmul_precision("high")
print(torch.get_float32_matmul_precision())
torch.set_float32_matmul_precision("highest")
torch.backends.cuda.matmul.allow_tf32 = False
print(torch.special.expit(torch.zeros(1)), torch.special.gammaln(torch.ones(1)), torch.special.erf(torch.ones(2)))
---
x = torch.arange(6.).reshape(2, 3)
print(x.max(axis=1)[0], x.std(axis=0, keepdims=True), x.argmax(axis=1), x.sort(axis=1)[0], torch.cat([x], axis=1))
print(torch.argmax(input=x, dim=1), torch.mm(input=x, mat2=x.T), torch.split(tensor=x, split_size_or_sections=1)[0])
print(torch.topk(input=x, k=1)[0], torch.flatten(input=x), torch.zeros_like(input=x), x[0].dot(tensor=x[1]))
print(x.flip(dims=[0]), x.permute(dims=(1, 0)), x.view(size=(3, 2)), x.reshape(shape=(3, 2)), x.ndimension())
print(torch.zeros(2, 3).copy_(x, non_blocking=True), torch.outer(input=x[0], vec2=x[1]))
---
x = torch.arange(6).reshape(2, 3)
print(x.sum(dtype=torch.float64), x.sum(axis=1, dtype=torch.float32, keepdims=True))
print(torch.mean(input=x, dim=0, dtype=torch.float64), x.mean(dtype=torch.float32))
print(torch.zeros(size=(2,)), torch.ones(size=[1, 2]), torch.rand(size=(2, 3)).shape, torch.randn(size=(2,)).shape)
print(torch.arange(end=3), torch.arange(start=1, end=3), torch.zeros(torch.tensor(2)), torch.arange(torch.tensor(3)))
---
torch.arange()
---
torch.zeros(2, size=(3,))
---
torch.ones(2).sum(foo=1)
---
torch.argmax(input=torch.ones(2), foo=1)
---
torch.ones(2).max(axis=0, dim=0)
---
torch.zeros(2).copy_(torch.ones(2), blocking=True)
---
print(nn.init._calculate_fan_in_and_fan_out(torch.ones(2, 3, 4)))
---
x = torch.tensor([1., 2.], requires_grad=True)
w = torch.tensor(3., requires_grad=True)
print(torch.autograd.grad((x * w).sum(), {"x": x, "w": w}), torch.autograd.grad((x * w).sum(), [x], only_inputs=True))
---
x = torch.autograd.Variable(torch.ones(2), requires_grad=True)
y = x * 2
print(x, isinstance(x, torch.autograd.Variable), isinstance(y, torch.autograd.Variable), torch.autograd.Variable(y))
---
torch.autograd.Variable([1.0])
---
torch.testing.assert_close(torch.ones(2), torch.ones(2) + 1e-7)
torch.testing.assert_close({"a": [1, 2.0, torch.tensor([1])]}, {"a": [1, 2.0, torch.tensor([1])]})
torch.testing.assert_close(torch.tensor([math.nan]), torch.tensor([math.nan]), equal_nan=True)
torch.testing.assert_close(torch.ones(2), torch.ones(2).double(), check_dtype=False, rtol=0.0, atol=1.0)
torch.testing.assert_close(torch.zeros(0), torch.zeros(0))
---
torch.testing.assert_close(torch.ones(2), torch.ones(3))
---
torch.testing.assert_close(torch.ones(2), torch.ones(2).double())
---
torch.testing.assert_close([torch.ones(2)], [torch.ones(2) * 2])
---
torch.testing.assert_close(torch.tensor([1, 2]), torch.tensor([1, 3]))
---
torch.testing.assert_close(torch.tensor([math.nan]), torch.tensor([math.nan]))
---
torch.testing.assert_close(1.0, 1.1)
---
torch.testing.assert_close([1], [1, 2])
---
torch.testing.assert_close({"a": 1}, {"b": 1})
---
torch.testing.assert_close(torch.ones(2), np.ones(2))
---
torch.testing.assert_close(torch.ones(2), torch.ones(2), rtol=1.0)
---
m = nn.Linear(2, 1)
optimizer = torch.optim.Adam(m.parameters())
m(torch.ones(1, 2)).sum().backward()
optimizer.step()
file = io.BytesIO()
torch.save({"epoch": 3, "model": m.state_dict(), "optimizer": optimizer.state_dict(), "shape": m.weight.shape}, file)
file.seek(0)
c = torch.load(file, map_location=torch.device("cpu"), weights_only=False)
n = nn.Linear(2, 1)
print(n.load_state_dict(c["model"]), torch.equal(m.weight, n.weight), c["epoch"], tuple(c["shape"]))
other = torch.optim.Adam(n.parameters())
other.load_state_dict(c["optimizer"])
print(other.state[n.bias]["step"].item())
---
m = nn.Embedding.from_pretrained(torch.arange(6.).view(3, 2))
print(m, m.weight, m(torch.tensor([2, 0])), nn.Embedding.from_pretrained(torch.ones(3, 1), freeze=False, padding_idx=1))
---
nn.Embedding.from_pretrained(torch.ones(3))
---
parts = [torch.ones(2), torch.ones(3), torch.ones(1)]
print(rnn.pad_sequence(parts), rnn.pad_sequence(parts, batch_first=True, padding_value=-1, padding_side="left"))
padded = rnn.pad_sequence([torch.ones(2, 2), torch.zeros(1, 2)], batch_first=True)
print(padded.shape, rnn.unpad_sequence(padded, torch.tensor([2, 1]), batch_first=True))
---
rnn.pad_sequence([torch.ones(2), torch.ones(3)], padding_side="top")
---
print(sorted(data.SubsetRandomSampler([5, 7, 9])), len(data.SubsetRandomSampler([5, 7])))
weighted = data.WeightedRandomSampler([0.0, 1.0, 3.0], 50)
drawn = list(weighted)
print(len(weighted), len(drawn), 0 in drawn, type(drawn[0]).__name__, drawn.count(2) > drawn.count(1))
print(sorted(data.WeightedRandomSampler([0.5, 1.0, 3.0], 3, replacement=False)))
loader = data.DataLoader(data.TensorDataset(torch.arange(3)), batch_size=10, sampler=weighted)
print([len(x) for x, in loader])
class Squares(data.Dataset[int]):
    def __len__(self): return 3
    def __getitem__(self, i): return i * i
print(list(data.DataLoader(Squares(), batch_size=2)))
---
data.WeightedRandomSampler([1.0], 0)
---
data.WeightedRandomSampler([[1.0]], 1)
---
data.WeightedRandomSampler([1.0], 1, replacement=1)
---
x = torch.zeros(3, 4); x[:, 1:3] = 1; x[0] = torch.arange(4.); x[x.sum(1) > 3] = 9
x[..., -1] *= 2; x[[0, 1], [0, 1]] = 0.5
print(x, x[x > 5], x[None].shape, [row.sum().item() for row in x], len(x), [float(v) for v in x[0]])
---
a, b = torch.tensor([1., 2.])
print(a, b, max(torch.tensor([1., 5., 2.])), sum(torch.tensor([1., 5.])), 2 in torch.tensor([1, 2]))
print(math.exp(a), int(torch.tensor([3])), "abc"[torch.tensor(1)], range(9)[torch.tensor(3)], [1] * torch.tensor(3))
print(sorted([torch.tensor(2.), torch.tensor(1.)]), list(reversed(torch.arange(3))))
---
x = torch.ones(3, requires_grad=True); y = x * 1.5
print(x, y, y.detach(), y.data, x.grad, copy.deepcopy(x), pickle.loads(pickle.dumps(torch.arange(3.))))
print(torch.ones(25, requires_grad=True) * 1.5, torch.ones(2, 2, dtype=torch.float64, requires_grad=True))
---
m = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Dropout(0.2), nn.LayerNorm(3), nn.Linear(3, 1), nn.Softmax(dim=-1))
print(m, m[-1], len(m), m[:2], m.eval().training, sum(p.numel() for p in m.parameters()), list(m.state_dict()))
print(nn.CrossEntropyLoss(), nn.Flatten(), nn.GELU(), nn.LeakyReLU(0.1), nn.Embedding(3, 2), nn.Identity())
print(nn.Embedding(4, 2, 1, 2.0, 1.0, True), nn.Embedding(4, 2, max_norm=1.0))
table = torch.arange(8.).reshape(4, 2); e = nn.Embedding.from_pretrained(table, freeze=False, max_norm=1.0)
print(e(torch.tensor([1, 3, 1])), e.weight, table, e.weight.requires_grad)
---
x = torch.tensor([[1., 5., 2.], [4., 3., 6.]]); values, indices = x.max(1)
print(x.max(0), x.sort(), x.min(1, keepdim=True), x.median(0), x.topk(2), x.kthvalue(1), x.cummax(0), x.aminmax())
print(values, indices, x.mode(), torch.linalg.slogdet(x[:, :2]), x.max(1).values, isinstance(x.max(1), tuple))
print(type(x.sort()).__name__, isinstance(x.sort(), torch.return_types.sort))
---
t = torch.tensor([1, 2, -9])
print(t << 2, 1 << t.abs(), t >> 1, 512 >> t.abs(), t << t.abs())
t <<= 3
t >>= torch.tensor(1)
print(t)
---
torch.ones(2) << 1
---
t = torch.arange(6.).reshape(1, 2, 3)
print(t.squeeze_(), t.t_().shape, t.unsqueeze_(0).stride(), t.transpose_(0, 2), t.swapaxes_(0, 1), t.is_contiguous())
---
p = torch.ones(1, requires_grad=True)
for make in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad):
    optimizer = make([p], lr=0.1)
    print(optimizer, optimizer.state_dict())
'''
SNIPPETS = [text.strip("\n") for text in TEXT.split("---\n")]


def printed(text, library, nn, F, rnn, data):
    """What it prints, or the built-in kind of what it raises."""
    names = {"torch": library, "nn": nn, "F": F, "rnn": rnn, "data": data, "np": np, "math": math, "copy": copy,
             "pickle": pickle, "io": io}  # fmt: skip
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            exec(compile(text, "<snippet>", "exec"), names)
        except Exception as error:
            print(next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"))
    return re.sub(r"grad_fn=<\w+>", "grad_fn", output.getvalue().replace("fastgrad.", "torch."))


@pytest.mark.parametrize("text", SNIPPETS, ids=[text.splitlines()[0][:60] for text in SNIPPETS])
def test_prints_as_with_pytorch(text):
    theirs = printed(text, torch, torch.nn, torch.nn.functional, torch.nn.utils.rnn, data)
    assert printed(text, fastgrad, nn, functional, rnn, loaders) == theirs
