"""Count the operations of spiking models on real data, during a forward pass."""
