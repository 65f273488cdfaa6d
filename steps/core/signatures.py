"""What a function of a user's file takes: the arguments that it is given, and columns of rows by name."""

import ast
import inspect
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# What a function calls a row; the second is verl's name.
_ROW = ("row", "extra_info")
# By which a module may have names that its text does not show.
_HIDDEN = {"exec", "globals", "setattr", "__getattr__", "vars"}


def taken(signature: inspect.Signature, arguments: list, columns: dict[str, Any] | None) -> tuple[list, dict]:
    """The arguments that a function takes: all, or all but the last, and columns by name. A parameter with a default is
    the function's own, unless it is called as the last argument is, or as a column.

    Args:
        columns: None where those are not known: then whatever it asks for by name alone will be there.

    Raises:
        TypeError: it takes neither.
    """
    if columns is None:
        kept = (one for one in signature.parameters.values() if one.kind is not one.KEYWORD_ONLY)
        signature, columns = signature.replace(parameters=[*kept]), {}
    parameters = [*signature.parameters.values()]
    asked, more = parameters[: len(arguments) - 1], parameters[len(arguments) - 1 :]
    last = more[0] if more else None
    # Python brings the names of parameters to this form (PEP 3131); a file may write o and ¨ for ö.
    spelled = {unicodedata.normalize("NFKC", name): name for name in columns} | {name: name for name in columns}
    named = {
        one.name: spelled[one.name]
        for one in more
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and one.name in spelled
    }
    given = {name: columns[column] for name, column in named.items()}
    if any(one.kind is one.VAR_KEYWORD for one in more):
        rest = columns.keys() - {one.name for one in asked} - {*named.values()}
        given |= {name: columns[name] for name in sorted(rest)}
    is_own = last and (last.name in given or (last.default is not inspect.Parameter.empty and last.name not in _ROW))
    for own in (arguments[:-1],) if is_own else (arguments, arguments[:-1]):
        try:
            signature.bind(*own, **given)
            return own, given
        except TypeError as error:
            problem = error
    raise problem


def stated(file: Path, function: str) -> tuple[inspect.Signature | None, list[str] | None]:
    """The signature of a function as the text of its file has it, which is not run; None where the text does not tell.

    Returns:
        the signature; and the functions that the file has, where nothing in it has this name.

    Raises:
        ValueError: it is no Python.
    """
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError as error:
        raise ValueError(f"is no Python (line {error.lineno}: {error.msg})") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"is no Python ({error})") from None
    bound = [*_bound(tree.body)]
    own = [node for name, node in bound if name == function]
    if len(own) == 1 and isinstance(own[0], ast.FunctionDef | ast.AsyncFunctionDef) and not own[0].decorator_list:
        return _signature(own[0].args), None
    hidden = any(isinstance(node, ast.Name) and node.id in _HIDDEN for node in ast.walk(tree))
    if own or hidden or _HIDDEN & {name for name, _ in bound} or any(name == "*" for name, _ in bound):
        return None, None
    return None, [name for name, node in bound if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _bound(body: Iterable[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """The names that statements of a module bind, also within an `if` or a `try`, but not within what it defines."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name.partition(".")[0], node) for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node
        yield from _bound(ast.iter_child_nodes(node))


def _signature(arguments: ast.arguments) -> inspect.Signature:
    of = inspect.Parameter
    plain = [*arguments.posonlyargs, *arguments.args]
    free = len(plain) - len(arguments.defaults)
    found = [
        of(
            one.arg,
            of.POSITIONAL_ONLY if i < len(arguments.posonlyargs) else of.POSITIONAL_OR_KEYWORD,
            default=of.empty if i < free else None,
        )
        for i, one in enumerate(plain)
    ]
    if arguments.vararg:
        found.append(of(arguments.vararg.arg, of.VAR_POSITIONAL))
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found.append(of(one.arg, of.KEYWORD_ONLY, default=of.empty if default is None else None))
    if arguments.kwarg:
        found.append(of(arguments.kwarg.arg, of.VAR_KEYWORD))
    return inspect.Signature(found)
