"""One outside value changes between two calls: a guard fails, or what is replayed is still what eager does.

Every value of every case is changed where FRAMEJIT_LONG_TESTS=1, a sixth of them otherwise."""

import os

import pytest

from tests.fuzz.cases import all_cases
from tests.fuzz.mutate import changes, programs
from tests.fuzz.program import Statistics, difference

EVERY = 1 if os.environ.get("FRAMEJIT_LONG_TESTS") == "1" else 6
CASES = {name: (setup, arguments) for name, setup, arguments in all_cases()}


@pytest.mark.parametrize("name", CASES)
def test_mutations(name):
    setup, arguments = CASES[name]
    offset = list(CASES).index(name) % EVERY
    statistics = Statistics()
    for program in programs(name, setup, arguments, every=EVERY, offset=offset):
        found = difference(program, statistics)
        assert found is None, f"{found}\n{program.source()}"
    assert statistics.hits > 0


def test_the_changes_reach_everything():
    setup, arguments = CASES["object"]
    done = {change for _, change, _ in changes(setup, arguments)}
    for expected in (
        "a1.__dict__['scale'] = {} + 0.5", "Base.factor = {} + 1", "Base.forward = lambda *a, **k: T(3)",
        "del Base.kind", "Base.double = property(lambda self: 17)", "a0 = {}.detach().double()",
        "a1.__dict__['weight'] = {} + 1",
    ):  # fmt: skip
        assert expected.replace("{}", expected.split(" = ")[0]) in done
    assert len(done) > 100
