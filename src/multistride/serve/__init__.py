"""The server: OpenAI's and LibreTranslate's routes over models that write K tokens per step."""
