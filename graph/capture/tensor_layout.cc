// Where tensors lie in their memory: what a recording depends on besides sizes and strides, and inputs whose sizes and
// strides the program changed in place.
#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "base/switches.h"
#include "graph/capture/recorder_impl.h"
#include "graph/symbolic/replay.h"

namespace framejit {
namespace {

// How far a tensor reaches beyond its first element.
int64_t ReachOf(at::IntArrayRef sizes, at::IntArrayRef strides) {
  int64_t reach = 0;
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] == 0) return 0;
    reach += (sizes[d] - 1) * strides[d];
  }
  return reach;
}

PyRef TupleOf(at::IntArrayRef values) {
  PyRef tuple = PyRef::Steal(PyTuple_New(static_cast<Py_ssize_t>(values.size())));
  for (size_t i = 0; tuple && i < values.size(); ++i) {
    PyObject* item = PyLong_FromLongLong(values[i]);
    if (item == nullptr) return {};
    PyTuple_SET_ITEM(tuple.get(), static_cast<Py_ssize_t>(i), item);
  }
  return tuple;
}

// Sizes, strides, and the storage offset, or -1 where that of `before` stays, whatever it is.
PyRef LayoutOf(const at::Tensor& tensor, const at::Tensor& before) {
  PyRef sizes = TupleOf(tensor.sizes()), strides = TupleOf(tensor.strides());
  PyRef offset = TupleOf({tensor.storage_offset() == before.storage_offset() ? -1 : tensor.storage_offset()});
  return PyRef::Steal(sizes && strides && offset ? PyTuple_Pack(3, sizes.get(), strides.get(), offset.get()) : nullptr);
}

}  // namespace

// Of the inputs in a memory the recording depends on where they begin.
void RecorderState::Impl::GuardOffsets(int32_t storage) {
  if (IsSwitchedOff("alias", "StorageOffset")) return;
  if (IsSymbolic()) StayStatic("it asks where a tensor begins in its memory");
  std::vector<std::pair<SourceId, PyObject*>> found;
  for (const auto& [object, provenance] : known) {
    PyObject* fake = provenance.lifted.get();
    if (object != provenance.real.get() || !IsTensor(object) || !IsTensor(fake) || !IsFakeTensor(fake)) continue;
    if (FakeSession::MetaOf(TensorOf(fake)).storage == storage) found.emplace_back(provenance.source, object);
  }
  std::sort(found.begin(), found.end());
  for (const auto& [source, object] : found) {
    AddGuard(GuardKind::kTensorMatches, source, object, TensorOf(object).storage_offset() + 1);
  }
}

void RecorderState::Impl::GuardAbsoluteViews() {
  const Graph& graph = session.graph();
  for (const Node& node : graph.nodes) {
    if (!HasAbsoluteOffset(node) || node.operands[0].value == kNoValue) continue;
    GuardOffsets(graph.meta(node.operands[0].value).storage);
  }
}

// Inputs that the program transposed, squeezed and so on in place.
void RecorderState::Impl::LayoutEffects() {
  absl::flat_hash_map<SourceId, const Provenance*> lifted;
  for (const auto& [object, provenance] : known) {
    if (object == provenance.real.get() && IsFakeTensor(provenance.lifted.get()))
      lifted.emplace(provenance.source, &provenance);
  }
  for (const SourceId source : recording->inputs) {
    const auto row = lifted.find(source);
    if (row == lifted.end()) continue;
    const at::Tensor &real = TensorOf(row->second->real.get()), &fake = TensorOf(row->second->lifted.get());
    const int64_t distance = fake.storage_offset() - real.storage_offset();
    if (fake.sizes() == real.sizes() && fake.strides() == real.strides() && distance == 0) continue;
    const bool inside =
        distance >= 0 && distance + ReachOf(fake.sizes(), fake.strides()) <= ReachOf(real.sizes(), real.strides());
    if (IsSymbolic()) StayStatic("an input's sizes or strides are changed in place");
    if (distance != 0) GuardOffsets(FakeSession::MetaOf(fake).storage);
    if (!inside || real.requires_grad() || fake.requires_grad() || real.is_inference())
      return Break(BreakCode::kTensorMetadataMutation, "an input's sizes or strides are changed in place");
    PyRef layout = LayoutOf(fake, real);
    if (!layout) return Break(BreakCode::kInternalError, "the layout of an input");
    kept_alive.push_back(layout);
    AddEffect(EffectKind::kSetLayout, SourceRecipe(source), kNoRecipe, RecipeFor(layout.get()));
  }
}

}  // namespace framejit
