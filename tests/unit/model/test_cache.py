"""The cache against lists of lists: every slot carries a number of its own, so nothing can be mixed
up unseen."""

from itertools import count

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multistride.groups import PADDING_GROUP
from multistride.model.cache import FIRST_CAPACITY, HOLES, DecoderCache, LayerCache

HEADS, WIDTH = 2, 3

quick = settings(max_examples=60, deadline=None, derandomize=True)

# An operation is a verb and numbers to choose its arguments from; they are reduced to what the
# state allows.
operations = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "truncate", "reorder"]),
        st.lists(st.integers(0, 99), min_size=6),
    ),
    max_size=14,
)


def spread(numbers, layer=0):
    """[B, N] numbers as [B, H, N, E] keys that differ in every head, place and layer."""
    table = torch.tensor(numbers, dtype=torch.float).reshape(len(numbers), 1, -1, 1)
    heads = torch.arange(HEADS).reshape(1, -1, 1, 1) / 4
    return table + heads + torch.arange(WIDTH) / 16 + layer * 1000


def check_holds(found, rows, layer=0):
    key, value = found
    assert torch.equal(key, spread(rows, layer))
    assert torch.equal(value, -spread(rows, layer))


def rows_from(numbers, rows):
    """Rows to keep: at least one, some of them repeated or dropped, in any order."""
    return [number % rows for number in numbers[1 : 2 + numbers[0] % 4]]


@quick
@given(operations, st.integers(1, 3))
def test_layer_cache_against_lists(sequence, batch):
    # Guards: slots overwritten, left behind or mixed up by any order of the three verbs.
    cache, rows, fresh = LayerCache(), [[] for _ in range(batch)], count()
    for verb, numbers in sequence:
        if verb == "append":
            new = [[next(fresh) for _ in range(numbers[0] % 40)] for _ in rows]
            rows = [before + after for before, after in zip(rows, new, strict=True)]
            check_holds(cache.append(spread(new), -spread(new)), rows)
        elif verb == "truncate":
            length = numbers[0] % (len(rows[0]) + 3)
            rows = [row[:length] for row in rows]
            cache.truncate(length)
        else:
            keep = rows_from(numbers, len(rows))
            rows = [rows[row] for row in keep]
            cache.reorder(torch.tensor(keep))
        assert cache.length == len(rows[0])
    new = [[next(fresh)] for _ in rows]
    check_holds(
        cache.append(spread(new), -spread(new)), [a + b for a, b in zip(rows, new, strict=True)]
    )


@quick
@given(operations, st.integers(1, 3), st.booleans())
def test_decoder_cache_against_lists(sequence, batch, with_source):
    # Guards: groups, layers and source that no longer belong to the same row, and forgotten slots
    # that are seen.
    names = [[10 * row + place for place in range(5)] for row in range(batch)]
    cache = decoder_cache(names) if with_source else DecoderCache(2, [], None)
    rows = [[] for _ in range(batch)]
    fresh, step = count(), 0
    for verb, numbers in [*sequence, ("append", [1] * 6)]:
        if verb == "append":
            # Rows with fewer new slots are padded on the left, as a ragged step is.
            width = numbers[0] % 4 + 1
            new = [
                [
                    (next(fresh), step if place >= numbers[row % 6] % width else PADDING_GROUP)
                    for place in range(width)
                ]
                for row in range(len(rows))
            ]
            rows = [before + after for before, after in zip(rows, new, strict=True)]
            check_mask(
                cache.extend(torch.tensor([[group for _, group in row] for row in new])), new, rows
            )
            for layer, store in enumerate(cache.layers):
                keys = spread([[number for number, _ in row] for row in new], layer)
                check_holds(
                    store.append(keys, -keys),
                    [[number for number, _ in row] for row in rows],
                    layer,
                )
            step += 1
        elif verb == "truncate":
            counts = [number % (len(rows[0]) + 1) for number in (numbers * len(rows))[: len(rows)]]
            rows = pushed_together(
                [forget(row, last, min(counts)) for row, last in zip(rows, counts, strict=True)]
            )
            cache.truncate(torch.tensor(counts))
        else:
            keep = rows_from(numbers, len(rows))
            rows, names = [rows[row] for row in keep], [names[row] for row in keep]
            cache.reorder(torch.tensor(keep))
        assert cache.length == len(rows[0])
        if cache.groups.table is not None:
            assert cache.groups.table.tolist() == [[group for _, group in row] for row in rows]
            assert {layer.length for layer in cache.layers} == {len(rows[0])}
    if with_source:
        assert cache.source_mask[:, 0, 0].tolist() == [
            [number % 2 == 0 for number in row] for row in names
        ]
        for layer, keys_values in enumerate(cache.source):
            check_holds(keys_values, names, layer)


def decoder_cache(names):
    """A cache of two layers whose source holds the given numbers; odd ones are masked."""
    source = [(spread(names, layer), -spread(names, layer)) for layer in range(2)]
    return DecoderCache(2, source, (torch.tensor(names) % 2 == 0)[:, None, None])


def forget(row, last, least):
    """A row without its last slots: what others keep of those columns is padding here."""
    kept = len(row) - last
    return [
        (number, group if place < kept else PADDING_GROUP)
        for place, (number, group) in enumerate(row[: len(row) - least])
    ]


def pushed_together(rows):
    """The rows with their real slots first, cut to the longest, where that gains more than a few
    columns."""
    real = [[slot for slot in row if slot[1] != PADDING_GROUP] for row in rows]
    longest = max(map(len, real))
    if len(rows[0]) - longest <= HOLES:
        return rows
    holes = [[slot for slot in row if slot[1] == PADDING_GROUP] for row in rows]
    return [(slots + empty)[:longest] for slots, empty in zip(real, holes, strict=True)]


def check_mask(mask, new, rows):
    expected = [
        [[seen <= seer for _, seen in row] for _, seer in added]
        for added, row in zip(new, rows, strict=True)
    ]
    if mask is None:
        assert all(visible for row in expected for line in row for visible in line)
    else:
        assert mask[:, 0].tolist() == expected


def buffer_sizes(appends):
    """The room in the buffers after each of some appends of the given numbers of slots."""
    cache, sizes = LayerCache(), []
    for slots in appends:
        new = torch.zeros(2, HEADS, slots, WIDTH)
        cache.append(new, new)
        assert cache._key.shape == cache._value.shape
        sizes.append(cache._key.shape[2])
    return sizes


def test_buffers_double():
    # Guards: a buffer copied at every step (quadratic time), or one that grows without need
    # (memory).
    sizes = buffer_sizes([1] * 300)
    assert sizes[0] == FIRST_CAPACITY
    assert set(sizes) == {FIRST_CAPACITY * 2**doubling for doubling in range(5)}
    for length, size in enumerate(sizes, start=1):
        assert length <= size < max(2 * length, FIRST_CAPACITY + 1)


def test_memory_follows_from_the_length_alone():
    # Guards: autoregressive decoding using more memory than large groups do for the same text.
    for length in (1, 31, 32, 33, 64, 65, 200, 256, 257):
        small, large = buffer_sizes([1] * length)[-1], buffer_sizes([length])[-1]
        odd = buffer_sizes([7] * (length // 7) + [length % 7])[-1]
        assert small == large == odd


def test_truncated_room_is_used_again():
    # Guards: a cache that grows with the number of drafts rather than with the text.
    cache, new = LayerCache(), torch.zeros(1, HEADS, 8, WIDTH)
    for step in range(200):
        cache.append(new, new)
        cache.truncate(min(step, 10))
    assert cache._key.shape[2] == FIRST_CAPACITY


def test_ragged_truncation_does_not_waste_memory():
    # Guards: holes that add up, so that a long ragged decoding needs many times the memory of its
    # text.
    cache, new = DecoderCache(1, [], None), torch.zeros(2, HEADS, 5, WIDTH)
    for step in range(40):
        cache.extend(torch.full((2, 5), step))
        cache.layers[0].append(new, new)
        cache.truncate(torch.tensor([4, 0] if step % 2 else [0, 4]))
    real = int((cache.groups.table != PADDING_GROUP).sum(1).max())
    assert real == 20 * 6
    assert cache.length <= real + HOLES
    assert cache.layers[0]._key.shape[2] <= 2 * FIRST_CAPACITY * 4


def test_reorder_repeats_and_drops_rows():
    # Guards: beams that share one buffer, so that writing to one changes the other.
    cache = LayerCache()
    cache.append(spread([[1], [2], [3]]), -spread([[1], [2], [3]]))
    cache.reorder(torch.tensor([2, 2, 0, 0]))
    new = [[4], [5], [6], [7]]
    check_holds(cache.append(spread(new), -spread(new)), [[3, 4], [3, 5], [1, 6], [1, 7]])


def test_truncating_and_reordering_before_the_first_step():
    # Guards: a crash when a batch is compacted or rolled back before it has any slot.
    cache = decoder_cache([[0, 1], [2, 3]])
    cache.truncate(torch.tensor([0, 0]))
    cache.reorder(torch.tensor([1]))
    assert cache.length == 0
    check_holds(cache.source[1], [[2, 3]], layer=1)


def test_a_full_view_needs_no_mask():
    # Guards: the slower masked attention where one sentence sees everything.
    cache = DecoderCache(1, [], None)
    assert cache.extend(torch.tensor([[0, 0]])) is None
    assert cache.extend(torch.tensor([[1, 1]])) is None
    assert cache.extend(torch.tensor([[2, 3]])).tolist() == [[[[True] * 5 + [False], [True] * 6]]]
