// A measurement in streaming order, as it stands between two calls: see LocalUpdate::begin.
#pragma once

#include <vector>

#include "local_update.h"

namespace cooperllm {

struct Streamed {
  std::vector<Batch> batches;
  std::vector<Direction> directions;
  double epsilon = 0.0;
  Objective objective;              // exit_segment 1 .. K
  std::vector<Label> labels;        // of label_directions()
  Plan plan;                        // by level
  std::vector<uint32_t> segments;   // that advance() runs, in order
  size_t next = 0;                  // of these
  std::vector<double> error, norm;  // |z' - z|^2 and |z|^2 of each direction, over the segments that have run
  std::vector<double> worst_error;  // the most that the first can be, whatever epsilon
  Losses losses;
};

}  // namespace cooperllm
