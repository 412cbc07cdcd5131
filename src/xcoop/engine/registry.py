"""Registries of classes by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from xcoop.utils.suggest import closest, unknown


class Registry:
    """Classes or functions under their own names.

    Args:
        name: what it holds, for messages ("TRAINER").
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._objects: dict[str, Any] = {}

    def register(self, obj: Any = None, force: bool = False) -> Any:
        """Registers `obj`; without one, gives a decorator that does.

        Args:
            obj: a class or function; it goes under its `__name__`.
            force: replaces what has that name.

        Raises:
            KeyError: the name is taken and `force` is off.
        """
        if obj is not None:
            self._add(obj, force)
            return None

        def decorate(decorated: Any) -> Any:
            self._add(decorated, force)
            return decorated

        return decorate

    def get(self, name: str) -> Any:
        """The object of that name.

        Raises:
            KeyError: there is none; the message gives the nearest name.
        """
        if name not in self._objects:
            raise KeyError(unknown(f"name in the registry {self._name}:", name, self._objects))
        return self._objects[name]

    def registered_names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._objects)

    def __contains__(self, name: str) -> bool:
        return name in self._objects

    def _add(self, obj: Any, force: bool) -> None:
        name = obj.__name__
        if name in self._objects and not force:
            other = self._objects[name]
            raise KeyError(
                f"{name!r} of {obj.__module__} is already registered in {self._name} by {other.__module__}; "
                "rename one, or register with force=True"
            )
        self._objects[name] = obj


def check_availability(requested: str, available: Iterable[str]) -> None:
    """Checks a name against the known ones.

    Raises:
        ValueError: it is not among them; the message gives the nearest and the list.
    """
    known = list(available)
    if requested not in known:
        raise ValueError(unknown("name", requested, known))


def get_most_similar_str_to_a_from_b(a: str, b: Iterable[str]) -> str:
    """The string of `b` that is nearest to `a`; "" if nothing is near."""
    return closest(a, b) or ""


# The networks of Dassl are not part of this engine: prompt learners build their own models. The registries are here
# so that code which adds to them can be imported.
BACKBONE_REGISTRY = Registry("BACKBONE")
HEAD_REGISTRY = Registry("HEAD")
NETWORK_REGISTRY = Registry("NETWORK")
