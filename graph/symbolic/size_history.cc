#include "graph/symbolic/size_history.h"

#include <utility>

#include "graph/symbolic/values.h"

namespace framejit {

bool SizeHistory::Varies(const SourceTable& sources, SourceId source, const at::Tensor& tensor, bool is_parameter) {
  if (tensor.layout() != at::kStrided || tensor.dim() == 0) return false;
  if (mode_ == DynamicMode::kNever && varying_.empty()) return false;
  std::string name = sources.ToString(source);
  if (varying_.contains(name)) return true;
  if (mode_ == DynamicMode::kNever) return false;
  if (mode_ == DynamicMode::kAlways) return !is_parameter;
  c10::DimVector sizes(tensor.sizes());
  auto [row, is_new] = last_.try_emplace(name, sizes);
  if (is_new) return false;
  c10::DimVector before = std::exchange(row->second, std::move(sizes));
  if (before.size() != row->second.size() || before == row->second) return false;
  varying_.insert(std::move(name));
  return true;
}

bool SizeHistory::OpensItem(PyObject* value) const {
  if (!of_state_ || mode_ == DynamicMode::kNever || !numbers_are_open_) return false;
  int overflow = 0;
  if (PyLong_CheckExact(value)) PyLong_AsLongLongAndOverflow(value, &overflow);
  return overflow == 0 && (PyLong_CheckExact(value) || PyFloat_CheckExact(value));
}

bool SizeHistory::NumberVaries(const SourceTable& sources, SourceId source, PyObject* value) {
  if (mode_ == DynamicMode::kNever || !numbers_are_open_) return false;
  int overflow = 0;
  if (PyLong_CheckExact(value)) PyLong_AsLongLongAndOverflow(value, &overflow);
  if (overflow != 0) return false;
  std::string name = sources.ToString(source);
  if (varying_numbers_.contains(name)) return true;
  auto [row, is_new] = last_numbers_.try_emplace(name, PyRef::Borrow(value));
  if (is_new || SameConstant(row->second.get(), value)) return false;
  const PyRef before = std::exchange(row->second, PyRef::Borrow(value));
  if (Py_TYPE(before.get()) != Py_TYPE(value)) return false;
  varying_numbers_.insert(std::move(name));
  return true;
}

}  // namespace framejit
