"""Every message of the protocol, one module for each family; the docstrings are its documentation.

Tags: 1 to 15 records · 16 to 31 SWIM · 32 to 39 DHT · 40 to 47 events and queries · 48 to 55 keyring ·
56 to 63 discovery · 64 to 95 inference · 96 to 111 calls · 112 to 127 handshake and client requests ·
128 to 143 Raft · 144 to 151 client sessions · 152 to 183 metadata. Tags go up to 255; one is never used
again for another meaning.
"""
