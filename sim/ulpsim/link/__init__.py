"""The link between a host and a core on a board, over a UART: docs/boards.md has the protocol."""
