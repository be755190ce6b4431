// Compiled kernels on disk, by content: one file for each (compiler, architecture, source). Any number of processes may
// share a folder. A file holds the key it was made for and a checksum; one that does not match is made again.
#ifndef FRAMEJIT_BACKENDS_CUDA_CODEGEN_CUBIN_CACHE_H_
#define FRAMEJIT_BACKENDS_CUDA_CODEGEN_CUBIN_CACHE_H_

#include <optional>
#include <string>

#include "absl/status/status.h"

namespace framejit::cuda {

class CubinCache {
 public:
  // `folder` is made when the first file is; empty: nothing is kept.
  explicit CubinCache(std::string folder) : folder_(std::move(folder)) {}

  // The code that was put under the key; nullopt where there is none, or none that is whole.
  std::optional<std::string> Get(const std::string& key) const;
  // Writes beside, then renames: readers see all of a file or none. Unavailable: the folder cannot be written to.
  absl::Status Put(const std::string& key, const std::string& cubin) const;

  std::string PathOf(const std::string& key) const;

 private:
  const std::string folder_;
};

}  // namespace framejit::cuda

#endif  // FRAMEJIT_BACKENDS_CUDA_CODEGEN_CUBIN_CACHE_H_
