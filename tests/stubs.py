"""The methods of Tensor that declarations bind: `python tests/stubs.py` writes them into the stub."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from types import FunctionType
from typing import Any

from fastgrad.dispatch import InplaceForm, Primitive, Spelled
from fastgrad.tensor import Tensor

STUB = Path(__file__).parent.parent / "fastgrad" / "tensor.pyi"
BEGIN = "    # Written by `python tests/stubs.py` from the declarations, from here to the end of the class.\n"
END = "    # The end of what is written by it.\n"

# What several signatures say better than the declaration's one.
OVERLOADS = {
    "max": ["(x, dim: Tensor | None = None) -> Tensor", "(x, dim: _int, keepdim: _bool = False) -> return_types.max"],
    "min": ["(x, dim: Tensor | None = None) -> Tensor", "(x, dim: _int, keepdim: _bool = False) -> return_types.min"],
    "median": ["(x, dim: None = None, keepdim: _bool = False) -> Tensor",
               "(x, dim: _int, keepdim: _bool = False) -> return_types.median"],
    "nonzero": ["(x, as_tuple: Literal[False] = False) -> Tensor",
                "(x, as_tuple: Literal[True]) -> tuple[Tensor, ...]"],
    "type": ["(x, dtype: None = None) -> str", "(x, dtype: _DType) -> Tensor"],
}  # fmt: skip

# Members of Tensor hide these names within the class, and the stub gives them others.
NAMES = {name: f"_{name}" for name in ("int", "float", "bool", "dtype", "device")}
NAMES |= {"Dim": "_Dim", "ndarray": "NDArray[Any]"}
SHAPE = "int | Sequence[int]"
ELEMENTWISE = ("unary", "binary", "ternary", "comparison")


def typed(text: str) -> str:
    """An annotation, as the class's body must spell it."""
    text = text.replace(SHAPE + " | None", "Dim")
    text = text.replace("np.ndarray", "ndarray")
    return re.sub(r"(?<![\w.])(\w+)\b", lambda found: NAMES.get(found[1], found[1]), text)


def signature(name: str, target: Any) -> str:
    """Parameters and result of a method, from its declaration."""
    if isinstance(target, InplaceForm):
        return inplace(target)
    found = inspect.signature(target)
    elementwise = isinstance(target, Primitive) and target.kind in ELEMENTWISE
    parts = []
    for i, (own, param) in enumerate(found.parameters.items()):
        text = param.annotation
        if i and elementwise and text == "Tensor":
            text = "_Operand"
        elif i and isinstance(target, Primitive) and target.kind == "matmul":
            text = "Tensor | NDArray[Any]"
        elif own == "dtype" and text == "Any":
            text = "_DType | None"
        # the first is the tensor itself
        parts.append(param.replace(annotation=inspect.Parameter.empty if not i else text))
    result = found.return_annotation
    if name.endswith("_") and not name.startswith("__"):
        result = "Self"
    return written(parts + extra(target, found), result)


def extra(target: Any, found: inspect.Signature) -> list[inspect.Parameter]:
    """Keywords that an op takes without naming them."""
    more = {}
    if isinstance(target, Primitive):
        if target.kind == "reduction":
            more = {"axis": ("Dim", None), "keepdims": ("bool", False)}
        if target.takes_alpha:
            more["alpha"] = ("float", 1)
        if target.otherwise is not None:
            for name, param in inspect.signature(target.otherwise).parameters.items():
                if name not in found.parameters and param.default is not param.empty:
                    more[name] = ("_DType | None" if name == "dtype" else param.annotation, param.default)
    return [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=text, default=default)
            for name, (text, default) in more.items()]  # fmt: skip


def inplace(target: InplaceForm) -> str:
    """Of an elementwise op's form in place: the first argument is changed."""
    op = target.op
    params = list(inspect.signature(op).parameters)[1:]
    text = "self" + "".join(f", {name}: _Operand" for name in params) + (", /" if params else "")
    return f"({text}{', *, alpha: _float | None = None' if op.takes_alpha else ''}) -> Self"


def written(parts: list[inspect.Parameter], result: str) -> str:
    """A signature in the stub's words."""
    texts, star = [], False
    for param in parts:
        if param.kind is param.KEYWORD_ONLY and not star:
            texts.append("*")
        star = star or param.kind in (param.KEYWORD_ONLY, param.VAR_POSITIONAL)
        text = {param.VAR_POSITIONAL: "*", param.VAR_KEYWORD: "**"}.get(param.kind, "") + param.name
        if param.annotation is not param.empty:
            text += f": {typed(param.annotation)}"
        if param.default is not param.empty:
            text += (" = " if param.annotation is not param.empty else "=") + repr(param.default)
        texts.append(text)
    return f"({', '.join(texts)}) -> {typed(result)}"


def line(name: str, text: str) -> str:
    """The definition, in lines that are not too long."""
    whole = f"    def {name}{text}: ...\n"
    if len(whole) <= 121:
        return whole
    inner, result = text[1:].rsplit(") -> ", 1)
    rows = textwrap.wrap(inner, 110, initial_indent=" " * 8, subsequent_indent=" " * 8, break_long_words=False)
    return f"    def {name}(\n" + "\n".join(rows) + f"\n    ) -> {result}: ...\n"


def block() -> str:
    """All that declarations bind, by name."""
    out = [BEGIN]
    for name, target in sorted(vars(Tensor).items()):
        if name.startswith("__"):
            continue
        if isinstance(target, property):
            out.append("    @property\n")
            out.append(line(name, f"(self) -> {typed(inspect.signature(target.fget).return_annotation)}"))
        elif name in OVERLOADS:
            for text in OVERLOADS[name]:
                out.append("    @overload\n")
                out.append(line(name, text))
        elif isinstance(target, Primitive | InplaceForm | Spelled | FunctionType):
            out.append(line(name, signature(name, target)))
    return "".join([*out, END])


def stub() -> str:
    """The stub with the block as it should be."""
    text = STUB.read_text(encoding="utf-8")
    return text[: text.index(BEGIN)] + block() + text[text.index(END) + len(END) :]


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")
