// Interned names and types that the recorder compares with. Loaded once, immutable afterwards, never released.
#ifndef FRAMEJIT_GRAPH_CAPTURE_WELL_KNOWN_H_
#define FRAMEJIT_GRAPH_CAPTURE_WELL_KNOWN_H_

#include <Python.h>

namespace framejit {

struct WellKnown {
  // Attribute names.
  PyObject *dict, *klass, *getattribute, *getattr, *setattr, *delattr, *get, *set, *call, *iter, *wrapped, *disable,
      *graph_break, *data, *grad, *missing, *getitem, *setitem, *delitem, *contains, *len, *boolean, *eq, *hash,
      *default_factory, *fget, *fset, *fdel, *func, *thisclass, *self, *self_class, *slots, *init, *type, *index,
      *start, *stop, *step, *clone, *unbind, *new_, *instancecheck, *next, *weakref, *name, *objclass;
  // torch.
  PyTypeObject *tensor_base, *tensor, *parameter, *buffer, *variable_functions, *device, *dtype, *layout,
      *memory_format, *size, *op_overload, *op_overload_packet, *generator;
  PyObject *nn_module, *linalg_module, *fft_module, *special_module,
      *sparse_module;              // names of the C modules of functions
  PyObject* tensor_function;       // torch.tensor
  PyObject *cpu, *device_keyword;  // "cpu", ("device",)
  // The standard library.
  PyTypeObject *ordered_dict, *default_dict, *deque, *tuplegetter, *partial, *lru_cache, *method_wrapper, *attrgetter,
      *itemgetter, *pattern, *match, *context_var, *mappingproxy, *local_class;
  PyObject *object_getattribute, *object_setattr, *object_delattr;  // slot wrappers of object
  PyObject* operators;                                              // module operator
  destructor subtype_dealloc;  // tp_dealloc of every class made by a class statement
  PyObject* unlifted;          // stands in shadows for elements that were not read yet
};

// Requires the GIL. Throws std::runtime_error when torch is not importable.
const WellKnown& Names();

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CAPTURE_WELL_KNOWN_H_
