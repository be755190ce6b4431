// The files of one compilation: with FRAMEJIT_DUMP_DIR set, each compilation has a folder of its own in there.
#ifndef FRAMEJIT_BACKENDS_NATIVE_DUMP_H_
#define FRAMEJIT_BACKENDS_NATIVE_DUMP_H_

#include <memory>
#include <string>
#include <string_view>

namespace framejit::native {

class Dump {
 public:
  // Makes the folder; null where the variable is not set, or the folder cannot be made (which is warned of).
  static std::unique_ptr<Dump> Begin();
  void Write(std::string_view name, std::string_view text) const;
  const std::string& folder() const { return folder_; }

 private:
  explicit Dump(std::string folder) : folder_(std::move(folder)) {}
  std::string folder_;
};

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_DUMP_H_
