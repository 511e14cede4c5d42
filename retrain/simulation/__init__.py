"""The production we can run on a laptop: real handwritten digits, cameras, drift and annotators."""
