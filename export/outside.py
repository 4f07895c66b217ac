"""Why an operator of a program stays outside XNNPACK: one line each, for people who inspect a bundle."""

from __future__ import annotations

_SHAPE = "a change of shape between operators of this list; a few numbers"
_LENGTH = "as long as the batch's texts, which XNNPACK cannot make; once a batch"
_INTEGERS = "on integers (masks, positions, sizes); XNNPACK computes on floats"
_LOOK_UP = "a look-up of rows by token number; XNNPACK has none"
_FEW = "on a few numbers an example; a second delegate would cost more"

# Operator without its overload → the reason.
REASONS: dict[str, str] = {
    "aten::embedding": _LOOK_UP,
    "quantized_decomposed::embedding_byte": _LOOK_UP,
    "quantized_decomposed::embedding_4bit": _LOOK_UP,
    "aten::gather": "picks by number (a label's logit, a token's place); XNNPACK has no gather",
    "aten::index": "picks rows by number; XNNPACK has no gather",
    "aten::index_select": "picks rows by number; XNNPACK has no gather",
    "aten::argmax": "finds a token's place; XNNPACK has no argmax",
    "aten::_log_softmax": "XNNPACK has softmax but no log-softmax",
    "aten::sym_size": "reads the batch's length: one number, no tensor",
    "executorch_prim::mul": "a product of sizes: one number, no tensor",
    "executorch_prim::add": "a sum of sizes: one number, no tensor",
    "executorch_prim::et_view": "another shape of the same memory: copies nothing",
    "dim_order_ops::_to_dim_order_copy": "integers to float32; once a batch",
    "aten::slice_copy": _LENGTH,
    "aten::arange": _LENGTH,
    "aten::repeat": _LENGTH,
    "aten::full": "a constant, written once a batch",
    "aten::full_like": "a constant, written once a batch",
    "aten::sum": _FEW,
    "aten::neg": _FEW,
    "aten::sub": _FEW,
    "aten::amax": _FEW,
    "aten::cumsum": _INTEGERS,
    "aten::mul": _INTEGERS,
    "aten::add": _INTEGERS,
    "aten::eq": _INTEGERS,
    "aten::ne": _INTEGERS,
    "aten::ge": _INTEGERS,
    "aten::where": _INTEGERS,
    "aten::clamp": _INTEGERS,
    "aten::view_copy": _SHAPE,
    "aten::squeeze_copy": _SHAPE,
    "aten::unsqueeze_copy": _SHAPE,
    "aten::select_copy": _SHAPE,
    "aten::expand_copy": _SHAPE,
    "aten::cat": _SHAPE,
    "aten::clone": _SHAPE,
}
UNEXPECTED = "not expected here: the method is slower for it than it need be"


def reason(method: str, operator: str) -> str:
    """Why an operator such as "aten::embedding.out" is not in a method's delegate; UNEXPECTED: unknown.

    Segments are the heavy part: nothing is expected outside XNNPACK there.
    """
    if method.startswith("segment_"):
        return UNEXPECTED
    return REASONS.get(operator.split(".")[0], UNEXPECTED)
