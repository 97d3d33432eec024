"""The reference page, from the declarations and docstrings: `python tests/reference.py > docs/reference.md`."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import fastgrad

# Title, module, what is shown: functions and classes that the module exports
SECTIONS = [
    ("Functions of tensors", "fastgrad"),
    ("Linear algebra: `fastgrad.linalg`", "fastgrad.linalg"),
    ("Gradients: `fastgrad.autograd`", "fastgrad.autograd"),
    ("The graph: `fastgrad.autograd.graph`", "fastgrad.autograd.graph"),
    ("Derivatives of functions: `fastgrad.func`", "fastgrad.func"),
    ("Derivatives of functions: `fastgrad.autograd.functional`", "fastgrad.autograd.functional"),
    ("Functions of networks: `fastgrad.nn.functional`", "fastgrad.nn.functional"),
    ("Modules: `fastgrad.nn`", "fastgrad.nn"),
    ("Initial values: `fastgrad.nn.init`", "fastgrad.nn.init"),
    ("`fastgrad.nn.utils`", "fastgrad.nn.utils"),
    ("`fastgrad.nn.utils.rnn`", "fastgrad.nn.utils.rnn"),
    ("Optimisers: `fastgrad.optim`", "fastgrad.optim"),
    ("Learning rates: `fastgrad.optim.lr_scheduler`", "fastgrad.optim.lr_scheduler"),
    ("Averages of parameters: `fastgrad.optim.swa_utils`", "fastgrad.optim.swa_utils"),
    ("Data: `fastgrad.utils.data`", "fastgrad.utils.data"),
    ("Checkpoints: `fastgrad.utils.checkpoint`", "fastgrad.utils.checkpoint"),
    ("Distributions: `fastgrad.distributions`", "fastgrad.distributions"),
    ("Memory: `fastgrad.memory`", "fastgrad.memory"),
]

HEAD = """\
# Reference

Written by `python tests/reference.py > docs/reference.md` from the declarations. Names and meanings are PyTorch's;
where one differs, [coverage.md](coverage.md) says how. `x` and `input` name the same parameter. (method) stands where
Tensor has a method of the name, and `name_` where there is a form in place; functions of tensors take `out=`.
"""


def signature(thing: Any) -> str:
    try:
        found = inspect.signature(thing)
    except (ValueError, TypeError):
        return "(...)"
    parts = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
    text = str(found.replace(parameters=parts, return_annotation=inspect.Signature.empty))
    text = re.sub(r"<(?:function|class|built-in function|cyfunction) '?([\w.]+)'?[^>]*>", r"\1", text)
    return re.sub(r"\bat 0x[0-9a-f]+", "", text)


def text_of(thing: Any) -> str:
    """The docstring without examples, in one paragraph."""
    lines = (inspect.getdoc(thing) or "").split("\n>>>")[0]
    return " ".join(lines.split())


def public(module: str) -> dict[str, Any]:
    """What a module exports, of functions and classes, by name."""
    space = importlib.import_module(module)
    names = getattr(space, "__all__", None) or [name for name in dir(space) if not name.startswith("_")]
    found = {}
    for name in sorted(set(names), key=lambda name: (name.lower(), name)):
        thing = getattr(space, name)
        if inspect.ismodule(thing) or not callable(thing):
            continue
        if str(getattr(thing, "__module__", "fastgrad")).split(".")[0] == "fastgrad":
            found[name] = thing
    return found


def entry(name: str, thing: Any, top: bool) -> str:
    notes = []
    if top and not inspect.isclass(thing) and hasattr(fastgrad.Tensor, name):
        notes.append("method")
    if top and hasattr(fastgrad.Tensor, name + "_"):
        notes.append(f"`{name}_`")
    tail = f" ({', '.join(notes)})" if notes else ""
    return f"- **`{name}{signature(thing)}`**{tail}: {text_of(thing)}"


def page() -> str:
    lines = [*HEAD.splitlines(), ""]
    for title, module in SECTIONS:
        lines += [f"## {title}", ""]
        lines += [entry(name, thing, module == "fastgrad") for name, thing in public(module).items()]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    print(page(), end="")
