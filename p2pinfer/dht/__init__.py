"""The distributed hash table: who is out there, and which peers hold the layers of a model."""
