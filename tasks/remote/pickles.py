"""Pickles that another process can read: by reference where it can import the module, by value elsewhere.

Prefect loads a flow file by its path. Its module may then have a name under which no other process finds it, or stand in
`sys.modules` in place of another file of that name. What such a module defines, and what a notebook defines, is pickled by
value.
"""

import functools
import io
import os
import sys
import threading
import types
from pathlib import Path
from typing import Any, Literal

import cloudpickle

__all__ = ["Reader", "dumps"]

Reader = Literal["here", "elsewhere"]
"""Where a pickle is read: by a process with this import path, or on a machine that has only the installed packages."""

# cloudpickle has one registry for all picklers of the process, and each reader needs another one. Reentrant, because a value may
# pickle parts of itself.
_registry = threading.RLock()

# Packages that every reader has, even if this checkout is not installed but only on the path.
_OURS = ("tasks", "flows", "deployments", "sluice")


def dumps(value: Any, reader: Reader = "here") -> bytes:
    """Pickle a value, with the functions and classes by value that the reader cannot import.

    raises    whatever pickle raises on a value that cannot be pickled
    """
    with io.BytesIO() as file, _registry:
        pickler = _Pickler(file, reader)
        try:
            pickler.dump(value)
        finally:
            for module in pickler.registered:
                cloudpickle.unregister_pickle_by_value(module)
        return file.getvalue()


class _Pickler(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO, reader: Reader) -> None:
        super().__init__(file)
        self._reader: Reader = reader
        self.registered: list[types.ModuleType] = []
        """Modules whose functions and classes this pickler has cloudpickle pickle by value."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, types.FunctionType | type):
            name = getattr(obj, "__module__", None)
            if isinstance(name, str) and name != "__main__" and not _can_import(name, self._reader):
                module = sys.modules.get(name)
                # cloudpickle takes a module that is not loaded for one that cannot be imported.
                if module is not None and module.__name__ not in cloudpickle.list_registry_pickle_by_value():
                    cloudpickle.register_pickle_by_value(module)
                    self.registered.append(module)
        return super().reducer_override(obj)


@functools.lru_cache(maxsize=4096)
def _can_import(name: str, reader: Reader) -> bool:
    """Return whether the reader finds a module under its name, in the file that it has here."""
    top = name.partition(".")[0]
    if top in sys.builtin_module_names or top in sys.stdlib_module_names:
        return True
    module = sys.modules.get(top)
    if module is None:
        return False
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if file is None:
        return False
    if reader == "elsewhere" and top not in _OURS:
        return any(Path(file).is_relative_to(prefix) for prefix in {sys.prefix, sys.base_prefix})
    return any(_finds(finder, top, file) for finder in sys.meta_path)


def _finds(finder: Any, name: str, file: str) -> bool:
    spec = finder.find_spec(name, None) if hasattr(finder, "find_spec") else None
    if spec is None:
        return False
    places = [spec.origin, *(spec.submodule_search_locations or ())]  # of a namespace package, only the latter
    return any(place is not None and os.path.realpath(place) == os.path.realpath(file) for place in places)
