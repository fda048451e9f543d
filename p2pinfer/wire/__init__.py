"""Where bytes stop: messages and their documentation, codec, signed envelopes and framing."""
