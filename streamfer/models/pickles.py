"""A pickle reader that builds plain data and tensor records, and cannot run anything.

Python's own unpickler looks names up and calls them; this one is a small stack machine over
:func:`pickletools.genops` which never imports a name. A global becomes a :class:`GlobalName`, a record of two
strings. Only the constructors in ``_CONSTRUCTORS``, functions of this module, can be called (REDUCE), and an
instance of a class it does not know (the authors' checkpoints carry ``__main__.RecorderMeter``) becomes an
inert :class:`Instance` that keeps the class's name and nothing else. Calling any other global is refused
by name.

Opcodes: Python's ``Lib/pickletools.py``; tensor calls: ``torch/_utils.py``.
"""

from __future__ import annotations

import itertools
import pickletools
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streamfer.errors import CheckpointError, UnsafeCheckpointError

#: A state dictionary of a thousand tensors takes about 40,000 operations.
_MOST_OPERATIONS = 20_000_000
_MARK = object()


@dataclass(frozen=True, slots=True)
class GlobalName:
    """A name that a pickle refers to; never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True)
class Instance:
    """An object of a class that is not loaded; its contents are dropped."""

    kind: GlobalName


@dataclass(frozen=True, slots=True)
class StorageRecord:
    """A run of numbers in the archive: ``key`` names the record, ``kind`` the torch storage class."""

    key: str
    kind: str
    elements: int


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """A strided view of a storage, in elements."""

    storage: StorageRecord
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _whole(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not all(type(number) is int and number >= 0 for number in value):
        raise CheckpointError(f"a tensor's shape or stride is {value!r}; expected whole numbers")
    return value


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TensorRecord:
    sizes, steps = _whole(shape), _whole(strides)
    (start,) = _whole((offset,))
    if not isinstance(storage, StorageRecord) or len(sizes) != len(steps):
        raise CheckpointError("a tensor without storage, or with more strides than dimensions")
    return TensorRecord(storage, start, sizes, steps)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict((key, value) for key, value in items)


def _default_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _size(items: Any = ()) -> tuple[Any, ...]:
    return tuple(items)


def _bytes(text: Any = "", *_: Any) -> bytes:
    if not isinstance(text, str):
        raise CheckpointError("a bytes object built from something else than text")
    return text.encode("latin-1")


def _set(items: Any = ()) -> tuple[Any, ...]:
    return tuple(items)


def _inert(name: GlobalName) -> Callable[..., Instance]:
    return lambda *_: Instance(name)


_TENSOR_CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): _size,
    ("collections", "OrderedDict"): _ordered,
    ("collections", "defaultdict"): _default_dict,
    ("_codecs", "encode"): _bytes,
    **{(module, "set"): _set for module in ("builtins", "__builtin__")},
    **{(module, "frozenset"): _set for module in ("builtins", "__builtin__")},
    **{(module, "bytes"): _bytes for module in ("builtins", "__builtin__")},
}
#: Calls that training loops' bookkeeping makes; what they would build is of no use here and becomes inert.
_INERT_CALLS = frozenset(
    {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy", "dtype"),
        ("copyreg", "_reconstructor"),
        ("copy_reg", "_reconstructor"),
        ("torch", "device"),
        ("argparse", "Namespace"),
    }
)
_CONSTRUCTORS: dict[tuple[str, str], Callable[..., Any]] = {
    **_TENSOR_CALLS,
    **{pair: _inert(GlobalName(*pair)) for pair in _INERT_CALLS},
}


def _refusal(name: GlobalName, where: str) -> UnsafeCheckpointError:
    return UnsafeCheckpointError(
        f"{where}: the file asks to call {str(name)!r}, which is refused because it could run any code; "
        "nothing was run: get the checkpoint from its authors again, or as safetensors"
    )


def _is_constant(opcode: pickletools.OpcodeInfo) -> bool:
    """Whether the opcode only pushes its decoded argument."""
    return opcode.name in {
        *("INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }


class PickleReader:
    """The machine: one stack, one memo, no imports."""

    def __init__(self, where: str) -> None:
        """Take the name of the file, for messages."""
        self._where = where
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read(self, data: bytes) -> Any:
        """Read one pickle.

        Raises:
            UnsafeCheckpointError: it calls a global that is not on the short list.
            CheckpointError: it is damaged, or uses opcodes that no checkpoint needs.
        """
        try:
            for opcode, argument, _ in itertools.islice(pickletools.genops(data), _MOST_OPERATIONS):
                if opcode.name == "STOP":
                    return self._stack.pop()
                self._step(opcode, argument)
        except CheckpointError:
            raise
        except (
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            AttributeError,
            RecursionError,
            OverflowError,
        ) as error:
            raise CheckpointError(f"{self._where}: damaged pickle ({error})") from error
        raise CheckpointError(f"{self._where}: the pickle has no end within {_MOST_OPERATIONS} operations")

    def _step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        if _is_constant(opcode):
            self._stack.append(argument)
            return
        handler = getattr(self, f"_op_{opcode.name.lower()}", None)
        if handler is None:
            raise CheckpointError(f"{self._where}: pickle opcode {opcode.name} does not belong in a checkpoint")
        handler(argument)

    def _pop_mark(self) -> list[Any]:
        items: list[Any] = []
        while (top := self._stack.pop()) is not _MARK:
            items.append(top)
        return items[::-1]

    def _ignore(self, _: Any) -> None:
        return

    _op_proto = _op_frame = _ignore

    def _op_mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def _op_pop(self, _: Any) -> None:
        self._stack.pop()

    def _op_pop_mark(self, _: Any) -> None:
        self._pop_mark()

    def _op_dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _op_none(self, _: Any) -> None:
        self._stack.append(None)

    def _op_newtrue(self, _: Any) -> None:
        self._stack.append(True)

    def _op_newfalse(self, _: Any) -> None:
        self._stack.append(False)

    def _op_empty_list(self, _: Any) -> None:
        self._stack.append([])

    def _op_empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _op_empty_set(self, _: Any) -> None:
        # Sets of a checkpoint are bookkeeping; a list takes ADDITEMS without hashing what is in it.
        self._stack.append([])

    def _op_empty_tuple(self, _: Any) -> None:
        self._stack.append(())

    def _op_list(self, _: Any) -> None:
        self._stack.append(self._pop_mark())

    def _op_tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_mark()))

    def _op_tuple1(self, _: Any) -> None:
        self._stack[-1:] = [tuple(self._stack[-1:])]

    def _op_tuple2(self, _: Any) -> None:
        self._stack[-2:] = [tuple(self._stack[-2:])]

    def _op_tuple3(self, _: Any) -> None:
        self._stack[-3:] = [tuple(self._stack[-3:])]

    def _op_dict(self, _: Any) -> None:
        items = self._pop_mark()
        self._stack.append(dict(zip(items[::2], items[1::2], strict=True)))

    def _op_append(self, _: Any) -> None:
        self._extend([self._stack.pop()])

    def _op_appends(self, _: Any) -> None:
        self._extend(self._pop_mark())

    _op_additems = _op_appends

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Instance):
            raise CheckpointError(f"{self._where}: damaged pickle (append to {type(target).__name__})")

    def _op_setitem(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def _op_setitems(self, _: Any) -> None:
        self._update(self._pop_mark())

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, dict):
            target.update(zip(items[::2], items[1::2], strict=True))
        elif not isinstance(target, Instance):
            raise CheckpointError(f"{self._where}: damaged pickle (items set on {type(target).__name__})")

    def _op_put(self, index: Any) -> None:
        self._memo[int(index)] = self._stack[-1]

    _op_binput = _op_long_binput = _op_put

    def _op_memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _op_get(self, index: Any) -> None:
        self._stack.append(self._memo[int(index)])

    _op_binget = _op_long_binget = _op_get

    def _op_global(self, argument: Any) -> None:
        module, _, name = str(argument).partition(" ")
        self._stack.append(GlobalName(module, name))

    def _op_stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(GlobalName(str(module), str(name)))

    def _op_reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(self._call(function, arguments))

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, GlobalName):
            raise CheckpointError(f"{self._where}: damaged pickle (a call of {type(function).__name__})")
        constructor = _CONSTRUCTORS.get((function.module, function.name))
        if constructor is None:
            raise _refusal(function, self._where)
        return constructor(*arguments)

    def _op_inst(self, argument: Any) -> None:
        module, _, name = str(argument).partition(" ")
        self._stack.append(self._call(GlobalName(module, name), self._pop_mark()))

    def _op_obj(self, _: Any) -> None:
        function, *arguments = self._pop_mark()
        self._stack.append(self._call(function, arguments))

    def _op_newobj(self, _: Any) -> None:
        _arguments, kind = self._stack.pop(), self._stack.pop()
        if not isinstance(kind, GlobalName):
            raise CheckpointError(f"{self._where}: damaged pickle (an instance of {type(kind).__name__})")
        # Inert either way; a class of Python's own library has no business in a checkpoint, so say so.
        root = kind.module.partition(".")[0]
        if (kind.module, kind.name) in _CONSTRUCTORS:
            self._stack.append(self._call(kind, ()))
        elif root != "__main__" and root in sys.stdlib_module_names | {"__builtin__"}:
            raise _refusal(kind, self._where)
        else:
            self._stack.append(Instance(kind))

    def _op_newobj_ex(self, _: Any) -> None:
        self._stack.pop()
        self._op_newobj(None)

    def _op_build(self, _: Any) -> None:
        # The state of OrderedDict (torch's version notes) and of inert instances is not needed.
        self._stack.pop()

    def _op_binpersid(self, _: Any) -> None:
        self._stack.append(self._storage(self._stack.pop()))

    def _storage(self, reference: Any) -> StorageRecord:
        if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
            raise CheckpointError(f"{self._where}: a persistent reference that is not a tensor's storage")
        _, kind, key, _location, elements = reference[:5]
        if not isinstance(kind, GlobalName) or not isinstance(key, str) or type(elements) is not int:
            raise CheckpointError(f"{self._where}: a storage that is not described as torch.save does")
        return StorageRecord(key=key, kind=str(kind), elements=elements)
