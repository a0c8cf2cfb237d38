"""Message classes from the descriptors that generate.py made, in a pool of this package's own.

Two reasons not to use protoc's Python code. It may be used only with a protobuf at least as new as
the protoc that made it. And it registers `sandbox.proto` in the process-wide pool, where a program
with stubs of the same contract, or any other file of that name, would clash with it.
"""

from __future__ import annotations

import importlib.resources
from typing import Any, Dict

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper


def _load() -> Any:
    made: Any = descriptor_pool.DescriptorPool()
    data = importlib.resources.files(__package__ or "").joinpath("descriptors.binpb").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:  # imports come first
        made.AddSerializedFile(file.SerializeToString())
    return made


POOL = _load()
_factory: Any = None


def _message_class(descriptor: Any) -> Any:
    global _factory
    if hasattr(message_factory, "GetMessageClass"):  # protobuf >= 4.22
        made = message_factory.GetMessageClass(descriptor)
    else:
        _factory = _factory or message_factory.MessageFactory(POOL)
        made = _factory.GetPrototype(descriptor)
    for nested in descriptor.nested_types:
        if not hasattr(made, nested.name):
            setattr(made, nested.name, _message_class(nested))
    return made


def fill(module: Dict[str, Any], file_name: str) -> None:
    """Puts the messages and enums of a file into a module's namespace."""
    file = POOL.FindFileByName(file_name)
    module["DESCRIPTOR"] = file
    for name, message in file.message_types_by_name.items():
        module[name] = _message_class(message)
    for name, enum in file.enum_types_by_name.items():
        module[name] = enum_type_wrapper.EnumTypeWrapper(enum)
        for value in enum.values:
            module[value.name] = value.number
