// See split.h. A part holds the element nodes of one pass of the schedule and the row nodes that its reductions make
// possible. Parts are built from the last to the first, so that each knows which of its row values later ones read.
#include "backends/loop/split.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "backends/loop/schedule.h"

namespace framejit::loop {
namespace {

constexpr int64_t kMinPieces = 8;

class Splitter {
 public:
  Splitter(const Kernel& kernel, int64_t pieces)
      : kernel_(kernel),
        pieces_(pieces),
        schedule_(MakeSchedule(kernel, 0)),
        temporaries_(kernel.nodes.size(), -1),
        partials_(kernel.nodes.size(), -1) {}

  absl::StatusOr<SplitKernel> Run() {
    for (int pass = static_cast<int>(schedule_.passes.size()) - 1; pass >= 0; --pass) {
      if (schedule_.passes[pass].elements.empty()) continue;
      const bool cut = pieces_ > 1 && HasReduction(pass);
      if (cut) {
        Start(pass, Role::kCombine);
        EmitRowRoots();
        Finish();
      }
      Start(pass, cut ? Role::kPieces : Role::kWhole);
      EmitElementRoots();
      if (!cut) EmitRowRoots();
      Finish();
    }
    std::reverse(out_.parts.begin(), out_.parts.end());
    for (const SplitKernel::Part& part : out_.parts) {
      if (absl::Status status = Verify(part.kernel); !status.ok()) return status;
    }
    return std::move(out_);
  }

 private:
  // What a part does: a pass and what follows from it; a pass over pieces of rows; what follows from those.
  enum class Role : uint8_t { kWhole, kPieces, kCombine };

  const Node& node(ValueId id) const { return kernel_.nodes[static_cast<size_t>(id)]; }
  int pass_of(ValueId id) const { return schedule_.first_pass[static_cast<size_t>(id)]; }
  bool is_element(ValueId id) const { return schedule_.is_element[static_cast<size_t>(id)]; }
  size_t row_dims() const { return kernel_.dims.size() - 1; }

  bool HasReduction(int pass) const {
    const std::vector<ValueId>& elements = schedule_.passes[static_cast<size_t>(pass)].elements;
    return std::any_of(elements.begin(), elements.end(), [&](ValueId id) { return IsReduction(node(id).op); });
  }

  // The pass whose part makes the row value.
  int MakerOf(ValueId id) const { return IsReduction(node(id).op) ? pass_of(id) : pass_of(id) - 1; }

  // --- one part ---

  void Start(int pass, Role role) {
    pass_ = pass;
    role_ = role;
    part_ = {};
    made_.clear();
    buffers_.clear();
    part_.kernel.dims = kernel_.dims;
    if (role == Role::kCombine) part_.kernel.dims.back().size = pieces_;
    if (role == Role::kPieces) {
      part_.kernel.dims.back().size = pieces_;
      part_.kernel.dims.push_back(Dim{kernel_.inner_size() / pieces_});
    }
  }

  void Finish() { out_.parts.push_back(std::move(part_)); }

  void EmitElementRoots() {
    for (ValueId id = 0; id < static_cast<ValueId>(kernel_.nodes.size()); ++id) {
      if (node(id).op == Op::kStore && is_element(id) && pass_of(id) == pass_) Get(id);
      if (role_ == Role::kPieces && IsReduction(node(id).op) && pass_of(id) == pass_) StorePartial(id);
    }
  }

  // Stores of row values, and row values that later parts read.
  void EmitRowRoots() {
    for (ValueId id = 0; id < static_cast<ValueId>(kernel_.nodes.size()); ++id) {
      if (is_element(id)) continue;
      const bool first = pass_ == 0 && pass_of(id) == 0;
      if (node(id).op == Op::kStore && (first || pass_of(id) == pass_ + 1)) Get(id);
      const int temporary = temporaries_[static_cast<size_t>(id)];
      if (temporary >= 0 && MakerOf(id) == pass_) StoreTo(temporary, RowStrides(1, 0), Get(id));
    }
  }

  ValueId Emit(Node copy) {
    part_.kernel.nodes.push_back(copy);
    return static_cast<ValueId>(part_.kernel.nodes.size()) - 1;
  }

  ValueId Get(ValueId id) {
    if (const auto known = made_.find(id); known != made_.end()) return known->second;
    const ValueId value = Make(id);
    made_[id] = value;
    return value;
  }

  ValueId Make(ValueId id) {
    Node copy = node(id);
    const bool reduction = IsReduction(copy.op);
    if (!is_element(id) && (reduction || (pass_of(id) > 0 && copy.op != Op::kStore))) {
      if (MakerOf(id) != pass_ || role_ == Role::kPieces) return LoadFrom(Temporary(id, temporaries_, 1), 1, 0);
      if (reduction && role_ == Role::kCombine) {
        copy.operands[0] = LoadFrom(Temporary(id, partials_, pieces_), 1, kernel_.row_count());
        return Emit(copy);
      }
    }
    for (int i = 0; i < OperandCount(copy.op); ++i) copy.operands[i] = Get(copy.operands[i]);
    if (copy.op == Op::kLoad || copy.op == Op::kStore) copy.attr = CopyAccess(kernel_.accesses[copy.attr]);
    if (copy.op == Op::kIndex && role_ == Role::kPieces && copy.attr == static_cast<int64_t>(row_dims())) {
      return PositionInRow();
    }
    return Emit(copy);
  }

  // piece * length + position in the piece
  ValueId PositionInRow() {
    Node piece{Op::kIndex, DType::kInt64}, position{Op::kIndex, DType::kInt64}, length{Op::kConst, DType::kInt64};
    piece.attr = static_cast<int64_t>(row_dims());
    position.attr = piece.attr + 1;
    length.int_value = kernel_.inner_size() / pieces_;
    Node start{Op::kMul, DType::kInt64}, sum{Op::kAdd, DType::kInt64};
    start.operands = {Emit(piece), Emit(length), kNoValue};
    sum.operands = {Emit(start), Emit(position), kNoValue};
    return Emit(sum);
  }

  // --- memory ---

  int32_t BufferOf(int32_t of_whole, DType dtype, bool written) {
    auto [known, inserted] = buffers_.try_emplace(of_whole, static_cast<int32_t>(part_.buffers.size()));
    if (inserted) {
      part_.buffers.push_back(of_whole);
      part_.kernel.buffers.push_back({dtype, written});
    }
    return known->second;
  }

  int64_t AddAccess(Access access) {
    part_.kernel.accesses.push_back(std::move(access));
    return static_cast<int64_t>(part_.kernel.accesses.size()) - 1;
  }

  int64_t CopyAccess(Access access) {
    const Buffer& buffer = kernel_.buffers[static_cast<size_t>(access.buffer)];
    access.buffer = BufferOf(access.buffer, buffer.dtype, buffer.written);
    const int64_t inner = access.strides.back();
    if (role_ == Role::kPieces) {
      access.strides.back() *= kernel_.inner_size() / pieces_;
      access.strides.push_back(inner);
    }
    if (role_ == Role::kCombine) access.strides.back() = 0;
    return AddAccess(std::move(access));
  }

  // The number of the temporary that holds the value, `width` elements for each row.
  int Temporary(ValueId id, std::vector<int>& numbers, int64_t width) {
    int& number = numbers[static_cast<size_t>(id)];
    if (number < 0) {
      number = static_cast<int>(out_.temporaries.size());
      out_.temporaries.push_back({node(id).dtype, kernel_.row_count() * width});
    }
    return number;
  }

  // Of memory with `width` elements for each row; `inner`: of the kernel's inner dimension.
  std::vector<int64_t> RowStrides(int64_t width, int64_t inner) const {
    std::vector<int64_t> strides(row_dims() + 1, inner);
    for (size_t d = row_dims(); d-- > 0;) {
      strides[d] = width;
      width *= kernel_.dims[d].size;
    }
    return strides;
  }

  int32_t TemporaryBuffer(int number, bool written) {
    const int32_t buffer = static_cast<int32_t>(kernel_.buffers.size()) + number;
    return BufferOf(buffer, out_.temporaries[static_cast<size_t>(number)].dtype, written);
  }

  ValueId LoadFrom(int number, int64_t width, int64_t inner) {
    Node load{Op::kLoad, out_.temporaries[static_cast<size_t>(number)].dtype};
    std::vector<int64_t> strides = RowStrides(width, inner);
    if (role_ == Role::kPieces) strides.push_back(0);
    load.attr = AddAccess({TemporaryBuffer(number, false), 0, std::move(strides)});
    return Emit(load);
  }

  void StoreTo(int number, std::vector<int64_t> strides, ValueId value) {
    Node store{Op::kStore, out_.temporaries[static_cast<size_t>(number)].dtype};
    store.attr = AddAccess({TemporaryBuffer(number, true), 0, std::move(strides)});
    store.operands[0] = value;
    Emit(store);
  }

  void StorePartial(ValueId id) {
    Node reduction = node(id);
    reduction.operands[0] = Get(reduction.operands[0]);
    std::vector<int64_t> strides = RowStrides(1, kernel_.row_count());  // pieces apart, so that rows stay neighbours
    strides.push_back(0);
    StoreTo(Temporary(id, partials_, pieces_), std::move(strides), Emit(reduction));
  }

  const Kernel& kernel_;
  const int64_t pieces_;
  const Schedule schedule_;
  std::vector<int> temporaries_;  // by ValueId: that of a row value; -1
  std::vector<int> partials_;     // by ValueId: that of a reduction's pieces; -1
  SplitKernel out_;

  int pass_ = 0;
  Role role_ = Role::kWhole;
  SplitKernel::Part part_;
  absl::flat_hash_map<ValueId, ValueId> made_;
  absl::flat_hash_map<int32_t, int32_t> buffers_;
};

}  // namespace

int64_t PiecesOfRow(int64_t inner_size, int64_t most, int64_t shortest) {
  for (int64_t pieces = std::min(most, inner_size / shortest); pieces >= kMinPieces; --pieces) {
    if (inner_size % pieces == 0) return pieces;
  }
  return 0;
}

int PassCount(const Kernel& kernel) {
  const Schedule schedule = MakeSchedule(kernel, 0);
  return static_cast<int>(std::count_if(schedule.passes.begin(), schedule.passes.end(),
                                        [](const Pass& pass) { return !pass.elements.empty(); }));
}

absl::StatusOr<SplitKernel> Split(const Kernel& kernel, int64_t pieces) { return Splitter(kernel, pieces).Run(); }

}  // namespace framejit::loop
