"""Compiling functions over bytes to machine code (Numba), and the instructions that Numba has no words for."""
# ruff: noqa: ANN401  # Numba's and LLVM's objects have no useful types

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.caching import UserProvidedCacheLocator
from numba.extending import intrinsic

Bytes = npt.NDArray[np.uint8]
_Function = TypeVar("_Function", bound=Callable[..., Any])


class CacheByContent(UserProvidedCacheLocator):
    """Numba names a cached file by the path of its source; ours by its package, so that every clone shares them."""

    @classmethod
    def get_suitable_cache_subpath(cls, py_file: str) -> str:
        """The folder below the cache directory for the functions of a file."""
        return Path(py_file).parent.name


def _can_keep_code() -> bool:
    """Point Numba at a directory for the code it compiles; false when there is no place for one.

    The directory is named by the sources' content: Numba itself looks at a function's own file only, and would go on
    with code that was compiled against an older contract or an older function of another file.
    """
    here = Path(__file__).parent
    paths = [path for folder in ("schemas", "flows") for path in sorted((here.parent / folder).glob("*.py"))]
    texts = [path.read_bytes() for path in paths]
    digest = hashlib.sha256(b"".join(t for t in texts if b"decode_compile" in t or b"TOPICS: " in t)).hexdigest()[:16]
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        directory = caches / "livepulse" / f"numba-{digest}"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a read-only file system; no home
        return False
    if not os.access(directory, os.W_OK):
        return False
    settings: Any = numba.config  # its types do not know its settings
    settings.CACHE_DIR = str(directory)
    settings.CACHE_LOCATOR_CLASSES = f"{__name__}.{CacheByContent.__name__}"
    return True


_KEEP = _can_keep_code()


def compiled(function: _Function) -> _Function:
    """Compile to machine code that runs without the GIL.

    Such a function must not create arrays or hold on to them: references are not counted (`_nrt`), which would cost
    more than the work does.
    """
    return cast("_Function", _njit(cache=_KEEP)(function))


def inlined(function: _Function) -> _Function:
    """Compile into each caller: for what is small or called in one place. An array costs seven machine words a call."""
    dispatcher: Any = _njit(forceinline=True, no_cpython_wrapper=True)(function)
    resolve = dispatcher.get_call_template
    plain: Callable[[Any], Any] = types.unliteral

    def by_plain_types(args: tuple[Any, ...], kws: dict[str, Any]) -> object:
        return resolve(tuple(map(plain, args)), {name: plain(kind) for name, kind in kws.items()})

    dispatcher.get_call_template = by_plain_types  # else a constant argument makes a version of its own to compile
    return cast("_Function", dispatcher)


def _njit(**options: object) -> Callable[[Callable[..., Any]], object]:
    decorate: Any = numba.njit
    decorator = decorate(nogil=True, _nrt=False, no_cfunc_wrapper=True, **options)
    return cast("Callable[[Callable[..., Any]], object]", decorator)


def _address(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    start = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(start, [at]), ir.IntType(64).as_pointer())


def _word_at(_: object, text: Any, at: Any) -> tuple[object, Callable[..., Any]]:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = builder.load(_address(context, builder, signature.args[0], values[0], values[1]))
        word.align = 1
        return word

    return types.int64(text, at), generate


def _set_word_at(_: object, text: Any, at: Any, word: Any) -> tuple[object, Callable[..., Any]]:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address = _address(context, builder, signature.args[0], values[0], values[1])
        builder.store(values[2], address).align = 1
        return context.get_dummy_value()

    return types.none(text, at, word), generate


def _trailing_zeros(_: object, word: Any) -> tuple[object, Callable[..., Any]]:
    def generate(_context: object, builder: Any, _signature: object, values: Any) -> Any:
        return builder.cttz(values[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(word), generate


def _load(bits: int) -> Callable[[object, Any], tuple[object, Callable[..., Any]]]:
    def load(_: object, address: Any) -> tuple[object, Callable[..., Any]]:
        def generate(_context: object, builder: Any, _signature: object, values: Any) -> Any:
            found = builder.load(builder.inttoptr(values[0], ir.IntType(bits).as_pointer()))
            return found if bits == 64 else builder.sext(found, ir.IntType(64))

        return types.int64(address), generate

    return load


def _prefetched(builder: Any, address: Any) -> None:
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    insert: Any = cgutils.get_or_insert_function
    function = insert(builder.module, kind, "llvm.prefetch.p0i8")
    # For reading, into all caches, of data: https://llvm.org/docs/LangRef.html#llvm-prefetch-intrinsic
    builder.call(function, [builder.bitcast(address, byte), word(0), word(3), word(1)])


def _prefetch(_: object, array: Any, at: Any) -> tuple[object, Callable[..., Any]]:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        start = context.make_array(signature.args[0])(context, builder, values[0]).data
        _prefetched(builder, builder.gep(start, [values[1]]))
        return context.get_dummy_value()

    return types.none(array, at), generate


def _prefetch_at(_: object, address: Any) -> tuple[object, Callable[..., Any]]:
    def generate(context: Any, builder: Any, _signature: object, values: Any) -> Any:
        _prefetched(builder, builder.inttoptr(values[0], ir.IntType(8).as_pointer()))
        return context.get_dummy_value()

    return types.none(address), generate


def _copy_in(_: object, text: Any, at: Any, address: Any, size: Any) -> tuple[object, Callable[..., Any]]:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        start = context.make_array(signature.args[0])(context, builder, values[0]).data
        target = builder.bitcast(builder.gep(start, [values[1]]), ir.IntType(8).as_pointer())
        raw_memcpy: Any = cgutils.raw_memcpy
        raw_memcpy(builder, target, builder.inttoptr(values[2], ir.IntType(8).as_pointer()), values[3], 1)
        return context.get_dummy_value()

    return types.none(text, at, address, size), generate


word_at = cast("Callable[[Bytes, int], int]", intrinsic(_word_at))
"""`word_at(text, at)`: `text[at : at + 8]` as one integer, the first byte lowest. Not checked: they must be there."""

set_word_at = cast("Callable[[Bytes, int, int], None]", intrinsic(_set_word_at))
"""`set_word_at(text, at, word)`: `text[at : at + 8] = word`. Not checked: there must be room."""

trailing_zeros = cast("Callable[[int], int]", intrinsic(_trailing_zeros))
"""The number of zero bits below the lowest one of a word that is not 0."""

peek = cast("Callable[[np.uint64], int]", intrinsic(_load(64)))
"""The 8 bytes at an address as a signed integer. Not checked: they must be there."""

peek32 = cast("Callable[[np.uint64], int]", intrinsic(_load(32)))
"""The 4 bytes at an address as a signed integer. Not checked: they must be there."""

prefetch = cast("Callable[[npt.NDArray[Any], int], None]", intrinsic(_prefetch))
"""`prefetch(array, at)`: `array[at]` is wanted soon. So misses in a table that outgrows the caches overlap."""

prefetch_at = cast("Callable[[np.uint64], None]", intrinsic(_prefetch_at))
"""What lies at an address is wanted soon. It may be any address."""

copy_in = cast("Callable[[Bytes, int, int, int], None]", intrinsic(_copy_in))
"""`copy_in(text, at, address, size)`: the bytes at an address, to `text[at:]`. Not checked: there must be room."""
