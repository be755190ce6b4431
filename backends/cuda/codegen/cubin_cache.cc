// See cubin_cache.h. Layout: a line with the magic, key and code sizes and the checksum of both, then key and code.
#include "backends/cuda/codegen/cubin_cache.h"

#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace framejit::cuda {
namespace {

constexpr char kMagic[] = "framejit-cubin-1";

// FNV-1a from one of two starts: 128 bits name a file, which holds its key besides; 64 find damage.
uint64_t Hash(const std::string& text, uint64_t start = 0xcbf29ce484222325) {
  uint64_t hash = start;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

std::string Header(const std::string& key, const std::string& cubin) {
  return absl::StrFormat("%s %d %d %016x\n", kMagic, key.size(), cubin.size(), Hash(cubin, Hash(key)));
}

}  // namespace

std::string CubinCache::PathOf(const std::string& key) const {
  return absl::StrFormat("%s/%016x%016x.cubin", folder_, Hash(key), Hash(key, 0x9e3779b97f4a7c15));
}

std::optional<std::string> CubinCache::Get(const std::string& key) const {
  if (folder_.empty()) return std::nullopt;
  std::ifstream file(PathOf(key), std::ios::binary);
  if (!file) return std::nullopt;
  std::stringstream content;
  content << file.rdbuf();
  const std::string text = content.str();
  const size_t line = text.find('\n');
  if (line == std::string::npos || text.size() < line + 1 + key.size()) return std::nullopt;
  if (text.compare(line + 1, key.size(), key) != 0) return std::nullopt;
  std::string cubin = text.substr(line + 1 + key.size());
  if (text.compare(0, line + 1, Header(key, cubin)) != 0) return std::nullopt;
  return cubin;
}

absl::Status CubinCache::Put(const std::string& key, const std::string& cubin) const {
  if (folder_.empty()) return absl::OkStatus();
  static std::atomic<int> count{0};
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  const std::string path = PathOf(key);
  const std::string beside = absl::StrCat(path, ".", getpid(), ".", count.fetch_add(1));
  std::ofstream file(beside, std::ios::binary);
  file << Header(key, cubin) << key << cubin;
  file.close();
  if (file) std::filesystem::rename(beside, path, error);
  if (file && !error) return absl::OkStatus();
  std::error_code ignored;
  std::filesystem::remove(beside, ignored);
  return absl::UnavailableError(absl::StrCat("FRAMEJIT_CACHE_DIR: cannot write to ", folder_));
}

}  // namespace framejit::cuda
