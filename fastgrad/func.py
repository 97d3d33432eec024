"""Transformations of functions: gradients, products, Jacobians, and modules called with other parameters."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fastgrad import ops
from fastgrad.autograd import enable_grad
from fastgrad.autograd import grad as _grad
from fastgrad.autograd.graph import leaves_of
from fastgrad.tensor import Tensor

__all__ = ["functional_call", "grad", "grad_and_value", "hessian", "jacfwd", "jacrev", "jvp", "value_and_grad", "vjp"]


def _flatten(tree: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The leaves of nested tuples, lists and dicts, and what builds the same structure of others."""
    if isinstance(tree, dict):
        keys = list(tree)
        parts, rebuild = _flatten([tree[key] for key in keys])
        return parts, lambda leaves: type(tree)(zip(keys, rebuild(leaves), strict=True))
    if isinstance(tree, tuple | list):
        below = [_flatten(part) for part in tree]
        kind = type(tree)

        def build(leaves: list[Any]) -> Any:
            made, at = [], 0
            for parts, rebuild in below:
                made.append(rebuild(leaves[at:at + len(parts)]))
                at += len(parts)
            return kind(*made) if hasattr(tree, "_fields") else kind(made)

        return [leaf for parts, _ in below for leaf in parts], build
    return [tree], lambda leaves: leaves[0]


def _fresh(leaves: list[Any]) -> list[Any]:
    """Tensors to differentiate by, on the tape of the given ones if they are on one."""
    made = []
    for x in leaves:
        if not isinstance(x, Tensor):
            raise RuntimeError(f"expected a tensor to differentiate by, got {type(x).__name__}")
        made.append(x.view_as(x) if x.requires_grad else x.detach().requires_grad_())
    return made


def _selected(args: tuple[Any, ...], argnums: int | tuple[int, ...]) -> tuple[list[int], Any]:
    numbers = [argnums] if isinstance(argnums, int) else list(argnums)
    for n in numbers:
        if not -len(args) <= n < len(args):
            raise RuntimeError(f"Got argnum={n}, but only {len(args)} positional inputs")
    numbers = [n % len(args) for n in numbers]
    return numbers, args[numbers[0]] if isinstance(argnums, int) else tuple(args[n] for n in numbers)


def _replaced(args: tuple[Any, ...], numbers: list[int], argnums: Any, tree: Any) -> list[Any]:
    made = list(args)
    for n, part in zip(numbers, (tree,) if isinstance(argnums, int) else tree, strict=True):
        made[n] = part
    return made


def _outer(tensors: list[Any]) -> bool:
    """Do the given tensors stand on a tape, so that results must stay there?"""
    return any(isinstance(t, Tensor) and t.requires_grad for t in tensors)


def _finish(xs: list[Any]) -> None:
    """Tensors to differentiate by, after that: for a function around, they are no variables in what it finds."""
    for x in xs:
        if x.is_leaf:
            x.requires_grad_(False)


def _off(tree: Any) -> Any:
    leaves, rebuild = _flatten(tree)
    return rebuild([t.detach() if isinstance(t, Tensor) else t for t in leaves])


def _apart(result: Any, has_aux: bool) -> tuple[Any, Any]:
    if not has_aux:
        return result, None
    if not isinstance(result, tuple) or len(result) != 2:
        raise RuntimeError("with has_aux=True, the function must return a tuple (output, aux)")
    return result


def _called(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], argnums: int | tuple[int, ...],
            has_aux: bool) -> tuple[list[Any], Callable[[list[Any]], Any], Any, Any, bool]:
    """Call func with fresh tensors for the arguments `argnums`: they, what builds those arguments' structure of others,
    the result, aux, and whether an argument stands on a tape."""
    numbers, tree = _selected(args, argnums)
    leaves, rebuild = _flatten(tree)
    xs = _fresh(leaves)
    result, aux = _apart(func(*_replaced(args, numbers, argnums, rebuild(xs)), **kwargs), has_aux)
    return xs, rebuild, result, aux, _outer(_flatten([list(args), dict(kwargs)])[0])


def grad_and_value(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0,
                   has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the gradients of `func` and its value; (gradients, (value, aux)) with `has_aux`."""

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with enable_grad():
            xs, rebuild, out, aux, outer = _called(func, args, kwargs, argnums, has_aux)
            if not isinstance(out, Tensor):
                raise RuntimeError(f"Expected f(*args) to return a Tensor, got {type(out).__name__}")
            if out.ndim:
                raise RuntimeError(f"Expected f(*args) to return a scalar tensor, got tensor with {out.ndim} dims.")
            # Whatever the function uses may be on a tape: the result stays on it.
            found = _grad(out, xs, create_graph=True, materialize_grads=True) if out.requires_grad \
                else tuple(ops.zeros_like(x) for x in xs)
        gradients = rebuild(list(found))
        if not outer and not leaves_of([out], xs):
            gradients, out, aux = _off(gradients), out.detach(), _off(aux)
        _finish(xs)
        return gradients, ((out, aux) if has_aux else out)

    return wrapper


def value_and_grad(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0,
                   has_aux: bool = False) -> Callable[..., Any]:
    """As `grad_and_value`, with the value first: (value, gradients) or ((value, aux), gradients)."""
    both = grad_and_value(func, argnums, has_aux)

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        gradients, value = both(*args, **kwargs)
        return value, gradients

    return wrapper


def grad(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the gradients of `func`, whose value is a tensor without dimensions.

    By argument `argnums`, or several; arguments may be nested tuples, lists and dicts of tensors. With `has_aux`, func
    returns (value, aux), and the result is (gradients, aux). May be nested.

    >>> import fastgrad as fg
    >>> grad(grad(lambda x: x ** 3))(fg.tensor(2.0))
    tensor(12.)
    """
    both = grad_and_value(func, argnums, has_aux)

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        gradients, value = both(*args, **kwargs)
        return (gradients, value[1]) if has_aux else gradients

    return wrapper


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """func(*primals) and a function that takes v, of the output's structure, and returns v^T J, one per primal."""
    with enable_grad():
        leaves, rebuild = _flatten(primals)
        xs = _fresh(leaves)
        result, aux = _apart(func(*rebuild(xs)), has_aux)
        outs, rebuild_out = _flatten(result)
    tensors = [out for out in outs if isinstance(out, Tensor)]
    outer = _outer(leaves) or bool(leaves_of(tensors, xs))

    def pull(*cotangents: Any) -> Any:
        given = _flatten(cotangents[0] if len(cotangents) == 1 else cotangents)[0]
        if len(given) != len(outs):
            raise RuntimeError(f"expected {len(outs)} cotangents, one for each output, got {len(given)}")
        pairs = [(out, v) for out, v in zip(outs, given, strict=True) if out.requires_grad]
        on_tape = outer or _outer(given)
        found = _grad([out for out, _ in pairs], xs, [v for _, v in pairs], retain_graph=True, create_graph=on_tape,
                      materialize_grads=True) if pairs else tuple(ops.zeros_like(x) for x in xs)
        return rebuild(list(found))

    value = rebuild_out([out if outer else out.detach() for out in outs])
    return (value, pull, aux) if has_aux else (value, pull)


def _pushing(outs: list[Any], xs: list[Any]) -> tuple[list[Any], Callable[[list[Any]], list[Any]]]:
    """What multiplies the Jacobian by vectors, one for each of xs: the gradient of `outs` is linear in what comes in,
    `us`, and is itself differentiated by that."""
    us = [ops.zeros_like(out).requires_grad_() for out in outs]
    on_tape = [i for i, out in enumerate(outs) if out.requires_grad]
    first = _grad([outs[i] for i in on_tape], xs, [us[i] for i in on_tape], create_graph=True,
                  materialize_grads=True) if on_tape else ()

    def push(vectors: list[Any]) -> list[Any]:
        pairs = [(g, v) for g, v in zip(first, vectors, strict=False) if g is not None and g.requires_grad]
        if not pairs:
            return [ops.zeros_like(out) for out in outs]
        return list(_grad([g for g, _ in pairs], us, [v for _, v in pairs], create_graph=True, materialize_grads=True))

    return us, push


def jvp(func: Callable[..., Any], primals: Any, tangents: Any, *, strict: bool = False, has_aux: bool = False) -> Any:
    """func(*primals) and J v, by two passes backward. `tangents` has the structure of `primals`, a tuple."""
    if not isinstance(primals, tuple) or not isinstance(tangents, tuple) or len(primals) != len(tangents):
        raise RuntimeError("jvp expects primals and tangents to be tuples of one length")
    with enable_grad():
        leaves, rebuild = _flatten(primals)
        vectors = _flatten(tangents)[0]
        xs = _fresh(leaves)
        result, aux = _apart(func(*rebuild(xs)), has_aux)
        outs, rebuild_out = _flatten(result)
        us, push = _pushing(outs, xs)
        products = push(vectors)
    if not _outer(leaves) and not _outer(vectors) and not leaves_of(outs, xs):
        products, outs, aux = [p.detach() for p in products], [out.detach() for out in outs], _off(aux)
    _finish([*xs, *us])
    value = rebuild_out(outs), rebuild_out(products)
    return (*value, aux) if has_aux else value


_Found = tuple[list[list[Any]], list[Any]]


def _jacobian(func: Callable[..., Any], argnums: int | tuple[int, ...], has_aux: bool,
              found_by: Callable[[list[Any], list[Any], bool], _Found]) -> Callable[..., Any]:
    """`found_by(outs, xs, on_tape)` gives the blocks, a list for each output with one for each input, and the tensors
    that it differentiated by."""

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with enable_grad():
            xs, rebuild, result, aux, outer = _called(func, args, kwargs, argnums, has_aux)
            outs, rebuild_out = _flatten(result)
            outer = outer or bool(leaves_of(outs, xs))
            blocks, variables = found_by(outs, xs, outer)
        found = rebuild_out([rebuild(row) for row in blocks])
        if not outer:
            found, aux = _off(found), _off(aux)
        _finish(variables)
        return (found, aux) if has_aux else found

    return wrapper


def _block(parts: list[Any], dim: int, out: Any, x: Any) -> Any:
    """The derivatives of `out` by `x`, of one part for each element of one of them, along `dim`."""
    shape = (*out.shape, *x.shape)
    return ops.stack(parts, dim).reshape(shape) if parts else ops.zeros(shape, dtype=out.dtype)


def _by_rows(outs: list[Any], xs: list[Any], on_tape: bool) -> _Found:
    blocks = []
    for out in outs:
        flat = out.reshape(-1)
        rows: list[Any] = [
            _grad(flat[k], xs, retain_graph=True, create_graph=on_tape, materialize_grads=True)
            if out.requires_grad else tuple(ops.zeros_like(x) for x in xs) for k in range(out.numel())]
        blocks.append([_block([row[i] for row in rows], 0, out, x) for i, x in enumerate(xs)])
    return blocks, xs


def _by_columns(outs: list[Any], xs: list[Any], on_tape: bool) -> _Found:
    us, push = _pushing(outs, xs)
    columns = []
    for i, x in enumerate(xs):
        units = ops.eye(x.numel(), dtype=x.dtype)
        columns.append([push([units[k].reshape(x.shape) if j == i else ops.zeros_like(other)
                              for j, other in enumerate(xs)]) for k in range(x.numel())])
    blocks = [[_block([column[n] for column in columns[i]], -1, out, x) for i, x in enumerate(xs)]
              for n, out in enumerate(outs)]
    return blocks, [*xs, *us]


def jacrev(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False, *,
           chunk_size: int | None = None, _preallocate_and_copy: bool = False) -> Callable[..., Any]:
    """A function that returns the Jacobian: (*output.shape, *input.shape), in the structure of the outputs and then of
    the inputs. One pass backward per element of the outputs; `chunk_size` is accepted and changes nothing."""
    return _jacobian(func, argnums, has_aux, _by_rows)


def jacfwd(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False, *,
           randomness: str = "error") -> Callable[..., Any]:
    """As `jacrev`, with one pass per element of the inputs instead: for more outputs than inputs. `randomness` is
    accepted and changes nothing."""
    return _jacobian(func, argnums, has_aux, _by_columns)


def hessian(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """A function that returns the second derivatives of `func`: the Jacobian of its Jacobian."""
    return jacrev(jacrev(func, argnums), argnums)


def functional_call(module: Any, parameter_and_buffer_dicts: Any, args: Any = None, kwargs: Any = None, *,
                    tie_weights: bool = True, strict: bool = False) -> Any:
    """module(*args, **kwargs) with other tensors for the parameters and buffers that the dict(s) name.

    The module itself is unchanged. With `strict`, all must be given and no others: RuntimeError. AttributeError for a
    name that the module does not have (PyTorch lets such names pass unless `strict`).
    """
    given = dict(parameter_and_buffer_dicts) if isinstance(parameter_and_buffer_dicts, Mapping) else {
        name: t for one in parameter_and_buffer_dicts for name, t in one.items()}
    if not isinstance(parameter_and_buffer_dicts, Mapping):
        count = sum(len(one) for one in parameter_and_buffer_dicts)
        if count != len(given):
            raise ValueError("a name appears in several dictionaries")
    positional = () if args is None else args if isinstance(args, tuple) else (args,)
    with _swapped(module, given, tie_weights, strict):
        return module(*positional, **(kwargs or {}))


@contextlib.contextmanager
def _swapped(module: Any, given: dict[str, Any], tie_weights: bool, strict: bool) -> Iterator[None]:
    """Put the given tensors where the module's own are. Written into `__dict__`, which is where they stand."""
    places: dict[str, tuple[Any, str]] = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        for name, t in vars(part).items():
            if isinstance(t, Tensor):
                places[f"{prefix}.{name}" if prefix else name] = (part, name)
    unknown = [name for name in given if name not in places]
    if unknown:
        raise (RuntimeError if strict else AttributeError)(f"Unexpected key(s): {', '.join(unknown)}.")
    originals = {name: vars(part)[attribute] for name, (part, attribute) in places.items()}
    everything = dict(given)
    if tie_weights:
        of = {id(originals[name]): t for name, t in given.items()}
        for name, t in originals.items():
            if id(t) in of:
                everything.setdefault(name, of[id(t)])
    if strict:
        missing = [name for name in places if name not in everything]
        if missing:
            raise RuntimeError(f"Missing key(s): {', '.join(missing)}.")
    try:
        for name, t in everything.items():
            part, attribute = places[name]
            vars(part)[attribute] = t
        yield
    finally:
        for name in everything:
            part, attribute = places[name]
            vars(part)[attribute] = originals[name]
