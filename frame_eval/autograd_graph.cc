#include "frame_eval/autograd_graph.h"

#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include "frame_eval/with_gil.h"
#include "frame_eval/written_inputs.h"

namespace framejit {
namespace {

struct Graphs {
  Graph recorded;
  TorchGraph torch_graph;
};

class RestoringGraph : public CompiledGraph {
 public:
  RestoringGraph(std::unique_ptr<CompiledGraph> graph, std::vector<size_t> written_inputs)
      : graph_(std::move(graph)), written_inputs_(std::move(written_inputs)) {}

  void Run(c10::ArrayRef<at::Tensor> inputs, std::vector<at::Tensor>& outputs) override {
    SavedInputs saved(inputs, written_inputs_);
    try {
      graph_->Run(inputs, outputs);
    } catch (const std::exception&) {
      saved.Restore();
      throw;
    }
  }

  std::string Describe() const override { return graph_->Describe(); }

 private:
  const std::unique_ptr<CompiledGraph> graph_;
  const std::vector<size_t> written_inputs_;
};

}  // namespace

AutogradGraphMaker MakeAutogradGraphLater(const Graph& recorded, const TorchGraph& torch_graph) {
  std::shared_ptr<Graphs> graphs = SharedWithGil(Graphs{recorded, torch_graph});
  return [graphs]() -> absl::StatusOr<std::unique_ptr<CompiledGraph>> {
    absl::StatusOr<std::shared_ptr<Backend>> backend = FindBackend("eager");
    if (!backend.ok()) return backend.status();
    CompileRequest request;
    request.graph = &graphs->recorded;
    request.torch_graph = &graphs->torch_graph;
    absl::StatusOr<std::unique_ptr<CompiledGraph>> graph = (*backend)->Compile(request);
    if (!graph.ok()) return graph.status();
    return std::make_unique<RestoringGraph>(*std::move(graph), WrittenInputs(graphs->recorded));
  };
}

}  // namespace framejit
