"""A network as a value: the name of a known network and the changes to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional, Unpack, cast

from resnet_jax.errors import unknown
from resnet_jax.fields import NOT_AN_OPTION, check_value, field_docs, field_hints, is_marked, opened
from resnet_jax.models.choices import ModelChoices
from resnet_jax.models.config import ResNetConfig, dtype_name
from resnet_jax.models.zoo import named_config

DEFAULT = "resnet20_cifar"


def model_options() -> dict[str, Any]:
    """Return the fields of :class:`ResNetConfig` that a user may set, each with its annotation. Registered values are
    included in each ``Literal``.
    """
    hints = field_hints(ResNetConfig)
    return {name: opened(hint) for name, hint in hints.items() if not is_marked(hint, NOT_AN_OPTION)}


class ModelSpec:
    """A named network and the changed fields of its :class:`ResNetConfig`. Immutable.

    A field that is left out or None keeps the value of the named network.

    Args:
        name: a name of :func:`resnet_jax.models.list_models`. Only :meth:`config` looks it up.
        **changes: fields of :class:`ResNetConfig`.

    Raises:
        UsageError: there is no such field, or it cannot have this value. Whether the choices go together is checked by
            :meth:`config`.

    >>> spec = ModelSpec("resnet20_cifar", norm="group", norm_groups=8)
    >>> spec
    ModelSpec('resnet20_cifar', norm='group', norm_groups=8)
    >>> spec.replace(norm=None).changes
    {'norm_groups': 8}
    >>> spec.config(num_classes=7).num_classes
    7
    >>> ModelSpec("resnet20_cifar", norm="gruop")
    Traceback (most recent call last):
    resnet_jax.errors.UsageError: unknown norm 'gruop'; did you mean 'group'? Known: batch, group, layer, instance, \
none, folded
    """

    __slots__ = ("_changes", "name")
    name: str
    _changes: tuple[tuple[str, Any], ...]

    def __init__(self, name: str = DEFAULT, **changes: Unpack[ModelChoices]):
        given = cast("dict[str, Any]", changes)
        options = model_options()
        for field in given:
            if field not in options:
                raise unknown("field of a network", field, options, "resnet_jax.models.ResNetConfig")
        kept = {field: _plain(field, given[field]) for field in options if given.get(field) is not None}
        for field, value in kept.items():
            check_value(field, value, options[field])
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "_changes", tuple(kept.items()))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a ModelSpec cannot be changed: use spec.replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a ModelSpec cannot be changed")

    @property
    def changes(self) -> dict[str, Any]:
        """The differences from the named network, in the order of :class:`ResNetConfig`'s fields."""
        return dict(self._changes)

    def replace(self, name: str | None = None, **changes: Any) -> ModelSpec:
        """Return a copy with another name or other changes. Setting a field to None undoes its change."""
        return ModelSpec(self.name if name is None else name, **{**self.changes, **changes})

    def config(self, **defaults: Any) -> ResNetConfig:
        """Return all choices of the network.

        Args:
            **defaults: fields of :class:`ResNetConfig` that replace the named network's values unless this spec sets
                them, such as ``num_classes`` from the data.

        Raises:
            UsageError: no network has this name, or the choices do not go together.
        """
        return named_config(self.name, **{**defaults, **self.changes})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: the name and the changes."""
        changes = {name: list(value) if isinstance(value, tuple) else value for name, value in self._changes}
        return {"name": self.name, **changes}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ModelSpec:
        """Rebuild a spec from the result of :meth:`to_dict`."""
        return cls(**raw)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ModelSpec):
            return NotImplemented
        return (self.name, self._changes) == (other.name, other._changes)

    def __hash__(self) -> int:
        return hash((self.name, self._changes))

    def __repr__(self) -> str:
        return f"ModelSpec({', '.join([repr(self.name), *(f'{name}={value!r}' for name, value in self._changes)])})"

    def __reduce__(self) -> Any:
        return _rebuilt, (self.name, self.changes)

    @staticmethod
    def option_hints() -> dict[str, Any]:
        """Return the options of a network with their annotations: its name, and each field, which may be left out."""
        changes = {name: Optional[hint] for name, hint in model_options().items()}  # noqa: UP045
        return {"name": str, **changes}

    @staticmethod
    def option_docs() -> dict[str, str]:
        """Return one line of help for each option."""
        return {"name": "A name that `resnet-jax models` lists.", **field_docs(ResNetConfig)}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Tell pydantic, which reads YAML, to check a mapping field by field against the annotations."""
        from pydantic_core import core_schema
        from typing_extensions import TypedDict

        mapping = handler.generate_schema(TypedDict("model", cls.option_hints(), total=False))  # pyright: ignore

        def read(value: Any, check: Any) -> ModelSpec:
            return value if isinstance(value, ModelSpec) else cls.from_dict(check(value))

        return core_schema.no_info_wrap_validator_function(read, mapping)


class ModelChanges(ModelSpec):
    """The changes to a network that is named elsewhere."""

    __slots__ = ()

    @staticmethod
    def option_hints() -> dict[str, Any]:
        """Return the options of :class:`ModelSpec` except the name."""
        return {name: hint for name, hint in ModelSpec.option_hints().items() if name != "name"}


def _plain(field: str, value: Any) -> Any:
    if field in ("dtype", "param_dtype"):
        return dtype_name(field, value)
    return tuple(value) if isinstance(value, list) else value


def _rebuilt(name: str, changes: dict[str, Any]) -> ModelSpec:
    return ModelSpec(name, **changes)
