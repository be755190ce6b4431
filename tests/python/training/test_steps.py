"""Whole training steps in one compiled function: zero_grad, forward, loss, backward, clipping, optimizer, scheduler.

Twenty steps from the same seed: losses, parameters, gradients and the optimizer's state are eager's. Forward,
loss and backward are one graph, what comes behind the step (`detach`) is another; nothing is recorded again when the
learning rate or the step count changes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from framejit_testing import assert_same, counting, vector
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop
from torch.optim.optimizer import register_optimizer_step_post_hook

import framejit

STEPS = 20
BATCHES = [(vector(8, 6, seed=i), torch.arange(8).add(i) % 3) for i in range(STEPS)]


class Net(nn.Module):
    """Parameters of several shapes: one transposed in memory, one expanded, one without gradients, one never used."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 16)
        self.second = nn.Linear(16, 16)
        self.last = nn.Linear(16, 3)
        self.second.weight = nn.Parameter(self.second.weight.detach().t().contiguous().t())
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, x):
        x = self.first(x).tanh() + self.token.expand(1, x.shape[0], 16)[0]
        return self.last(self.second(x).relu()) * self.frozen


def plain(model, optimizer, extra, x, target):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), target)
    loss.backward()
    optimizer.step()
    return loss.detach()


def trained(step, make, setup=lambda optimizer: None, batches=BATCHES, dtype=torch.float32):
    """What is left of `step` over all batches: losses, then everything that it updates."""
    torch.manual_seed(0)
    model = Net().to(dtype)
    optimizer = make(model.parameters())
    extra = setup(optimizer)
    losses = [step(model, optimizer, extra, x.to(dtype), target) for x, target in batches]
    parameters = list(model.parameters())
    states = [dict(optimizer.state[p]) if p in optimizer.state else None for p in parameters]
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    return losses, [p.detach() for p in parameters], [p.grad for p in parameters], states, groups


def compare(step, make, graphs=2, **options):
    """Eager's results against those of the compiled step, in the native backend and in one that counts its graphs."""
    expected = trained(step, make, **options)
    compiled, backend = counting(step)
    assert_same(trained(compiled, make, **options), expected)
    assert_same(trained(framejit.compile(step), make, **options), expected)
    if graphs is not None:
        assert backend.count == graphs


OPTIMIZERS = {
    "sgd": lambda p: SGD(p, lr=0.1),
    "sgd_decay": lambda p: SGD(p, lr=0.1, weight_decay=0.01, maximize=True),
    "sgd_momentum": lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "sgd_dampening": lambda p: SGD(p, lr=0.05, momentum=0.9, dampening=0.3, foreach=True),
    "sgd_nesterov": lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: Adam(p, lr=1e-2),
    "adam_decay": lambda p: Adam(p, lr=1e-2, weight_decay=0.01, foreach=True),
    "adam_amsgrad": lambda p: Adam(p, lr=1e-2, betas=(0.4, 0.9), amsgrad=True, maximize=True),
    "adamw": lambda p: AdamW(p, lr=1e-2),
    "adamw_foreach": lambda p: AdamW(p, lr=1e-2, weight_decay=0.1, amsgrad=True, foreach=True),
    # A larger rate amplifies the rounding of the first steps: with products of float64, eager ends 4 % elsewhere.
    "rmsprop": lambda p: RMSprop(p, lr=1e-3),
    "rmsprop_all": lambda p: RMSprop(p, lr=1e-3, momentum=0.9, centered=True, weight_decay=0.01),
    "rmsprop_momentum": lambda p: RMSprop(p, lr=1e-3, momentum=0.9, foreach=True, maximize=True),
    "rmsprop_centered": lambda p: RMSprop(p, lr=1e-3, alpha=0.6, centered=True),
    "adagrad": lambda p: Adagrad(p, lr=1e-2),
    "adagrad_decay": lambda p: Adagrad(p, lr=1e-2, lr_decay=0.1, weight_decay=0.01, foreach=True, maximize=True),
}
# Those whose step stays torch's own.
OTHERS = {
    "sgd_fused": lambda p: SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adam_fused": lambda p: Adam(p, lr=1e-2, fused=True),
    "adamw_fused": lambda p: AdamW(p, lr=1e-2, weight_decay=0.1, fused=True),
    "adagrad_fused": lambda p: Adagrad(p, lr=1e-2, fused=True),
    "adam_capturable_off_tensor_lr": lambda p: Adam(p, lr=torch.tensor(1e-2), foreach=False),
    "adamax": lambda p: torch.optim.Adamax(p),
    "nadam": lambda p: torch.optim.NAdam(p),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "rprop": lambda p: torch.optim.Rprop(p),
    "asgd": lambda p: torch.optim.ASGD(p),
}
ALL = {**OPTIMIZERS, **OTHERS}


@pytest.mark.parametrize("name", ALL)
def test_step(name):
    compare(plain, ALL[name])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_step_in_float64(name):
    compare(plain, OPTIMIZERS[name], dtype=torch.float64)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_of_the_usual_optimizers_are_native(name, monkeypatch):
    """torch's Python code makes the state, and that is all it does."""
    calls = []
    owner = type(OPTIMIZERS[name]([nn.Parameter(torch.ones(1))]))
    original = owner._init_group

    def counted(self, *args, **kwargs):
        calls.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(owner, "_init_group", counted)
    trained(framejit.compile(plain), OPTIMIZERS[name])
    has_state = name not in ("sgd", "sgd_decay", "adagrad", "adagrad_decay")
    assert len(calls) == (1 if has_state else 0)


FORMS = [
    (optimizer, form)
    for optimizer in (SGD, Adam, AdamW, RMSprop, Adagrad)
    for form in ({"foreach": False}, {"foreach": True}, {"fused": True})
    if optimizer is not RMSprop or "fused" not in form
]


@pytest.mark.parametrize("optimizer, form", FORMS, ids=lambda value: getattr(value, "__name__", None) or str(value))
def test_all_forms_of_a_step(optimizer, form):
    """Decay, and momentum where there is one, in each of torch's forms."""
    momentum = {"momentum": 0.9} if optimizer in (SGD, RMSprop) else {}
    lr = 1e-3 if optimizer is RMSprop else 1e-2  # larger steps multiply the last bits
    compare(plain, lambda p: optimizer(p, lr=lr, weight_decay=0.02, **momentum, **form))


def schedule(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=STEPS + 1)


def test_a_scheduler_changes_no_graph():
    def step(model, optimizer, scheduler, x, target):
        loss = plain(model, optimizer, None, x, target)
        scheduler.step()
        return loss

    for name in ("sgd_momentum", "adamw"):
        compare(step, OPTIMIZERS[name], setup=schedule)


def test_clipping():
    def by_norm(model, optimizer, extra, x, target):
        optimizer.zero_grad(set_to_none=False)
        loss = F.cross_entropy(model(x), target)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.2)
        optimizer.step()
        return loss.detach(), norm

    def by_value(model, optimizer, extra, x, target):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), target)
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.01)
        optimizer.step()
        return loss.detach()

    compare(by_norm, OPTIMIZERS["adam"], graphs=3)  # the backward of the first step accumulates into nothing
    compare(by_value, OPTIMIZERS["sgd_momentum"])


def test_gradient_scaler():
    """A scaled loss of infinity skips the step and halves the scale, as in eager mode."""

    def step(model, optimizer, scaler, x, target):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x).float(), target)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss.detach(), scaler.get_scale()

    batches = list(BATCHES)
    batches[7] = (torch.full((8, 6), torch.inf), batches[7][1])
    make = OPTIMIZERS["adam"]
    options = {"setup": lambda optimizer: torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=5)}
    compare(step, make, batches=batches, **options)


def test_accumulation_over_two_batches():
    def step(model, optimizer, extra, x, target):
        for half in range(2):
            rows = slice(half * 4, half * 4 + 4)
            loss = F.cross_entropy(model(x[rows]), target[rows]) / 2
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    compare(step, OPTIMIZERS["adamw"], graphs=None)


def test_two_parameter_groups():
    def make(parameters):
        first, second, *rest = parameters
        return SGD([{"params": [first], "lr": 0.5}, {"params": [second, *rest], "momentum": 0.8}], lr=0.01)

    compare(plain, make)


def test_closures_and_hooks_run_in_python():
    def with_closure(model, optimizer, extra, x, target):
        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), target)
            loss.backward()
            return loss

        return optimizer.step(closure).detach()

    compare(with_closure, OPTIMIZERS["sgd_momentum"], graphs=None)
    # LBFGS wants contiguous gradients; its line of steps multiplies the last bits, which those of float64 survive.
    lbfgs = lambda p: torch.optim.LBFGS(list(p)[-2:], lr=0.1, max_iter=3)  # noqa: E731
    # Its state holds the losses as Python numbers, which are compared as they are.
    expected = trained(with_closure, lbfgs, dtype=torch.float64)[:3]
    assert_same(trained(framejit.compile(with_closure), lbfgs, dtype=torch.float64)[:3], expected)
    seen = []

    def hooked(optimizer):
        optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
        optimizer.register_step_post_hook(lambda *_: seen.append("after"))

    compare(plain, OPTIMIZERS["adam"], setup=hooked)
    assert seen == ["before", "after"] * STEPS * 3


def test_hooks_of_all_optimizers_run():
    seen = []
    handle = register_optimizer_step_post_hook(lambda *_: seen.append(1))
    try:
        compare(plain, OPTIMIZERS["sgd"])
    finally:
        handle.remove()
    assert len(seen) == STEPS * 3


def test_a_subclass_with_a_step_of_its_own():
    class Signed(SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.data.add_(p.grad.sign(), alpha=-group["lr"])

    compare(plain, lambda p: Signed(p, lr=0.01))


def test_a_subclass_that_calls_the_step_it_overrides():
    class Counting(Adam):
        count = 0

        def step(self, closure=None):
            self.count += 1
            return super().step(closure)

    compare(plain, lambda p: Counting(p, lr=0.01))


def test_parameters_that_share_memory():
    """Eager's foreach functions update them operator by operator."""

    def make(parameters):
        parameters = list(parameters)
        whole = parameters[0].detach()
        halves = [nn.Parameter(whole[:8]), nn.Parameter(whole[4:12])]
        for half in halves:
            half.grad = torch.ones_like(half)
        return SGD([*parameters, *halves], lr=0.1, weight_decay=0.1, foreach=True)

    def step(model, optimizer, extra, x, target):
        loss = F.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        return loss.detach()

    compare(step, make, graphs=3)  # the first step finds no gradients, the others those of the steps before


def test_loaded_state():
    """A state dict with steps that were taken before."""
    make = OPTIMIZERS["adamw"]

    def loaded(parameters):
        optimizer = make(parameters)
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.full_like(p, 0.1) if p.requires_grad else None
        optimizer.step()
        optimizer.zero_grad()
        state = copy.deepcopy(optimizer.state_dict())
        optimizer.load_state_dict(state)
        return optimizer

    compare(plain, loaded)


def test_updated_parameters_have_new_versions():
    """A graph that saved a parameter which a step has updated since raises, as in eager mode."""

    def step(weight, optimizer, x):
        loss = (x @ weight).tanh().sum()
        loss.backward(retain_graph=True)
        optimizer.step()
        loss.backward()

    def message(function):
        weight = nn.Parameter(vector(3, 3))
        optimizer = SGD([weight], lr=0.1)
        x = vector(2, 3, seed=1).requires_grad_()
        try:
            function(weight, optimizer, x)
        except RuntimeError as error:
            return str(error)

    expected = message(step)
    assert "modified by an inplace operation" in expected
    assert message(framejit.compile(step)) == expected
