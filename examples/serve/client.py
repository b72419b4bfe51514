"""Ask a running `multistride serve` with OpenAI's client.

    multistride serve &
    python examples/serve/client.py [URL]

Fields that OpenAI's API does not have go into `extra_body`.
"""

from __future__ import annotations

import argparse
from typing import Any

import openai


def main(url: str) -> None:
    """Translate one text whole, then as a stream of groups; show an error."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    model = client.models.list().data[0].id
    text = "I have never seen such a beautiful garden."

    answer = client.completions.create(model=model, prompt=text, extra_body={"group_size": 4})
    print(f"{model}: {answer.choices[0].text}")

    stream = client.completions.create(
        model=model, prompt=text, stream=True, extra_body={"group_size": 4, "mode": "exact"}
    )
    print(" │ ".join(event.choices[0].text.strip() for event in stream if event.choices))

    try:
        client.completions.create(model=model, prompt=text, extra_body={"group_size": 99})
    except openai.BadRequestError as error:
        body: Any = error.body
        print(f"refused: {body['message']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000", metavar="URL")
    main(parser.parse_args().url)
