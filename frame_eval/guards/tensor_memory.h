// Which memory a set of tensors occupies: what the guard NoOverlap and the recorder judge overlap by.
#ifndef FRAMEJIT_FRAME_EVAL_GUARDS_TENSOR_MEMORY_H_
#define FRAMEJIT_FRAME_EVAL_GUARDS_TENSOR_MEMORY_H_

#include <ATen/core/Tensor.h>

#include "absl/container/flat_hash_set.h"

namespace framejit {

class TensorMemory {
 public:
  // False where `tensor` shares memory with one that was added before.
  bool Add(const at::Tensor& tensor) {
    if (!tensor.has_storage()) return true;
    const c10::Storage& storage = tensor.storage();
    if (!memory_.insert(storage.unsafeGetStorageImpl()).second) return false;
    // Tensors made from one buffer (torch.from_numpy) have different storages over the same memory.
    const void* data = storage.nbytes() == 0 ? nullptr : storage.data();
    return data == nullptr || memory_.insert(data).second;
  }

 private:
  absl::flat_hash_set<const void*> memory_;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_GUARDS_TENSOR_MEMORY_H_
