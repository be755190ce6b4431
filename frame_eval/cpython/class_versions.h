// KeptClassVersions: what guards know of classes stays true where code patches classes for a while and puts back what
// it found. torch.fx's tracers do that with torch.nn.Module, so that each of its subclasses gets another version.
#ifndef FRAMEJIT_FRAME_EVAL_CPYTHON_CLASS_VERSIONS_H_
#define FRAMEJIT_FRAME_EVAL_CPYTHON_CLASS_VERSIONS_H_

#include <Python.h>

#include <unordered_map>

#include "frame_eval/cpython/py_ref.h"

namespace framejit {

class KeptClassVersions {
 public:
  // Looks at `root`, its subclasses, and all that these inherit from. Requires the GIL, here and at the end.
  explicit KeptClassVersions(PyTypeObject* root);
  // Gives classes their version again whose attributes, and whose bases' attributes, are the same objects as before.
  ~KeptClassVersions();
  KeptClassVersions(const KeptClassVersions&) = delete;
  KeptClassVersions& operator=(const KeptClassVersions&) = delete;

 private:
  struct Class {
    PyRef type;
    PyRef mro;
    PyRef attributes;  // a copy; null: it cannot be modified
    unsigned version = 0;
    unsigned long flag = 0;
  };

  void Add(PyTypeObject* type);
  static bool IsSame(const Class& row);

  std::unordered_map<PyTypeObject*, Class> classes_;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_CPYTHON_CLASS_VERSIONS_H_
