"""Opening the models of a server, in threads of this process or in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from multistride.decode.options import DecodeOptions
from multistride.decode.plan import plan
from multistride.engines.interface import announce
from multistride.serve.apart import ProcessLink, described
from multistride.serve.links import ThreadLink
from multistride.serve.metrics import Metrics
from multistride.serve.orders import Capacity
from multistride.serve.plans import Plans
from multistride.serve.rounds import Rounds
from multistride.serve.scheduler import Scheduler
from multistride.serve.served import Defaults, Served, ServedModel
from multistride.text_model import TextModel


def opened(models: Mapping[str, TextModel], defaults: Defaults, capacity: Capacity) -> Served:
    """Return a server over opened models, by name, which decode in threads of this process."""
    metrics = Metrics()
    served = Served({}, metrics)
    for name, model in models.items():
        plans = Plans(model)
        _check(model, defaults)
        if defaults.group_size == "auto":
            plans.measure(defaults.mode)
        link = ThreadLink(partial(Rounds, model.engine, plans, capacity), name)
        scheduler = Scheduler(name, capacity, metrics, link)
        served.models[name] = ServedModel(name, model, plans, defaults, scheduler)
    for model in models.values():
        announce(model.engine)
    return served


def opened_apart(
    directories: Mapping[str, Path],
    open_model: Callable[[Path], TextModel],
    defaults: Defaults,
    capacity: Capacity,
) -> Served:
    """Return a server over the models of directories, each opened in a process of its own."""
    metrics = Metrics()
    served = Served({}, metrics)
    models = {name: described(directory) for name, directory in directories.items()}
    for model in models.values():
        _check(model, defaults)
    mode = defaults.mode if defaults.group_size == "auto" else None
    links = {
        name: ProcessLink(name, partial(open_model, directory), mode, capacity)
        for name, directory in directories.items()
    }
    try:
        for name, link in links.items():
            model, found = models[name], link.opened()
            model.engine.name = found.engine
            model.measured.costs.update(found.costs)
            plans, scheduler = Plans(model), Scheduler(name, capacity, metrics, link)
            served.models[name] = ServedModel(name, model, plans, defaults, scheduler)
    except BaseException:
        for link in links.values():
            link.stop(patience=0.0)
        raise
    return served


def _check(model: TextModel, defaults: Defaults) -> None:
    """Raise `UsageError` for defaults that the model does not take."""
    size = defaults.group_size
    size = max(model.config.group_sizes) if size == "auto" else size
    options = DecodeOptions.made(group_size=size, mode=defaults.mode)
    plan(options, model.config, model.vocabulary, model.measured)
