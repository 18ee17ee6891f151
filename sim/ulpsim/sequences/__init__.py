"""Networks over sequences: LSTM and self-attention, from a description to a program."""
