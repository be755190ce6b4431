// Which sizes of tensors are the same for sure, so that what a recording demands of them is told once and in terms of
// the program's inputs. Nothing but what is printed depends on it: demands are checked by replaying (replay.h).
#ifndef FRAMEJIT_GRAPH_SYMBOLIC_SIZE_NAMES_H_
#define FRAMEJIT_GRAPH_SYMBOLIC_SIZE_NAMES_H_

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "graph/symbolic/program.h"
#include "graph/torch_graph.h"

namespace framejit {

class SizeNames {
 public:
  // Takes the inputs and calls that came since. `names`: of the torch-level values.
  void Follow(const TorchGraph& graph, const SymbolicProgram& program, const std::vector<std::string>& names);
  // By dimension: a number where the size never varies, else a text like "L['x'].shape[0]", which is that of the first
  // value with this size.
  const std::vector<std::string>& Of(TorchValueId value) const { return sizes_[static_cast<size_t>(value)]; }
  // The value that a size is called by; -1: none, it is a number or what the program computed.
  TorchValueId OwnerOf(const std::string& size) const {
    auto row = owners_.find(size);
    return row == owners_.end() ? -1 : row->second;
  }

 private:
  using Names = std::vector<std::string>;
  std::optional<Names> OfResult(const TorchCall& call, const TorchGraph& graph, const SymbolicProgram& program) const;
  std::optional<Names> OfJoined(const TorchCall& call, bool adds_dimension) const;
  // Of each result of a call that cuts its operand into parts.
  std::optional<Names> OfParts(const TorchCall& call) const;
  // Keeps what fits the sizes of the value in the recording, and gives other sizes names of their own.
  void Set(TorchValueId value, std::optional<Names> sizes, const TorchGraph& graph,
           const std::vector<std::string>& names);

  std::vector<Names> sizes_;  // by torch-level value
  absl::flat_hash_map<std::string, TorchValueId> owners_;
  size_t inputs_ = 0, constants_ = 0, calls_ = 0;
};

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_SYMBOLIC_SIZE_NAMES_H_
