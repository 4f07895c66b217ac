// The coder of integers and guides, for device_runtime.core.kernels: buffers of the right sizes around the C ABI.
#include "bind_code.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>

#include <utility>
#include <vector>

#include "zo_code.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace cooperllm {
namespace {

template <typename Number>
using Array = nb::ndarray<Number, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

const uint8_t* bytes_of(const nb::bytes& data) { return static_cast<const uint8_t*>(data.data()); }

nb::bytes encode_integers(Array<const int32_t> values) {
  std::vector<uint32_t> scratch(values.size() + 1);
  std::vector<uint8_t> stream(zo_integers_bound_bytes(values.size()));
  uint64_t size_bytes = 0;
  {
    nb::gil_scoped_release release;
    zo_encode_integers(values.data(), values.size(), scratch.data(), stream.data(), &size_bytes);
  }
  return nb::bytes(stream.data(), size_bytes);
}

zo_status decode_integers(const nb::bytes& data, Array<int32_t> values) {
  const uint64_t size_bytes = data.size();
  const uint8_t* const bytes = bytes_of(data);
  nb::gil_scoped_release release;
  return zo_decode_integers(bytes, size_bytes, values.size(), values.data());
}

std::pair<zo_status, nb::bytes> encode_guide(Array<const float> values, double step) {
  std::vector<int32_t> whole(values.size() + 1);
  std::vector<uint32_t> scratch(values.size() + 1);
  std::vector<uint8_t> encoded(ZO_GUIDE_HEADER_BYTES + zo_integers_bound_bytes(values.size()));
  uint64_t size_bytes = 0;
  zo_status status;
  {
    nb::gil_scoped_release release;
    status =
        zo_encode_guide(values.data(), values.size(), step, whole.data(), scratch.data(), encoded.data(), &size_bytes);
  }
  return {status, nb::bytes(encoded.data(), size_bytes)};
}

zo_status decode_guide(const nb::bytes& data, Array<float> values) {
  const uint64_t size_bytes = data.size();
  const uint8_t* const bytes = bytes_of(data);
  nb::gil_scoped_release release;
  return zo_decode_guide(bytes, size_bytes, values.size(), values.data());
}

}  // namespace

void bind_code(nb::module_& m) {
  m.def("encode_integers", &encode_integers, "values"_a);
  m.def("decode_integers", &decode_integers, "data"_a, "values"_a.noconvert());
  m.def("encode_guide", &encode_guide, "values"_a, "step"_a);
  m.def("decode_guide", &decode_guide, "data"_a, "values"_a.noconvert());
}

}  // namespace cooperllm
