"""A pickle machine that can build plain containers and nothing else.

A pickle is a program for a small stack machine, and ``pickle.load`` lets it import and call anything. This machine
knows only the instructions that containers, numbers and text need (those of Python's own pickler, protocols 2 to 5)
and resolves a global name only in a table it is given: a name that is not there is refused, and there is no way from
a pickle to an import. It reads a file of n bytes in O(n) time and memory. (The C unpickler allocates what the memo
indices of the file demand, up to 64 GiB.) The instructions are documented in the standard library's ``pickletools``.
"""

from __future__ import annotations

import dataclasses
import pickletools
from collections.abc import Callable, Mapping
from pickle import UnpicklingError
from typing import Any, BinaryIO


@dataclasses.dataclass(frozen=True)
class Global:
    """A name a pickle refers to, such as ``torch.FloatStorage``; it stands for itself until it is called."""

    name: str


#: What an allowed global does when the pickle calls it with a tuple of arguments; None: it is never called.
Builders = Mapping[str, Callable[[tuple], Any] | None]

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
# fmt: off
_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINSTRING", "SHORT_BINSTRING",
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_OTHERS = {
    "PROTO", "FRAME", "STOP", "MARK", "TUPLE", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "GLOBAL", "STACK_GLOBAL",
    "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "BINPERSID", "REDUCE", "BUILD",
}
# fmt: on
_KNOWN = {*_CONSTANTS, *_LITERALS, *_TUPLES, *_OTHERS}
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes if opcode.name in _KNOWN}


def load(stream: BinaryIO, builders: Builders, persistent: Callable[[Any], Any] | None = None) -> Any:
    """Run the pickle that starts at the stream's position, and leave the stream right behind it.

    Args:
        stream: the pickle; a ``BytesIO``, so that a claimed length cannot allocate more than is there.
        builders: the globals that may appear, by full name.
        persistent: turns a persistent id into the object it stands for; None refuses them all.

    Returns:
        What the pickle describes. Ordered dictionaries come out as the builder of their global makes them.

    Raises:
        UnpicklingError: not a pickle, cut short, using an instruction or a global that is not allowed, or senseless.

    >>> import io, os, pickle
    >>> load(io.BytesIO(pickle.dumps({"lr": [0.1, (1, None)]})), {})
    {'lr': [0.1, (1, None)]}
    >>> load(io.BytesIO(pickle.dumps(os.getcwd)), {})
    Traceback (most recent call last):
    _pickle.UnpicklingError: refusing the global posix.getcwd; allowed are none
    """
    machine = _Machine(builders, persistent)
    while True:
        code = stream.read(1)
        opcode = _OPCODES.get(code)
        if opcode is None:
            raise UnpicklingError(f"pickle instruction {code!r} is not allowed" if code else "the pickle is cut short")
        if opcode.name == "STOP":
            return machine.pop()
        if opcode.name == "GLOBAL":
            machine.push_global(_line(stream), _line(stream))
            continue
        try:
            argument = opcode.arg.reader(stream) if opcode.arg else None  # pyright: ignore[reportAttributeAccessIssue]
        except ValueError as error:
            raise UnpicklingError(f"the pickle is cut short or damaged: {error}") from None
        machine.step(opcode.name, argument)


def _line(stream: BinaryIO) -> str:
    return stream.readline().removesuffix(b"\n").decode("utf-8", "backslashreplace")


class _Machine:
    """The stack, the marks in it and the memo."""

    def __init__(self, builders: Builders, persistent: Callable[[Any], Any] | None):
        self.builders, self.persistent = builders, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each open mark
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in _TUPLES:
            items = [self.pop() for _ in range(_TUPLES[name])]
            self.stack.append(tuple(reversed(items)))
        elif name == "MARK":
            self.below.append(self.stack)
            self.stack = []
        elif name == "TUPLE":
            items = self.pop_mark()  # before self.stack is looked up: this is another one
            self.stack.append(tuple(items))
        elif name in ("APPEND", "APPENDS"):
            items = [self.pop()] if name == "APPEND" else self.pop_mark()
            self.top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [self.pop(), self.pop()][::-1] if name == "SETITEM" else self.pop_mark()
            update(self.top(dict), items[::2], items[1::2])
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.top(object)
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise UnpicklingError(f"the pickle refers to memo {argument}, which it has not set")
            self.stack.append(self.memo[argument])
        elif name == "STACK_GLOBAL":
            attribute, module = self.pop(), self.pop()
            self.push_global(module, attribute)
        elif name == "BINPERSID":
            if self.persistent is None:
                raise UnpicklingError("a persistent id is not allowed here")
            self.stack.append(self.persistent(self.pop()))
        elif name == "REDUCE":
            arguments, function = self.pop(), self.pop()
            self.stack.append(self.call(function, arguments))
        elif name == "BUILD":  # attributes of an ordered dictionary (torch's version numbers): nothing plain holds them
            self.pop()
            self.top(dict)

    def pop(self) -> Any:
        if not self.stack:
            raise UnpicklingError("the pickle takes from an empty stack")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        if not self.below:
            raise UnpicklingError("the pickle closes a mark it has not set")
        items, self.stack = self.stack, self.below.pop()
        return items

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise UnpicklingError(f"the pickle fills a {kind.__name__} that is not there")
        return self.stack[-1]

    def push_global(self, module: Any, attribute: Any) -> None:
        name = f"{module}.{attribute}" if isinstance(module, str) and isinstance(attribute, str) else "(not text)"
        if name not in self.builders:
            allowed = ", ".join(self.builders) or "none"
            raise UnpicklingError(f"refusing the global {ascii(name)[1:-1]}; allowed are {allowed}")
        self.stack.append(Global(name))

    def call(self, function: Any, arguments: Any) -> Any:
        builder = self.builders.get(function.name) if isinstance(function, Global) else None
        if builder is None or not isinstance(arguments, tuple):
            raise UnpicklingError("the pickle calls something that is not a function")
        return builder(arguments)


def update(target: dict, keys: list, values: list) -> None:
    """Set ``target[key] = value`` for each pair; keys are text or integers (hashing nested ones could recurse deeply).

    Raises:
        UnpicklingError: a key without a value, or of another type.
    """
    if len(keys) != len(values):
        raise UnpicklingError("a dictionary has a key without a value")
    for key, value in zip(keys, values, strict=True):
        if not isinstance(key, (str, int)):
            raise UnpicklingError(f"a dictionary has a key of type {type(key).__name__}; need text or an integer")
        target[key] = value
