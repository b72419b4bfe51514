"""A real server over tiny models, on a port of its own, in a thread of the test process."""

import threading
import time

import torch

from multistride.data.vocab import train_vocabulary
from multistride.engines.eager import EagerStepModel
from multistride.generator import Generator
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer
from multistride.serve.app import Limits, application
from multistride.serve.opening import opened
from multistride.serve.orders import Capacity
from multistride.serve.served import Defaults
from multistride.serve.server import Server, bound
from multistride.translator import Translator

TEXT = (
    "The battle of Hastings in 1066 ended the reign of Harold. William then ruled — ünïcödé 日本!"
)
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
KEY = "secret"


class Named(EagerStepModel):
    """An eager engine with a name, as loaded ones have."""

    name = "eager"


def tiny(kind, **sizes):
    """A random model whose texts vary and end at different lengths."""
    torch.manual_seed(1)
    vocabulary = train_vocabulary([TEXT], 300, "bpe")
    if kind is Generator:
        vocabulary._chat_template = TEMPLATE
    shape = {
        "hidden_size": 32,
        "heads": 2,
        "feedforward_size": 32,
        "encoder_layers": 1 if kind is Translator else 0,
        "decoder_layers": 1,
        "max_positions": 96,
        "lookahead": True,
        "max_group_size": 4,
        "group_sizes": (1, 2, 4),
        **sizes,
    }
    config = TransformerConfig(vocabulary_size=len(vocabulary), tie_embeddings=False, **shape)
    model = Transformer(config).eval()
    with torch.no_grad():
        model.output.weight.mul_(4)
    return kind(Named(model), vocabulary)


class Running:
    """A server in a thread."""

    def __init__(self, models, limits=None, capacity=None, defaults=None):
        self.served = opened(models, defaults or Defaults(2), capacity or Capacity())
        for name in self.served.models:
            if self.served.models[name].translates:
                self.served.models[name].languages = ("en", "de")
        self._socket = bound("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = Server(application(self.served, limits or Limits()), self.served.drain)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )

    def __enter__(self):
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join(timeout=20)
        self._socket.close()
