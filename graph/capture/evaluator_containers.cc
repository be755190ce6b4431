// Opcodes that build, extend and take apart containers and strings. What they build is local to the recording.
#include <opcode.h>

#include "graph/capture/frame_evaluator.h"
#include "graph/capture/unread.h"

namespace framejit {

Flow PushLocal(FrameEvaluator& f, PyObject* object) {
  if (object == nullptr) return Flow::kError;
  f.recorder.NewLocal(object);
  f.Push(object);
  return Flow::kNext;
}

namespace {

Flow BuildTuple(FrameEvaluator& f, int arg) {
  PyObject* tuple = PyTuple_New(arg);
  if (tuple == nullptr) return Flow::kError;
  f.sp -= arg;
  for (int i = 0; i < arg; ++i) PyTuple_SET_ITEM(tuple, i, f.sp[i]);
  return PushLocal(f, tuple);
}

Flow BuildList(FrameEvaluator& f, int arg) {
  PyObject* list = PyList_New(arg);
  if (list == nullptr) return Flow::kError;
  f.sp -= arg;
  for (int i = 0; i < arg; ++i) PyList_SET_ITEM(list, i, f.sp[i]);
  return PushLocal(f, list);
}

Flow BuildSet(FrameEvaluator& f, int arg) {
  PyRef set = PyRef::Steal(PySet_New(nullptr));
  if (!set) return Flow::kError;
  for (int i = arg; i > 0; --i) {
    f.recorder.UseAsKey(f.Peek(i));
    if (PySet_Add(set.get(), f.Peek(i)) != 0) return Flow::kError;
  }
  f.Drop(arg);
  return PushLocal(f, set.release());
}

Flow BuildMap(FrameEvaluator& f, int arg) {
  PyRef dict = PyRef::Steal(PyDict_New());
  if (!dict) return Flow::kError;
  for (int i = arg; i > 0; --i) {
    f.recorder.UseAsKey(f.Peek(2 * i));
    if (PyDict_SetItem(dict.get(), f.Peek(2 * i), f.Peek(2 * i - 1)) != 0) return Flow::kError;
  }
  f.Drop(2 * arg);
  return PushLocal(f, dict.release());
}

Flow BuildConstKeyMap(FrameEvaluator& f, int arg) {
  PyRef dict = PyRef::Steal(PyDict_New());
  if (!dict) return Flow::kError;
  PyObject* keys = f.Top();
  for (int i = 0; i < arg; ++i) {
    if (PyDict_SetItem(dict.get(), PyTuple_GET_ITEM(keys, i), f.Peek(arg + 1 - i)) != 0) return Flow::kError;
  }
  f.Drop(arg + 1);
  return PushLocal(f, dict.release());
}

Flow BuildString(FrameEvaluator& f, int arg) {
  PyRef parts = PyRef::Steal(PyTuple_New(arg));
  PyRef empty = PyRef::Steal(PyUnicode_FromString(""));
  if (!parts || !empty) return Flow::kError;
  f.sp -= arg;
  for (int i = 0; i < arg; ++i) PyTuple_SET_ITEM(parts.get(), i, f.sp[i]);
  return f.PushResult(PyUnicode_Join(empty.get(), parts.get()));
}

Flow BuildSlice(FrameEvaluator& f, int arg) {
  PyRef step = arg == 3 ? f.Pop() : PyRef();
  PyRef stop = f.Pop();
  PyRef start = f.Pop();
  return f.PushResult(PySlice_New(start.get(), stop.get(), step.get()));
}

// The list that is being built, which a state may have brought; null with an exception or a break.
PyObject* BuiltList(FrameEvaluator& f, int place) {
  if (IsUnread(f.Peek(place)) && f.recorder.Read(&f.Peek(place)) != 0) return nullptr;
  f.recorder.ExtendBuilt(f.Peek(place));
  return f.Peek(place);
}

Flow ListAppend(FrameEvaluator& f, int arg) {
  PyRef value = f.Pop();
  PyObject* list = BuiltList(f, arg);
  return list == nullptr || PyList_Append(list, value.get()) != 0 ? Flow::kError : Flow::kNext;
}

Flow SetAdd(FrameEvaluator& f, int arg) {
  PyRef value = f.Pop();
  f.recorder.UseAsKey(value.get());
  return PySet_Add(f.Peek(arg), value.get()) != 0 ? Flow::kError : Flow::kNext;
}

Flow MapAdd(FrameEvaluator& f, int arg) {
  PyRef value = f.Pop();
  PyRef key = f.Pop();
  f.recorder.UseAsKey(key.get());
  return PyDict_SetItem(f.Peek(arg), key.get(), value.get()) != 0 ? Flow::kError : Flow::kNext;
}

// The iterable is turned into a tuple of lifted items first, so that only local objects are extended.
Flow ListExtend(FrameEvaluator& f, int arg) {
  PyRef iterable = f.Pop();
  PyTypeObject* type = Py_TYPE(iterable.get());
  if (type->tp_iter == nullptr && !PySequence_Check(iterable.get())) {
    PyErr_Format(PyExc_TypeError, "Value after * must be an iterable, not %.200s", type->tp_name);
    return Flow::kError;
  }
  PyRef items = PyRef::Steal(f.recorder.AsTuple(iterable.get()));
  if (!items) return Flow::kError;
  PyObject* list = BuiltList(f, arg);
  if (list == nullptr) return Flow::kError;
  Py_ssize_t size = PyList_GET_SIZE(list);
  return PyList_SetSlice(list, size, size, items.get()) != 0 ? Flow::kError : Flow::kNext;
}

Flow SetUpdate(FrameEvaluator& f, int arg) {
  PyRef iterable = f.Pop();
  PyRef items = PyRef::Steal(f.recorder.AsTuple(iterable.get()));
  if (!items) return Flow::kError;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(items.get()); ++i) {
    f.recorder.UseAsKey(PyTuple_GET_ITEM(items.get(), i));
    if (PySet_Add(f.Peek(arg), PyTuple_GET_ITEM(items.get(), i)) != 0) return Flow::kError;
  }
  return Flow::kNext;
}

// Errors of a merge have messages that name the called function; they are left to the interpreter.
Flow MergeInto(FrameEvaluator& f, int arg, int override_mode) {
  PyRef other = f.Pop();
  if (f.recorder.PrepareForC(other.get()) < 0) return Flow::kError;
  if (_PyDict_MergeEx(f.Peek(arg), other.get(), override_mode) == 0) return Flow::kNext;
  return f.BreakAt(BreakCode::kUnsupportedOpcode, "an error in ** unpacking");
}

Flow DictUpdate(FrameEvaluator& f, int arg) { return MergeInto(f, arg, 1); }
Flow DictMerge(FrameEvaluator& f, int arg) { return MergeInto(f, arg, 2); }

// The items of a sequence for unpacking, as a tuple or a list. Of an iterator no more than `limit` are taken (all where
// it is negative), as CPython does: it may be endless. Behind `first` items the rest is list(iterator), which asks it
// for an iterator once more.
PyRef UnpackItems(FrameEvaluator& f, PyObject* sequence, Py_ssize_t limit, Py_ssize_t first = -1) {
  if (PyTuple_CheckExact(sequence) || PyList_CheckExact(sequence)) return PyRef::Steal(f.recorder.AsTuple(sequence));
  if (Py_TYPE(sequence)->tp_iter == nullptr && !PySequence_Check(sequence)) {
    PyErr_Format(PyExc_TypeError, "cannot unpack non-iterable %.200s object", Py_TYPE(sequence)->tp_name);
    return PyRef();
  }
  PyRef iterator = PyRef::Steal(f.recorder.GetIter(sequence));
  PyRef items = PyRef::Steal(PyList_New(0));
  if (!iterator || !items) return PyRef();
  while (PyList_GET_SIZE(items.get()) != limit) {
    if (PyList_GET_SIZE(items.get()) == first) {
      iterator = PyRef::Steal(f.recorder.GetIter(iterator.get()));
      if (!iterator) return PyRef();
      first = -1;
    }
    PyRef item = PyRef::Steal(f.recorder.IterNext(iterator.get()));
    if (!item) break;
    if (PyList_Append(items.get(), item.get()) != 0) return PyRef();
  }
  if (!f.recorder.broken() && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_StopIteration)) PyErr_Clear();
  if (PyErr_Occurred() || f.recorder.broken()) return PyRef();
  return PyRef::Steal(PyList_AsTuple(items.get()));
}

Flow UnpackSequence(FrameEvaluator& f, int arg) {
  if (IsUnread(f.Top())) {
    PyRef unread = f.Pop();
    const int unpacked = f.recorder.UnpackUnread(unread.get(), arg, &f.sp);
    if (unpacked != 0) return unpacked < 0 ? Flow::kError : Flow::kNext;
    f.Push(unread.release());
    if (f.recorder.Read(&f.Top()) != 0) return Flow::kError;
  }
  PyRef sequence = f.Pop();
  PyRef items = UnpackItems(f, sequence.get(), arg + 1);
  if (!items) return Flow::kError;
  Py_ssize_t size = PyTuple_GET_SIZE(items.get());
  if (size > arg) {
    PyErr_Format(PyExc_ValueError, "too many values to unpack (expected %d)", arg);
    return Flow::kError;
  }
  if (size < arg) {
    PyErr_Format(PyExc_ValueError, "not enough values to unpack (expected %d, got %zd)", arg, size);
    return Flow::kError;
  }
  for (Py_ssize_t i = size - 1; i >= 0; --i) f.Push(Py_NewRef(PyTuple_GET_ITEM(items.get(), i)));
  return Flow::kNext;
}

Flow UnpackEx(FrameEvaluator& f, int arg) {
  const int before = arg & 0xff;
  const int after = arg >> 8;
  PyRef sequence = f.Pop();
  PyRef items = UnpackItems(f, sequence.get(), -1, before);
  if (!items) return Flow::kError;
  Py_ssize_t size = PyTuple_GET_SIZE(items.get());
  if (size < before + after) {
    PyErr_Format(PyExc_ValueError, "not enough values to unpack (expected at least %d, got %zd)", before + after, size);
    return Flow::kError;
  }
  PyRef middle = PyRef::Steal(PyList_New(size - before - after));
  if (!middle) return Flow::kError;
  for (Py_ssize_t i = before; i < size - after; ++i) {
    PyList_SET_ITEM(middle.get(), i - before, Py_NewRef(PyTuple_GET_ITEM(items.get(), i)));
  }
  for (int i = 0; i < after; ++i) f.Push(Py_NewRef(PyTuple_GET_ITEM(items.get(), size - 1 - i)));
  f.recorder.NewLocal(middle.get());
  f.Push(middle.release());
  for (int i = before - 1; i >= 0; --i) f.Push(Py_NewRef(PyTuple_GET_ITEM(items.get(), i)));
  return Flow::kNext;
}

constexpr OpcodeRow kRows[] = {
    {BUILD_TUPLE, BuildTuple},
    {BUILD_LIST, BuildList},
    {BUILD_SET, BuildSet},
    {BUILD_MAP, BuildMap},
    {BUILD_CONST_KEY_MAP, BuildConstKeyMap},
    {BUILD_STRING, BuildString},
    {BUILD_SLICE, BuildSlice},
    {LIST_APPEND, ListAppend},
    {SET_ADD, SetAdd},
    {MAP_ADD, MapAdd},
    {LIST_EXTEND, ListExtend},
    {SET_UPDATE, SetUpdate},
    {DICT_UPDATE, DictUpdate},
    {DICT_MERGE, DictMerge},
    {UNPACK_SEQUENCE, UnpackSequence},
    {UNPACK_EX, UnpackEx},
};

}  // namespace

absl::Span<const OpcodeRow> ContainerOpcodes() { return kRows; }

}  // namespace framejit
