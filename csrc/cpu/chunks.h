// How the samples and groups of a batch are divided into tasks: by their number alone, never by
// the number of threads, so that sums come out the same for every number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "parallel.h"
#include "samples.h"

namespace softcm {

struct Chunk {
  int64_t index;                    // in 0 ... Chunks::count() - 1
  int64_t part;                     // of the samples, in 0 ... Chunks::parts() - 1
  int64_t begin, end;               // samples
  int64_t first_group, last_group;  // the last is not included
};

class Chunks {
 public:
  // sums: how many numbers a group is summed up in.
  Chunks(int64_t samples, int64_t groups, int64_t sums) : samples_(samples), groups_(groups) {
    // At least kSamples a chunk, or as many as make its sums worth their memory; more where the
    // sums of all chunks would need more than kSums. But never so few chunks, with samples enough,
    // that many cores stand idle.
    constexpr int64_t kSamples = 32 * kBlock, kSums = 1 << 17, kFewest = 32;
    const int64_t fewest_samples = std::max(kSamples, 8 * sums);
    const int64_t most = std::max(kSums / (groups * sums), kFewest);
    const int64_t wanted = std::min((samples + fewest_samples - 1) / fewest_samples, most);
    const int64_t blocks = (samples + kBlock - 1) / kBlock;
    size_ = (blocks + wanted - 1) / wanted * kBlock;
    parts_ = (samples + size_ - 1) / size_;
    tiles_ = (groups + kTile - 1) / kTile;
  }

  int64_t parts() const { return parts_; }
  int64_t count() const { return parts_ * tiles_; }

  Chunk operator[](int64_t index) const {
    const int64_t part = index / tiles_, tile = index % tiles_;
    return {index,        part,
            part * size_, std::min(samples_, (part + 1) * size_),
            tile * kTile, std::min(groups_, (tile + 1) * kTile)};
  }

  template <class F>
  void for_each_parallel(const F& f) const {
    // Waking a thread takes longer than a few thousand elements do.
    constexpr int64_t kElements = 1 << 14;
    const int64_t of_chunk = std::min(size_, samples_) * std::min(groups_, kTile);
    const int64_t grain = std::max<int64_t>(1, kElements / of_chunk);
    for_parts(count(), grain, [&](int64_t first, int64_t last) {
      for (int64_t index = first; index < last; ++index) f((*this)[index]);
    });
  }

 private:
  // Groups taken together: the rows of (N, C) come by cache line, 16 float32 wide.
  static constexpr int64_t kTile = 16;
  int64_t samples_, groups_, size_, parts_, tiles_;
};

}  // namespace softcm
