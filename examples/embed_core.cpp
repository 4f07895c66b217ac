// The runtime inside a C++ app: local steps of an exported program on one batch, with nothing but the core.
//
//   scripts/build_core && cmake --build build/dev --target embed_core
//   build/dev/embed_core PROGRAM.pte < SHAPE
//
// SHAPE is what a bundle's manifest.json says, as numbers: segments, batch, tokens and width of the chain; then every
// tensor of the layout as segment, offset, count, grid exponent, rank and sizes.
#include <cstdio>
#include <iostream>

#include "local_update.h"

using namespace cooperllm;

int main(int argc, char** argv) {
  ChainShape shape{};
  std::cin >> shape.segments >> shape.batch_examples >> shape.max_tokens >> shape.hidden_size;
  std::vector<TensorSlice> layout;
  for (TensorSlice t{}; std::cin >> t.segment >> t.offset >> t.count >> t.exponent >> t.rank; layout.push_back(t)) {
    for (int i = 0; i < t.rank; ++i) std::cin >> t.sizes[i];
  }

  zo_status status = ZO_BAD_ARGUMENT;
  std::string message = "give the program's file";
  LocalUpdate local;
  std::unique_ptr<Program> program = argc > 1 ? open_program(argv[1], 1, &status, &message) : nullptr;
  if (program != nullptr) status = local.load(std::move(program), shape, layout);
  if (status != ZO_OK) return std::fprintf(stderr, "%s %s\n", message.c_str(), local.message().c_str()), 1;
  // local.chain().adapter() is what the program reads. Here it stays zero; an app copies its version there.

  // A batch as a tokenizer would make it. The app keeps these arrays alive while calls run.
  const size_t rows = shape.batch_examples, cells = rows * shape.max_tokens;
  std::vector<int64_t> ids(cells), mask(cells, 1), labels(rows, 1);
  for (size_t i = 0; i < cells; ++i) ids[i] = static_cast<int64_t>(i % 7);
  const std::vector<double> weights(rows, 1.0);
  const std::vector<Batch> batches = {{ids.data(), mask.data(), labels.data(), weights.data(), shape.max_tokens}};

  std::vector<uint32_t> segments;  // all of them move, the head included
  for (uint32_t k = 0; k <= shape.segments; ++k) segments.push_back(k);
  for (uint64_t step = 0; step < 5 && status == ZO_OK; ++step) {
    std::vector<Direction> directions(8);
    for (size_t j = 0; j < directions.size(); ++j) directions[j].seed = 8 * step + j;
    Measurement measured;  // rho = (L(theta + epsilon z) - L(theta - epsilon z)) / 2 epsilon, the adapter restored
    status = local.measure(batches, directions, 0.01, segments, &measured);
    Update update{0.01, step, segments, directions, {}, {}};
    for (const double rho : measured.rho) update.coefficients.push_back(-0.02 * rho / 8);
    uint64_t clamped = 0;
    if (status == ZO_OK) status = local.update(update, &clamped);
    Evaluation found;
    if (status == ZO_OK) status = local.evaluate(batches, &found);
    if (status == ZO_OK) std::printf("step %d: loss %.9f\n", static_cast<int>(step), found.loss_sum / found.count);
  }
  if (status != ZO_OK) std::fprintf(stderr, "%s %s\n", zo_status_message(status), local.message().c_str());
  return status == ZO_OK ? 0 : 1;
}
