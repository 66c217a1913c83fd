"""What the parts of a module keep beside their weights: settings, functions, buffers."""

from torch import nn

from auscult.notebook import compiled
from auscult.value import as_text

_OF_TORCH = frozenset(vars(nn.Module()))


def attributes(module: nn.Module) -> dict[str, str]:
    """Return a text for each value that the parts of a module keep, by name."""
    found = {}
    for name, part in module.named_modules():
        values = {key: value for key, value in vars(part).items() if key not in _OF_TORCH}
        values |= {key: part.get_buffer(key) for key in part._non_persistent_buffers_set}
        for key, value in sorted(values.items()):
            if isinstance(value, nn.Module):
                continue
            text = as_text(value)
            found[f"{name}.{key}"] = repr(compiled(value)[0]) if text is None else text
    return found
