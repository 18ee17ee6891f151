"""Gradient compression in hardware: the twins of `ulpsim.compression`, with streams at their ends.

Data flows `accumulate` -> `bins` -> `words` -> `framing` in the encoder; `decoder` is the receiver.
"""
