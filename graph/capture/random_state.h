// The generator that a graph holds in place of one from outside.
#ifndef FRAMEJIT_GRAPH_CAPTURE_RANDOM_STATE_H_
#define FRAMEJIT_GRAPH_CAPTURE_RANDOM_STATE_H_

#include "frame_eval/cpython/py_ref.h"

namespace framejit {

// A new generator, whose state each call takes from `generator` and gives back to it; or `generator` itself: torch's
// default one, and those that are not on the CPU. Null with an exception set.
PyRef GeneratorFor(PyObject* generator);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CAPTURE_RANDOM_STATE_H_
