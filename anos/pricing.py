"""What text costs: the estimate of tokens used where an upstream reports none."""

# English prose is about four bytes a token in every common tokenizer; other scripts take fewer bytes a
# token, so an estimate on UTF-8 bytes errs towards too many rather than too few.
_BYTES_PER_TOKEN = 4


def estimate(text_bytes: int) -> int:
    """Tokens in `text_bytes` bytes of UTF-8 text, rounded up."""
    return -(-text_bytes // _BYTES_PER_TOKEN)
