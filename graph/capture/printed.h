// Objects whose text names their address: the text of one from outside holds for that object alone.
#ifndef FRAMEJIT_GRAPH_CAPTURE_PRINTED_H_
#define FRAMEJIT_GRAPH_CAPTURE_PRINTED_H_

#include "graph/capture/recorder_impl.h"

namespace framejit {

// `object` is about to be turned into text.
template <typename Recorder>
void GuardPrinted(Recorder& recorder, PyObject* object, int depth = 0) {
  constexpr int kMaxDepth = 8;
  if (IsPrimitive(object) || IsTensor(object) || depth > kMaxDepth) return;
  if (PyTuple_Check(object) || PyList_Check(object)) {
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(object); ++i)
      GuardPrinted(recorder, PySequence_Fast_GET_ITEM(object, i), depth + 1);
  } else if (PyDict_Check(object)) {
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    for (Py_ssize_t cursor = 0; PyDict_Next(object, &cursor, &key, &value);) {
      GuardPrinted(recorder, key, depth + 1);
      GuardPrinted(recorder, value, depth + 1);
    }
  } else if (IsPythonClass(Py_TYPE(object)) && Py_TYPE(object)->tp_repr == PyBaseObject_Type.tp_repr) {
    const Provenance* provenance = recorder.FindKnown(object);
    if (provenance != nullptr && !provenance->pinned)
      recorder.AddGuard(GuardKind::kIdentityIs, provenance->source, provenance->real.get());
  }
}

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CAPTURE_PRINTED_H_
