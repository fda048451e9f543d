"""What a node of Raft must still know after it lost power: a protocol, a memory store, a write-ahead log."""
