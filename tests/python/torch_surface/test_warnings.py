"""warnings.warn is an effect: the same warnings, in the name of the same lines, without a break."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from framejit_testing import counting, vector

import framejit

X = vector(4, 6, seed=1)


class Odd(UserWarning):
    pass


def helper():
    warnings.warn("in the name of the caller", Odd, stacklevel=2)


def warns(x):
    warnings.warn("here")
    helper()
    warnings.warn("soon gone", category=DeprecationWarning, stacklevel=1)
    return x * 2


def seen_in(function, times, action="always"):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter(action)
        for _ in range(times):
            function(X)
    return [(str(row.message), row.category, row.filename, row.lineno) for row in seen]


@pytest.mark.parametrize("action", ["always", "ignore"])
def test_the_same_warnings(action):
    compiled, backend = counting(warns)
    assert seen_in(compiled, 3, action) == seen_in(warns, 3, action)
    assert backend.count == 1
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert framejit.explain(warns)(X).break_count == 0


def test_filters_of_the_call_count():
    compiled, _ = counting(warns)
    assert len(seen_in(compiled, 2)) == 6
    assert seen_in(compiled, 2, "ignore") == []
    with warnings.catch_warnings():
        warnings.simplefilter("error", Odd)
        with pytest.raises(Odd) as caught:
            compiled(X)
    assert caught.traceback[-1].name == "helper"


def test_each_place_once():
    def function(x):
        for _ in range(3):
            warnings.warn("many times")
        return x + 1

    compiled, _ = counting(function)
    assert len(seen_in(compiled, 2, "default")) == 1


def test_a_raised_warning_may_be_caught():
    def function(x):
        try:
            warnings.warn("no")
        except UserWarning:
            return x - 1
        return x + 1

    compiled, _ = counting(function)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(compiled(X), X + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(compiled(X), X - 1)


def test_library_warnings():
    def function(x):
        return F.kl_div(x.log_softmax(1), x.softmax(1))

    compiled, backend = counting(function)
    assert seen_in(compiled, 2) == seen_in(function, 2)
    assert backend.count == 1
