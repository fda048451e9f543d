"""The only place for trio: the driver, the two planes, the disk, the engine's thread, and the peer itself."""
