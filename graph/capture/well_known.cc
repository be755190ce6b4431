// Loads the names and types of well_known.h.
#include "graph/capture/well_known.h"

#include <stdexcept>
#include <string>

namespace framejit {
namespace {

PyObject* Require(PyObject* object, const char* what) {
  if (object != nullptr) return object;
  PyErr_Clear();
  throw std::runtime_error(std::string("framejit: cannot load ") + what);
}

PyObject* Intern(const char* name) { return Require(PyUnicode_InternFromString(name), name); }

PyObject* Import(const char* module, const char* attribute) {
  PyObject* loaded = Require(PyImport_ImportModule(module), module);
  PyObject* value = PyObject_GetAttrString(loaded, attribute);
  Py_DECREF(loaded);
  return Require(value, attribute);
}

PyTypeObject* ImportType(const char* module, const char* attribute) {
  return reinterpret_cast<PyTypeObject*>(Import(module, attribute));
}

PyTypeObject* TypeOf(PyObject* stolen) {
  PyTypeObject* type = Py_TYPE(stolen);
  Py_INCREF(type);
  Py_DECREF(stolen);
  return type;
}

PyObject* NewUnlifted() {
  static PyType_Slot slots[] = {{0, nullptr}};
  static PyType_Spec spec = {"framejit.Unlifted", sizeof(PyObject), 0, Py_TPFLAGS_DEFAULT, slots};
  PyObject* type = Require(PyType_FromSpec(&spec), "Unlifted");
  return Require(PyObject_CallNoArgs(type), "Unlifted()");
}

PyTypeObject* NewProbeClass() {
  return reinterpret_cast<PyTypeObject*>(
      Require(PyObject_CallFunction(reinterpret_cast<PyObject*>(&PyType_Type), "s(){}", "Probe"), "a class"));
}

void LoadNames(WellKnown& n) {
  n.dict = Intern("__dict__"), n.klass = Intern("__class__"), n.getattribute = Intern("__getattribute__");
  n.getattr = Intern("__getattr__"), n.setattr = Intern("__setattr__"), n.delattr = Intern("__delattr__");
  n.get = Intern("__get__"), n.set = Intern("__set__"), n.call = Intern("__call__"), n.iter = Intern("__iter__");
  n.wrapped = Intern("__wrapped__"), n.disable = Intern("_framejit_disable");
  n.graph_break = Intern("_framejit_graph_break"), n.data = Intern("data"), n.grad = Intern("grad");
  n.missing = Intern("__missing__"), n.getitem = Intern("__getitem__"), n.setitem = Intern("__setitem__");
  n.delitem = Intern("__delitem__"), n.contains = Intern("__contains__"), n.len = Intern("__len__");
  n.boolean = Intern("__bool__"), n.eq = Intern("__eq__"), n.hash = Intern("__hash__");
  n.default_factory = Intern("default_factory"), n.fget = Intern("fget"), n.fset = Intern("fset"),
  n.fdel = Intern("fdel");
  n.func = Intern("__func__"), n.thisclass = Intern("__thisclass__"), n.self = Intern("__self__");
  n.self_class = Intern("__self_class__"), n.slots = Intern("__slots__"), n.init = Intern("__init__");
  n.type = Intern("type"), n.index = Intern("index"), n.start = Intern("start"), n.stop = Intern("stop");
  n.step = Intern("step"), n.clone = Intern("clone"), n.unbind = Intern("unbind"), n.new_ = Intern("__new__");
  n.instancecheck = Intern("__instancecheck__"), n.next = Intern("__next__"), n.weakref = Intern("__weakref__");
  n.name = Intern("__name__"), n.objclass = Intern("__objclass__");
}

void LoadTorch(WellKnown& n) {
  n.tensor_base = ImportType("torch._C", "TensorBase"), n.tensor = ImportType("torch", "Tensor");
  n.parameter = ImportType("torch.nn", "Parameter"), n.buffer = ImportType("torch.nn", "Buffer");
  n.variable_functions = ImportType("torch._C", "_VariableFunctionsClass");
  n.device = ImportType("torch", "device"), n.dtype = ImportType("torch", "dtype"),
  n.layout = ImportType("torch", "layout");
  n.memory_format = ImportType("torch", "memory_format"), n.size = ImportType("torch", "Size");
  n.op_overload = ImportType("torch._ops", "OpOverload"),
  n.op_overload_packet = ImportType("torch._ops", "OpOverloadPacket");
  n.generator = ImportType("torch", "Generator");
  n.nn_module = Intern("torch._C._nn"), n.linalg_module = Intern("torch._C._linalg"),
  n.fft_module = Intern("torch._C._fft");
  n.special_module = Intern("torch._C._special"), n.sparse_module = Intern("torch._C._sparse");
  n.tensor_function = Import("torch", "tensor");
  n.cpu = Intern("cpu"), n.device_keyword = Require(PyTuple_Pack(1, Intern("device")), "a tuple");
}

void LoadLibrary(WellKnown& n) {
  n.ordered_dict = ImportType("collections", "OrderedDict"), n.default_dict = ImportType("collections", "defaultdict");
  n.tuplegetter = ImportType("_collections", "_tuplegetter");
  n.deque = ImportType("collections", "deque"), n.partial = ImportType("functools", "partial");
  n.lru_cache = ImportType("functools", "_lru_cache_wrapper"), n.attrgetter = ImportType("operator", "attrgetter");
  n.itemgetter = ImportType("operator", "itemgetter"), n.pattern = ImportType("re", "Pattern");
  n.match = ImportType("re", "Match"), n.context_var = ImportType("contextvars", "ContextVar");
  n.mappingproxy = &PyDictProxy_Type;
  n.method_wrapper = TypeOf(Require(PyObject_GetAttrString(Py_None, "__repr__"), "method-wrapper"));
  auto* object = reinterpret_cast<PyObject*>(&PyBaseObject_Type);
  n.object_getattribute = Require(PyObject_GetAttr(object, n.getattribute), "object.__getattribute__");
  n.object_setattr = Require(PyObject_GetAttr(object, n.setattr), "object.__setattr__");
  n.object_delattr = Require(PyObject_GetAttr(object, n.delattr), "object.__delattr__");
  n.operators = Require(PyImport_ImportModule("operator"), "operator");
  n.local_class = NewProbeClass();
  n.subtype_dealloc = n.local_class->tp_dealloc;
  n.unlifted = NewUnlifted();
}

WellKnown* Load() {
  auto* names = new WellKnown();
  LoadNames(*names);
  LoadTorch(*names);
  LoadLibrary(*names);
  return names;
}

}  // namespace

const WellKnown& Names() {
  // Not a guarded static: importing may release the GIL, and a second thread would wait for the guard while holding it.
  static const WellKnown* names = nullptr;
  if (names == nullptr) names = Load();
  return *names;
}

}  // namespace framejit
