"""What a node of Raft must still know after it lost power: the store protocol, a memory store and a write-ahead log."""
