// How the object at a source is fetched on each call, and how constants are compared. Nothing here runs user code or
// keeps what it fetched alive; what is checked and in which order is guard_program.cc's.
#ifndef FRAMEJIT_FRAME_EVAL_GUARDS_GUARD_FETCH_H_
#define FRAMEJIT_FRAME_EVAL_GUARDS_GUARD_FETCH_H_

#include <Python.h>

#include <vector>

#include "frame_eval/cpython/py_ref.h"
#include "frame_eval/guards/guard_program.h"
#include "frame_eval/guards/source.h"

namespace framejit {

// An object that a guard program refers to: held weakly where that is possible, strongly where it is an immutable
// constant or has no weak references.
class Holder {
 public:
  Holder() = default;
  explicit Holder(PyObject* object);
  // The object, or null where it is gone.
  PyObject* get() const {
    if (!weak_) return ref_.get();
    PyObject* object = PyWeakref_GET_OBJECT(ref_.get());
    return object == Py_None ? nullptr : object;
  }
  // Where a weak reference keeps its referent (None once that is gone); null where the object is held strongly.
  PyObject** liveness_word() const {
    return weak_ ? &reinterpret_cast<PyWeakReference*>(ref_.get())->wr_object : nullptr;
  }
  int Traverse(visitproc visit, void* arg) const {
    Py_VISIT(ref_.get());
    return 0;
  }

 private:
  PyRef ref_;
  bool weak_ = false;
};

struct FetchKey {
  SourceKind kind = SourceKind::kArgument;
  int32_t index = -1;
  Holder key;
  Py_hash_t hash = -1;  // of `key` where it is a dict key
};

// The object at `source` below `parent` (null where the kind has none), borrowed; null where nothing is there or where
// `parent` is not what the kind needs. Where CPython makes a new object, `owned` keeps it. May leave a Python
// exception.
PyObject* Fetch(const FetchKey& source, PyObject* parent, const CallState& state, std::vector<PyRef>& owned);

// The item of a dict by a key whose hash is known, borrowed.
inline PyObject* DictItem(PyObject* dict, PyObject* key, Py_hash_t hash) {
  return _PyDict_GetItem_KnownHash(dict, key, hash);
}

// Equal type and value all the way down (1, 1.0 and True differ, as do 0.0 and -0.0; a NaN is the same only as
// itself, since containers tell one NaN from another by identity).
bool ConstantsEqual(PyObject* expected, PyObject* actual);

// Length of an object of a builtin container type or subclass, read from its own structure; -1 for anything else.
Py_ssize_t BuiltinLength(PyObject* object);
// True where the keys of the dict are `keys`, in order.
bool DictKeysAre(PyObject* dict, PyObject* keys);
// True where the set holds exactly the constants in `expected`.
bool SetEqualsConstants(PyObject* set, PyObject* expected);
// The exact collections.deque, or null with no exception where the module cannot be had.
PyTypeObject* DequeType();

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_GUARDS_GUARD_FETCH_H_
