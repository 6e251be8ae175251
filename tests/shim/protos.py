# SPDX-License-Identifier: Apache-2.0
"""containerd's specs/*.proto as classes of the real protobuf library, without protoc: the few forms that these files use are read here."""

import re
from pathlib import Path

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, empty_pb2, message, message_factory, timestamp_pb2

SPECS = Path(__file__).parents[2] / "specs"
Proto = descriptor_pb2.FieldDescriptorProto
FIELD = re.compile(r"(?:(repeated|optional) )?(map<string, ([\w.]+)>|[\w.]+) (\w+) = (\d+);")


def scalar(kind: str) -> int | None:
    return getattr(Proto, f"TYPE_{kind.upper()}", None) if kind.islower() else None


def set_type(field: descriptor_pb2.FieldDescriptorProto, kind: str, package: str) -> None:
    if number := scalar(kind):
        field.type = number
    else:
        field.type_name = f".{kind}" if "." in kind else f".{package}.{kind}"  # the pool finds out whether it is an enum


def add_field(parent: descriptor_pb2.DescriptorProto, line: str, package: str) -> None:
    label, kind, value, name, number = FIELD.fullmatch(line).groups()
    field = parent.field.add(name=name, number=int(number), label=Proto.LABEL_REPEATED if label == "repeated" or value else Proto.LABEL_OPTIONAL)
    if label == "optional":
        field.proto3_optional, field.oneof_index = True, len(parent.oneof_decl)
        parent.oneof_decl.add(name=f"_{name}")
    if not value:
        return set_type(field, kind, package)
    entry = parent.nested_type.add(name="".join(word.capitalize() for word in name.split("_")) + "Entry")
    entry.options.map_entry = True
    for number, (key, of) in enumerate((("key", "string"), ("value", value)), 1):
        set_type(entry.field.add(name=key, number=number, label=Proto.LABEL_OPTIONAL), of, package)
    field.type, field.type_name = Proto.TYPE_MESSAGE, f".{package}.{parent.name}.{entry.name}"
    return None


def parse(path: Path) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=path.name, syntax="proto3")
    inside: object = None
    for line in path.read_text().splitlines():
        line = line.partition("//")[0].strip()
        if words := re.fullmatch(r"import \"(.*)\";", line):
            file.dependency.append(words[1])
        elif words := re.fullmatch(r"package (.*);", line):
            file.package = words[1]
        elif words := re.fullmatch(r"(message|enum|service) (\w+) \{(\})?", line):
            inside = {"message": file.message_type, "enum": file.enum_type, "service": file.service}[words[1]].add(name=words[2])
        elif words := re.fullmatch(r"(\w+) = (\d+);", line):
            inside.value.add(name=words[1], number=int(words[2]))
        elif words := re.fullmatch(r"rpc (\w+)\(([\w.]+)\) returns \(([\w.]+)\);", line):
            given, got = (f".{name}" if "." in name else f".{file.package}.{name}" for name in (words[2], words[3]))
            inside.method.add(name=words[1], input_type=given, output_type=got)
        elif line not in ("", "}", 'syntax = "proto3";'):
            add_field(inside, line, file.package)
    return file


def build() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    waiting = [parse(path) for path in sorted(SPECS.glob("[!w]*.proto"))]  # our own (wherry_*) has stubs
    known = set()
    for well_known in (any_pb2, empty_pb2, timestamp_pb2):
        pool.AddSerializedFile(well_known.DESCRIPTOR.serialized_pb)
        known.add(well_known.DESCRIPTOR.name)
    while waiting:
        ready = [file for file in waiting if known.issuperset(file.dependency)]
        assert ready, [file.name for file in waiting]
        for file in ready:
            pool.AddSerializedFile(file.SerializeToString())
            known.add(file.name)
            waiting.remove(file)
    return pool


POOL = build()


def message_class(name: str) -> type[message.Message]:
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))
