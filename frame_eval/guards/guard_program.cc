// GuardProgram: the flat list first, the full walk where that says that something moved.
#include "frame_eval/guards/guard_program.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "frame_eval/guards/flat_list.h"
#include "frame_eval/guards/guard_tree.h"

namespace framejit {
namespace {

class TreeGuardProgram final : public GuardProgram {
 public:
  explicit TreeGuardProgram(GuardTree tree) : tree_(std::move(tree)) {}

  absl::Status FirstWalk(const CallState& state) {
    std::string reason;
    bool holds = tree_.Walk(state, objects_, owned_, &reason);
    if (PyErr_Occurred() != nullptr) PyErr_Clear();
    if (holds) Adopt(state);
    owned_.clear();
    return holds ? absl::OkStatus() : absl::FailedPreconditionError(reason);
  }

  GuardResult Check(const CallState& state) override {
    owned_.clear();
    if (tree_.torch_state.has_value() && !(TorchState::Capture() == *tree_.torch_state)) return GuardResult::kFail;
    switch (flat_.Check(tree_, state, objects_, owned_)) {
      case FlatList::Outcome::kPass:
        for (const auto& [position, node] : dynamic_fetches_) fetched_[position] = objects_[static_cast<size_t>(node)];
        return GuardResult::kPass;
      case FlatList::Outcome::kFail:
        return Failed();
      case FlatList::Outcome::kMismatch:
        return FullCheck(state);
    }
    return GuardResult::kFail;
  }

  absl::Span<PyObject* const> Fetched() const override { return fetched_; }
  void Release() override { owned_.clear(); }

  std::string ExplainFailure(const CallState& state) override {
    GuardObjects objects;
    std::vector<PyRef> owned;
    std::string reason;
    bool holds = tree_.Walk(state, objects, owned, &reason);
    if (PyErr_Occurred() != nullptr) PyErr_Clear();
    return holds ? "all guards hold" : reason;
  }

  std::string ToString() const override { return tree_.ToString(); }
  size_t WarmCheckCount() const override { return flat_.size(); }
  int Traverse(visitproc visit, void* arg) override { return tree_.Traverse(visit, arg); }

 private:
  GuardResult Failed() {
    owned_.clear();
    return PyErr_Occurred() != nullptr ? GuardResult::kError : GuardResult::kFail;
  }

  GuardResult FullCheck(const CallState& state) {
    if (PyErr_Occurred() != nullptr) return Failed();
    owned_.clear();
    GuardObjects objects;
    if (!tree_.Walk(state, objects, owned_, nullptr)) return Failed();
    objects_ = std::move(objects);
    Adopt(state);
    return GuardResult::kPass;
  }

  // Makes the result of a walk that passed the state that the flat list stands for.
  void Adopt(const CallState& state) {
    flat_.Rebuild(tree_, state, objects_);
    fetched_.clear();
    for (int32_t node : tree_.fetch) fetched_.push_back(objects_[static_cast<size_t>(node)]);
    dynamic_fetches_.clear();
    std::vector<bool> dynamic(objects_.size(), false);
    for (int32_t node : flat_.dynamic_nodes()) dynamic[static_cast<size_t>(node)] = true;
    for (size_t i = 0; i < tree_.fetch.size(); ++i) {
      if (dynamic[static_cast<size_t>(tree_.fetch[i])]) dynamic_fetches_.emplace_back(i, tree_.fetch[i]);
    }
  }

  GuardTree tree_;
  FlatList flat_;
  GuardObjects objects_;  // of the last walk; read only where the flat list has found them alive
  std::vector<PyRef> owned_;
  std::vector<PyObject*> fetched_;
  std::vector<std::pair<size_t, int32_t>> dynamic_fetches_;  // position in fetched_, node
};

}  // namespace

absl::StatusOr<std::unique_ptr<GuardProgram>> GuardProgram::Build(const SourceTable& sources, const GuardList& guards,
                                                                  absl::Span<const SourceId> fetch,
                                                                  const CallState& state,
                                                                  std::vector<std::string> argument_names) {
  absl::StatusOr<GuardTree> tree = GuardTree::Make(sources, guards, fetch, std::move(argument_names));
  if (!tree.ok()) return tree.status();
  auto program = std::make_unique<TreeGuardProgram>(*std::move(tree));
  if (absl::Status status = program->FirstWalk(state); !status.ok()) return status;
  return program;
}

}  // namespace framejit
