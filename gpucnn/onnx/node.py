"""What the function of an operator sees of its node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, defs

from gpucnn.backend import Backend
from gpucnn.errors import InputError
from gpucnn.onnx.values import Order, Value

__all__ = ["TRAINING", "Node", "domain_of"]

TRAINING = "ai.onnx.preview.training"


def domain_of(name: str) -> str:
    """Return the name of a domain of operators: "" for ONNX's own, which has two."""
    return "" if name == "ai.onnx" else name


class Node:
    """A node of the graph: its attributes, its backend, and how to refuse what is not supported.

    `node["axis"]` is an attribute: as given, else its default in the model's operator set, else None.

    Attributes
    ----------
    operator, label : its operator, and how messages name the node
    backend, xp : what the operator computes on, and with
    version : the operator set that gave the operator the form which the model means
    inputs, outputs : names of the values; "" where an optional one is left out
    kept : what the operator carries from one run to the next
    room : how many elements its outputs may have, and what it makes on the way to them
    """

    def __init__(self, proto: NodeProto, opsets: dict[str, int], backend: Backend):
        self.operator = proto.op_type
        self.backend, self.xp = backend, backend.xp
        self.inputs, self.outputs = list(proto.input), list(proto.output)
        self.label = f'{proto.op_type} "{proto.name or ", ".join(filter(None, self.outputs))}"'
        domain = domain_of(proto.domain)
        try:
            schema = defs.get_schema(proto.op_type, opsets[domain], domain)
        except (KeyError, defs.SchemaError) as error:
            version = opsets.get(domain, "none")
            raise InputError(
                f"{self.label}: is not in version {version} of its operator set; import another"
            ) from error
        self.version = schema.since_version
        defaults = {name: attribute.default_value for name, attribute in schema.attributes.items()}
        if references := [attribute.name for attribute in proto.attribute if attribute.ref_attr_name]:
            raise self.refuse(f"a reference to a function's attribute for {', '.join(references)}", "a value")
        given = {attribute.name: attribute for attribute in proto.attribute}
        self._attributes = {name: _plain(attribute) for name, attribute in (defaults | given).items()}
        self.kept: dict[str, Any] = {}
        self.room = 0

    def __getitem__(self, name: str) -> Any:
        return self._attributes.get(name)

    def require_room(self, *shapes: Sequence[int]) -> None:
        """Raise `InputError` if there is no room for arrays of these shapes broadcast against each other."""
        reverse = [max(sizes) for sizes in zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)]
        shape = tuple(reverse[::-1])
        if (size := math.prod(shape)) > self.room:
            raise InputError(
                f"{self.label}: would make {size:,} elements of shape {shape}, out of all proportion to the model and "
                f"its inputs, for which {self.room:,} are allowed"
            )

    def integers(self, name: str, value: Value | None) -> list[int] | None:
        """Return what newer versions of an operator take as an input and older ones as an attribute."""
        return self[name] if value is None else [int(number) for number in value.host.flat]

    def value(self, array: Any, order: Order | None = None) -> Value:
        """Return an array of the device, with its axes in an order, as a value."""
        return Value(self.backend, array, order)

    def on_host(self, array: np.ndarray) -> Value:
        """Return a NumPy array as a value."""
        return Value.on_host(self.backend, array)

    def refuse(self, what: str, supported: str) -> InputError:
        """Return the error for something that is not supported, to be raised."""
        return InputError(f"{self.label}: {what} is not supported; supported is {supported}")


def _plain(attribute: onnx.AttributeProto) -> Any:
    """Return an attribute as Python has it: text for bytes, None for none."""
    if attribute.type == onnx.AttributeProto.UNDEFINED:
        return None
    value = onnx.helper.get_attribute_value(attribute)
    return value.decode(errors="replace") if isinstance(value, bytes) else value
