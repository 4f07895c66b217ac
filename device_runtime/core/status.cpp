#include "status.h"

#include "zo.h"

extern "C" {

const char* zo_status_message(zo_status status) noexcept {
  switch (status) {
    case ZO_OK:
      return "done";
    case ZO_OUT_OF_RANGE:
      return "a value or perturbation is 2^23 grid steps or more: use a smaller epsilon or guide";
    case ZO_BELOW_GRID:
      return "rounding changes the direction by over 2 %: use a larger epsilon or grid exponent";
    case ZO_NOT_FINITE:
      return "NaN or infinity in an adapter, scale, guide or update: drop what it came from";
    case ZO_OFF_GRID:
      return "a value is not on its grid, or is -0.0: round the adapter to the grid";
    case ZO_BAD_ARGUMENT:
      return "an argument is not allowed: correct the call";
    case ZO_PROGRAM_FAILED:
      return "a method of the program failed: export the bundle again";
    case ZO_PROGRAM_MISMATCH:
      return "the program is not of this layout: use the bundle that belongs together";
    case ZO_OUT_OF_MEMORY:
      return "out of memory: use smaller batches";
    case ZO_LOSS_NOT_FINITE:
      return "the loss is not finite: use a smaller epsilon or learning rate";
    case ZO_STOPPED:
      return "stopped; the adapter is as it was";
    case ZO_DAMAGED:
      return "a coded stream is damaged: fetch it again";
  }
  return "an unknown status: update the app";
}

// The definition in scalar form (Salmon et al. 2011): what the vectors in zo_lanes.inl are measured against.
void zo_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t output[4]) noexcept {
  uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]};
  uint32_t key_0 = key[0], key_1 = key[1];
  for (int round = 0; round < 10; ++round) {
    const uint64_t product_0 = uint64_t{0xD2511F53u} * c[0];
    const uint64_t product_1 = uint64_t{0xCD9E8D57u} * c[2];
    c[0] = static_cast<uint32_t>(product_1 >> 32) ^ c[1] ^ key_0;
    c[1] = static_cast<uint32_t>(product_1);
    c[2] = static_cast<uint32_t>(product_0 >> 32) ^ c[3] ^ key_1;
    c[3] = static_cast<uint32_t>(product_0);
    key_0 += 0x9E3779B9u;
    key_1 += 0xBB67AE85u;
  }
  for (int word = 0; word < 4; ++word) output[word] = c[word];
}

}  // extern "C"
