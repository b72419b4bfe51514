"""The rounds of a model when a pass fails, and when nobody waits."""

from tiny_server import TEXT, tiny

from multistride.serve.orders import Capacity, Work
from multistride.serve.plans import Plans
from multistride.serve.rounds import HELD, Rounds
from multistride.translator import Translator

CHOICES = (("group_size", 1), ("mode", "fast"))


class Overflowing:
    """An engine whose first pass ends one text of two and overflows in the other, for ever."""

    name, precision = "eager", "float32"

    def __init__(self, engine):
        self._engine = engine
        self.config, self.markov, self.device = engine.config, engine.markov, engine.device

    def start(self, source, lengths):
        self._bad = source[:, 0] == self.bad
        return self._engine.start(source, lengths)

    def step(self, slots, memory):
        logits = self._engine.step(slots, memory).clone()
        logits[...] = 0
        logits[..., self.config.end_token] = 50.0
        logits[self._bad] = float("nan")
        return logits


class Mail:
    """Gives all works at once; ends where nobody would be waited for."""

    def __init__(self, works):
        self.works, self.reports = works, []

    def orders(self, wait):
        works, self.works = self.works, []
        assert works or wait or len(self.reports) < 20, "rounds turn without work"
        return None if wait and not works else works

    def send(self, report):
        self.reports.append(report)


def test_a_text_that_ends_in_the_pass_that_fails_is_answered():
    # Guards: a request that waits for ever, and a process that never rests again.
    model = tiny(Translator)
    sources = model.encode(["The battle", "William then"])
    engine = Overflowing(model.engine)
    engine.bad = sources[1][0]
    assert sources[0][0] != engine.bad
    mail = Mail([Work(key, tuple(each), CHOICES, 10) for key, each in enumerate(sources)])
    rounds = Rounds(engine, Plans(Translator(engine, model.vocabulary)), Capacity(), mail)
    rounds.run()
    ended = [each.key for report in mail.reports for each in report.written if each.ending]
    failed = [key for report in mail.reports for key in report.failed]
    assert (ended, failed) == ([0], [1])


def test_nothing_is_held_while_nobody_waits(models, monkeypatch):
    # Guards: a first request that waits for fewer rounds than it may, as none waited before.
    monkeypatch.setattr(Rounds, "_rows", 20)
    model = models["translator"]
    rounds = Rounds(model.engine, Plans(model), Capacity(), Mail([]))
    for _ in range(5):
        assert rounds._admitted() == []
    [tokens] = model.encode([TEXT[:9]])
    rounds._take([Work(1, tuple(tokens), CHOICES, 10)])
    found = [len(rounds._admitted()) for _ in range(HELD + 1)]
    assert found == [0] * HELD + [1]
