"""The board's end of the link to a host (`ulpsim.link`), and a core behind it."""
