"""How a draft becomes a version: splits, leaks, packs, the tag, and the proof."""
