// Builtin iterators taken apart and put together: what a loop in progress consists of. For each type the parts are a
// tuple: the container and the number of items already passed (list, tuple, range, str, reversed, dict iterators), the
// inner iterator and the count (enumerate), or the inner iterators (zip).
#ifndef FRAMEJIT_FRAME_EVAL_GUARDS_ITERATORS_H_
#define FRAMEJIT_FRAME_EVAL_GUARDS_ITERATORS_H_

#include <Python.h>

#include "frame_eval/cpython/py_ref.h"

namespace framejit {

// Whether the iterator is of a type that can be taken apart. What zip and enumerate iterate over may not be.
bool IsPlainIterator(PyObject* object);

// A new tuple; null with an exception set where the iterator's state cannot be told (a dict that was changed during
// iteration). Changes nothing and runs no user code. Requires IsPlainIterator.
PyRef IteratorParts(PyObject* iterator);

// An iterator of `type` in the state that the parts give. New reference; null with an exception set.
PyObject* MakeIterator(PyTypeObject* type, PyObject* parts);

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_GUARDS_ITERATORS_H_
