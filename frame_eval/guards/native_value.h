// What instances of subclasses of builtin values, NumPy scalars, NumPy arrays, dates and decimals are worth, as exact
// builtin objects, so that guards can compare them without running code of the user's.
#ifndef FRAMEJIT_FRAME_EVAL_GUARDS_NATIVE_VALUE_H_
#define FRAMEJIT_FRAME_EVAL_GUARDS_NATIVE_VALUE_H_

#include <Python.h>

#include "frame_eval/cpython/py_ref.h"

namespace framejit {

// False where NumPy is not imported.
bool IsNumPyScalar(PyObject* object);
bool IsNumPyArray(PyObject* object);  // of class numpy.ndarray itself

// Of the exact types of module datetime, without a time zone, and decimal.Decimal.
bool IsPlainDate(PyObject* object);

// The exact str, bytes, int, float, complex or bool; of an array of numbers that is not large, bytes that say its type,
// shape, order and content; of dates and decimals their repr. Null without an exception for anything else.
PyRef NativeValue(PyObject* object);

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_GUARDS_NATIVE_VALUE_H_
