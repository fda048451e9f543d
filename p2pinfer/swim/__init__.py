"""Who is alive: SWIM with signed records, suspicion, gossip and state exchange, as one pure core."""
