"""Hooks of optimisers, parameter names, and other odd arguments, side by side with PyTorch's."""

from __future__ import annotations

import copy

import pytest

import fastgrad as fg

NAMES = ["SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta"]


def made(library, name="Adam", n=2):
    params = [library.ones(2, requires_grad=True) for _ in range(n)]
    for param in params:
        param.grad = library.ones(2)
    return params, getattr(library.optim, name)(params, lr=0.1)


def libraries():
    return [fg, pytest.importorskip("torch")]


def test_step_hooks():
    logs = []
    for library in libraries():
        log = []
        _, optimizer = made(library)
        first = optimizer.register_step_pre_hook(lambda o, args, kwargs, log=log: log.append(("a", len(args), kwargs)))
        optimizer.register_step_post_hook(lambda o, args, kwargs, log=log: log.append(("b", len(args), kwargs)))

        def closure(log=log):
            log.append("closure")
            return 5

        assert optimizer.step() is None
        assert optimizer.step(closure) == 5
        assert optimizer.step(closure=closure) == 5
        first.remove()
        optimizer.step()
        other = optimizer.register_step_pre_hook(lambda o, args, kwargs, c=closure: ((o, c), {}))
        assert optimizer.step() == 5
        other.remove()
        optimizer.register_step_pre_hook(lambda o, args, kwargs: 3)
        with pytest.raises(RuntimeError, match="must return None or a tuple"):
            optimizer.step()
        logs.append([(e[0], e[1], sorted(e[2])) if isinstance(e, tuple) else e for e in log])
    assert logs[0] == logs[1]


def test_hooks_of_state_dicts():
    logs = []
    for library in libraries():
        log = []
        _, optimizer = made(library)
        optimizer.step()
        optimizer.register_state_dict_pre_hook(lambda o, log=log: log.append("pre"))
        optimizer.register_state_dict_pre_hook(lambda o, log=log: log.append("first"), prepend=True)
        optimizer.register_state_dict_post_hook(lambda o, d, log=log: log.append(sorted(d)))
        handle = optimizer.register_state_dict_post_hook(lambda o, d: {**d, "more": 1})
        saved = optimizer.state_dict()
        log.append(sorted(saved))
        handle.remove()
        optimizer.register_load_state_dict_pre_hook(lambda o, d, log=log: log.append(sorted(d)))
        optimizer.register_load_state_dict_post_hook(lambda o, log=log: log.append("loaded"))
        optimizer.load_state_dict(saved)
        log.append(sorted(optimizer.state_dict()))
        logs.append(log)
    assert logs[0] == logs[1]


def test_a_captured_step_refuses_hooks():
    _, optimizer = made(fg)
    optimizer.step()
    handle = optimizer.register_step_post_hook(lambda o, args, kwargs: None)
    with pytest.raises(fg.CaptureError, match="hooks"):
        fg.capture(lambda: optimizer.step())()
    handle.remove()
    step = fg.capture(lambda: optimizer.step())
    step()
    step()


def test_copies_have_no_hooks():
    _, optimizer = made(fg)
    optimizer.register_step_post_hook(lambda o, args, kwargs: 1 / 0)
    copy.deepcopy(optimizer).step()


def test_names():
    for library in libraries():
        w, b, c = (library.ones(1, requires_grad=True) for _ in range(3))
        optimizer = library.optim.Adam([("w", w), ("b", b)])
        assert optimizer.param_groups[0]["param_names"] == ["w", "b"]
        with pytest.raises(ValueError, match="with/without names"):
            optimizer.add_param_group({"params": [c]})
        with pytest.raises(ValueError, match="with/without names"):
            library.optim.SGD([("w", w), c])
        with pytest.raises(ValueError, match="with/without names"):
            library.optim.SGD([{"params": [w]}, {"params": [("c", c)]}])
        plain = library.optim.Adam([w, b]).state_dict()
        optimizer.load_state_dict(plain)
        assert optimizer.param_groups[0]["param_names"] == ["w", "b"]


@pytest.mark.parametrize("name", NAMES)
def test_keywords_and_arguments(name):
    for library in libraries():
        cls = getattr(library.optim, name)
        w = library.ones(2, requires_grad=True)
        for keywords in ({"foreach": True}, {"foreach": False}, {"maximize": True}):
            assert cls([w], **keywords).param_groups[0][next(iter(keywords))] is next(iter(keywords.values()))
        with pytest.raises(ValueError, match="empty parameter list"):
            cls([])
        with pytest.raises(ValueError, match="more than one parameter group"):
            cls([{"params": [w]}, {"params": [w]}])
        with pytest.warns(UserWarning, match="parameter"):
            cls([w, w])
        with pytest.raises(TypeError):
            cls(w)
        with pytest.raises(TypeError):
            cls([1.0])
        with pytest.raises(TypeError):
            cls([{"params": {w}}])
        with pytest.raises(ValueError, match="non-leaf"):
            cls([w * 2])
        with pytest.raises(ValueError, match="Tensor lr must be 1-element"):
            cls([w], lr=library.ones(2))
        optimizer = cls([w])
        with pytest.raises(TypeError):
            optimizer.add_param_group([w])
        optimizer.add_param_group({"params": library.ones(1, requires_grad=True), "lr": 0.5})
        assert [group["lr"] for group in optimizer.param_groups][1] == 0.5
        w.grad = library.ones(2)
        optimizer.zero_grad(set_to_none=False)
        assert w.grad.tolist() == [0, 0]
        optimizer.zero_grad()
        assert w.grad is None
        assert optimizer.step(lambda: 3) == 3
