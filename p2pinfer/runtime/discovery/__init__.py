"""How a peer finds others of its swarm: each way is a small strategy behind one interface (`api.py`).

Rules:

1. What is found is a hint and nothing more: an address where a member may be. Who answers there proves its
   membership as everybody does; being found gives no right, and a machine that joins needs an invite.
2. A strategy never ends the peer: no network, no name, no file is a state like any other, and is logged once.
3. Hints reach the core one at a time (`finder.py`), so what a strategy hears cannot be turned into a flood.
"""
