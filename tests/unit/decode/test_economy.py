"""Exact mode drafts only where that pays."""

import logging

import pytest

from multistride.decode.choosing.economy import LARGE_BATCHES, PASSES, Economy


def run(economy, passes, cost, rows=1):
    """Let passes go by at costs by way (tokens, milliseconds); return those that drafted."""
    drafted = 0
    for _ in range(passes):
        drafts = economy.drafts(rows)
        drafted += drafts
        tokens, milliseconds = cost[drafts]
        economy.seen(rows, drafts, float(tokens), milliseconds)
    return drafted


def test_drafts_that_pay_are_kept_and_others_are_not(caplog):
    # Guards: exact mode that is slower than K=1, or that gives up drafts that save time.
    caplog.set_level(logging.INFO)
    pays, loses = Economy(), Economy()
    assert run(pays, 2000, {True: (2.5, 2.0), False: (1, 1.0)}) > 1900
    assert not caplog.messages
    assert run(loses, 2000, {True: (1.5, 2.0), False: (1, 1.0)}) < 100
    [line] = caplog.messages  # said once
    assert "in batches of 1, where a token takes 1.33 times as long with them" in line


def test_batches_of_each_size_are_judged_by_themselves():
    # Guards: a large batch, where drafts lose, that decides for single texts.
    economy = Economy()
    for _ in range(20):
        run(economy, 60, {True: (2.5, 2.0), False: (1, 1.0)}, rows=1)
        run(economy, 60, {True: (2.5, 4.0), False: (1, 1.0)}, rows=32)
    assert (economy.drafts(1), economy.drafts(32)) == (True, False)
    assert economy.settled(32)
    assert not economy.settled(1)
    assert not economy.settled(4)
    run(economy, 1, {True: (2.5, 2.0), False: (1, 1.0)}, rows=64)
    assert economy.settled(64)  # where drafts lose at 32, they lose at 64


def test_what_changes_is_noticed_and_what_does_not_is_tried_seldom():
    # Guards: a judgement that stands for ever; trying that costs what it should save.
    economy = Economy()
    assert run(economy, 40_000, {True: (1, 3.0), False: (1, 1.0)}) < 0.02 * 40_000
    assert run(economy, 2 * PASSES.longest, {True: (4, 3.0), False: (1, 1.0)}) > PASSES.longest // 2


def test_passes_of_whole_batches_at_k1_count_as_waiting():
    # Guards: drafts that are never tried again once batches go the short way.
    economy = Economy()
    run(economy, 60, {True: (1, 3.0), False: (1, 1.0)}, rows=8)
    assert economy.settled(8)
    economy.waited(8, PASSES.longest)
    assert economy.drafts(8)
    assert not economy.settled(8)


@pytest.mark.parametrize("slow", [True, False])
def test_a_pass_that_something_disturbed_decides_nothing(slow):
    # Guards: a judgement by the one pass in which memory was set up.
    economy = Economy()
    for _ in range(400):
        drafts = economy.drafts(1)
        disturbed = 500.0 if drafts == slow and _ % 13 == 7 else 0.0
        tokens, milliseconds = {True: (2.5, 2.0), False: (1, 1.0)}[drafts]
        economy.seen(1, drafts, float(tokens), milliseconds + disturbed)
    assert economy.drafts(1)


def test_trials_cost_large_batches_little(caplog):
    # Guards: exact mode slower than K=1 in batches, because drafts are tried again and again.
    caplog.set_level(logging.INFO)
    economy, cost, time = Economy().batches, {True: (1.0, 3.0), False: (1.0, 1.0)}, 0.0
    for _ in range(200):
        drafts = economy.drafts(32)
        economy.seen(32, drafts, *cost[drafts])
        time += cost[drafts][1]
    assert time < 1.05 * 200
    begun, measured = caplog.messages
    assert "batches of 32 are written without drafts" in begun
    assert "3.00 times as long" in measured
    assert LARGE_BATCHES.first > 20  # most corpora end before the first trial
