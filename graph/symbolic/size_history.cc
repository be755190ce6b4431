#include "graph/symbolic/size_history.h"

#include <utility>

namespace framejit {

bool SizeHistory::Varies(const SourceTable& sources, SourceId source, const at::Tensor& tensor, bool is_parameter) {
  if (mode_ == DynamicMode::kNever || tensor.layout() != at::kStrided || tensor.dim() == 0) return false;
  if (mode_ == DynamicMode::kAlways) return !is_parameter;
  std::string name = sources.ToString(source);
  if (varying_.contains(name)) return true;
  c10::DimVector sizes(tensor.sizes());
  auto [row, is_new] = last_.try_emplace(name, sizes);
  if (is_new) return false;
  c10::DimVector before = std::exchange(row->second, std::move(sizes));
  if (before.size() != row->second.size() || before == row->second) return false;
  varying_.insert(std::move(name));
  return true;
}

}  // namespace framejit
