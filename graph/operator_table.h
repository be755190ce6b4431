// A table from operators to what a pass or a backend knows of them, looked up by the address of the operator's schema:
// names are compared when the table is made, and never again.
#ifndef FRAMEJIT_GRAPH_OPERATOR_TABLE_H_
#define FRAMEJIT_GRAPH_OPERATOR_TABLE_H_

#include <initializer_list>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "graph/graph.h"

namespace framejit {

// "aten::add.Tensor"; nullopt where this torch does not have it.
std::optional<c10::OperatorHandle> FindOperator(const std::string& name);

template <typename Row>
class OperatorTable {
 public:
  OperatorTable() = default;
  OperatorTable(std::initializer_list<std::pair<const char*, Row>> rows) {
    for (const auto& [name, row] : rows) Add(name, row);
  }
  // Of two rows for one operator, the first holds.
  void Add(const char* name, Row row) {
    if (auto op = FindOperator(name)) rows_.emplace(&op->schema(), std::move(row));
  }
  // Null where the operator has no row.
  const Row* Find(const c10::OperatorHandle& op) const {
    auto found = rows_.find(&op.schema());
    return found == rows_.end() ? nullptr : &found->second;
  }

 private:
  absl::flat_hash_map<const c10::FunctionSchema*, Row> rows_;
};

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_OPERATOR_TABLE_H_
