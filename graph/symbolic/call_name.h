// What the target of a torch-level call is called.
#ifndef FRAMEJIT_GRAPH_SYMBOLIC_CALL_NAME_H_
#define FRAMEJIT_GRAPH_SYMBOLIC_CALL_NAME_H_

#include <string>

#include "graph/torch_graph.h"

namespace framejit {

// The function's, method's or attribute's name; empty where it has none.
inline std::string NameOfTarget(const TorchCall& call) {
  PyObject* target = call.target.get();
  const PyRef name =
      PyUnicode_Check(target) ? PyRef::Borrow(target) : PyRef::Steal(PyObject_GetAttrString(target, "__name__"));
  const char* text = name && PyUnicode_Check(name.get()) ? PyUnicode_AsUTF8(name.get()) : nullptr;
  PyErr_Clear();
  return text == nullptr ? std::string() : std::string(text);
}

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_SYMBOLIC_CALL_NAME_H_
