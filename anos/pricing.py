"""What text costs: the estimate of tokens used where an upstream reports none."""

# English prose is about four bytes a token in every common tokenizer. Other scripts take more
# bytes a character but no fewer tokens, so bytes are the steadier measure.
_BYTES_PER_TOKEN = 4


def estimate(text_bytes: int) -> int:
    """Tokens in `text_bytes` bytes of UTF-8 text, rounded up."""
    return -(-text_bytes // _BYTES_PER_TOKEN)
