"""Members trained by the usual loop in PyTorch, one after the other, each in the given batches."""

import copy
from typing import Any, NamedTuple

import numpy as np
import tasks


class TorchMembers(NamedTuple):
    """Modules with the members' first weights, data normalized beforehand, steps of indices."""

    modules: list
    inputs: Any
    labels: Any
    orders: list
    learning_rate: float


def torch_members(task, starts, orders, learning_rate, channels_last=False) -> TorchMembers:
    """The members of PyTorch: `starts` are trees of weights, `orders` arrays (steps, batch)."""
    import torch

    module, inputs, labels = tasks.to_torch(task)
    if channels_last:
        module = module.to(memory_format=torch.channels_last)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    modules = []
    for params in starts:
        member = copy.deepcopy(module).train()
        _copy(tasks.list_of_tensors(params, member), member)
        modules.append(member)
    orders = [torch.tensor(np.asarray(order), device=labels.device).long() for order in orders]
    return TorchMembers(modules, inputs, labels, orders, learning_rate)


def one_after_the_other(placed: TorchMembers):
    """Forward, cross-entropy, backward, step; every run begins at the first weights."""
    import torch

    starts = [[p.detach().clone() for p in module.parameters()] for module in placed.modules]

    def train(module, order):
        optimizer = torch.optim.SGD(module.parameters(), lr=placed.learning_rate)
        for indices in order:
            logits = module(placed.inputs[indices])
            loss = torch.nn.functional.cross_entropy(logits, placed.labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def run():
        for module, start, order in zip(placed.modules, starts, placed.orders, strict=True):
            _copy(start, module)
            train(module, order)

    return run


def read_losses(placed: TorchMembers, result):
    """The loss of every member in training mode on the first batch of its order."""
    import torch

    losses = []
    with torch.no_grad():
        for module, order in zip(placed.modules, placed.orders, strict=True):
            logits = copy.deepcopy(module)(placed.inputs[order[0]])
            labels = placed.labels[order[0]]
            losses.append(float(torch.nn.functional.cross_entropy(logits, labels)))
    return np.array(losses), None


def _copy(values, module):
    import torch

    with torch.no_grad():
        for parameter, value in zip(module.parameters(), values, strict=True):
            parameter.copy_(value)
