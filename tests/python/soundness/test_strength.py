"""The strength of the fuzzer and the mutation tests: with any one kind of guard, effect or check of aliasing switched
off, they fail.

The kinds come from the tables (guards.def, effects.def), so that a new one has to be found as well. WITNESSES only says
where to look first."""

import pytest

import framejit
from tests.fuzz import generate
from tests.fuzz.cases import all_cases
from tests.fuzz.mutate import programs
from tests.fuzz.program import difference

SEEDS = 200
# The case of the mutation tests (cases.py) whose programs show it.
WITNESSES = {
    "guard:TypeIs": "container_aliases",
    "guard:TypeVersion": "slots",
    "guard:ConstantIs": "set_state",
    "guard:IdentityIs": "module_attributes",
    "guard:SameObject": "aliases",
    "guard:NotSameObject": "identities",
    "guard:TensorMatches": "state",
    "guard:PlainLeaf": "gradients",
    "guard:NoOverlap": "aliases",
    "guard:KeyPresent": "dicts",
    "guard:KeyAbsent": "dicts",
    "guard:LengthIs": "arguments",
    "guard:KeysAre": "argument_dict",
    "guard:SetEquals": "other_containers",
    "guard:FunctionCode": "generators",
    "guard:ArgumentAbsent": "defaults",
    "guard:TorchState": "state",
    "effect:SetAttribute": "object",
    "effect:DeleteAttribute": "writes_attributes",
    "effect:SetDictItem": "writes",
    "effect:DeleteDictItem": "writes_deque_and_set",
    "effect:ClearDict": "clears_dict",
    "effect:ReplaceList": "writes_deque_and_set",
    "effect:ExtendList": "broken_list",
    "effect:ReplaceSet": "writes_deque_and_set",
    "effect:ReplaceDeque": "writes_deque_and_set",
    "effect:SetDequeItems": "writes_deque_and_set",
    "effect:SetCell": "writes_attributes",
    "effect:SetLayout": "layouts",
    "effect:Call": "set_state",
    "alias:WrittenInputs": "aliases",
    "alias:Operands": "overlapping_operands",
    "alias:StorageOffset": "offsets",
}
CASES = {name: (setup, arguments) for name, setup, arguments in all_cases()}
SLOW = ("TransformerEncoderLayer", "module_in_training", "parameters")


def fails(program, switch: str) -> bool:
    framejit._C._switch_off([switch])
    try:
        return difference(program) is not None
    finally:
        framejit._C._switch_off([])


def candidates(switch: str):
    witness = WITNESSES.get(switch)
    if witness is not None:
        yield from programs(witness, *CASES[witness])
    for name, case in CASES.items():
        if name not in SLOW:
            yield from programs(name, *case)
    for seed in range(SEEDS):
        yield generate.make(seed)


@pytest.mark.parametrize("switch", framejit._C._switches())
def test_with_one_kind_switched_off_something_fails(switch):
    found = next((program for program in candidates(switch) if fails(program, switch)), None)
    assert found is not None, f"nothing notices that {switch} is switched off"
    assert difference(found) is None


def test_an_unknown_switch_is_an_error():
    with pytest.raises(ValueError, match="no such switch"):
        framejit._C._switch_off(["guard:NoSuchKind"])
