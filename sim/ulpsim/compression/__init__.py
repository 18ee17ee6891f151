"""Gradient compression: AdaComp, its words and packets, and ScaleCom's CLT-k.

`adacomp` decides what is sent, `words` says it in 8 or 16 bits, `packets` frames it and takes it
apart again. Each is the twin of a block in `ulpcore.compression`.
"""
