"""What our protos say on the wire, against a table of the daemons' own names, numbers and types.

A trimmed proto with a wrong number compiles, and talks nonsense to the daemon. Every line of `proto/wire.txt`
stands in the compiled protos of lnd 90ea05d5, Core Lightning 090f4b0e, Wavelength b7de4da0 or Fulmine
b4461e8b, those of `macaroonpb` in macaroon-bakery's; a change of ours shows as a difference: compare its line
again.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor

import arkgate._proto

TABLE = Path(__file__).parent.parent / "proto" / "wire.txt"
TYPES = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in dir(FieldDescriptor)
    if name.startswith("TYPE_")
}


def files() -> Iterator[FileDescriptor]:
    """Every proto that we have."""
    for module in pkgutil.walk_packages(arkgate._proto.__path__, "arkgate._proto."):
        if module.name.endswith("_pb2"):
            yield importlib.import_module(module.name).DESCRIPTOR


def rows(file: FileDescriptor) -> Iterator[str]:
    """The lines of one proto: methods with what they take and give, fields with number and type."""
    for service in file.services_by_name.values():
        for method in service.methods:
            takes = ("stream " if method.client_streaming else "") + method.input_type.full_name
            gives = ("stream " if method.server_streaming else "") + method.output_type.full_name
            yield f"{service.full_name}/{method.name} {takes} -> {gives}"
    for message in file.message_types_by_name.values():
        yield from fields(message)
    for enum in file.enum_types_by_name.values():
        yield from (f"{enum.full_name} {value.name} {value.number}" for value in enum.values)


def fields(message: Descriptor) -> Iterator[str]:
    """The lines of one message and of what is declared in it."""
    for field in message.fields:
        of = field.message_type or field.enum_type
        kind = of.full_name if of else TYPES[field.type]
        many = "repeated " if field.is_repeated else ""
        yield f"{message.full_name} {field.name} {field.number} {many}{kind}"
    for enum in message.enum_types:
        yield from (f"{enum.full_name} {value.name} {value.number}" for value in enum.values)
    for nested in message.nested_types:
        yield from fields(nested)


def test_our_protos_say_what_the_daemons_say() -> None:
    ours = sorted(row for file in files() for row in rows(file))

    assert ours == TABLE.read_text().splitlines()


def test_the_table_is_not_empty_of_any_daemon() -> None:
    packages = {row.split(".", 1)[0] for row in TABLE.read_text().splitlines()}

    assert {
        "lnrpc",
        "routerrpc",
        "invoicesrpc",
        "cln",
        "wavewalletrpc",
        "swapclientrpc",
        "waverpc",
        "fulmine",
    } <= packages
