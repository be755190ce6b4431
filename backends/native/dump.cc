#include "backends/native/dump.h"

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace framejit::native {

std::unique_ptr<Dump> Dump::Begin() {
  const char* parent = std::getenv("FRAMEJIT_DUMP_DIR");
  if (parent == nullptr || *parent == '\0') return nullptr;
  static std::atomic<int> count{0};
  const std::string folder = absl::StrCat(parent, "/", getpid(), "-", count.fetch_add(1));
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    LogWarning(absl::StrCat("FRAMEJIT_DUMP_DIR: cannot make ", folder, ": ", error.message()));
    return nullptr;
  }
  return std::unique_ptr<Dump>(new Dump(folder));
}

void Dump::Write(std::string_view name, std::string_view text) const {
  const std::string path = absl::StrCat(folder_, "/", std::string(name));
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) LogWarning(absl::StrCat("FRAMEJIT_DUMP_DIR: cannot write ", path));
}

}  // namespace framejit::native
