"""p2pinfer: symmetric peers that run large language models together."""
