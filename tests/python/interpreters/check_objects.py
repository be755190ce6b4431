"""Type versions, look-ups and instance dicts. Run by test_interpreters.py."""

import sys

import framejit_check

MINOR = sys.version_info[1]


class Plain:
    def method(self):
        return self


class Slotted:
    __slots__ = ("a",)


def check_type_version():
    class Fresh:
        pass

    class Child(Fresh):
        pass

    version = framejit_check.type_version(Fresh)
    child = framejit_check.type_version(Child)
    assert version and child and version != child
    assert framejit_check.type_version(Fresh) == framejit_check.current_type_version(Fresh) == version
    Fresh.attribute = 1
    assert framejit_check.current_type_version(Fresh) == 0
    assert framejit_check.current_type_version(Child) == 0  # a change of a base is a change
    assert framejit_check.type_version(Fresh) not in (0, version, child)
    assert framejit_check.type_version(Child) not in (0, version, child)
    assert framejit_check.type_version(int)


def check_lookup():
    assert framejit_check.type_lookup(Plain, "method") == (Plain.__dict__["method"],)
    assert framejit_check.type_lookup(Plain, "__repr__") == (object.__dict__["__repr__"],)
    assert framejit_check.type_lookup(Plain, "absent") == ()
    instance = Plain()
    assert framejit_check.get_method(instance, "method") == (1, Plain.method)
    instance.function = len
    assert framejit_check.get_method(instance, "function") == (0, len)
    try:
        framejit_check.get_method(instance, "absent")
    except AttributeError:
        pass
    else:
        raise AssertionError("an absent method was found")


def check_inline_values():
    instance = Plain()
    instance.a, instance.b = 1, 2
    name = "".join(["a"])  # equal, not the same
    assert framejit_check.has_inline_values(instance)
    assert framejit_check.inline_value(instance, "b") == (2,)
    assert framejit_check.inline_value(instance, name) == (1,)
    assert framejit_check.inline_value(instance, "absent") == ()
    del instance.a
    assert framejit_check.inline_value(instance, "a") == ()
    # Looking changed nothing.
    assert framejit_check.instance_dict(instance) == () and framejit_check.has_inline_values(instance)
    made = framejit_check.materialize_dict(instance)
    assert made == {"b": 2} and made is instance.__dict__
    assert framejit_check.instance_dict(instance)[0] is made
    assert not framejit_check.has_inline_values(instance) and framejit_check.inline_value(instance, "b") == ()


def check_other_dicts():
    slotted, error = Slotted(), ValueError()
    assert framejit_check.instance_dict(slotted) == () and not framejit_check.has_inline_values(slotted)
    try:
        framejit_check.materialize_dict(slotted)
    except AttributeError:
        pass
    else:
        raise AssertionError("an object without a dict got one")
    assert framejit_check.instance_dict(error) == ()  # a dict slot that is not managed, empty so far
    error.x = 1
    assert framejit_check.instance_dict(error) == ({"x": 1},)
    assert framejit_check.instance_dict(error)[0] is error.__dict__ is framejit_check.materialize_dict(error)
    assert framejit_check.instance_dict(3) == () and not framejit_check.has_inline_values(3)
    assert framejit_check.instance_dict(sys)[0] is sys.__dict__
    assert framejit_check.instance_dict(Plain)[0]["method"] is Plain.method
    many = Plain()
    for i in range(100):  # more than shared keys hold
        setattr(many, f"attribute_{i}", i)
    values = [framejit_check.inline_value(many, f"attribute_{i}") for i in range(100)]
    found = framejit_check.instance_dict(many)
    assert values == [(i,) for i in range(100)] or found[0]["attribute_99"] == 99


def check_dict_version():
    if MINOR >= 12:
        assert not hasattr(framejit_check, "dict_version")  # watchers took its place
        return
    first, second = {"a": 1}, {"a": 1}
    version = framejit_check.dict_version(first)
    assert version != framejit_check.dict_version(second)
    first["a"]
    assert framejit_check.dict_version(first) == version
    first["a"] = 2
    assert framejit_check.dict_version(first) != version


def main():
    check_type_version()
    check_lookup()
    check_inline_values()
    check_other_dicts()
    check_dict_version()
    print("types and instance dicts")


main()
