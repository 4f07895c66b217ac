"""Why an operator of a program stays outside XNNPACK: one line each, for people who inspect a bundle."""

from __future__ import annotations

_SHAPE = "a change of shape between operators of this list; a few numbers"
_LENGTH = "as long as the batch's texts: XNNPACK takes no such slice; once a batch"
_INTEGERS = "on integers (masks, positions, labels); XNNPACK computes on floats"
_LOOK_UP = "a look-up of rows by token number; XNNPACK has none"
_FEW = "on a few numbers an example; a second delegate would cost more"

# Operator without its overload → the reason.
REASONS: dict[str, str] = {
    "aten::embedding": _LOOK_UP,
    "quantized_decomposed::embedding_byte": _LOOK_UP,
    "quantized_decomposed::embedding_2bit": _LOOK_UP,
    "quantized_decomposed::embedding_4bit": _LOOK_UP,
    "aten::sym_size": "reads the batch's length: one number, no tensor",
    "executorch_prim::add": "a sum of sizes: one number, no tensor",
    "executorch_prim::mul": "a product of sizes: one number, no tensor",
    "executorch_prim::floordiv": "a quotient of sizes: one number, no tensor",
    "executorch_prim::et_view": "another shape of the same memory: copies nothing",
    "aten::_log_softmax": "XNNPACK has softmax but no log-softmax",
    "aten::gather": "picks each label's logit; XNNPACK has no gather",
    "aten::index_select": "picks rows by number; XNNPACK has no gather",
    "aten::index": "picks rows by number; XNNPACK has no gather",
    "dim_order_ops::_to_dim_order_copy": "integers to float32; once a batch",
    "dim_order_ops::_empty_dim_order": "room for the next operator's result",
    "aten::slice_copy": _LENGTH,
    "aten::arange": _LENGTH,
    "aten::expand_copy": _LENGTH,
    "aten::repeat": _LENGTH,
    "aten::full": "a constant, written once a batch",
    "aten::full_like": "a constant, written once a batch",
    "aten::sum": _FEW,
    "aten::mean": _FEW,
    "aten::neg": _FEW,
    "aten::div": _FEW,
    "aten::sub": _FEW,
    "aten::abs": _FEW,
    "aten::clamp": _FEW,
    "aten::maximum": _FEW,
    "aten::minimum": _FEW,
    "aten::cumsum": _INTEGERS,
    "aten::mul": _INTEGERS,
    "aten::add": _INTEGERS,
    "aten::ne": _INTEGERS,
    "aten::eq": _INTEGERS,
    "aten::ge": _INTEGERS,
    "aten::gt": _INTEGERS,
    "aten::le": _INTEGERS,
    "aten::lt": _INTEGERS,
    "aten::where": _INTEGERS,
    "aten::argmax": _INTEGERS,
    "aten::view_copy": _SHAPE,
    "aten::permute_copy": _SHAPE,
    "aten::squeeze_copy": _SHAPE,
    "aten::unsqueeze_copy": _SHAPE,
    "aten::clone": _SHAPE,
    "dim_order_ops::_clone_dim_order": _SHAPE,
    "aten::cat": _SHAPE,
    "aten::select_copy": _SHAPE,
}
UNEXPECTED = "not expected here: the method is slower for it than it need be"


def reason(method: str, operator: str) -> str:
    """Why an operator such as "aten::embedding.out" is not in a method's delegate; UNEXPECTED: unknown.

    Segments are the heavy part: nothing is expected outside XNNPACK there.
    """
    if method.startswith("segment_"):
        return UNEXPECTED
    return REASONS.get(operator.split(".")[0], UNEXPECTED)
