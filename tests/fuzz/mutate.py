"""Change a file as bad disks and hostile people do: bytes, or one value of what it says."""

import copy
import gzip
import json
import lzma
import random
import zlib
from typing import Any

BYTES = [b"\0", b"\xff", b"\xef\xbb\xbf", b"\n", b"\r", b"[" * 2000, b'{"a":' * 2000, b"9" * 5000]
BYTES += [b"NaN", b"1e999", b"-1", b"../../x", b"!!python/object:os.system", b"&a [*a, *a]", b"*a"]
BYTES += [b"2001-01-01", b"\\ud800", b"\xed\xa0\x80", b"<<: ", b"\t", b"%TAG ! x", b"? ", b"1:30"]

VALUES: list[Any] = [None, True, -1, 0, 1, 1 << 31, 1 << 63, 10**19, 10**30, 1e308, -0.5, "", "x"]
VALUES += ["../x", "/etc/passwd", "\ud800", "\0", "9" * 5000, [], {}, [[]], [None], {"": None}]
VALUES += [[0] * 1000, "a" * 10000, [-1], {"a": 1}, 10**6, 10**9]


def mutated(data: bytes, name: str, chance: random.Random) -> bytes:
    """Return `data` with one to four changes; what is packed or has a header is changed inside."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        data = _changed(data, name, chance)
    return data


def _changed(data: bytes, name: str, chance: random.Random) -> bytes:
    inside = chance.random() < 0.6
    try:
        if inside and name.endswith(".gz"):
            return gzip.compress(_changed(gzip.decompress(data), "", chance))
        if inside and name.endswith(".xz"):
            return lzma.compress(_changed(lzma.decompress(data), "", chance))
        if inside and name.endswith(".safetensors"):
            length = int.from_bytes(data[:8], "little")
            header = _in_json(data[8 : 8 + length], chance)
            return len(header).to_bytes(8, "little") + header + data[8 + length :]
        if inside and name.endswith(".json"):
            return _in_json(data, chance)
        if inside and name.endswith((".jsonl", ".part")):
            lines = data.split(b"\n")
            row = chance.randrange(len(lines))
            lines[row] = _in_json(lines[row], chance)
            return b"\n".join(lines)
    except (ValueError, EOFError, OSError, lzma.LZMAError, zlib.error, RecursionError, IndexError):
        pass
    return _in_bytes(data, chance)


def _in_json(data: bytes, chance: random.Random) -> bytes:
    tree = copy.deepcopy(json.loads(data))
    places: list[tuple[Any, Any]] = []
    level = [tree] if isinstance(tree, dict | list) else []
    while level:
        entry = level.pop()
        keys = list(entry) if isinstance(entry, dict) else range(len(entry))
        places += [(entry, key) for key in keys]
        level += [entry[key] for key in keys if isinstance(entry[key], dict | list)]
    if not places:
        return json.dumps(chance.choice(VALUES)).encode()
    holder, key = chance.choice(places)
    kind = chance.random()
    if kind < 0.7:
        holder[key] = chance.choice(VALUES)
    elif kind < 0.8:
        del holder[key]
    elif isinstance(holder, dict):
        holder[chance.choice(("x", "", "kind", "../x"))] = chance.choice(VALUES)
    else:
        holder.insert(0, chance.choice(VALUES))
    return json.dumps(tree).encode()


def _in_bytes(data: bytes, chance: random.Random) -> bytes:
    begin = chance.randrange(len(data) + 1)
    end = min(len(data), begin + chance.choice((1, 1, 2, 8, 64)))
    kind = chance.randrange(6)
    if kind == 0 and data:
        begin = min(begin, len(data) - 1)
        flipped = data[begin] ^ (1 << chance.randrange(8))
        return data[:begin] + bytes([flipped]) + data[begin + 1 :]
    if kind == 1:
        return data[:begin] + data[end:]
    if kind == 2:
        return data[:begin] + data[begin:end] * chance.choice((2, 3, 100)) + data[end:]
    if kind == 3:
        return data[:begin]
    piece = chance.choice(BYTES) if kind == 4 else chance.randbytes(end - begin)
    return data[:begin] + piece + data[end if chance.random() < 0.5 else begin :]
