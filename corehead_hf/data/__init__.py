"""Data sets: real file formats and Glyphs, as Examples."""
