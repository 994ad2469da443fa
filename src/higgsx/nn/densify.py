"""Back from compressed to ordinary parameters, in place."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from higgsx.errors import ModelError
from higgsx.nn.packed import make_dense, packed_of, packed_parameters


def densify(model: nn.Module, names: Iterable[str] | None = None) -> tuple[str, ...]:
    """Decode compressed parameters of a model to its run dtype.

    names  dotted names of parameters or of modules (then all of theirs); None: everything
    Tied copies become dense together and stay tied. The new parameters are frozen. Returns the dotted names
    that became dense; raises ModelError for a name that holds nothing compressed.
    """
    places = [
        (f"{path}.{parameter}" if path else parameter, module, parameter)
        for path, module in model.named_modules(remove_duplicate=False)
        for parameter in packed_parameters(module)
    ]
    if names is None:
        wanted = set(range(len(places)))
    else:
        wanted = {index for name in names for index in _matching(name, places)}
    storages = {_identity(places[index]) for index in wanted}
    dense: dict[tuple[int, ...], nn.Parameter] = {}
    done = []
    # identities are taken before anything changes
    for place, identity in [(place, _identity(place)) for place in places]:
        name, module, parameter = place
        if identity not in storages:
            continue
        done.append(name)
        if parameter not in packed_parameters(module):
            continue  # the same module under another path
        if identity in dense:
            setattr(module, parameter, dense[identity])
        else:
            dense[identity] = make_dense(module, parameter)
    return tuple(done)


_Place = tuple[str, nn.Module, str]


def _matching(name: str, places: list[_Place]) -> list[int]:
    found = [
        index for index, (path, _, _) in enumerate(places) if path == name or path.startswith(f"{name}.")
    ]
    if not found:
        raise ModelError(
            "nothing compressed has this name", where=name, remedy="see named_parameters() for `_hgs`"
        )
    return found


def _identity(place: _Place) -> tuple[int, ...]:
    _, module, parameter = place
    return tuple(id(array) for array in packed_of(module, parameter).arrays.values())
