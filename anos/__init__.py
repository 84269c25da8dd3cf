"""Anos Gateway: the OpenAI Responses API and Chat Completions for every configured model."""

__version__ = "0.1.0"
