"""Dataset versions and their differences as pages, Markdown and terminal tables for people."""
