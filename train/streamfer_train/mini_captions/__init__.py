"""The recipe of the built-in captioner: Q-Former and decoder over the finished expression encoder."""
