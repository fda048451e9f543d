"""Answering together: planning a chain, serving a span, opening sessions and mending them, as pure cores."""
