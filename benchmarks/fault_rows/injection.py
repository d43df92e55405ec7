"""Puts a call of `strike` at the start of every function of `profiler`: it raises what it was armed with.

The modules are changed as they are imported, in their source's tree, so that every function is reached: nested ones,
lambdas, generators, and those that threads of ours call. Where the whole body is a `try`, it comes first in that: such
a function is its own guard. `install` comes before the first import of `profiler`.
"""

from __future__ import annotations

import ast
import builtins
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

STRIKE = "__joulescale_strike__"
PACKAGE = "profiler"


class ForeignPanic(BaseException):
    """What a library written in Rust may raise: no `Exception`."""


KINDS: dict[str, Callable[[], BaseException]] = {
    "RuntimeError": lambda: RuntimeError("injected"),
    "MemoryError": MemoryError,
    "OSError": lambda: OSError(28, "injected"),
    "RecursionError": lambda: RecursionError("injected"),
    "KeyError": lambda: KeyError("injected"),
    "ForeignPanic": lambda: ForeignPanic("injected"),
    "KeyboardInterrupt": KeyboardInterrupt,
}


@dataclass
class Strikes:
    """Counts the calls of every function, and raises in the one that is armed.

    Attributes:
        calls: Function to its calls since the last `counting`.
        of_threads: The functions that a thread of ours has called.
        fired: How often the armed function has raised.
    """

    calls: Counter[str] = field(default_factory=Counter)
    of_threads: set[str] = field(default_factory=set)
    fired: int = 0
    _counting: bool = False
    _armed: str | None = None
    _kind: str = ""
    _from_call: int = 1
    _for_good: bool = False
    _seen: int = 0

    def strike(self, function: str) -> None:
        """What every function calls first."""
        if self._counting:
            self.calls[function] += 1
            if threading.current_thread() is not threading.main_thread():
                self.of_threads.add(function)
        if function != self._armed:
            return
        self._seen += 1
        if self._seen == self._from_call or (self._for_good and self._seen > self._from_call):
            self.fired += 1
            raise KINDS[self._kind]()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the calls of a block."""
        self.calls, self.of_threads, self._counting = Counter(), set(), True
        try:
            yield
        finally:
            self._counting = False

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Neither count nor raise in a block."""
        before = self._counting, self._armed
        self._counting, self._armed = False, None
        try:
            yield
        finally:
            self._counting, self._armed = before

    @contextmanager
    def armed(self, function: str, kind: str, from_call: int, *, for_good: bool) -> Iterator[None]:
        """Let `function` raise at that call of it, and at all later ones if it is `for_good`."""
        self._kind, self._from_call, self._for_good = kind, from_call, for_good
        self.fired = self._seen = 0
        self._armed = function
        try:
            yield
        finally:
            self._armed = None


def install() -> Strikes:
    """From here on every module of `profiler` that is imported is struck."""
    assert PACKAGE not in sys.modules, "too late: profiler is imported already"
    strikes = Strikes()
    setattr(builtins, STRIKE, strikes.strike)
    sys.meta_path.insert(0, _Finder())
    return strikes


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != PACKAGE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        tree = ast.parse(self.get_data(self.path), self.path)
        changed = ast.fix_missing_locations(_Struck(fullname).visit(tree))
        code: CodeType = compile(changed, self.path, "exec", dont_inherit=True)
        return code


class _Struck(ast.NodeTransformer):
    def __init__(self, module: str) -> None:
        self._module, self._names = module, list[str]()

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        return self._inside(node.name, node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        self._inside(node.name, node)
        body = node.body[int(ast.get_docstring(node, clean=False) is not None) :]
        guarded = len(body) == 1 and isinstance(body[0], ast.Try)  # a function that is its own guard
        place = body[0].body if guarded else node.body
        place.insert(len(node.body) - len(body) if not guarded else 0, ast.Expr(self._strike(node.name)))
        return node

    def visit_Lambda(self, node: ast.Lambda) -> Any:
        self.generic_visit(node)
        pair = ast.Tuple([self._strike(f"<lambda>@{node.lineno}"), node.body], ast.Load())
        node.body = ast.Subscript(pair, ast.Constant(1), ast.Load())
        return node

    def _inside(self, name: str, node: ast.AST) -> ast.AST:
        self._names.append(name)
        self.generic_visit(node)
        self._names.pop()
        return node

    def _strike(self, name: str) -> ast.Call:
        function = f"{self._module}:{'.'.join([*self._names, name])}"
        return ast.Call(ast.Name(STRIKE, ast.Load()), [ast.Constant(function)], [])
