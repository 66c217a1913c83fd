"""How a person gets one number alone: at the command line, or in Python where objects are meant."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

_SHORT = {"upstream": "-u", "corpus": "-c", "task": "-t"}
_FUNCTIONS = {"subnet search": "search", "superb run": "superb"}  # of verbs of two words
_PLURAL = {"upstream": "upstreams", "task": "tasks", "probe": "probes"}
_ARGUMENTS = {"subnet search": "supernet", "finetune": "upstream"}  # without a name before
_POSITIONAL = ("upstream", "corpus", "task")
_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@\s]+(?=@)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A verb with what was given to it, but for what is the default."""

    verb: str
    given: Mapping[str, Any]  # by the name of the option, underscores for hyphens
    settings: tuple[str, ...] = ()  # KEY=VALUE
    live: frozenset[str] = field(default_factory=frozenset)  # values that name objects

    def also(self, **given: Any) -> "Call":
        """Return the call with more, or with others instead."""
        return replace(self, given={**self.given, **given})

    def __str__(self) -> str:
        """Return what is typed: a command, or Python where an object has no address."""
        named = {word for value in self.given.values() for word in _several(value)}
        return self.python() if named & self.live else self.shell()

    def shell(self) -> str:
        """Return the command, without a database's password."""
        words = ["auscult", *self.verb.split()]
        argument = _ARGUMENTS.get(self.verb, "")
        if argument in self.given:
            words.append(str(self.given[argument]))
        for name, value in self.given.items():
            option = _SHORT.get(name, f"--{name.replace('_', '-')}")
            if isinstance(value, bool):
                words.append(option if value else option.replace("--", "--no-", 1))
            elif name != argument:
                words += [word for one in _several(value) for word in (option, str(one))]
        return _PASSWORD.sub(r"\1***", shlex.join([*words, *self.settings]))

    def python(self) -> str:
        """Return the call in Python; an object stands there by its name."""
        given = dict(self.given)
        first = [self._value(given.pop(name)) for name in _POSITIONAL if name in given]
        rest = [f"{_PLURAL.get(name, name)}={self._value(x)}" for name, x in given.items()]
        if self.settings:
            rest.append(f"settings={list(self.settings)!r}")
        function = _FUNCTIONS.get(self.verb, self.verb)
        return f"auscult.{function}({', '.join([*first, *rest])})"

    def _value(self, value: Any) -> str:
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(self._value, value))}]"
        return str(value) if value in self.live else repr(value)


def unless_default(**options: tuple[Any, Any]) -> dict[str, Any]:
    """Return what is not the default, of pairs of value and default."""
    return {name: value for name, (value, default) in options.items() if value != default}


def _several(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]
