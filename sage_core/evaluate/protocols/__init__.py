"""The field's protocols by number: what papers on erasing draw, how much of it, and the tables they print."""
