"""Type versions, look-ups and instance dicts. Run by test_interpreters.py."""

import sys

import framejit_check


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


def set_in_loop(instance):
    for value in range(1000, 1100):  # often enough for every specialised form of the store
        instance.a = value


# Everything that changes the content or the order of a dict that has "a" and "b".
DICT_CHANGES = {
    "set": lambda d: d.__setitem__("a", 1002),
    "add": lambda d: d.__setitem__("new", 1002),
    "add another type of key": lambda d: d.__setitem__(7, 1002),
    "delete": lambda d: d.__delitem__("a"),
    "delete and add": lambda d: d.__setitem__("a", d.pop("a")),
    "pop": lambda d: d.pop("a"),
    "popitem": lambda d: d.popitem(),
    "setdefault": lambda d: d.setdefault("new", 1002),
    "update": lambda d: d.update(a=1002),
    "update from a dict": lambda d: d.update({"a": 1002}),
    "update from pairs": lambda d: d.update([("new", 1002)]),
    "union": lambda d: d.__ior__({"a": 1002}),
    "clear": lambda d: d.clear(),
    "C": lambda d: exec("a = 1002", d),
}
INSTANCE_CHANGES = {
    "set": lambda i: setattr(i, "a", 1002),
    "set, specialised": set_in_loop,
    "add": lambda i: setattr(i, "new", 1002),
    "delete": lambda i: delattr(i, "a"),
    "object.__setattr__": lambda i: object.__setattr__(i, "a", 1002),
}


def check_version_changes(what, owner, dict_of, change):
    content, version = list(dict_of(owner).items()), framejit_check.dict_version(dict_of(owner))
    assert framejit_check.dict_version(dict_of(owner)) == version, what  # looking is no change
    change(owner)
    assert framejit_check.dict_version(dict_of(owner)) != version, what
    after = framejit_check.dict_version(dict_of(owner))
    assert list(dict_of(owner).items()) != content, what
    dict_of(owner).clear()
    dict_of(owner).update(content)
    assert framejit_check.dict_version(dict_of(owner)) not in (version, after), what


def check_dict_version():
    assert framejit_check.dict_version({"a": 1}) != framejit_check.dict_version({"a": 1})
    for what, change in DICT_CHANGES.items():
        check_version_changes(what, {"a": 1000, "b": 1001}, lambda d: d, change)
        instance = Plain()
        instance.a, instance.b = 1000, 1001
        check_version_changes("instance dict: " + what, instance.__dict__, lambda d: d, change)
    for what, change in INSTANCE_CHANGES.items():
        instance = Plain()
        instance.a, instance.b = 1000, 1001
        keep = instance.__dict__
        check_version_changes(what, instance, lambda i: i.__dict__, change)
        assert keep is instance.__dict__


def check_new_int():
    edges = (1, 4, 5, 255, 256, 257, 2**30 - 1, 2**30, 2**31, 2**60, 2**62)
    for value in (0, *edges, *(-edge for edge in edges)):
        made = framejit_check.new_int(value)
        assert type(made) is int and made == value and value == made
        assert made is not value and made is not framejit_check.new_int(value)
        assert (str(made), hash(made), bool(made)) == (str(value), hash(value), bool(value))
        assert made + 0 == value and -made == -value and made * 3 == value * 3 and {value: 1}[made] == 1
        assert made.bit_length() == value.bit_length() and (made < 1) == (value < 1)
        assert list(range(10))[framejit_check.new_int(3)] == 3
        del made
    assert [-5, 0, 256] == [2 - 7, 3 - 3, 255 + 1]  # what CPython shares is as it was


def main():
    check_new_int()
    check_type_version()
    check_lookup()
    check_inline_values()
    check_other_dicts()
    check_dict_version()
    print("types and instance dicts")


main()
