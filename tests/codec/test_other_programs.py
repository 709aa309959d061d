"""Entries of other programs are decoded as docs/other-programs.md describes, with the functions of that page."""

import io
import sys
from types import ModuleType
from typing import Any

import fastavro
import msgspec
import pandas as pd
import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict
from google.protobuf.message_factory import GetMessageClass

from tasks.codec import Decoding, decode_fields
from tasks.errors import PoisonEntryError
from tests.support.documents import blocks
from tests.support.sameness import assert_same


@pytest.fixture(scope="module")
def sensors_pb2() -> Any:
    """Return the module that protoc makes of the page's message."""
    message = DescriptorProto(
        name="Reading",
        field=[
            FieldDescriptorProto(name="sensor", number=1, type=FieldDescriptorProto.TYPE_STRING),
            FieldDescriptorProto(name="celsius", number=2, type=FieldDescriptorProto.TYPE_DOUBLE),
            FieldDescriptorProto(name="count", number=3, type=FieldDescriptorProto.TYPE_INT64),
        ],
    )
    pool = DescriptorPool()
    pool.AddSerializedFile(
        FileDescriptorProto(name="sensors.proto", syntax="proto3", message_type=[message]).SerializeToString()
    )
    module: Any = ModuleType("sensors_pb2")
    module.Reading = GetMessageClass(pool.FindMessageTypeByName("Reading"))
    return module


@pytest.fixture(scope="module")
def functions(sensors_pb2: Any) -> dict[str, Any]:
    """Return the names that the page's blocks define."""
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "sensors_pb2", sensors_pb2)
        for block in blocks("python"):
            if block.page.name == "other-programs.md":
                exec(block.text.partition("@outlet")[0], found)
    return found


# As `publish(..., stream=...)` of FastStream 0.7.8 wrote it: {"code": "01234", "now": 1.5}, of two headers.
FASTSTREAM = (
    b"\x89BIN\r\n\x1a\n\x00\x01\x00\x00\x00\x12\x00\x00\x00j\x00\x02\x00\x0ecorrelation_id\x00$ad077bc6-0955-4322-b99c-174d6709ef5c"
    b'\x00\x0ccontent-type\x00\x10application/json{"code":"01234","now":1.5}'
)

# As pandas 0.25.3 wrote pd.DataFrame({"code": ["01234", "00700"], "price": [1.5, nan], "n": [1, 2]}).to_msgpack().
PANDAS = (
    b"\x84\xa3typ\xadblock_manager\xa5klass\xa9DataFrame\xa4axes\x92\x86\xa3typ\xa5index\xa5klass\xa5Index\xa4name\xc0"
    b"\xa5dtype\xa6object\xa4data\x93\xa4code\xa5price\xa1n\xa8compress\xc0\x86\xa3typ\xabrange_index\xa5klass"
    b"\xaaRangeIndex\xa4name\xc0\xa5start\x00\xa4stop\x02\xa4step\x01\xa6blocks\x93\x86\xa4locs\x86\xa3typ\xa7ndarray"
    b"\xa5shape\x91\x01\xa4ndim\x01\xa5dtype\xa5int64\xa4data\xd7\x00\x01\x00\x00\x00\x00\x00\x00\x00\xa8compress\xc0"
    b"\xa6values\xd8\x00\x00\x00\x00\x00\x00\x00\xf8?\x00\x00\x00\x00\x00\x00\xf8\x7f\xa5shape\x92\x01\x02"
    b"\xa5dtype\xa7float64\xa5klass\xaaFloatBlock\xa8compress\xc0\x86\xa4locs\x86\xa3typ\xa7ndarray\xa5shape\x91\x01"
    b"\xa4ndim\x01\xa5dtype\xa5int64\xa4data\xd7\x00\x02\x00\x00\x00\x00\x00\x00\x00\xa8compress\xc0"
    b"\xa6values\xd8\x00\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\xa5shape\x92\x01\x02"
    b"\xa5dtype\xa5int64\xa5klass\xa8IntBlock\xa8compress\xc0\x86\xa4locs\x86\xa3typ\xa7ndarray\xa5shape\x91\x01"
    b"\xa4ndim\x01\xa5dtype\xa5int64\xa4data\xd7\x00\x00\x00\x00\x00\x00\x00\x00\x00\xa8compress\xc0"
    b"\xa6values\x92\xa501234\xa500700\xa5shape\x92\x01\x02\xa5dtype\xa6object\xa5klass\xabObjectBlock\xa8compress\xc0"
)


@pytest.mark.parametrize(
    ("decode", "fields", "entry"),
    [
        (
            "text",  # walrus 0.9.8: add({"code": "01234", "now": 1.5, "n": 12345, "none": "null"})
            [(b"code", b"01234"), (b"now", b"1.5"), (b"n", b"12345"), (b"none", b"null")],
            {"code": "01234", "now": "1.5", "n": "12345", "none": "null"},
        ),
        ("auto", [(b"n", b"12345"), (b"raw", b"\x00\xff")], {"n": 12345, "raw": b"\x00\xff"}),
        ("from_faststream", [(b"__data__", FASTSTREAM)], {"message": {"code": "01234", "now": 1.5}}),
        (
            "auto",  # Redpanda Connect: body_key and metadata
            [(b"body", b'{"code":"01234"}'), (b"kafka_topic", b"quotes")],
            {"body": {"code": "01234"}, "kafka_topic": "quotes"},
        ),
        (
            "from_debezium",
            [(b'{"id":1}', b'{"op":"c","after":{"id":1}}')],
            {"key": {"id": 1}, "value": {"op": "c", "after": {"id": 1}}},
        ),
        ("from_debezium", [(b'{"id":1}', b"default")], {"key": {"id": 1}, "value": None}),
        (
            "auto",
            [(b"key", b'{"id":1}'), (b"value", b'{"op":"c","after":{"id":1}}'), (b"SOURCE", b"db")],
            {"key": {"id": 1}, "value": {"op": "c", "after": {"id": 1}}, "SOURCE": "db"},
        ),
        ("auto", [(b"key", b'{"id":1}'), (b"value", b"default")], {"key": {"id": 1}, "value": "default"}),
        (
            "text",  # Spring's ObjectHashMapper
            [(b"_class", b"org.example.Person"), (b"firstname", b"rand"), (b"address.city", b"12345")],
            {"_class": "org.example.Person", "firstname": "rand", "address.city": "12345"},
        ),
        ("from_msgpack", [(b"data", msgspec.msgpack.encode({"celsius": 21.5}))], {"celsius": 21.5}),
        ("auto", [(b"frame", PANDAS)], {"frame": PANDAS}),
        ("with_lists", [(b"a", b"1"), (b"b", b"x"), (b"a", b"02")], {"a": ["1", "02"], "b": ["x"]}),
    ],
    ids=[
        "walrus",
        "walrus auto",
        "faststream",
        "redpanda",
        "debezium compact",
        "debezium compact tombstone",
        "debezium extended",
        "debezium extended tombstone",
        "spring",
        "msgpack",
        "pandas auto",
        "repeated",
    ],
)
def test_entries_of_other_programs_are_decoded(
    functions: dict[str, Any], decode: str, fields: list[tuple[bytes, bytes]], entry: dict[str, Any]
) -> None:
    assert decode_fields(fields, decoding=Decoding(decode=functions.get(decode, decode))) == entry


def test_avro_is_decoded_by_the_function_of_the_page(functions: dict[str, Any]) -> None:
    reading = {"sensor": "01234", "celsius": 21.5}
    written = io.BytesIO()
    fastavro.schemaless_writer(written, functions["READING"], reading)
    decoding = Decoding(decode=functions["from_avro"])
    assert decode_fields([(b"data", written.getvalue())], decoding=decoding) == reading


def test_protobuf_is_decoded_by_the_function_of_the_page(functions: dict[str, Any], sensors_pb2: Any) -> None:
    message = sensors_pb2.Reading(sensor="01234", celsius=21.5, count=2**53 + 1)
    decoding = Decoding(decode=functions["from_protobuf"])
    reading = {"sensor": "01234", "celsius": 21.5, "count": 2**53 + 1}
    assert decode_fields([(b"data", message.SerializeToString())], decoding=decoding) == reading
    assert MessageToDict(message)["count"] == str(2**53 + 1)


def test_frames_of_old_pandas_are_decoded_by_the_function_of_the_page(functions: dict[str, Any]) -> None:
    entry = decode_fields([(b"data", PANDAS)], decoding=Decoding(decode=functions["from_pandas_msgpack"]))
    assert_same(entry["frame"], pd.DataFrame({"code": ["01234", "00700"], "price": [1.5, float("nan")], "n": [1, 2]}))


@pytest.mark.parametrize("name", ["from_avro", "from_protobuf", "from_msgpack", "from_pandas_msgpack"])
def test_messages_of_another_format_are_dead_letters(functions: dict[str, Any], name: str) -> None:
    with pytest.raises(PoisonEntryError):
        decode_fields([(b"data", b"\xff\x00")], decoding=Decoding(decode=functions[name]))
