// FakeStorage: the memory that fakes share. It raises where data is asked for, has the id by which graphs call it
// (TensorMeta::storage), and holds the meta storage that is under the shadows of its fakes.
#ifndef FRAMEJIT_GRAPH_FAKE_FAKE_STORAGE_H_
#define FRAMEJIT_GRAPH_FAKE_FAKE_STORAGE_H_

#include <c10/core/Storage.h>

#include <cstdint>
#include <typeinfo>
#include <utility>

namespace framejit {

class FakeStorage final : public c10::StorageImpl {
 public:
  // `shadow`: may be none, where no shadow has been asked for yet.
  FakeStorage(c10::SymInt bytes, c10::Device device, int32_t id, c10::Storage shadow)
      : c10::StorageImpl(use_byte_size_t(), std::move(bytes), c10::DataPtr(nullptr, device), nullptr,
                         /*resizable=*/false),
        id_(id),
        shadow_(std::move(shadow)) {
    release_data_and_set_meta_custom_data_ptr_error_msg_(
        "framejit: the data of a tensor was asked for while its operators are recorded");
  }

  // Of a fake's storage; null where it is another kind of storage.
  static FakeStorage* Of(const c10::Storage& storage) {
    c10::StorageImpl* impl = storage.unsafeGetStorageImpl();
    return impl != nullptr && typeid(*impl) == typeid(FakeStorage) ? static_cast<FakeStorage*>(impl) : nullptr;
  }

  int32_t id() const { return id_; }
  const c10::Storage& shadow() const { return shadow_; }
  void set_shadow(c10::Storage shadow) { shadow_ = std::move(shadow); }

 private:
  int32_t id_;
  c10::Storage shadow_;
};

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_FAKE_FAKE_STORAGE_H_
