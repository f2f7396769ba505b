"""Which prefixes of a sequence are compared."""


def prefix_lengths(length: int) -> list[int]:
    """Powers of two below `length`, which is at least 1, and `length` itself: 1, 2, 4, ..."""
    return [*(2**i for i in range((length - 1).bit_length())), length]
