"""A pickle machine that can only build plain containers.

A pickle is a program for a small stack machine, and ``pickle.load`` lets it import and call anything. This machine
supports only the instructions of Python's own pickler (protocols 2 to 5) and resolves a global name only in a given
table: there is no way from a pickle to an import. Anything else is rejected or, on request, replaced by an
:class:`Inert` placeholder: a name and nothing else, and whatever the pickle does with it is read and discarded. It
reads a file of n bytes in O(n) time and memory. (The C unpickler allocates what the memo indices of the file demand, up
to 64 GiB.) The instructions are documented in the standard library's ``pickletools``.
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


@dataclasses.dataclass(eq=False, slots=True)
class Inert:
    """A placeholder for an object that this machine does not build: its class, or the function that makes it.

    Attributes:
        name: the full name, such as ``argparse.Namespace``.
        is_module: whether the pickle gave it the attributes of a ``torch.nn.Module``.
    """

    name: str
    is_module: bool = False


class Stateful:
    """Built by a builder and completed by the pickle with a state, such as an array by its shape and bytes."""

    def take(self, state: Any) -> None:
        """Set the state, which may be anything.

        Raises:
            UnpicklingError: if it is not a state of this.
        """
        raise UnpicklingError(f"a {type(self).__name__} takes no state, got {type(state).__name__}")


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
#: What the pickler additionally needs for sets, bytes and objects; known if placeholders are wanted.
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_OF_OBJECTS = {"NEWOBJ", "NEWOBJ_EX", "EMPTY_SET", "ADDITEMS", "FROZENSET", "POP", "POP_MARK", *_BYTES}
_OPCODES, _OPCODES_AND_BYTES, _ALL_OPCODES = (
    {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes if opcode.name in known}
    for known in (_KNOWN, _KNOWN | _BYTES, _KNOWN | _OF_OBJECTS)
)

#: What no checkpoint needs but an attack does, by module: these names, or all of them (None). Rejected by name even if
#: placeholders are wanted, so that a malicious file is not mistaken for a careless one.
_BUILTINS = {"eval", "exec", "execfile", "compile", "__import__", "open", "input"}
_HOSTILE: dict[str, set[str] | None] = {
    "builtins": _BUILTINS,
    "__builtin__": _BUILTINS,
    **dict.fromkeys(("subprocess", "runpy", "pty", "ctypes", "shutil", "importlib", "sys", "pickle", "_pickle")),
    "code": {"interact", "InteractiveConsole", "InteractiveInterpreter"},
    "commands": {"getoutput", "getstatusoutput"},
    "socket": {"socket", "create_connection", "create_server"},
    "webbrowser": {"open", "open_new", "open_new_tab"},
}
_SYSTEM_MODULES, _HARMLESS_OF_SYSTEM = {"os", "posix", "nt"}, {"_Environ", "stat_result", "environ", "fspath"}


def load(
    stream: BinaryIO,
    builders: Builders,
    persistent: Callable[[Any], Any] | None = None,
    *,
    inert: bool = False,
    with_bytes: bool = False,
) -> Any:
    """Execute the pickle that starts at the stream's position, and leave the stream right after it.

    Args:
        stream: the pickle; a ``BytesIO``, so that a claimed length cannot allocate more than exists.
        builders: the allowed globals, by full name.
        persistent: turns a persistent id into its object; None rejects all of them.
        inert: let other globals stand for themselves, and replace what the pickle would make with them by
            :class:`Inert`.
        with_bytes: allow the pickle to contain bytes, such as those of an array.

    Returns:
        What the pickle describes. Ordered dictionaries are built by the builder of their global.

    Raises:
        UnpicklingError: if it is not a pickle, truncated, uses an instruction or a global that is not allowed, or is
            invalid.

    >>> import io, os, pickle
    >>> load(io.BytesIO(pickle.dumps({"lr": [0.1, (1, None)]})), {})
    {'lr': [0.1, (1, None)]}
    >>> load(io.BytesIO(pickle.dumps(os.getcwd)), {})
    Traceback (most recent call last):
    _pickle.UnpicklingError: refusing the global posix.getcwd; allowed are none
    >>> load(io.BytesIO(pickle.dumps({"lr": 0.1, "seen": {1, 2}}, 2)), {}, inert=True)
    {'lr': 0.1, 'seen': Inert(name='__builtin__.set', is_module=False)}
    """
    machine = _Machine(builders, persistent, inert)
    opcodes = _ALL_OPCODES if inert else _OPCODES_AND_BYTES if with_bytes else _OPCODES
    while True:
        code = stream.read(1)
        opcode = opcodes.get(code)
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
    """The stack, its marks and the memo."""

    def __init__(self, builders: Builders, persistent: Callable[[Any], Any] | None, inert: bool):
        self.builders, self.persistent, self.inert = builders, persistent, inert
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
            target = self.top(list)
            if isinstance(target, list):
                target.extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [self.pop(), self.pop()][::-1] if name == "SETITEM" else self.pop_mark()
            target = self.top(dict)
            if isinstance(target, dict):
                update(target, items[::2], items[1::2], inert=self.inert)
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
        elif name == "BUILD":  # attributes, such as torch's version numbers of a state dict: nothing plain holds them
            state, target = self.pop(), self.top(object)
            if isinstance(target, Stateful):
                target.take(state)
            elif not self.inert and not isinstance(target, dict):
                raise UnpicklingError("the pickle fills a dict that is not there")
            if isinstance(target, Inert) and isinstance(state, dict) and {"_parameters", "_modules"} <= state.keys():
                target.is_module = True
        elif name in _OF_OBJECTS:
            self.step_object(name, argument)

    def step_object(self, name: str, argument: Any) -> None:
        """Handle what belongs to sets, bytes and objects: only the names of objects are kept."""
        if name in _BYTES:
            self.stack.append(bytes(argument))
        elif name in ("NEWOBJ", "NEWOBJ_EX"):
            for _ in range(1 if name == "NEWOBJ" else 2):
                self.pop()  # the arguments
            self.stack.append(Inert(_name_of(self.pop())))
        elif name == "EMPTY_SET":
            self.stack.append(Inert("builtins.set"))
        elif name == "ADDITEMS":
            self.pop_mark()
            self.top(Inert)
        elif name == "FROZENSET":
            self.pop_mark()
            self.stack.append(Inert("builtins.frozenset"))
        elif name == "POP":
            if self.stack or not self.below:
                self.pop()
            else:
                self.pop_mark()
        elif name == "POP_MARK":
            self.pop_mark()

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
        kinds = (kind, Inert) if self.inert else (kind,)  # a class of its own may fill like a list or a dict
        if not self.stack or not isinstance(self.stack[-1], kinds):
            raise UnpicklingError(f"the pickle fills a {kind.__name__} that is not there")
        return self.stack[-1]

    def push_global(self, module: Any, attribute: Any) -> None:
        is_text = isinstance(module, str) and isinstance(attribute, str)
        name = f"{module}.{attribute}" if is_text else "(not text)"
        if name not in self.builders and not (self.inert and is_text and not is_hostile(module, attribute)):
            allowed = ", ".join(self.builders) or "none"
            raise UnpicklingError(f"refusing the global {ascii(name)[1:-1]}; allowed are {allowed}")
        self.stack.append(Global(name))

    def call(self, function: Any, arguments: Any) -> Any:
        builder = self.builders.get(function.name) if isinstance(function, Global) else None
        known = isinstance(function, Global) and function.name in self.builders
        if self.inert and not known and isinstance(function, (Global, Inert)) and isinstance(arguments, tuple):
            return Inert(function.name)
        if builder is None or not isinstance(arguments, tuple):
            raise UnpicklingError("the pickle calls something that is not a function")
        return builder(arguments)


def is_hostile(module: str, attribute: str) -> bool:
    """Return whether a global is one that runs programs, opens files or imports.

    >>> is_hostile("posix", "system"), is_hostile("argparse", "Namespace")
    (True, False)
    """
    top = module.partition(".")[0]
    if top in _SYSTEM_MODULES:
        return attribute not in _HARMLESS_OF_SYSTEM
    names = _HOSTILE.get(top, set())
    return names is None or (attribute in names and module == top)


def _name_of(value: Any) -> str:
    return value.name if isinstance(value, (Global, Inert)) else type(value).__name__


def update(target: dict, keys: list, values: list, *, inert: bool = False) -> None:
    """Set ``target[key] = value`` for each pair; keys are text or integers (hashing nested ones could recurse deeply).

    Args:
        target: the dictionary to fill.
        keys: its new keys.
        values: their values.
        inert: replace any other key by a placeholder.

    Raises:
        UnpicklingError: for a key without a value, or of another type.
    """
    if len(keys) != len(values):
        raise UnpicklingError("a dictionary has a key without a value")
    for key, value in zip(keys, values, strict=True):
        if not isinstance(key, (str, int)):
            if not inert:
                raise UnpicklingError(f"a dictionary has a key of type {type(key).__name__}; need text or an integer")
            key = Inert(_name_of(key))
        target[key] = value
